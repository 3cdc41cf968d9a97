"""The stopping rule: what it decides, what is left of a run that it ends, and that the decision is always the same."""

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.running.evaluate import newest_round
from shards.errors import ConfigError
from tests.runs import MakeRun
from tests.xdc_core.stage_process import start
from xdc_core.config.load import parse_config
from xdc_core.config.stopping import StopSettings, too_late
from xdc_core.documents.report import read_report
from xdc_core.documents.scores import read_scores
from xdc_core.documents.stop import Seen, read_decision
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.rounds import as_stopped, check_round, next_round, stop_line, until_decision
from xdc_core.graph.run_stage import all_fresh, run_stage
from xdc_core.graph.stages import all_nodes, check_node, inputs, round_nodes, setup_nodes
from xdc_core.graph.state import node_state
from xdc_core.inspection.catalogue import describe_run
from xdc_core.inspection.difference import difference
from xdc_core.inspection.verification import verify_run
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run
from xdc_core.stages.stop import decide, stop_node
from xdc_core.study.cells import make_cells
from xdc_core.study.settings import StudySettings

# Reached by every two clusterings of more than one cluster; reached by none but equal ones.
EASY = {"when": "agreement", "agreement": 1e-6, "rounds": 1}
NEVER_REACHED = {"when": "agreement", "agreement": 1.0, "rounds": 1}
PROBE = {"protocol": "knn", "modality": "audio", "label": "label_speaker", "test": ["validation", "test"]}
VALIDATION = {"when": "validation", "evaluation": "probe", "rounds": 1}


def seen(*values: Any) -> list[Seen]:
    """A round for each dictionary of values, or a value of one evaluation."""
    rows = [value if isinstance(value, dict) else {"probe": value} for value in values]
    return [Seen(round=number, values=row) for number, row in enumerate(rows)]


def both(video: float | None, audio: float | None) -> dict[str, float | None]:
    return {"video": video, "audio": audio}


NONE = both(None, None)


@pytest.mark.parametrize(
    ("rounds", "rows", "stop"),
    [
        (1, [NONE], False),
        (1, [NONE, both(0.8, 0.8)], True),
        (1, [NONE, both(0.9, 0.79)], False),
        (1, [NONE, both(0.9, None)], False),
        (2, [NONE, both(0.9, 0.9)], False),
        (2, [NONE, both(0.9, 0.9), both(0.8, 0.85)], True),
        (2, [NONE, both(0.9, 0.9), both(0.7, 0.9), both(0.9, 0.9)], False),
    ],
)
def test_agreement_ends_a_run_when_all_sources_have_it_in_successive_rounds(
    rounds: int, rows: list[Any], stop: bool
) -> None:
    rule = StopSettings(when="agreement", agreement=0.8, rounds=rounds)
    assert decide(rule, seen(*rows)).stop is stop
    assert not decide(rule.model_copy(update={"not_before": 9}), seen(*rows)).stop


@pytest.mark.parametrize(
    ("rounds", "values", "stop", "best"),
    [
        (1, [0.5], False, 0),
        (1, [0.5, 0.6], False, 1),
        (1, [0.5, 0.5], True, 0),  # Equal is not better.
        (2, [0.5, 0.4], False, 0),
        (2, [0.5, 0.4, 0.45], True, 0),
        (2, [0.5, 0.4, 0.6], False, 2),
        (2, [0.5, 0.4, 0.6, 0.5, 0.6], True, 2),
        (1, [-0.2, -0.3], True, 0),
    ],
)
def test_validation_ends_a_run_when_no_round_was_better_than_the_best_before(
    rounds: int, values: list[float], stop: bool, best: int
) -> None:
    rule = StopSettings(when="validation", evaluation="probe", rounds=rounds)
    decision = decide(rule, seen(*values))
    assert (decision.stop, decision.best) == (stop, best)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "supervised", "stop": EASY}, "the method has no clusters"),
        ({"stop": VALIDATION}, "stop.evaluation is 'probe', but it must be a name in evaluate: none"),
        ({"stop": VALIDATION, "evaluate": {"probe": PROBE}}, "when: rounds"),
        ({"stop": VALIDATION | {"split": "x"}, "evaluate": {"probe": PROBE | {"when": "rounds"}}}, "stop.split"),
        ({"stop": VALIDATION | {"split": "test"}, "evaluate": {"probe": PROBE}}, "test labels must not decide"),
        (
            {"stop": VALIDATION, "evaluate": {"probe": PROBE | {"when": "rounds", "learn": ["train", "test"]}}},
            "probe learns from the split test, but test labels must not decide",
        ),
        (
            {
                "stop": VALIDATION | {"split": "held"},
                "evaluate": {"probe": PROBE | {"when": "rounds", "test": ["validation", "held"]}},
            },
            "stop.split is held, the last split in test of evaluate.probe, which tables show",
        ),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_config(values, "a test")


