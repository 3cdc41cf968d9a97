"""`make gpu` where there is no GPU: it says so, says what is missing, keeps to its time, and leaves nothing running."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.processes import alive, wait_for

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu_check.py"


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    # Machines with a GPU run this test, too.
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *words], env=hidden, capture_output=True, text=True, check=False)


def parts_in(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "gpu.json").read_text())["parts"]
    return found


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so_and_ends_with_2(tmp_path: Path) -> None:
    done = run(str(SCRIPT), "--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("No GPU: torch ")
    assert done.stderr.endswith("finds none. Nothing was run.\n")
    assert not (tmp_path / "gpu.json").exists()


def test_without_torch_there_is_no_gpu(tmp_path: Path) -> None:
    done = run("-S", str(SCRIPT), "--out", str(tmp_path))  # -S: without any installed package.
    assert (done.returncode, "has no torch" in done.stderr) == (2, True)


def test_parts_whose_packages_are_missing_are_listed_with_these(tmp_path: Path) -> None:
    done = run("-S", str(SCRIPT), "--out", str(tmp_path), "--device", "cpu", "--quick")
    assert (done.returncode, done.stderr) == (0, "")
    found = {part["name"]: part for part in parts_in(tmp_path)}
    assert {part["state"] for part in found.values()} == {"not run"}
    assert found["doctor: GPU"]["why"] == "needs torch, torchaudio, numpy"
    assert found["doctor: k-means"]["why"] == "needs faiss, numpy"
    assert "torch, torchaudio, av" in found["extract"]["why"]
    assert found["figures: quick"]["why"] == "needs torch"
    for part in found.values():
        assert f"not run: {part['why']}" in done.stdout


def test_what_there_is_no_time_for_is_listed(tmp_path: Path) -> None:
    done = run(str(SCRIPT), "--out", str(tmp_path), "--device", "cpu", "--quick", "--limit", "0")
    assert done.returncode == 0
    whys = {part["name"]: part["why"] for part in parts_in(tmp_path)}
    assert whys["doctor: GPU"] == whys["demo: two rounds"] == "out of time"
    assert whys["extract"] == "init: digits and shard: out of time"


def test_a_part_whose_time_is_over_is_stopped_with_all_that_it_started(script: ModuleType, tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"
        "print([child.pid], flush=True); time.sleep(99)"
    )
    result = script.run_part(script.Part("sleep", [["-c", code]], ()), tmp_path, 2.0)
    assert (result.state, result.why) == ("stopped", "out of time")
    ((child,),) = result.facts
    wait_for("the child to end", lambda: not alive(child), 10)


@pytest.mark.parametrize(
    ("code", "state", "why"),
    [
        ("print(1); print('[2]'); print('done')", "works", ""),
        ("import no_such_package", "not run", "needs no_such_package"),
        ("raise SystemExit('the GPU burns')", "failed", "the GPU burns (see "),
    ],
)
def test_how_a_part_ended(script: ModuleType, tmp_path: Path, code: str, state: str, why: str) -> None:
    result = script.run_part(script.Part("one", [["-c", code]], ()), tmp_path, 30.0)
    assert result.state == state
    assert result.why.startswith(why)
    assert result.facts == ([[2]] if state == "works" else [])


def test_the_children_of_a_part_have_time_to_end_after_sigterm(script: ModuleType, tmp_path: Path) -> None:
    child = (
        "import pathlib, signal, sys, time\n"
        f"def end(*_): time.sleep(0.5); pathlib.Path({str(tmp_path / 'ended')!r}).touch(); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('[1]', flush=True); time.sleep(99)"
    )
    # The part itself ends at once; its child does not.
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)"
    result = script.run_part(script.Part("one", [["-c", f"{code}.stdout.readline()"]], ()), tmp_path, 30.0)
    assert result.state == "works"
    assert (tmp_path / "ended").exists()


def test_flow_runs_of_the_demo_are_kept_from_the_users_server(script: ModuleType, tmp_path: Path) -> None:
    users = {
        "PREFECT_API_URL": "https://app.prefect.cloud/api/x",
        "PREFECT_API_KEY": "secret",
        "PREFECT_API_AUTH_STRING": "user:secret",
        "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql://...",
        "PREFECT_PROFILE": "work",
        "PREFECT_HOME": "/home/user/.prefect",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "HOME": "/home/user",
    }
    assert script.with_own_prefect(users, tmp_path) == {
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "HOME": "/home/user",
    }
