"""The files of a job: what a worker that cannot read them says, and to whom."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from shards.errors import ConfigError, MachineError
from shards.store.executor import Job, Unit
from shards.store.units import begin_units
from shards.version import package_version
from shards.workers.job_file import read_job, read_units, write_job
from shards.workers.worker import noted_errors
from tests.places import ROOT


def job_in(out: Path) -> Path:
    begin_units(out, [])
    job = Job("shard", "tests:none", {}, str(out), str(out / "logs"), "torch")
    return write_job(job, [Unit(number, (f"{number:06d}",)) for number in range(5)])


def test_a_worker_of_another_version_tells_the_stage_so_whatever_the_job_has(tmp_path: Path) -> None:
    path = job_in(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": "0.0.1", "something": "new"}))
    command = [sys.executable, "-m", "xdc_core", "unit", str(path), "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    text = (
        f"{platform.node()} has version {package_version()} of xdc, and the stage shard was started with 0.0.1. "
        "Install the same version on all machines."
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{text}\n")
    (noted,) = noted_errors(tmp_path)
    assert (noted.kind, noted.text, noted.final) == ("StageError", text, True)


def test_a_job_file_that_is_not_there_is_no_reason_to_end_the_stage(tmp_path: Path) -> None:
    path = job_in(tmp_path)
    path.unlink()
    with pytest.raises(MachineError, match="its stage is finished, was continued by another process, or is on a disk"):
        read_job(path)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_file_that_is_no_job_is_refused(tmp_path: Path, text: str) -> None:
    path = job_in(tmp_path)
    path.write_text(text)
    with pytest.raises(ConfigError, match="is not a job of this version of xdc"):
        read_job(path)


def test_units_come_by_their_lines(tmp_path: Path) -> None:
    path = job_in(tmp_path)
    assert [unit.number for unit in read_units(path)] == [0, 1, 2, 3, 4]
    assert [unit.number for unit in read_units(path, [3, 1])] == [1, 3]
    with pytest.raises(ConfigError, match="has units 0 to 4, but unit 5 was asked for"):
        list(read_units(path, [5]))
