"""A stage that is added as one `Stage` object in STAGES, and one folder in FOLDERS: the graph does the rest."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shards.errors import ConfigError, StageError
from shards.store.build import Outcome
from shards.store.checked_read import read_stored_json
from shards.store.files import new_file
from shards.store.stage import Stage, Task
from tests.runs import write_run
from xdc_core.config.load import parse_config
from xdc_core.config.schema import Config
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import STAGES, check_node, round_nodes
from xdc_core.graph.state import node_state
from xdc_core.runs.node import FOLDERS, Node
from xdc_core.runs.run import Run


@dataclass(frozen=True)
class Counting:
    """The part of the configuration for the stage."""

    step: int

    def hashed(self) -> dict[str, Any]:
        return {"step": self.step}


def count(task: Task[Counting]) -> Outcome:
    """Add the step to the sum of the previous round."""
    before = [read_stored_json(path / "sum.json", "count") for path in task.directories("count")]
    with new_file(task.out / "sum.json") as path:
        path.write_text(json.dumps(sum(before) + task.settings.step))
    return Outcome(1, files=("sum.json",))


COUNT: Stage[Config, Run, Counting] = Stage(
    name="count",
    version=1,
    summary="Add the seed to the sum of the previous round.",
    folder="counts",
    of="modality",
    each_round=True,
    library="torch",
    modules=(),
    nodes=lambda config, number: [] if number is None else [Node("count", name, number) for name in config.modalities],
    inputs=lambda config, node: [Node("count", node.modality, node.round - 1)] if node.round else [],
    settings=lambda config, node: Counting(step=config.seed),
    work=count,
)
FIRST, SECOND = Node("count", "audio", 0), Node("count", "audio", 1)


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, "count", COUNT)
    monkeypatch.setitem(FOLDERS, "count", "counts")


def run_with(root: Path, seed: int) -> Run:
    return write_run(root / "run", parse_config({"seed": seed, "rounds": 1}, "a test"))


def total(run: Run, node: Node) -> Any:
    return json.loads((run.directory(node) / "sum.json").read_text())


def state(run: Run, node: Node) -> tuple[str, str]:
    return node_state(run, node, Fingerprints(run))


def test_its_nodes_are_run_after_their_inputs_and_reused(tmp_path: Path) -> None:
    run = run_with(tmp_path, 3)
    assert state(run, FIRST) == ("missing", "")
    with pytest.raises(StageError, match=r"count\.audio of round 1 needs count\.audio of round 0, which is missing"):
        run_stage(run, SECOND)
    assert not run_stage(run, FIRST).reused
    assert not run_stage(run, SECOND).reused
    assert (total(run, FIRST), total(run, SECOND)) == (3, 6)
    assert run.directory(SECOND) == tmp_path / "run" / "rounds" / "001" / "counts" / "audio"
    assert state(run, SECOND) == ("fresh", "")
    assert run_stage(run, SECOND).reused
    assert not run_stage(run, SECOND, force=True).reused


def test_after_a_change_of_its_settings_it_and_what_reads_it_are_stale(tmp_path: Path) -> None:
    for node in (FIRST, SECOND):
        run_stage(run_with(tmp_path, 3), node)
    run = run_with(tmp_path, 5)
    assert state(run, FIRST) == ("stale", "step: 3 -> 5")
    assert state(run, SECOND) == ("stale", "step: 3 -> 5")
    for node in (FIRST, SECOND):
        assert not run_stage(run, node).reused
    assert (total(run, FIRST), total(run, SECOND)) == (5, 10)


def test_after_a_change_of_its_version_it_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with(tmp_path, 3)
    run_stage(run, FIRST)
    monkeypatch.setitem(STAGES, "count", Stage(**{**vars(COUNT), "version": 2}))
    assert state(run, FIRST) == ("stale", "stage version 1 -> 2")


def test_its_nodes_are_in_the_graph_and_are_listed(tmp_path: Path) -> None:
    run = run_with(tmp_path, 3)
    assert [str(node) for node in round_nodes(run.config, 1) if node.stage == "count"] == [
        "count.video of round 1",
        "count.audio of round 1",
    ]
    check_node(run, SECOND)
    listed = ", ".join(f"count.{name} of round {number}" for number in (0, 1) for name in ("video", "audio"))
    with pytest.raises(ConfigError, match=rf"no node count\.joint of round 0\. There is: {listed}\."):
        check_node(run, Node("count", "joint", 0))
    with pytest.raises(ConfigError, match=r"there is no stage 'counts'\. There are: .*, count\."):
        check_node(run, Node("counts", "audio", 0))
