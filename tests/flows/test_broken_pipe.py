"""A flow run whose worker died prints into a broken pipe."""

import os
import subprocess
import sys

FLOW = """
import os, sys
from prefect.logging import get_logger
from prefect.logging.configuration import setup_logging
from flows.orchestration.broken_pipe import outlive_reader
setup_logging()
log = get_logger("xdc")
log.error("before")
if sys.argv[1] == "outlives":
    outlive_reader()
sys.stdin.read()  # Until nobody reads.
for _ in range(3):
    log.error("after")
print("after", flush=True)
os.write(int(sys.argv[2]), b"went on")
"""


def ended(how: str) -> tuple[int, bytes]:
    """Exit code, and what the process said after its reader had gone."""
    told, tell = os.pipe()
    flow = subprocess.Popen(
        [sys.executable, "-c", FLOW, how, str(tell)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(tell,),
        env=os.environ | {"PREFECT_LOGGING_TO_API_ENABLED": "false", "PREFECT_LOGGING_LEVEL": "INFO"},
    )
    os.close(tell)
    assert flow.stdin is not None
    assert flow.stdout is not None
    assert b"before" in flow.stdout.readline()
    flow.stdout.close()
    flow.stdin.close()
    code = flow.wait(60)
    with os.fdopen(told, "rb") as said:
        return code, said.read()


def test_a_flow_goes_on_without_its_reader() -> None:
    assert ended("outlives") == (0, b"went on")


def test_without_that_rich_would_end_it() -> None:
    """Once this fails, flows/orchestration/broken_pipe.py can go."""
    code, said = ended("dies")
    assert said == b""
    assert code != 0
