"""Slurm for the tests of the executor `slurm`: Debian's packages, unpacked into a folder and not installed."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.places import ROOT

PACKAGES = ("slurmctld", "slurmd", "slurm-client")
FOLDER = ROOT / ".engines" / "slurm"
STAMP = FOLDER / ".unpacked"


def install_slurm() -> Path:
    """Unpack Slurm, and the libraries it needs that this machine lacks, into FOLDER, and return that.

    Nothing is installed: no service starts, and no file outside the folder changes. What is unpacked already is kept.

    Raises:
        SystemExit: this is no Debian, or a package cannot be downloaded.
    """
    if slurm_installed():
        return FOLDER
    if lacking := [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]:
        raise SystemExit(f"Slurm cannot be unpacked: there is no {lacking[0]} (the packages are Debian's).")
    try:
        names = _unpack()
    except subprocess.CalledProcessError:  # The lists of packages are not there, or name versions that are gone.
        _output("apt-get", "update", "-qq")
        names = _unpack()
    STAMP.write_text("\n".join(names) + "\n", encoding="utf-8")
    return FOLDER


def slurm_installed() -> bool:
    """Return whether Slurm is unpacked."""
    return STAMP.is_file()


def program(name: str) -> Path:
    """Return a program of Slurm: `sbatch`, or a daemon, which Debian names `slurmd-wlm`."""
    user, system = FOLDER / "usr" / "bin" / name, FOLDER / "usr" / "sbin" / f"{name}-wlm"
    return user if user.exists() else system


def plugins() -> Path:
    """Return the folder of Slurm's plugins, in which its own library lies, too."""
    return next((FOLDER / "usr" / "lib").glob("*/slurm-wlm"))


def environment() -> dict[str, str]:
    """Return the variables with which the unpacked programs find their libraries."""
    return {"LD_LIBRARY_PATH": f"{plugins()}:{plugins().parent}"}


def _unpack() -> list[str]:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    names = _missing_packages()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)  # apt downloads as the user _apt, where it can.
        _output("apt-get", "download", "-qq", *names, cwd=Path(folder))
        for package in sorted(Path(folder).glob("*.deb")):
            _output("dpkg", "-x", package, FOLDER)
    return names


def _missing_packages() -> list[str]:
    """Return the packages of Slurm and those of their dependencies that are not installed."""
    plan = _output("apt-get", "install", "--simulate", "--no-install-recommends", *PACKAGES)
    return [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]


def _output(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in words], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout
