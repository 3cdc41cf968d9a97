"""Studies on a corpus of the user's own: the same cells and tables, with its splits and label columns."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from shards.errors import ConfigError
from tests.xdc_core.test_study import begin, study
from xdc_core.config.clustering import ClusterSettings
from xdc_core.config.load import load_config
from xdc_core.study.cells import Cell, is_finished, make_cells, nodes_of, plan_cells, rounds_done
from xdc_core.study.corpora import check_own_corpus, write_probe_data
from xdc_core.study.settings import StudySettings, load_study

# What xdc compare wrote before studies could have a corpus of the user's own.
OLD = """
preset: digits
speech: null
clips: 3000
validation_clips: 500
test_clips: 500
rounds: 4
contenders: [supervised, sdc, mdc, cdc, xdc, shuffled]
seeds: 2
draws: 2
vary: {digits.nuisance: [0, 0.4]}
change: {cluster.k: 8}
"""


def manifest(folder: Path, splits: str = "train train validation test", **labels: str) -> Path:
    """A manifest of files that are never opened, with a column for each of `labels`."""
    path = folder / "clips.csv"
    columns = labels or {"label": "one two one two"}
    lines = [",".join(("path", "start_s", "end_s", "split", *columns))]
    for number, cells in enumerate(zip(splits.split(), *(text.split() for text in columns.values()), strict=True)):
        lines.append(",".join((f"{number}.mp4", "0.5", "1.25", *(cell.replace("-", "") for cell in cells))))
        (folder / f"{number}.mp4").touch()
    path.write_text("\n".join(lines) + "\n")
    return path


def own(root: Path, **values: Any) -> tuple[StudySettings, list[Cell]]:
    made = study(**{"videos": "../clips.csv", "seeds": 1, "contenders": ["xdc"]} | values)
    return made, make_cells(made, root / "study")


def test_a_study_of_an_earlier_version_has_the_same_runs(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(OLD)
    cells = make_cells(load_study(tmp_path), tmp_path)
    assert len(cells) == 24
    cell = next(cell for cell in cells if cell.run.root.name == "shuffled-nuisance0.4-draw1-seed1")
    values = cell.run.config.model_dump()
    common = {"protocol": "fc", "when": "rounds", "learn": ("train",), "test": ("validation", "test")}
    labels = {"video": "label", "audio": "label_spoken"}
    assert {
        name: {key: entry[key] for key in ("modality", "label", *common)} for name, entry in values["evaluate"].items()
    } == {f"probe-{modality}": {"modality": modality, "label": label} | common for modality, label in labels.items()}
    assert values["datasets"] == {}
    assert values["corpus"]["path"] == "../../corpora/nuisance0.4-draw1"
    assert values["corpus"]["videos"] == "../../digits/nuisance0.4-draw1/manifest.csv"
    assert (values["rounds"], values["truth"], values["cluster"]["k"]["joint"]) == (4, "label", 8)


def test_all_cells_of_an_own_corpus_share_its_clips_and_probe_every_label_of_every_modality(tmp_path: Path) -> None:
    manifest(tmp_path)
    _, cells = own(tmp_path, labels=["label", "label_position"], contenders=["xdc", "sdc"], seeds=2)
    assert [cell.run.root.name for cell in cells] == ["xdc-seed0", "sdc-seed0", "xdc-seed1", "sdc-seed1"]
    assert {cell.run.corpus for cell in cells} == {(tmp_path / "study" / "corpora" / "clips").resolve()}
    assert {cell.run.videos for cell in cells} == {(tmp_path / "clips.csv").resolve()}
    config = load_config(cells[0].run.root / "xdc.yaml")
    assert config == cells[0].run.config
    assert set(config.evaluate) == {
        *("probe-video", "probe-audio", "knn-video", "knn-audio", "retrieval"),
        *("probe-video-position", "probe-audio-position", "knn-video-position", "knn-audio-position"),
    }
    assert config.evaluate["knn-audio-position"].label == "label_position"
    assert config.evaluate["probe-video"].test == ("validation", "test")
    assert config.corpus.learn_splits == ["train"]
    # Retrieval is measured after the last round, and of the untrained encoders.
    rounds = [node.round for node in nodes_of(cells[0]) if (node.stage, node.modality) == ("eval", "retrieval")]
    assert rounds == [0, config.rounds]


def test_splits_have_the_names_of_the_corpus(tmp_path: Path) -> None:
    manifest(tmp_path, "fit fit dev held")
    made, (cell,) = own(tmp_path, learn=["fit"], validation="dev", test="held")
    assert cell.run.config.evaluate["knn-video"].test == ("dev", "held")
    check_own_corpus(made, cell.run.corpus, cell.run.videos, cell.run.config.corpus)
    made, (cell,) = own(tmp_path / "other", videos="../../clips.csv", validation=None, learn=["fit"], test="held")
    assert cell.run.config.evaluate["knn-video"].test == ("held",)


@pytest.mark.parametrize(
    ("values", "truths", "message"),
    [
        ({"test": "tset"}, [], "no clip of the split tset. Its splits are: 'test', 'train', 'validation'"),
        ({"labels": ["label_word"]}, [], "no label column label_word. There are: label"),
        ({}, ["label_word"], "no label column label_word \\(supervised learns it"),
    ],
)
def test_a_split_or_label_that_the_clips_lack_is_named_before_any_work(
    tmp_path: Path, values: dict[str, Any], truths: list[str], message: str
) -> None:
    manifest(tmp_path)
    made, (cell,) = own(tmp_path, **values)
    with pytest.raises(ConfigError, match=message):
        check_own_corpus(made, cell.run.corpus, cell.run.videos, cell.run.config.corpus, truths)


def test_a_corpus_that_is_cut_keeps_its_settings(tmp_path: Path, tiny_corpus: Path) -> None:
    made, (cell,) = own(tmp_path, videos=None, corpus=str(tiny_corpus), validation=None)
    assert cell.run.corpus == tiny_corpus.resolve()
    assert cell.run.videos is None
    assert cell.run.config.corpus.clips_per_shard == 16
    check_own_corpus(made, cell.run.corpus, None, cell.run.config.corpus)
    with pytest.raises(ConfigError, match="no clip of the split validation"):
        check_own_corpus(study(corpus=str(tiny_corpus)), cell.run.corpus, None, cell.run.config.corpus)
    for setting in ({"change": {"corpus.fps": 12}}, {"vary": {"corpus.fps": (12,)}}):
        with pytest.raises(ConfigError, match=r"corpus.fps is 12, but .* was cut with corpus.fps 8"):
            own(tmp_path / "other", videos=None, corpus=str(tiny_corpus), validation=None, **setting)
    _, (same,) = own(tmp_path, videos=None, corpus=str(tiny_corpus), validation=None, change={"corpus.crop": None})
    assert same.run.config == cell.run.config
    for name, value in {"corpus.crop.x": 5, "corpus.segment_seconds": 1.0, "corpus.cut_at_shots": True}.items():
        with pytest.raises(ConfigError, match=f"{name} is {value}, but .* was cut with"):
            own(tmp_path / "other", videos=None, corpus=str(tiny_corpus), validation=None, change={name: value})
    _, (more,) = own(
        tmp_path / "more", videos=None, corpus=str(tiny_corpus), validation=None, change={"corpus.workers": 2}
    )
    assert more.run.config.corpus.workers == 2
    with pytest.raises(ConfigError, match="holds no finished corpus"):
        own(tmp_path / "other", videos=None, corpus=str(tmp_path))


def test_clips_of_their_own_settings_lie_in_a_corpus_of_their_own(tmp_path: Path) -> None:
    manifest(tmp_path)
    _, cells = own(tmp_path, vary={"corpus.fps": (8, 12)}, own_contenders={"sharp": {"corpus.crf": 9}})
    assert {cell.run.corpus.name for cell in cells} == {"fps8", "fps12", "fps8-crf9", "fps12-crf9"}


def test_digits_are_cut_once_for_every_setting_of_the_clips(tmp_path: Path) -> None:
    made = study(seeds=1, contenders=["xdc"], vary={"corpus.fps": (8, 12)}, own_contenders={"sharp": {"corpus.crf": 9}})
    cells = make_cells(made, tmp_path)
    assert [cell.run.corpus.name for cell in cells] == [
        "fps8-draw0",
        "fps8-crf9-draw0",
        "fps12-draw0",
        "fps12-crf9-draw0",
    ]
    assert {(cell.videos, cell.run.videos) for cell in cells} == {
        (tmp_path / "digits" / "draw0", tmp_path / "digits" / "draw0" / "manifest.csv")
    }


def test_recordings_to_probe_on_become_a_data_set_with_a_split_for_validation_and_one_for_test(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.mkdir()
    manifest(words, label="one two one two", label_position="first second first -")
    manifest(tmp_path)
    made, (cell,) = own(
        tmp_path,
        probe_on="../words/clips.csv",
        labels=["label", "label_position"],
        learn=None,
        probe_settings={"frames": 5},
    )
    config = cell.run.config
    assert {(data.views, data.frames, data.layout) for data in config.datasets.values()} == {(1, 5, "manifest")}
    assert config.corpus.learn_splits is None
    assert set(config.datasets) == {"video-label", "audio-label", "video-position", "audio-position"}
    assert {entry.data for entry in config.evaluate.values()} == set(config.datasets)
    assert set(config.evaluate) >= {"probe-video", "knn-audio-position", "clusters-video"}
    assert "retrieval" not in config.evaluate  # Without splits no clip of the runs is held out.
    left_out = write_probe_data(made, tmp_path / "study")
    assert left_out == ["1 recordings have no label_position"]
    with cell.run.dataset_root("audio-label").open() as file:
        rows = list(csv.DictReader(file))
    assert [(line["label"], line["split_validation"], line["split_test"]) for line in rows] == [
        ("one", "train", "train"),
        ("two", "train", "train"),
        ("one", "test", ""),
        ("two", "", "test"),
    ]
    assert (cell.run.dataset_root("audio-label").parent / rows[0]["path"]).resolve() == (words / "0.mp4").resolve()
    assert (rows[0]["start_s"], rows[0]["end_s"]) == ("0.5", "1.25")
    with pytest.raises(ConfigError, match=r"no label column 'label_x'\. There are: label, label_position"):
        write_probe_data(made.model_copy(update={"labels": ("label_x",)}), tmp_path / "study")


def test_recordings_to_probe_on_are_cropped_and_cut_like_the_clips_of_the_runs(tmp_path: Path) -> None:
    manifest(tmp_path)
    crop = {"corpus.crop.square": 40.0, "corpus.crop.x": 5.0, "corpus.segment_seconds": 1.0}
    _, (cell,) = own(tmp_path, probe_on="../clips.csv", change=crop, probe_layout="grid")
    (first, *others) = cell.run.config.datasets.values()
    assert first.crop is not None
    assert first.crop == cell.run.config.corpus.crop
    assert first.segment_seconds == 1.0
    assert [data.crop for data in others] == [first.crop]
    _, (cell,) = own(tmp_path / "b", probe_on="../clips.csv", change=crop, probe_settings={"crop": None})
    assert {data.crop for data in cell.run.config.datasets.values()} == {None}
    _, (cell,) = own(tmp_path / "c", probe_on="../clips.csv", probe_layout="grid")
    assert {(data.crop, data.segment_seconds) for data in cell.run.config.datasets.values()} == {(None, 0.64)}


def test_retrieval_is_left_out_where_it_cannot_be_measured_unless_it_is_asked_for(tmp_path: Path) -> None:
    manifest(tmp_path)
    _, (cell,) = own(tmp_path, change={"modalities": ["video"]}, contenders=["sdc"])
    assert "retrieval" not in cell.run.config.evaluate
    made, (cell,) = own(tmp_path / "b", videos="../../clips.csv", probe_on="../../clips.csv")
    assert "retrieval" not in cell.run.config.evaluate
    assert cell.run.videos is not None
    cell.run.videos.write_text("path,split\n0.mp4,train\n")
    check_own_corpus(made, cell.run.corpus, cell.run.videos, cell.run.config.corpus)
    with pytest.raises(ConfigError, match="retrieval needs two modalities"):
        own(tmp_path / "c", change={"modalities": ["video"]}, contenders=["sdc"], retrieval="end")


def test_a_class_without_recordings_to_learn_from_is_named(tmp_path: Path) -> None:
    manifest(tmp_path, "train train validation test", label="one two one two", label_position="a b c b")
    made, _ = own(tmp_path, probe_on="../clips.csv", labels=["label", "label_position"])
    with pytest.raises(ConfigError, match="1 classes of label_position are in validation but not in train: c"):
        write_probe_data(made, tmp_path / "study")


def test_only_contenders_that_say_so_are_protected(tmp_path: Path) -> None:
    def protection(**values: Any) -> list[float]:
        made = study(preset="speech", seeds=1, videos="clips.csv", **values)
        return [cell.run.config.train.protect for cell in plan_cells(made, tmp_path)]

    names = ["xdc", "mdc", "shuffled", "xdc-protected"]
    assert protection(contenders=names, own_contenders={"slow": {"train.lr": 0.1}}) == [0, 0, 0, 0.9, 0]
    assert protection(contenders=names, change={"train.protect": 0.5}) == [0.5, 0.5, 0.5, 0.9]


def test_recordings_to_probe_on_need_all_three_parts(tmp_path: Path) -> None:
    manifest(tmp_path, "train train train test")
    made, _ = own(tmp_path, probe_on="../clips.csv")
    with pytest.raises(ConfigError, match="has no part validation, but test, train"):
        write_probe_data(made, tmp_path / "study")
    assert write_probe_data(made.model_copy(update={"validation": None}), tmp_path / "study") == []


def test_a_setting_makes_a_contender_and_contenders_may_have_more_seeds(tmp_path: Path) -> None:
    manifest(tmp_path)
    slow = {"train.lr": 0.5, "cluster.k": {"video": 3, "audio": 4}}
    _, cells = own(tmp_path, own_contenders={"slow": slow}, seeds={"slow": 3, "default": 1}, main=["slow"])
    assert [(cell.contender, cell.seed) for cell in cells] == [("xdc", 0), ("slow", 0), ("slow", 1), ("slow", 2)]
    plain, changed = (cell.run.config for cell in cells[:2])
    assert changed.method == plain.method == "xdc"
    assert (changed.train.lr, changed.cluster.k) == (0.5, {"video": 3, "audio": 4})
    assert changed.model_copy(update={"train": plain.train, "cluster": plain.cluster}) == plain


def test_a_study_may_begin_at_a_later_seed_and_has_the_runs_of_the_whole_study(
    tmp_path: Path,
) -> None:
    manifest(tmp_path)
    _, whole = own(tmp_path, seeds=3)
    _, rest = own(tmp_path, seeds=2, first_seed=1)
    assert [(cell.seed, cell.run.root.name, cell.run.config) for cell in rest] == [
        (cell.seed, cell.run.root.name, cell.run.config) for cell in whole if cell.seed > 0
    ]


def test_measurements_and_rounds_that_are_added_later_leave_the_runs_what_they_are(tmp_path: Path) -> None:
    manifest(tmp_path)
    own(tmp_path, probes=["fc"], retrieval="never")
    _, (cell,) = own(tmp_path)
    assert "knn-video" in load_config(cell.run.root / "xdc.yaml").evaluate
    begin(cell)
    _, (longer,) = own(tmp_path, rounds=cell.run.config.rounds + 2)
    assert load_config(longer.run.root / "xdc.yaml").rounds == cell.run.config.rounds + 2
    for other in ({"change": {"train.lr": 0.5}}, {"rounds": 1}):
        with pytest.raises(ConfigError, match="differs from the study's settings"):
            own(tmp_path, **other)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": ["label_word"]}, "labels: only for a corpus of your own"),
        ({"videos": "a.csv", "speech": "s", "draws": 3}, "speech, draws: only for digits"),
        ({"videos": "a.csv", "change": {"digits.nuisance": 0}}, "digits.nuisance: only for digits"),
        ({"videos": "a.csv", "corpus": "c"}, "leave out videos and layout"),
        ({"videos": "a.csv", "learn": None}, "nothing is held out to be probed"),
        ({"videos": "a.csv", "probes": ["retrieval"]}, "there are only: fc, svm, knn"),
        ({"own_contenders": {"xdc": {}}}, "xdc is a contender already"),
        ({"own_contenders": {"long": {"rounds": 30}}}, "long sets rounds, which all runs of a study have in common"),
        ({"own_contenders": {"Long": {}}}, "a name has small letters"),
        ({"vary": {"method": ["xdc", "cdc"]}}, "method is a setting of supervised, sdc"),
        ({"vary": {"rounds": [1, 2]}}, "vary: rounds is a setting that makes"),
        ({"seeds": {"xdd": 3}}, "seeds: xdd is unknown"),
        ({"seeds": 0}, "0 is not a number of runs"),
        ({"main": ["slow"]}, "main: slow is unknown"),
        ({"main": ["xdc-protected"]}, "main: xdc-protected is not compared. Add it to contenders"),
        ({"contenders": ["xdc"], "seeds": {"sdc": 5}}, "seeds: sdc is not compared"),
    ],
)
def test_a_wrong_study_of_own_clips_is_refused_with_what_to_do(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(**values)


@pytest.mark.skipif("joint" not in ClusterSettings.model_fields, reason="there is no setting cluster.joint yet")
def test_canonical_weighting_is_a_contender_beside_cdc(tmp_path: Path) -> None:
    first, second = make_cells(study(seeds=1, contenders=["cdc", "cdc-canonical"]), tmp_path)
    plain, canonical = (cell.run.config.model_dump() for cell in (first, second))
    assert canonical["cluster"].pop("joint") == "canonical"
    assert plain["cluster"].pop("joint") != "canonical"
    assert canonical == plain


def test_an_untouched_cell_is_not_finished(tmp_path: Path) -> None:
    manifest(tmp_path)
    _, (cell,) = own(tmp_path)
    assert rounds_done(cell) is None
    assert not is_finished(cell)
    assert json.dumps(cell.variant) == "{}"
