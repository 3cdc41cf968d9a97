"""Trackers get every point of a run once, and go on where they ended. With the real packages, offline."""

import json
import shutil
import sys
from typing import Any

import pytest

from shards.errors import ConfigError
from shards.store.commit import partial_directory
from tests.runs import MakeRun
from xdc_core.documents.metrics import read_metrics
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.tracking.points import points
from xdc_core.tracking.publish import publish


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_points_are_those_of_the_metrics_and_the_reports(worked_run: Run) -> None:
    found = list(points(worked_run))
    lines = read_metrics(worked_run.directory(Node("train", "video", 0)) / "metrics.jsonl")
    of_video = [point for point in found if point.axis == "video"]
    assert [point.step for point in of_video] == [line["step"] for line in lines]
    assert [point.values["video/loss"] for point in of_video] == [line["loss"] for line in lines]
    reports = [point for point in found if point.axis == "round"]
    assert [point.step for point in reports] == [0, 1]
    facts = json.loads((worked_run.directory(Node("report", None, 1)) / "report.json").read_text())
    wanted = {row["source"]: row["ami:label"] for row in facts["history"] if row["round"] == 1}
    assert {name: reports[1].values[f"clusters_{name}/ami_label"] for name in wanted} == wanted


def test_steps_are_counted_over_the_rounds(copy_run: MakeRun) -> None:
    run = copy_run(rounds=2)
    begun = partial_directory(
        run.directory(Node("train", "audio", 1)), Fingerprints(run).of(Node("train", "audio", 1)) or ""
    )
    begun.mkdir(parents=True)
    shutil.copy(run.directory(Node("train", "audio", 0)) / "metrics.jsonl", begun)
    steps = [point.step for point in points(run) if point.axis == "audio"]
    first = [line["step"] for line in read_metrics(begun / "metrics.jsonl")]
    assert steps == [*first, *(step + 8 for step in first)], "a training that is at work counts too"


def test_tensorboard_reads_what_was_written_and_nothing_is_sent_twice(copy_run: MakeRun) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = copy_run()
    shutil.move(run.directory(Node("report", None, 1)), run.root / "later")
    sent = publish(run, "tensorboard")
    assert publish(run, "tensorboard") == 0
    shutil.move(run.root / "later", run.directory(Node("report", None, 1)))
    assert publish(run, "tensorboard") == 1
    read = EventAccumulator(str(run.root / "tracking" / "tensorboard"))
    read.Reload()
    assert [event.step for event in read.Scalars("clusters_video/nmi_label")] == [0, 1]
    lines = read_metrics(run.directory(Node("train", "audio", 0)) / "metrics.jsonl")
    assert [event.value for event in read.Scalars("audio/loss")] == pytest.approx([line["loss"] for line in lines])
    assert sent == 1 + 2 * len(lines)


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_mlflow_has_one_run_that_goes_on(copy_run: MakeRun) -> None:
    mlflow = pytest.importorskip("mlflow")
    run = copy_run()
    shutil.move(run.directory(Node("report", None, 1)), run.root / "later")
    publish(run, "mlflow")
    shutil.move(run.root / "later", run.directory(Node("report", None, 1)))
    assert publish(run, "mlflow") == 1
    state = json.loads((run.root / "tracking" / "mlflow.json").read_text())
    client = mlflow.MlflowClient(f"sqlite:///{(run.root / 'tracking' / 'mlflow.db').resolve()}")
    history = client.get_metric_history(state["tracker"]["run_id"], "clusters_audio/nmi_label")
    assert [entry.step for entry in history] == [0, 1]
    assert client.get_run(state["tracker"]["run_id"]).data.params["method"] == "xdc"


@pytest.mark.usefixtures("offline")
def test_wandb_offline_keeps_a_run_and_its_id(copy_run: MakeRun) -> None:
    pytest.importorskip("wandb")
    run = copy_run()
    assert publish(run, "wandb") > 0
    state = json.loads((run.root / "tracking" / "wandb.json").read_text())
    (kept,) = (run.root / "tracking" / "wandb").glob(f"offline-run-*-{state['tracker']['id']}")
    assert next(iter(kept.glob("*.wandb"))).stat().st_size > 0
    assert publish(run, "wandb") == 0


def test_a_tracker_that_is_unknown_or_not_installed_is_told_with_what_to_do(
    worked_run: Run, copy_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="There are: tensorboard, wandb, mlflow"):
        publish(worked_run, "tensorbord")
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "xdc_core.tracking.wandb", raising=False)
    with pytest.raises(ConfigError, match="wandb needs the package wandb"):
        publish(copy_run(), "wandb")


def test_what_a_tracker_does_not_take_is_sent_again(copy_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from xdc_core.tracking import tensorboard

    run, log, count = copy_run(), tensorboard.TensorBoard.log, 0

    def fail_at_the_third(self: Any, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError("no space left")
        log(self, *arguments)

    monkeypatch.setattr(tensorboard.TensorBoard, "log", fail_at_the_third)
    with pytest.raises(OSError, match="no space left"):
        publish(run, "tensorboard")
    monkeypatch.setattr(tensorboard.TensorBoard, "log", log)
    assert publish(run, "tensorboard") == len(list(points(run))) - 2
