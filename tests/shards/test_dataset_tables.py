"""Data sets without an official layout, folders of classes and manifests with splits; and the layout as a setting."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from shards.corpus.listing import list_corpus
from shards.errors import ConfigError
from shards.layouts.registry import LAYOUTS, read_dataset
from shards.settings import CorpusSettings, stored_part
from shards.sources.source import Source
from tests.places import DATA
from tests.shards.dataset_maker import labels_of, make_esc50, make_scenes, put, reasons_of, roles_of, write_lines


def test_a_folder_for_every_class_is_one_split_for_training(tmp_path: Path) -> None:
    put(tmp_path, "dog/a.wav", "dog/b.wav", "pets/cat/c.wav", "loose.wav")
    found = read_dataset("folder", tmp_path)
    assert (found.modalities, found.classes) == (("audio",), ("cat", "dog"))
    assert labels_of(found) == {"dog/a.wav": "dog", "dog/b.wav": "dog", "pets/cat/c.wav": "cat"}
    assert roles_of(found) == {"all": {"train": 3}}
    assert reasons_of(found) == {"loose.wav": "it is not in a class folder"}


@pytest.mark.parametrize(
    ("train", "test", "validation"),
    [("train", "test", "val"), ("Training", "testing", "valid"), ("train_256", "test", "val_256")],
)
def test_folders_on_top_are_roles(tmp_path: Path, train: str, test: str, validation: str) -> None:
    put(tmp_path, f"{train}/dog/a.mp4", f"{train}/cat/b.mp4", f"{test}/dog/c.mp4", f"{validation}/cat/deep/cat/d.mp4")
    put(tmp_path, f"{train}/e.mp4", "extra/dog/f.mp4", "g.mp4")
    found = read_dataset("folder", tmp_path)
    assert found.modalities == ("video",)
    (split,) = found.splits
    assert (split.name, split.roles) == (
        "1",
        {
            f"{train}/dog/a.mp4": "train",
            f"{train}/cat/b.mp4": "train",
            f"{test}/dog/c.mp4": "test",
            f"{validation}/cat/deep/cat/d.mp4": "validation",
        },
    )
    assert {source.path: source.split for source in found.sources} == split.roles
    tops = ", ".join(sorted([train, test, validation]))
    assert reasons_of(found) == {
        f"{train}/e.mp4": "it is not in a class folder",
        "extra/dog/f.mp4": f"it is in none of the folders {tops}",
        "g.mp4": "it is not in a class folder",
    }


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    put(tmp_path, "airplane/a.wav", "train/b.wav", "car/c.wav")
    found = read_dataset("folder", tmp_path)
    assert found.classes == ("airplane", "car", "train")
    assert roles_of(found) == {"all": {"train": 3}}


def test_a_validation_folder_is_enough_and_a_class_only_to_test_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "train/dog/a.wav", "val/dog/b.wav")
    assert roles_of(read_dataset("folder", tmp_path)) == {"1": {"train": 1, "validation": 1}}
    put(tmp_path, "test/cat/c.wav")
    with pytest.raises(ConfigError, match=r"tests 1 of 2 classes of which it has no training item \(cat\)"):
        read_dataset("folder", tmp_path)


def test_of_a_mixture_of_videos_and_sound_files_nothing_is_certain(tmp_path: Path) -> None:
    put(tmp_path, "dog/a.wav", "dog/b.mp4")
    assert read_dataset("folder", tmp_path).modalities == ()


def test_a_manifest_may_have_one_split(tmp_path: Path) -> None:
    put(tmp_path, "v/a.mp4", "v/b.mp4", "v/c.mp4", "d.mp4", "unnamed.mp4")
    rows = ["v/a.mp4,dog,anna,Train", "v/b.mp4,dog,ben,test", "v/c.mp4,dog,,val", "d.mp4,cat,,"]
    write_lines(tmp_path / "list.csv", ["path,label,label_owner,split", *rows])
    found = read_dataset("manifest", tmp_path / "list.csv")
    assert (found.root, found.modalities, found.classes) == (tmp_path, ("video",), ("cat", "dog"))
    (split,) = found.splits
    assert (split.name, split.roles) == ("1", {"v/a.mp4": "train", "v/b.mp4": "test", "v/c.mp4": "validation"})
    assert found.sources == (
        Source("d.mp4", split="", labels={"label": "cat"}),
        Source("v/a.mp4", split="train", labels={"label": "dog", "label_owner": "anna"}),
        Source("v/b.mp4", split="test", labels={"label": "dog", "label_owner": "ben"}),
        Source("v/c.mp4", split="validation", labels={"label": "dog"}),
    )
    assert found.rejects == ()


def test_a_manifest_may_have_several_splits(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", "b.wav", "c.wav")
    table = {
        "path": ["a.wav", "b.wav", "c.wav"],
        "label": ["x", "x", "x"],
        "split_1": ["train", "test", "test"],
        "split_b": ["test", "train", None],
    }
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    found = read_dataset("manifest", tmp_path / "list.parquet")
    assert {split.name: split.roles for split in found.splits} == {
        "1": {"a.wav": "train", "b.wav": "test", "c.wav": "test"},
        "b": {"a.wav": "test", "b.wav": "train"},
    }
    assert {source.split for source in found.sources} == {""}


def test_a_manifest_without_splits_is_for_training(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", "b.wav")
    write_lines(tmp_path / "list.csv", ["path,label,start_s,end_s", "a.wav,x,0,0.5", "a.wav,y,0.5,1", "b.wav,x,,"])
    found = read_dataset("manifest", tmp_path / "list.csv")
    assert roles_of(found) == {"all": {"train": 2}}
    assert [(source.path, source.start_s, source.labels["label"]) for source in found.sources] == [
        ("a.wav", 0.0, "x"),
        ("a.wav", 0.5, "y"),
        ("b.wav", None, "x"),
    ]


def test_a_class_of_any_part_of_a_file_counts(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", "b.wav")
    rows = ["a.wav,x,train,0,0.5", "a.wav,y,train,0.5,1", "b.wav,y,test,0,0.5", "b.wav,x,test,0.5,1"]
    write_lines(tmp_path / "list.csv", ["path,label,split,start_s,end_s", *rows])
    assert roles_of(read_dataset("manifest", tmp_path / "list.csv")) == {"1": {"train": 1, "test": 1}}


def test_rows_of_a_manifest_of_no_use_are_rejects(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", "b.wav", "c.wav")
    rows = ["a.wav,x,train", "b.wav,x,test", "c.wav,,test", "gone.wav,x,test", "http://x/y.wav,x,test", "a.wav,x,train"]
    write_lines(tmp_path / "list.csv", ["path,label,split", *rows])
    found = read_dataset("manifest", tmp_path / "list.csv")
    assert reasons_of(found) == {
        "c.wav": "it has no label",
        "gone.wav": "there is no such file",
        "http://x/y.wav": "row 5: only local files and s3:// are read, no other addresses and no pipes",
        "a.wav": "row 6: an earlier row has the same path, start_s and end_s",
    }
    assert roles_of(found) == {"1": {"train": 1, "test": 1}}


@pytest.mark.parametrize(
    ("columns", "rows", "says"),
    [
        ("path,split", ["a.wav,train"], "no column 'label'; its columns are path, split"),
        ("label,split", ["x,train"], "no column 'path'"),
        ("path,label,splt", ["a.wav,x,train"], "unknown column 'splt'. Did you mean 'split'?"),
        ("path,label,split,split_2", ["a.wav,x,train,test"], "rename the first one split_1"),
        ("path,label,split", ["a.wav,x,train", "b.wav,x,tset"], "row 2: split is 'tset'. Allowed: train, validation"),
        ("path,label,split_1", ["a.wav,x,train"], "split 1 of manifest has no test item"),
        ("path,label,split", ["a.wav,x,train", "b.wav,y,test"], "tests 1 of 2 classes of which it has no training"),
        (
            "path,label,split",
            ["a.wav,x,train", "b.wav,x,test", "c.wav,y,val"],
            "tests 1 of 2 classes of which it has no training item (y)",
        ),
        (
            "path,label,split,start_s",
            ["a.wav,x,train,0", "b.wav,x,test,0", "a.wav,x,test,0.5"],
            "row 3: split of a.wav is test, but an earlier row says train",
        ),
        (
            "path,label,split",
            ["gone.wav,x,train"],
            "1 inputs were rejected, the first: gone.wav: there is no such file",
        ),
    ],
)
def test_a_manifest_that_cannot_be_followed_is_an_error(
    tmp_path: Path, columns: str, rows: list[str], says: str
) -> None:
    put(tmp_path, "a.wav", "b.wav", "c.wav")
    write_lines(tmp_path / "list.csv", [columns, *rows])
    with pytest.raises(ConfigError) as caught:
        read_dataset("manifest", tmp_path / "list.csv")
    assert says in str(caught.value)


def test_the_layout_manifest_needs_the_table_and_other_layouts_a_folder(tmp_path: Path) -> None:
    write_lines(tmp_path / "list.csv", ["path,label", "a.wav,x"])
    (tmp_path / "list.tsv").write_text("path\n")
    for layout, place, says in [
        ("manifest", tmp_path, "is not a file. Give the CSV or Parquet table itself"),
        ("manifest", tmp_path / "list.tsv", "ends in '.tsv'. Give a table that ends in .csv or .parquet"),
        ("esc50", tmp_path / "list.csv", "is not a folder. The layout esc50 needs the data set's folder"),
        ("esc50", tmp_path / "nowhere", "does not exist. Give the data set in the layout esc50"),
        ("esc5", tmp_path, "the layout 'esc5' is unknown. Did you mean 'esc50'? There are: ucf101, hmdb51,"),
    ]:
        with pytest.raises(ConfigError) as caught:
            read_dataset(layout, place)
        assert says in str(caught.value)


def test_the_real_drone_videos_have_a_split_with_all_classes() -> None:
    if not (DATA / "drone-ir").is_dir():
        pytest.skip(f"{DATA / 'drone-ir'} is not there: set XDC_TEST_DATA to a folder that holds drone-ir/")
    found = read_dataset("manifest", DATA / "drone-ir" / "labels.csv")
    assert (len(found.sources), found.rejects, found.modalities) == (160, (), ("video",))
    assert found.classes == ("airplane", "bird", "drone", "helicopter")
    assert roles_of(found) == {"1": {"train": 111, "test": 49}}


def test_a_listing_with_a_layout_has_the_labels_and_rejects_of_the_data_set(tmp_path: Path) -> None:
    make_esc50(tmp_path / "esc")
    put(tmp_path / "esc", "audio/9-1-A-0.wav")
    listing = list_corpus(tmp_path / "esc", layout="esc50")
    assert listing.root == tmp_path / "esc"
    assert listing.label_names == ["label"]
    assert {source.labels["label"] for source in listing.sources} == {"dog", "chirping_birds", "rain"}
    assert {source.split for source in listing.sources} == {""}
    assert [reject.source for reject in listing.rejects] == ["audio/9-1-A-0.wav"]


def test_a_listing_of_a_data_set_with_one_split_has_the_roles_as_splits(tmp_path: Path) -> None:
    make_scenes(tmp_path / "scenes_stereo")
    make_scenes(tmp_path / "scenes_stereo_testset")
    assert {source.split for source in list_corpus(tmp_path, layout="dcase2014").sources} == {"train", "test"}


def test_the_layout_is_a_setting_that_is_stored_when_it_is_set() -> None:
    assert "layout" not in stored_part(CorpusSettings())
    assert stored_part(CorpusSettings(layout="esc50"))["layout"] == "esc50"


def test_the_description_of_the_setting_names_every_layout() -> None:
    description = str(CorpusSettings.model_fields["layout"].description)
    assert [name for name in LAYOUTS if name not in description.replace("(", " ").replace(",", " ").split()] == []


def test_labels_from_two_sides_are_refused() -> None:
    with pytest.raises(ValidationError, match="layout esc50 gives the labels: set label_from_folder to false"):
        CorpusSettings(layout="esc50", label_from_folder=True)
