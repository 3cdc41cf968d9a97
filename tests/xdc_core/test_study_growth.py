"""Studies that go on: with a later version, with more contenders, seeds, rounds and measurements, without videos."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from shards.errors import ConfigError
from tests.xdc_core.test_own_study import manifest, own
from tests.xdc_core.test_study import begin, study
from xdc_core.config.load import load_config
from xdc_core.study.cells import make_cells, plan_cells
from xdc_core.study.changes import choose_study
from xdc_core.study.corpora import check_own_corpus, write_probe_data
from xdc_core.study.settings import load_study, save_study
from xdc_core.study.write import StudyFiles, other_untrained

# As xdc compare wrote it before the presets set clips_per_component.
EARLIER = Path(__file__).with_name("study-run-of-an-earlier-version.yaml")


def test_a_study_that_an_earlier_version_began_goes_on_with_the_defaults_of_newer_settings(tmp_path: Path) -> None:
    file = tmp_path / "runs" / "xdc-draw0-seed0" / "xdc.yaml"
    file.parent.mkdir(parents=True)
    shutil.copyfile(EARLIER, file)
    newer = plan_cells(study(contenders=["xdc"], seeds=1), tmp_path)[0].run.config
    assert (newer.cluster.clips_per_component, newer.report.shared, newer.report.examples) == (15, True, 0)
    begin(plan_cells(study(contenders=["xdc"], seeds=1), tmp_path)[0])
    first, second = (cell.run.config for cell in make_cells(study(contenders=["xdc"], seeds=2, draws=1), tmp_path))
    assert file.read_bytes() == EARLIER.read_bytes()
    assert (first.cluster.clips_per_component, first.cluster.centre, first.report.shared) == (None, False, False)
    assert second.cluster == first.cluster
    # The file that is written with more rounds has all settings; the study goes on all the same.
    for _ in range(2):
        (cell,) = make_cells(study(contenders=["xdc"], seeds=1, rounds=9), tmp_path)
        assert load_config(file) == cell.run.config == first.model_copy(update={"rounds": 9})
    with pytest.raises(ConfigError, match="differs from the study's settings, in cluster"):
        plan_cells(study(contenders=["xdc"], seeds=1, rounds=9, change={"cluster.clips_per_component": 4}), tmp_path)


def test_a_contender_without_a_setting_of_the_preset_is_no_example_for_others(tmp_path: Path) -> None:
    made = study(contenders=["xdc"], seeds=1, own_contenders={"all": {"cluster.clips_per_component": None}})
    cells = plan_cells(made, tmp_path)
    assert [cell.run.config.cluster.clips_per_component for cell in cells] == [15, None]
    make_cells(made, tmp_path)
    begin(cells[1])
    assert [cell.run.config for cell in plan_cells(made, tmp_path)] == [cell.run.config for cell in cells]


@pytest.mark.parametrize(
    "added",
    [
        {"contenders": ("sdc", "xdc", "cdc-canonical")},
        {"own_contenders": {"slow": {"train.lr": 0.1}}},
        {"seeds": 3},
        {"seeds": {"xdc": 4, "default": 2}},
        {"rounds": 12},
        {"main": ("sdc",)},
        {"labels": ("label", "label_position")},
        {"probes": ("fc", "knn", "svm")},
        {"retrieval": "rounds"},
        {"every": 2},
    ],
)
def test_what_a_study_may_grow_by_is_added(tmp_path: Path, added: dict[str, Any]) -> None:
    manifest(tmp_path)
    made, cells = own(tmp_path, contenders=["xdc", "sdc"], seeds=2, every=4)
    root = tmp_path / "study"
    save_study(root, made)
    begin(cells[0])
    (name,) = added
    asked = choose_study(root, added)
    assert getattr(asked, name) == added[name]
    assert asked.model_copy(update={name: getattr(made, name)}) == made
    names = {cell.run.root for cell in plan_cells(asked, root)}
    assert names >= {cell.run.root for cell in cells}
    save_study(root, asked)
    assert load_study(root) == asked


@pytest.mark.parametrize(
    "other",
    [
        {"contenders": ("xdc",)},
        {"own_contenders": {"slow": {"train.lr": 0.2}}},
        {"seeds": 1},
        {"seeds": {"sdc": 1}},
        {"rounds": 2},
        {"labels": ("label_position",)},
        {"probes": ("fc",)},
        {"retrieval": "never"},
        {"every": 2},
        {"change": {"train.lr": 0.5}},
    ],
)
def test_a_study_that_has_begun_loses_nothing_and_keeps_its_settings(tmp_path: Path, other: dict[str, Any]) -> None:
    manifest(tmp_path)
    slow = {"slow": {"train.lr": 0.1}}
    made, cells = own(tmp_path, contenders=["xdc", "sdc"], seeds=2, retrieval="end", own_contenders=slow)
    root = tmp_path / "study"
    save_study(root, made)
    # While nothing is finished, all can be changed.
    assert choose_study(root, other) == made.model_copy(update=other)
    begin(cells[0])
    with pytest.raises(ConfigError, match=f"with another {next(iter(other))}. Choose another folder"):
        choose_study(root, other)


@pytest.mark.parametrize("preset", ["speech", "tiny"])
def test_by_default_protected_xdc_is_compared_where_the_preset_protects(tmp_path: Path, preset: str) -> None:
    chosen = choose_study(tmp_path / "new", {"videos": "clips.csv", "preset": preset})
    protects = preset == "speech"
    assert ("xdc-protected" in chosen.contenders) is protects
    assert chosen.main == (("xdc", "xdc-protected") if protects else ("xdc",))
    assert {"cdc", "cdc-canonical", "xdc"} <= set(chosen.contenders)
    named = choose_study(tmp_path / "new", {"videos": "clips.csv", "preset": preset, "contenders": ("sdc", "xdc")})
    assert (named.contenders, named.main) == (("sdc", "xdc"), ("xdc",))


def test_a_run_without_a_finished_stage_gets_the_settings_of_the_study(tmp_path: Path) -> None:
    manifest(tmp_path)
    own(tmp_path, change={"train.lr": 0.5})
    _, (cell,) = own(tmp_path, change={"train.lr": 0.25})
    assert load_config(cell.run.root / "xdc.yaml").train.lr == 0.25


def test_a_study_whose_videos_are_gone_can_still_be_read(tmp_path: Path, tiny_corpus: Path) -> None:
    made, (cell,) = own(tmp_path, validation=None)
    cell.run.corpus.parent.mkdir(parents=True)
    assert cell.run.videos is not None
    assert not cell.run.videos.exists()
    with pytest.raises(ConfigError, match=r"clips\.csv"):
        check_own_corpus(made, cell.run.corpus, cell.run.videos, cell.run.config.corpus)
    cell.run.corpus.symlink_to(tiny_corpus)
    check_own_corpus(made, cell.run.corpus, cell.run.videos, cell.run.config.corpus)


def test_recordings_to_probe_on_that_are_gone_keep_their_manifests(tmp_path: Path) -> None:
    words = manifest(tmp_path, "train train validation test", label="one two one two")
    made, (cell,) = own(tmp_path, probe_on="../clips.csv")
    assert write_probe_data(made, tmp_path / "study") == []
    before = cell.run.dataset_root("video-label").read_bytes()
    words.unlink()
    assert write_probe_data(made, tmp_path / "study") == []
    assert cell.run.dataset_root("video-label").read_bytes() == before
    with pytest.raises(ConfigError, match=r"clips\.csv"):
        write_probe_data(made.model_copy(update={"labels": ("label_x",)}), tmp_path / "study")


def test_one_more_training_makes_a_contender_with_a_last_round_of_its_own(tmp_path: Path) -> None:
    manifest(tmp_path)
    made, cells = own(tmp_path, own_contenders={"last": {"last_training": "from_first"}})
    results = StudyFiles(tmp_path / "study", made, cells).write(figure=False)
    rounds = cells[0].run.config.rounds
    assert (results["rounds"], results["last_rounds"]) == (rounds, {"{}": {"xdc": rounds, "last": rounds + 1}})
    assert "measured after it: last." in (tmp_path / "study" / "table.md").read_text()


def test_contenders_with_other_encoders_or_features_are_not_counted_as_scratch(tmp_path: Path) -> None:
    manifest(tmp_path)
    contenders = {"wide": {"video.frames": 4}, "sharp": {"corpus.crf": 9}, "slow": {"train.lr": 0.1}}
    _, cells = own(tmp_path, own_contenders=contenders, vary={"video.crop": (24, 32)})
    assert other_untrained(cells) == ["wide", "sharp"]
    assert other_untrained([cell for cell in cells if cell.contender == "wide"]) == []
