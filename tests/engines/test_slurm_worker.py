"""`deploy/worker.sh` with a real Slurm and a real Prefect server: a worker of Prefect in a job.

The server is in the cluster's network, as the worker must reach it.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines.slurm_cluster import HOST, SlurmCluster
from tests.flows.prefect_server import PrefectServer, prefect_server
from tests.places import ROOT
from tests.processes import wait_for
from tests.runs import MakeRun, encoders_of_round_0

pytestmark = [pytest.mark.engines, pytest.mark.engines_long, pytest.mark.slow]
SCRIPT = ROOT / "deploy" / "worker.sh"
LONG = {"clips": 1280, "batch": 16, "checkpoint_every": 2}


@contextmanager
def network_of(process: int) -> Iterator[None]:
    """Be in the network of another process, with this thread and what it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    own, other = (os.open(f"/proc/{name}/ns/net", os.O_RDONLY) for name in ("thread-self", process))
    try:
        if libc.setns(other, 0):
            raise OSError(ctypes.get_errno(), "setns")
        yield
        libc.setns(own, 0)
    finally:
        os.close(own)
        os.close(other)


@pytest.fixture
def prefect(cluster: SlurmCluster, tmp_path: Path) -> Iterator[PrefectServer]:
    """A server with the deployments, in the cluster's network."""
    (tmp_path / "prefect").mkdir()
    with network_of(cluster.first), prefect_server(tmp_path / "prefect", PREFECT_WORKER_QUERY_SECONDS="1") as server:
        server.environment["PYTHONPATH"] = str(ROOT)
        deployed = server.call("deploy", "--name", "*.xdc-round/local")
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        yield server


def sbatch(cluster: SlurmCluster, prefect: PrefectServer, folder: Path, *options: str) -> str:
    """Submit the script as a user would, in the folder of the runs, for a node of one core."""
    command = [cluster.bin / "sbatch", "--parsable", "--cpus-per-task=1", *options, SCRIPT]
    done = subprocess.run(command, cwd=folder, env=prefect.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_slurm_accepts_the_script(cluster: SlurmCluster, prefect: PrefectServer, tmp_path: Path) -> None:
    assert sbatch(cluster, prefect, tmp_path, "--test-only") == ""
    assert cluster.call("squeue", "-h") == ""


def test_a_worker_in_a_job_does_a_round_and_before_its_time_is_up_ends_the_next_with_a_checkpoint(
    cluster: SlurmCluster, prefect: PrefectServer, make_run: MakeRun, tmp_path: Path
) -> None:
    run, plain = make_run(train=LONG), make_run(train=LONG)
    job = sbatch(cluster, prefect, tmp_path)
    interrupted = prefect.submit("xdc-round/local", run=run.root.name, round=0)  # Relative to the folder of the job.
    training = run.root / "rounds" / "000" / "train"
    wait_for("a checkpoint", lambda: any(training.glob(".*.partial/checkpoint-*.pt")), 400, every=0.2)
    assert prefect.flow_run(interrupted)["labels"]["xdc.process.machine"].startswith(f"{HOST}/")

    cluster.call("scancel", "--batch", "--signal=TERM", job)  # What Slurm sends before the time limit.
    wait_for("the job to end", lambda: cluster.call("squeue", "-h", "-j", job) == "", 240, every=0.5)
    assert prefect.state(interrupted) == "Crashed"
    assert not prefect.processes_of(interrupted)

    sbatch(cluster, prefect, tmp_path)
    again = prefect.submit("xdc-round/local", run=run.root.name, round=0)
    prefect.wait_for_state(again, "Completed")
    assert encoders_of_round_0(run) == encoders_of_round_0(plain)
