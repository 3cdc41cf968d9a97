"""The executor `ray` where it cannot be used: one line, before any work. With a cluster: tests/engines/test_ray.py."""

import json
import socket
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.executors.ray import cluster
from flows.executors.ray.room import gpus_of_process
from flows.executors.registry import check_executor
from shards.errors import ConfigError
from shards.store.executor import Job
from shards.store.units import begin_units
from tests.places import ROOT
from tests.processes import PATIENCE_S
from xdc_core.config.schema import RunsOn


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed here")
def test_without_ray_the_message_is_how_to_install_it() -> None:
    with pytest.raises(ConfigError, match=r"Ray is not installed here: pip install 'xdc-pipeline\[ray\]'"):
        check_executor(RunsOn(executor="ray", executor_settings={"address": "auto"}))


@pytest.mark.parametrize("address", [None, "local"])
def test_no_cluster_is_started_where_none_is_named(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=r"no cluster is named, and xdc starts none\. Set .*settings\.address"):
        check_executor(RunsOn(executor="ray", executor_settings={"address": address}))


@pytest.mark.parametrize("address", ["somewhere", "http://", "host:port", ":6379"])
def test_an_address_of_another_form_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=r"it must be HOST:PORT, ray://HOST:PORT, or auto"):
        check_executor(RunsOn(executor="ray", executor_settings={"address": address}))


@pytest.mark.parametrize("failures", [0, 2, cluster.JOINS])
def test_a_server_of_rays_client_that_dies_at_its_start_is_replaced_a_few_times(
    failures: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []

    def init(address: str, **settings: object) -> None:
        tried.append(address)
        if len(tried) <= failures:
            raise ConnectionAbortedError("Initialization failure from server:\nStarting Ray client server failed.")

    ray = SimpleNamespace(init=init, is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"ray://127.0.0.1:{server.getsockname()[1]}"
        if failures < cluster.JOINS:
            assert cluster.connect(address) is ray
        else:
            with pytest.raises(ConfigError, match=r"cannot join a cluster at .*Starting Ray client server failed\."):
                cluster.connect(address)
    assert tried == [address] * min(failures + 1, cluster.JOINS)
    assert capsys.readouterr().err.count(f"joining the Ray cluster at {address} again") == len(tried) - 1


def test_settings_that_the_executor_does_not_have_are_named() -> None:
    with pytest.raises(ConfigError, match=r"executor_settings of the executor ray: cpus: .*greater than .*; gpu: "):
        check_executor(RunsOn(executor="ray", executor_settings={"cpus": 0, "gpu": 1}))


@pytest.mark.parametrize(
    ("gpus", "device", "of_cluster", "expected"),
    [
        (None, "auto", {"CPU": 8.0}, 0),
        (None, "auto", {"CPU": 8.0, "GPU": 8.0}, 1),
        (None, "cuda", {"CPU": 8.0}, 1),
        (0.5, "auto", {"CPU": 8.0}, 0.5),
        (0, "cuda", {"CPU": 8.0, "GPU": 8.0}, 0),
    ],
)
def test_gpus_are_asked_for_as_set_else_as_the_device_says_else_as_the_cluster_has(
    gpus: float | None,
    device: str,
    of_cluster: dict[str, float],
    expected: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert gpus_of_process(SimpleNamespace(cluster_resources=lambda: of_cluster), gpus, device) == expected
    chosen = "has no GPUs at the moment, so the work is done on CPUs" in capsys.readouterr().err
    assert chosen == (gpus is None and expected == 0)


def test_a_worker_writes_log_messages_of_the_level_that_it_is_given_to_its_log(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    begin_units(tmp_path / "out", [])
    job = Job("extract.video", "work:none", {}, str(tmp_path / "out"), str(tmp_path / "logs"), "torch")
    code = (
        "import logging, sys; from flows.executors.ray.worker import RayWorker; "
        "RayWorker().begin(sys.argv[1], 1, 'info'); "
        "logging.getLogger('of a library').info('heard'); logging.getLogger('of a library').debug('not heard')"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(asdict(job))], check=True, timeout=PATIENCE_S, cwd=ROOT)
    (log,) = (tmp_path / "logs").iterdir()
    assert log.read_text().endswith(" INFO of a library: heard\n")
