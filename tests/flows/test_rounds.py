"""`xdc run` on a server that stays: the order of two rounds, and a configuration that is edited in the middle."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.runners.do_node import do_node
from flows.runners.in_process import InProcess
from shards.errors import ConfigError
from shards.store.lock import exclusive
from shards.store.manifest import MANIFEST, Manifest, read_manifest
from tests.flows.prefect_server import ROOT, PrefectServer
from tests.processes import wait_for
from xdc_core.config.load import FILE_NAME, parse_config
from xdc_core.config.schema import Config
from xdc_core.config.write import commented_yaml
from xdc_core.graph.run_stage import all_fresh
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run

pytestmark = pytest.mark.slow

REPORTS = [Node("report", None, number) for number in range(2)]


@pytest.fixture(scope="module")
def done(
    server: PrefectServer, tiny_config: Config, tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run of which another process held up the first report, and whose xdc.yaml was damaged meanwhile."""
    root = tmp_path_factory.mktemp("rounds") / "run"
    root.mkdir()
    (root / FILE_NAME).write_text(commented_yaml(tiny_config), encoding="utf-8")
    run = open_run(root)
    command = [sys.executable, "-m", "flows.cli", "run", str(root)]
    with exclusive(run.directory(REPORTS[0])):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=server.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

        def reached(node: Node) -> bool:
            assert process.poll() is None, process.communicate()
            return (run.directory(node) / MANIFEST).exists()

        wait_for("the first features", lambda: reached(Node("extract", "video", 0)), 400, every=0.1)
        (root / FILE_NAME).write_text("rouns: 1\n")
        wait_for("the second round", lambda: reached(Node("extract", "video", 1)), 400, every=0.1)
        assert not (run.directory(REPORTS[0]) / MANIFEST).exists()
    errors = process.communicate(timeout=400)[1]
    assert process.returncode == 0, errors
    return run


def manifest_of(run: Run, node: Node) -> Manifest:
    manifest = read_manifest(run.directory(node))
    assert manifest is not None
    return manifest


def test_a_round_begins_while_the_report_of_the_one_before_is_not_finished(done: Run) -> None:
    first, second = (manifest_of(done, report) for report in REPORTS)
    for modality in ("video", "audio"):
        assert manifest_of(done, Node("extract", modality, 1)).inputs[f"train.{modality} of round 0"]
    assert manifest_of(done, Node("extract", "video", 1)).finished < first.finished
    assert first.finished <= second.started, "a report reads that of the round before"


def test_the_rounds_are_flow_runs_of_their_own(server: PrefectServer, done: Run) -> None:
    rounds = flow_runs(server, "xdc-round")
    assert [found["name"] for found in rounds] == [f"{done.root}, round {number}" for number in range(2)]
    (whole,) = flow_runs(server, "xdc")
    assert server.rounds_of(whole["id"]) == [found["id"] for found in rounds]
    assert {found["state_name"] for found in (whole, *rounds)} == {"Completed"}
    nodes = [["train.audio", "train.video"], []]
    for found, trained in zip(rounds, nodes, strict=True):
        states = server.task_states(found["id"])
        assert {"extract.video", "label.audio", "report"} <= states.keys()
        assert sorted(name for name in states if name.startswith("train")) == trained
        assert set(states.values()) <= {"Completed", "Cached"}


def test_prefects_page_draws_no_task_inside_another_one(server: PrefectServer, done: Run) -> None:
    graph = server.ask(f"/flow_runs/{flow_runs(server, 'xdc-round')[0]['id']}/graph-v2")
    names = {node["label"] for _, node in graph["nodes"]}
    assert {"shard", "extract.video", "train.audio", "report"} <= names
    assert not [node["label"] for _, node in graph["nodes"] if node["encapsulating"]]


def flow_runs(server: PrefectServer, flow: str) -> list[dict[str, Any]]:
    """The flow runs of a flow, the first first."""
    return server.ask("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_ASC"})


def test_a_run_goes_on_with_the_configuration_that_it_began_with_and_the_next_uses_the_new_one(done: Run) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'rounds'"):
        open_run(done.root)
    assert all_fresh(done, all_nodes(done.config))
    values = done.config.model_dump()
    values["cluster"]["k"]["audio"] = 3
    (done.root / FILE_NAME).write_text(commented_yaml(parse_config(values, "a test")), encoding="utf-8")
    node = Node("cluster", "audio", 0)
    assert manifest_of(done, node).settings["k"] == 4
    record = do_node(open_run(done.root), node, InProcess())
    assert not record.reused
    assert manifest_of(done, node).settings["k"] == 3
