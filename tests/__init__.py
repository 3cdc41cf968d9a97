"""The tests. They start hundreds of processes that import torch: what each would pay is arranged here, first."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    # Compiling torch takes as long as importing it compiled. The bytecode lies where it is in nobody's way.
    sys.pycache_prefix = str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # The workers of pytest-xdist have a core each,
    # and no two of them use one database of Prefect's. Processes that a worker starts use its own.
    if os.environ.get("XDC_TEST_WORKER") != os.environ["PYTEST_XDIST_WORKER"]:
        os.environ["XDC_TEST_WORKER"] = os.environ["PYTEST_XDIST_WORKER"]
        os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="xdc-prefect-")
        atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)
