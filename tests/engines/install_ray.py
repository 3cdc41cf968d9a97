"""Ray for the tests of the executor `ray`, in an environment of its own: `python -m tests.engines.install ray`."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from tests.places import ROOT

RAY = "ray[client]==2.60.*"
FOLDER = ROOT / ".engines" / "ray"
PYTHON = FOLDER / "bin" / "python"
STAMP = FOLDER / ".installed"


def install_ray() -> Path:
    """Make an environment with the pinned packages, Ray, and this checkout of the project; return its Python.

    It lies beside the project's own environment, which stays as it is. Packages that are in uv's cache are linked, not
    copied. An installation that is finished and has the same packages is kept.
    """
    if not ray_installed():
        STAMP.unlink(missing_ok=True)
        uv = find_uv()
        _run(uv, "venv", "--clear", "--python", sys.executable, FOLDER)
        _run(uv, "pip", "install", "--python", PYTHON, "-r", ROOT / "requirements.lock", RAY)
        _run(uv, "pip", "install", "--python", PYTHON, "--no-deps", "--editable", ROOT)
        STAMP.write_text(_wanted(), encoding="utf-8")
    return PYTHON


def ray_installed() -> bool:
    """Return whether the environment is there, with the packages that are wanted now."""
    return STAMP.is_file() and STAMP.read_text(encoding="utf-8") == _wanted()


def _wanted() -> str:
    files = (ROOT / name for name in ("requirements.lock", "pyproject.toml"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return f"{RAY} {sys.version} {digest}\n"


def find_uv() -> str:
    """Return the path of uv. Exits where there is none."""
    beside = Path(sys.prefix) / "bin" / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise SystemExit("Nothing can be installed: there is no uv. `make install` installs it.")
    return uv


def _run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], cwd=ROOT, check=True)


if __name__ == "__main__":
    print(install_ray())