@pytest.mark.parametrize(
    ("rule", "rounds", "words"),
    [
        (EASY, 2, ""),
        (EASY, 1, "round 1 at the earliest, and this one has no training after round 0"),
        (EASY | {"rounds": 2}, 2, "stop.rounds 2 and stop.not_before 1 it can end a run in round 2 at the earliest"),
        (EASY | {"not_before": 3}, 3, "round 3 at the earliest"),
        (EASY | {"when": "never"}, 0, ""),
    ],
)
def test_a_rule_that_no_round_can_reach_is_shown(rule: dict[str, Any], rounds: int, words: str) -> None:
    warning = too_late(StopSettings.model_validate(rule), rounds)
    assert words in warning
    assert bool(warning) is bool(words)


def test_a_study_has_no_stopping_rule(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stop\.when must be never"):
        make_cells(
            StudySettings.model_validate({"contenders": ["xdc"], "change": {"stop.when": "agreement"}}), tmp_path
        )


def test_training_does_not_read_the_decision_and_comes_after_it(worked_run: Run) -> None:
    config = parse_config(worked_run.config.model_dump() | {"stop": EASY}, "a test")
    nodes = round_nodes(config, 0)
    first, later = until_decision(Run(worked_run.root, config), nodes)
    assert first[-1] == stop_node(0)
    assert {node.stage for node in later} == {"train", "report"}
    for node in nodes:
        if node.stage != "report":
            assert stop_node(0) not in inputs(config, node), node
    assert until_decision(worked_run, round_nodes(worked_run.config, 0)) == (round_nodes(worked_run.config, 0), [])


def finished(run: Run) -> Run:
    """Do what `xdc run` does, round by round, and return the run as it then is."""
    while not all_fresh(now := as_stopped(run), all_nodes(now.config)):
        number = next_round(now)
        first, later = until_decision(now, round_nodes(now.config, number))
        for node in first:
            run_stage(now, node)
        after = as_stopped(run)
        for node in round_nodes(after.config, number) if later else []:
            if node not in first:
                run_stage(after, node)
    return now


def test_a_run_that_is_ended_by_its_rule_is_one_with_fewer_rounds(copy_run: MakeRun) -> None:
    run = copy_run(rounds=3, stop=EASY)
    assert as_stopped(run) is run
    assert stop_line(run) == ""
    ended = finished(run)
    assert (ended.stopped, ended.config.rounds, next_round(ended)) == (True, 1, 1)
    assert not (run.round_directory(1) / "train").exists()
    assert not run.round_directory(2).exists()
    # What it saw and decided is in a file, in the report and in the summaries.
    decision = read_decision(run.directory(stop_node(1)))
    scores = {name: read_scores(run.directory(Node("label", name, 1))).nmi_previous for name in ("video", "audio")}
    assert decision.stop
    assert decision.seen[1].values == scores
    assert decision.rule == EASY | {"not_before": 1}
    report = read_report(run.directory(Node("report", None, 1)))
    assert report.stop == decision
    assert any("The stopping rule holds: NMI with the round before" in text for _, text in report.diagnostics)
    assert stop_line(ended).startswith(f"{run.root} stopped in round 1 by its rule (stop). NMI with the round before")
    # The copy of the configuration has the number of rounds that was set.
    stored = yaml.safe_load((run.directory(Node("report", None, 1)) / "xdc.yaml").read_text(encoding="utf-8"))
    assert stored["rounds"] == 3
    # A comparison with another run ends where the run did.
    differing = difference(ended, as_stopped(open_run(run.root)))
    assert (differing["settings"], {row["round"] for row in differing["clusters"]}) == ({}, {1})
    for command in ("status", "report"):
        shown = CliRunner().invoke(app, [command, str(run.root)])
        assert shown.exit_code == 0, shown.output
        assert "stopped in round 1 by its rule" in shown.output
        assert "set stop.when to never" in shown.output
    assert CliRunner().invoke(app, ["status", str(run.root), "--check"]).exit_code == 0
    described = describe_run(run.root)
    assert (described["rounds"], described["last_round"], described["stopped"]) == (3, 1, True)
    assert [finding for finding in verify_run(run) if finding.kind != "set aside"] == []
    # A damaged decision is found, and makes no command fail that only looks at manifests.
    file = run.directory(stop_node(1)) / "stop.json"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"true", b"True"))
    assert [Path(finding.path) for finding in verify_run(run) if finding.kind == "damaged"] == [file]
    assert as_stopped(run).stopped
    file.write_bytes(whole)
    # Nothing comes after it.
    with pytest.raises(ConfigError, match="stopped in round 1 by its rule"):
        check_round(ended, 2)
    with pytest.raises(ConfigError, match="Its rule stopped it in round 1"):
        check_node(ended, Node("train", "video", 1))
    shown = CliRunner().invoke(app, ["round", str(run.root), "--round", "2"])
    assert (shown.exit_code, "set stop.when to never" in shown.output) == (2, True)


