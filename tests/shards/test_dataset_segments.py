"""Data sets whose lists name segments of YouTube videos: Kinetics, AudioSet and VGGSound."""

from pathlib import Path

import pytest

from shards.errors import ConfigError
from shards.layouts.registry import read_dataset
from shards.sources.source import Source
from tests.shards.dataset_maker import put, reasons_of, roles_of, write_lines

ID, ID_2, ID_3, ID_4 = "-0RWZT-miFs", "aB3_defghij", "Yes_thatsid", "ab3_defghij"
COLUMNS = "label,youtube_id,time_start,time_end,split,is_cc"
HEADER = [
    "# Segments csv created Sun Mar  5 10:54:25 2017",
    "# num_ytids=3, num_segs=3, num_unique_labels=3, num_positive_labels=4",
    "# YTID, start_seconds, end_seconds, positive_labels",
]


def make_kinetics(root: Path) -> None:
    write_lines(
        root / "train.csv", [COLUMNS, f"archery,{ID},5,15,train,0", f'"hugging (not baby)",{ID_2},0,10,train,1']
    )
    write_lines(root / "validate.csv", [COLUMNS, f"archery,{ID_3},123,133,validate,0"])
    write_lines(root / "test.csv", [COLUMNS, f"archery,{ID_4},7,17,test,0"])
    put(root, f"train/archery/{ID}_000005_000015.mp4", f"{ID_2}.mp4", f"val/{ID_3}_000123_000133.MKV")
    put(root, f"test/{ID_4}_000007_000017.mp4")


def make_audioset(root: Path) -> None:
    write_lines(root / "balanced_train_segments.csv", [*HEADER, f'{ID}, 420.000, 430.000, "/m/03v3yw,/m/0k4j"'])
    write_lines(root / "unbalanced_train_segments.csv", [*HEADER, f'{ID_2}, 30.000, 40.000, "/m/0k4j"'])
    write_lines(root / "eval_segments.csv", [*HEADER, f'{ID_3}, 0.500, 10.500, "/m/09x0r"'])
    names = ["index,mid,display_name", '0,/m/09x0r,"Speech"', '1,/m/0k4j,"Car"', '2,/m/03v3yw,"Keys, jangling"']
    write_lines(root / "class_labels_indices.csv", names)


def test_kinetics_takes_cut_files_whole_and_cuts_whole_videos(tmp_path: Path) -> None:
    make_kinetics(tmp_path)
    found = read_dataset("kinetics", tmp_path)
    assert (found.modalities, found.classes, found.rejects) == (
        ("video", "audio"),
        ("archery", "hugging (not baby)"),
        (),
    )
    assert found.sources == (
        Source(f"{ID_2}.mp4", 0.0, 10.0, "train", {"label": "hugging (not baby)"}),
        Source(f"test/{ID_4}_000007_000017.mp4", None, None, "test", {"label": "archery"}),
        Source(f"train/archery/{ID}_000005_000015.mp4", None, None, "train", {"label": "archery"}),
        Source(f"val/{ID_3}_000123_000133.MKV", None, None, "validation", {"label": "archery"}),
    )
    assert roles_of(found) == {"1": {"train": 2, "validation": 1, "test": 1}}


@pytest.mark.parametrize("name", ["kinetics-400_val.csv", "annotations/val.csv", "lists/k600_Validation.csv"])
def test_lists_of_kinetics_have_many_names(tmp_path: Path, name: str) -> None:
    write_lines(tmp_path / name, ["label,youtube_id,time_start,time_end", f"archery,{ID},5,15"])
    put(tmp_path, f"{ID}.mp4")
    found = read_dataset("kinetics", tmp_path)
    assert roles_of(found) == {"1": {"validation": 1}}
    assert found.rejects == ()


