"""A last training from the first encoders, on the clusters of the round after the others."""

import shutil

import pytest

from flows.cli.running.evaluate import newest_round
from tests.runs import MakeRun
from tests.xdc_core.test_stage_kills import contents, killed
from xdc_core.config.load import parse_config
from xdc_core.config.schema import Config
from xdc_core.documents.report import read_report
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.rounds import check_round, next_round
from xdc_core.graph.run_stage import all_fresh, run_stage
from xdc_core.graph.stages import all_nodes, inputs, round_nodes
from xdc_core.graph.state import node_state
from xdc_core.runs.node import Node, encoder_node
from xdc_core.runs.run import Run

LAST = "from_first"
PROBE = {"protocol": "knn", "modality": "audio", "label": "label_speaker"}


def config(**changes: object) -> Config:
    values = {"rounds": 2, "evaluate": {"probe": PROBE | {"when": "end"}}}
    return parse_config(values | changes, "a test")


def stages(config: Config, number: int) -> set[str]:
    return {node.stage for node in round_nodes(config, number)}


def test_the_round_after_the_others_trains_and_one_more_has_the_final_encoders() -> None:
    plain, last = config(), config(last_training=LAST)
    assert (plain.last_round, last.last_round) == (2, 3)
    assert [("train" in stages(plain, number), "eval" in stages(plain, number)) for number in range(4)] == [
        (True, False),
        (True, False),
        (False, True),
        (False, True),
    ]
    assert [("train" in stages(last, number), "eval" in stages(last, number)) for number in range(4)] == [
        (True, False),
        (True, False),
        (True, False),
        (False, True),
    ]
    assert {node.round for node in all_nodes(last)} == {None, 0, 1, 2, 3}


def test_only_the_last_training_starts_from_the_first_encoder() -> None:
    last = config(last_training=LAST)
    starts = [
        [node for node in inputs(last, Node("train", "video", number)) if node.stage in ("init", "train")]
        for number in range(3)
    ]
    assert starts == [[Node("init", "video")], [Node("train", "video", 0)], [Node("init", "video")]]
    assert Node("label", "audio", 2) in inputs(last, Node("train", "video", 2))
    assert encoder_node("video", 3) == Node("train", "video", 2)


def test_of_a_finished_run_the_trainings_and_clusters_stay_fresh(copy_run: MakeRun) -> None:
    run = copy_run(last_training=LAST)
    fingerprints = Fingerprints(run)
    states = {str(node): node_state(run, node, fingerprints)[0] for node in all_nodes(run.config)}
    before = {name for name, state in states.items() if state == "fresh"}
    assert {f"{stage}.audio of round 1" for stage in ("extract", "cluster", "label")} | {"report of round 0"} <= before
    assert {name for name, state in states.items() if state == "stale"} == {"report of round 1"}
    assert next_round(run) == 1
    assert newest_round(run_with_probe(run), "probe") == 1
    assert check_round(run, 2) == 2


def run_with_probe(run: Run) -> Run:
    return Run(run.root, parse_config(run.config.model_dump() | {"evaluate": {"probe": PROBE}}, "a test"))


def test_it_needs_no_encoder_of_a_training_and_all_that_follows_uses_its_own(copy_run: MakeRun) -> None:
    run = copy_run(last_training=LAST)
    shutil.rmtree(run.round_directory(0) / "train")
    for modality in ("video", "audio"):
        run_stage(run, Node("train", modality, 1))
    trained = {node: run_stage(run, node) for node in round_nodes(run.config, 2) if node.stage == "extract"}
    assert len(trained) == 2
    for node in round_nodes(run.config, 2):
        if node.stage != "report":
            run_stage(run, node)
    assert newest_round(run_with_probe(run), "probe") == 2


def test_raising_the_number_of_rounds_makes_its_encoder_stale(copy_run: MakeRun) -> None:
    run = copy_run(last_training=LAST)
    node = Node("train", "video", 1)
    run_stage(run, node)
    for rounds, state in ((1, "fresh"), (2, "stale")):
        values = run.config.model_dump() | {"rounds": rounds}
        changed = Run(run.root, parse_config(values, "a test"))
        assert node_state(changed, node, Fingerprints(changed))[0] == state


@pytest.mark.slow
def test_killed_it_goes_on_and_ends_with_the_same_bytes_and_its_report_names_it(copy_run: MakeRun) -> None:
    runs = [copy_run(last_training=LAST) for _ in range(2)]
    node = Node("train", "audio", 1)
    assert killed(runs[0], node, "checkpoint-*.pt").is_dir()
    for run in runs:
        run_stage(run, node)
    assert contents(runs[0], node) == contents(runs[1], node)
    run = runs[0]
    for other in all_nodes(run.config):
        run_stage(run, other)
    assert all_fresh(run, all_nodes(run.config))
    assert next_round(run) == 2
    reports = [read_report(run.directory(Node("report", None, number))) for number in range(3)]
    assert [report.from_first for report in reports] == [False, True, False]
    assert [report.trained for report in reports] == [True, True, False]
    assert any("started from the first encoders" in text for _, text in reports[1].diagnostics)