def test_another_rule_is_decided_again_and_leaves_the_trainings_fresh(copy_run: MakeRun) -> None:
    ended = finished(copy_run(rounds=2, stop=EASY))
    values = ended.config.model_dump() | {"rounds": 2, "stop": NEVER_REACHED}
    run = Run(ended.root, parse_config(values, "a test"))
    assert as_stopped(run) is run
    fingerprints = Fingerprints(run)
    for node in round_nodes(run.config, 0):
        expected = "stale" if node.stage in ("stop", "report") else "fresh"
        assert node_state(run, node, fingerprints)[0] == expected, node
    for number in range(2):
        run_stage(run, stop_node(number))
    assert as_stopped(run) is run
    assert next_round(run) == 0  # Its report is stale.
    assert not read_decision(run.directory(stop_node(1))).stop


def test_a_stale_decision_ends_nothing(copy_run: MakeRun) -> None:
    ended = finished(copy_run(rounds=2, stop=EASY))
    values = ended.config.model_dump() | {"rounds": 2}
    values["cluster"]["k"]["audio"] = 3
    run = Run(ended.root, parse_config(values, "a test"))
    assert as_stopped(run) is run


def with_validation(videos: Path, manifest: Path) -> Path:
    """A manifest of the same videos, in which every fourth one for training has the split `validation`."""
    with videos.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for place, row in enumerate(rows):
        row["path"] = str(videos.parent / row["path"])
        if not place % 4 and row["split"] == "train":
            row["split"] = "validation"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def test_validation_reads_the_named_split_and_final_evaluations_are_of_the_round_that_ended_the_run(
    tmp_path: Path, digits: Path, make_run: MakeRun
) -> None:
    evaluations = {"probe": PROBE | {"when": "rounds"}, "last": PROBE | {"when": "end"}}
    videos = with_validation(digits, tmp_path / "videos.csv")
    corpus = {"videos": str(videos), "path": "corpus"}
    run = make_run(rounds=3, corpus=corpus, stop=VALIDATION, evaluate=evaluations)
    for node in setup_nodes(run.config):
        run_stage(run, node)
    nodes = round_nodes(run.config, 0)
    assert inputs(run.config, stop_node(0)) == [Node("eval", "probe", 0)]
    assert nodes.index(Node("eval", "probe", 0)) < nodes.index(stop_node(0)) < nodes.index(Node("train", "video", 0))
    for number in range(2):
        first, later = until_decision(run, round_nodes(run.config, number))
        for node in [*first, *(node for node in later if number == 0)]:
            run_stage(run, node)
    decision = read_decision(run.directory(stop_node(1)))
    values = []
    for number in range(2):
        results = json.loads((run.directory(Node("eval", "probe", number)) / "results.json").read_text())
        values.append(results["by_split"]["validation"]["accuracy"]["mean"])
    assert [list(row.values.values()) for row in decision.seen] == [[value] for value in values]
    assert decision.stop is (values[1] <= values[0])
    ended = as_stopped(run)
    assert ended.stopped is decision.stop
    assert (Node("eval", "last", 1) in round_nodes(ended.config, 1)) is decision.stop
    assert newest_round(ended, "last") == 1


def test_a_last_training_follows_in_the_round_that_ended_the_run(copy_run: MakeRun) -> None:
    run = copy_run(rounds=3, stop=EASY, last_training="from_first")
    for number in range(2):
        run_stage(run, stop_node(number))
    ended = as_stopped(run)
    assert (ended.config.rounds, ended.config.last_round) == (1, 2)
    trains = [node for node in all_nodes(ended.config) if node.stage == "train"]
    assert [(node.modality, node.round) for node in trains] == [("video", 0), ("audio", 0), ("video", 1), ("audio", 1)]
    assert Node("init", "video") in inputs(ended.config, Node("train", "video", 1))
    assert {node.stage for node in round_nodes(ended.config, 2)} == {"extract", "cluster", "label", "report"}


def test_killed_at_any_point_it_decides_the_same(copy_run: MakeRun) -> None:
    runs = [copy_run(rounds=3, stop=EASY) for _ in range(2)]
    run_stage(runs[0], stop_node(0))
    for point in ("before rename stop.json", "after rename stop.json", "before commit"):
        process = start(runs[0], stop_node(1), os.environ | {"XDC_FAULT": f"kill:1:{point}"})
        said = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, said
        assert as_stopped(runs[0]) is runs[0]
    run_stage(runs[0], stop_node(1))
    for number in range(2):
        run_stage(runs[1], stop_node(number))
    files = [(run.directory(stop_node(1)) / "stop.json").read_bytes() for run in runs]
    assert files[0] == files[1]
    assert [as_stopped(run).config.rounds for run in runs] == [1, 1]