def test_a_row_of_kinetics_without_a_label_is_a_source_in_no_split(tmp_path: Path) -> None:
    make_kinetics(tmp_path)
    write_lines(tmp_path / "test.csv", ["youtube_id,time_start,time_end,split", f"{ID_4},7,17,test"])
    found = read_dataset("kinetics", tmp_path)
    source = next(source for source in found.sources if ID_4 in source.path)
    assert (source.labels, source.split) == ({}, "")
    assert roles_of(found) == {"1": {"train": 2, "validation": 1}}
    assert found.rejects == ()


def test_ids_of_videos_differ_by_case(tmp_path: Path) -> None:
    make_kinetics(tmp_path)
    (tmp_path / f"{ID_2}.mp4").unlink()
    put(tmp_path, f"{ID_2.upper()}.mp4")
    reasons = reasons_of(read_dataset("kinetics", tmp_path))
    assert reasons == {
        ID_2: "train.csv, row 2: no file of it exists",
        f"{ID_2.upper()}.mp4": "no list names it",
    }


def test_what_kinetics_lists_and_what_is_there_need_not_agree(tmp_path: Path) -> None:
    make_kinetics(tmp_path)
    rows = [
        "archery,gone_gone_g,5,15,train,0",
        f"archery,{ID},five,15,train,0",
        f"archery,{ID},15,5,train,0",
        "archery,,5,15,train,0",
        f"archery,{ID_3},0,10,tarin,0",
        f"archery,{ID},5,15,train,0",
    ]
    with (tmp_path / "train.csv").open("a") as file:
        file.writelines(f"{row}\n" for row in rows)
    put(tmp_path, "other.mp4", f"copy/{ID}_000005_000015.mp4")
    found = read_dataset("kinetics", tmp_path)
    assert {(reject.source, reject.start_s, reject.reason) for reject in found.rejects} == {
        ("gone_gone_g", 5.0, "train.csv, row 3: no file of it exists"),
        (ID, None, "train.csv, row 4: start 'five' and end '15' are not numbers of seconds"),
        (ID, 15.0, "train.csv, row 5: it ends (5) before it starts (15)"),
        ("train.csv, row 6", None, "train.csv, row 6: no video"),
        (ID_3, 0.0, "train.csv, row 7: the split is not train, validation or test"),
        (ID, 5.0, f"train.csv, row 8: copy/{ID}_000005_000015.mp4 was listed before"),
        ("other.mp4", None, "no list names it"),
        (
            f"train/archery/{ID}_000005_000015.mp4",
            None,
            f"copy/{ID}_000005_000015.mp4 has the same name and was used",
        ),
    }


