"""The number of clusters may change by round."""

from pathlib import Path
from typing import Any

import pytest

from flows.cli.running.study import parse_overrides
from shards.errors import ConfigError
from tests.runs import MakeRun, write_run
from xdc_core.config.load import parse_config
from xdc_core.config.schema import ClusterSettings, k_in_round
from xdc_core.documents.report import read_report
from xdc_core.documents.scores import read_scores
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes, settings_of
from xdc_core.graph.state import node_state
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.study.cells import make_cells
from xdc_core.study.settings import StudySettings


def not_fresh(run: Run) -> set[str]:
    fingerprints = Fingerprints(run)
    return {str(node) for node in all_nodes(run.config) if node_state(run, node, fingerprints)[0] != "fresh"}


def test_a_list_gives_the_first_rounds_and_its_last_number_all_later_ones() -> None:
    settings = ClusterSettings.model_validate({"k": {"video": [32, 32, 64], "audio": 16}})
    assert [k_in_round(settings, "video", number) for number in range(5)] == [32, 32, 64, 64, 64]
    assert [k_in_round(settings, "audio", number) for number in range(5)] == [16] * 5
    assert k_in_round(settings, "joint", 0) is None


def test_a_list_is_written_and_read_again(tmp_path: Path) -> None:
    config = parse_config({"cluster": {"k": {"video": [32, 64], "audio": 16}}}, "a test")
    assert write_run(tmp_path / "run", config).config == config
    assert parse_config(config.model_dump(mode="json"), "a test") == config


@pytest.mark.parametrize(
    ("k", "words"),
    [
        (1, r"cluster\.k\.video: 1 is not allowed"),
        ([4, 1], r"cluster\.k\.video\.1: 1 is not allowed"),
        ([], r"cluster\.k\.video: \[\] is not allowed"),
        ("many", r"cluster\.k\.video: 'many' is not allowed"),
        ({"a": 3}, r"cluster\.k\.video: \{'a': 3\} is not allowed"),
    ],
)
def test_a_wrong_number_is_named_with_its_place(k: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_config({"cluster": {"k": {"video": k, "audio": 4}}}, "a test")
    assert len(str(caught.value).splitlines()) == 2


def test_a_list_of_equal_numbers_is_the_number(worked_run: Run, copy_run: MakeRun) -> None:
    assert not_fresh(copy_run(cluster={"k": {"video": [4, 4, 4], "audio": [4], "joint": 4}})) == set()
    node = Node("cluster", "video", 1)
    assert settings_of(worked_run.config, node)["k"] == 4


def test_another_number_in_a_later_round_leaves_the_rounds_before_fresh(copy_run: MakeRun) -> None:
    run = copy_run(cluster={"k": {"video": [4, 3], "audio": 4}})
    assert not_fresh(run) == {f"{name} of round 1" for name in ("cluster.video", "label.video", "report")}
    for node in all_nodes(run.config):
        run_stage(run, node)
    before, now = (read_scores(run.directory(Node("label", "video", number))) for number in range(2))
    assert (before.k, now.k) == (4, 3)
    assert now.nmi_previous is not None
    assert 0 <= now.nmi_previous <= 1
    report = read_report(run.directory(Node("report", None, 1)))
    assert [row.k for row in report.history if row.source == "video"] == [4, 3]


def test_values_of_a_study_are_separated_by_commas_outside_of_lists() -> None:
    assert parse_overrides(["cluster.k=8,[8,16]"], several=True) == {"cluster.k": (8, [8, 16])}
    assert parse_overrides(["digits.nuisance=0,0.15"], several=True) == {"digits.nuisance": (0, 0.15)}
    assert parse_overrides(["cluster.k=[8,16]"]) == {"cluster.k": [8, 16]}
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_overrides(["cluster.k=8,[16"], several=True)


def test_a_study_varies_a_list_too(tmp_path: Path) -> None:
    study = StudySettings.model_validate({"seeds": 1, "contenders": ["xdc"], "vary": {"cluster.k": [8, [8, 16]]}})
    assert [cell.run.config.cluster.k["audio"] for cell in make_cells(study, tmp_path)] == [8, (8, 16)]
