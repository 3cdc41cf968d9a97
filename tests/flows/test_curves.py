"""Curves go to the trackers beside the stages."""

import threading
import time
from pathlib import Path

import pytest

from flows.orchestration import curves
from shards.errors import Busy, ConfigError
from xdc_core.config.load import load_preset, parse_config
from xdc_core.runs.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    values = parse_config(load_preset("tiny"), "preset tiny").model_dump()
    return Run(tmp_path, parse_config(values | {"report": {"track": ["tensorboard", "wandb"]}}, "a test"))


def test_nobody_waits_for_a_tracker_until_the_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, told = threading.Event(), []

    def slow(run: Run, name: str) -> int:
        assert go_on.wait(30)
        told.append((name, threading.current_thread() is threading.main_thread()))
        return 1

    monkeypatch.setattr(curves, "publish", slow)
    curves.send_curves(run)
    curves.send_curves(run)
    assert told == []
    threading.Timer(0.2, go_on.set).start()
    curves.await_curves()
    assert told == [(name, False) for name in ("tensorboard", "wandb") * 2]
    began = time.monotonic()
    curves.await_curves()
    assert time.monotonic() - began < 10, "there is nothing to wait for"


@pytest.mark.parametrize("error", [Busy("another process is at it"), ConfigError("no such package"), OSError("full")])
def test_trouble_of_a_tracker_keeps_neither_the_run_nor_the_next_tracker(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    told = []

    def publish(run: Run, name: str) -> int:
        if name == "tensorboard":
            raise error
        told.append(name)
        return 1

    monkeypatch.setattr(curves, "publish", publish)
    curves.send_curves(run)
    curves.await_curves()
    assert told == ["wandb"]
    warned = [record.getMessage() for record in caplog.records if record.name.startswith("prefect.xdc")]
    said = f"the metrics in tensorboard could not be shown: {error}"
    assert warned == ([] if isinstance(error, Busy) else [said])