def test_a_video_of_which_parts_are_for_training_and_for_test_has_the_first_role(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.csv", [COLUMNS, f"archery,{ID},0,10,train,0", f"yoga,{ID},20,30,train,0"])
    write_lines(tmp_path / "validate.csv", [COLUMNS, f"archery,{ID},40,50,validate,0"])
    put(tmp_path, f"{ID}.mp4")
    found = read_dataset("kinetics", tmp_path)
    assert [(source.start_s, source.end_s, source.labels["label"]) for source in found.sources] == [
        (0.0, 10.0, "archery"),
        (20.0, 30.0, "yoga"),
    ]
    assert roles_of(found) == {"1": {"train": 1}}
    assert reasons_of(found) == {ID: f"validate.csv, row 1: it is for validation, but {ID}.mp4 is for train"}


@pytest.mark.parametrize(
    ("columns", "says"),
    [("label,id,time_start,time_end", "no column youtube_id"), ("youtube_id", "no column time_start, time_end")],
)
def test_a_list_of_kinetics_without_its_columns_is_an_error(tmp_path: Path, columns: str, says: str) -> None:
    write_lines(tmp_path / "train.csv", [columns])
    with pytest.raises(ConfigError, match=rf"train\.csv: {says}; its columns are {columns.replace(',', ', ')}"):
        read_dataset("kinetics", tmp_path)


def test_audioset_has_the_first_label_and_all_of_them(tmp_path: Path) -> None:
    make_audioset(tmp_path)
    put(tmp_path, f"{ID}.mp4", f"clips/{ID_2}_30_40.mp4", f"clips/{ID_3}.mkv")
    found = read_dataset("audioset", tmp_path)
    assert (found.modalities, found.rejects) == (("video", "audio"), ())
    assert found.sources == (
        Source(f"{ID}.mp4", 420.0, 430.0, "train", {"label": "Keys, jangling", "label_all": "Keys, jangling;Car"}),
        Source(f"clips/{ID_3}.mkv", 0.5, 10.5, "test", {"label": "Speech", "label_all": "Speech"}),
        Source(f"clips/{ID_2}_30_40.mp4", None, None, "train", {"label": "Car", "label_all": "Car"}),
    )
    assert found.classes == ("Car", "Keys, jangling", "Speech")
    # Of Speech there is only a test item: with what is left of AudioSet that happens, and is no error.
    assert roles_of(found) == {"1": {"train": 2, "test": 1}}


def test_audioset_without_names_of_classes_keeps_their_identifiers(tmp_path: Path) -> None:
    make_audioset(tmp_path / "lists")
    (tmp_path / "lists/class_labels_indices.csv").unlink()
    put(tmp_path, f"{ID}.mp4")
    (source,) = read_dataset("audioset", tmp_path).sources
    assert source.labels == {"label": "/m/03v3yw", "label_all": "/m/03v3yw;/m/0k4j"}


@pytest.mark.parametrize(
    "name",
    [
        f"{ID_2}_000030_000040.mp4",
        f"{ID_2}_30_40.wav",
        f"{ID_2}_30.000_40.000.wav",
        f"{ID_2}_30000_40000.flac",
        f"{ID_2}_30.wav",
        f"{ID_2}_30000.wav",
        f"Y{ID_2}.wav",
        f"Y{ID_2}_30_40.wav",
        f"Y{ID_2}_30.000_40.000.wav",
        f"Y{ID_2}_000030_000040.mp4",
        f"Y{ID_2}_30000_40000.flac",
        f"Y{ID_2}_30.wav",
        f"Y{ID_2}_30000.wav",
        f"{ID_2}_000030.mp4",
        f"Y{ID_2}_000030.wav",
    ],
)
def test_downloaders_name_cut_segments_in_many_ways(tmp_path: Path, name: str) -> None:
    make_audioset(tmp_path)
    put(tmp_path, f"unbalanced/{name}")
    found = read_dataset("audioset", tmp_path)
    (source,) = found.sources
    assert (source.path, source.start_s, source.end_s) == (f"unbalanced/{name}", None, None)
    assert found.modalities == (("video", "audio") if name.endswith(".mp4") else ("audio",))


def test_a_cut_segment_goes_before_the_whole_video(tmp_path: Path) -> None:
    make_audioset(tmp_path)
    put(tmp_path, f"{ID_2}.mp4", f"{ID_2}_30_40.mp4")
    found = read_dataset("audioset", tmp_path)
    assert [source.path for source in found.sources] == [f"{ID_2}_30_40.mp4"]
    assert reasons_of(found)[f"{ID_2}.mp4"] == "no list names it"


def test_audioset_rejects_lines_that_make_no_sense(tmp_path: Path) -> None:
    make_audioset(tmp_path)
    put(tmp_path, f"{ID}.mp4", f"{ID_2}.mp4", f"{ID_3}.mp4")
    lines = [
        f"{ID_4}, 0.000, 10.000",
        f'{ID_4}, 0.000, 10.000, "/m/xyz,/m/09x0r"',
        f'{ID_4}, a, 10.000, "/m/09x0r"',
        f'{ID}, 0.000, 10.000, "/m/09x0r"',
    ]
    write_lines(tmp_path / "eval_segments.csv", [*HEADER, f'{ID_3}, 0.500, 10.500, "/m/09x0r"', *lines])
    found = read_dataset("audioset", tmp_path)
    assert [reject.reason for reject in found.rejects] == [
        'eval_segments.csv, line 5: not of the form id, start, end, "labels"',
        "eval_segments.csv, line 6: the class /m/xyz is not in class_labels_indices.csv",
        "eval_segments.csv, line 7: start 'a' and end '10.000' are not numbers of seconds",
        f"eval_segments.csv, line 8: it is for test, but {ID}.mp4 is for train",
    ]


def test_a_root_without_lists_is_an_error_that_tells_the_layout(tmp_path: Path) -> None:
    put(tmp_path, f"{ID}.mp4")
    with pytest.raises(ConfigError, match=r"no train\.csv, validate\.csv or test\.csv\. Expected below this folder"):
        read_dataset("kinetics", tmp_path)
    with pytest.raises(ConfigError, match=r"no balanced_train_segments\.csv.*Expected below this folder"):
        read_dataset("audioset", tmp_path)


def test_lists_of_which_nothing_was_downloaded_are_an_error(tmp_path: Path) -> None:
    make_audioset(tmp_path)
    with pytest.raises(ConfigError, match=r"no file that can be used as the layout audioset has it\. 3 inputs were"):
        read_dataset("audioset", tmp_path)


def test_a_row_of_a_list_with_too_many_cells_is_a_reject(tmp_path: Path) -> None:
    make_kinetics(tmp_path)
    with (tmp_path / "train.csv").open("a") as file:
        file.write(f"hugging, not baby,{ID_4},0,10,train,1\n")
    (reject,) = read_dataset("kinetics", tmp_path).rejects
    assert reject.reason.startswith("train.csv, row 3, line 4: 7 fields, the header has 6")


def test_names_of_classes_that_are_cut_are_an_error(tmp_path: Path) -> None:
    make_audioset(tmp_path)
    put(tmp_path, f"{ID}.mp4")
    write_lines(tmp_path / "class_labels_indices.csv", ["index,mid,display_name", "2,/m/03v3yw,Keys, jangling"])
    with pytest.raises(ConfigError, match=r"class_labels_indices\.csv: row 1, line 2: 4 fields, the header has 3"):
        read_dataset("audioset", tmp_path)


def test_vggsound_has_segments_of_ten_seconds_and_one_split(tmp_path: Path) -> None:
    lines = [
        f"{ID},30,dog barking,train",
        f'{ID_2},5,"people eating, slowly",test',
        f"{ID_3},0,people marching,train",
        f"{ID_4},x,dog barking,train",
        f"{ID_4},7,people, eating,test",
        f"{ID_4},7,dog barking,tset",
    ]
    write_lines(tmp_path / "lists" / "vggsound.csv", lines)
    put(tmp_path, f"{ID}_000030.mp4", f"video/{ID_2}.mp4")
    found = read_dataset("vggsound", tmp_path)
    assert (found.modalities, found.classes) == (("video", "audio"), ("dog barking", "people eating, slowly"))
    assert found.sources == (
        Source(f"{ID}_000030.mp4", None, None, "train", {"label": "dog barking"}),
        Source(f"video/{ID_2}.mp4", 5.0, 15.0, "test", {"label": "people eating, slowly"}),
    )
    assert roles_of(found) == {"1": {"train": 1, "test": 1}}
    assert [(reject.source, reject.reason) for reject in found.rejects] == [
        (ID_3, "vggsound.csv, line 3: no file of it exists"),
        (ID_4, "vggsound.csv, line 4: start 'x' and end '' are not numbers of seconds"),
        (ID_4, "vggsound.csv, line 5: not of the form id, start, label, train or test"),
        (ID_4, "vggsound.csv, line 6: the split is not train, validation or test"),
    ]
    with pytest.raises(ConfigError, match=r"no vggsound\.csv\. Expected below this folder"):
        read_dataset("vggsound", tmp_path / "video")
