"""The Prefect server of a command: the one that is set, or a temporary one that ends with the command.

Prefect starts a temporary server by itself, but in the terminal's process group and without a tie to our life: Ctrl-C
would kill it before the flow can say how it ended, and a killed command would leave it running.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.runners.process_output import how_ended, last_error, written
from shards.errors import XdcError
from xdc_core.compute.parent_death import die_with_parent

START_S = 180.0


@contextmanager
def prefect_server() -> Iterator[None]:
    """Have Prefect talk to a server that answers, while the block runs.

    Raises:
        XdcError: the server that is set does not answer, or the temporary one does not start.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if url := PREFECT_API_URL.value():
        if not answers(url):
            raise XdcError(
                f"the Prefect server at {url} does not answer. Start it (prefect server start), or unset "
                "PREFECT_API_URL to have a temporary one."
            )
        yield
    else:
        with temporary_server() as url, temporary_settings({PREFECT_API_URL: url}):
            yield


@contextmanager
def temporary_server() -> Iterator[str]:
    """Start a server that lives as long as the block, with Prefect's ordinary database; yields its URL.

    Raises:
        XdcError: it does not start; with its last error.
    """
    import prefect
    from prefect.settings import get_current_settings

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(Path(str(prefect.__file__)).parent), "--factory"]
    command += ["prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port)]
    owner = os.getpid()
    settings = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    settings |= get_current_settings().to_environment_variables(exclude_unset=True)
    with tempfile.TemporaryFile() as output:  # Shown only where the server fails.
        server = subprocess.Popen(
            [*command, "--log-level", "error", "--lifespan", "on"],
            env=os.environ | settings | {"PREFECT_SERVER_LOGGING_LEVEL": "ERROR"},
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM, owner),
        )
        try:
            _wait(server, url := f"http://127.0.0.1:{port}/api", output.fileno())
            try:
                yield url
            finally:  # Where it has died, the block has most likely raised an error, too.
                if (code := server.poll()) is not None:
                    print(_failure(how_ended(code), output.fileno()), file=sys.stderr)
        finally:
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def answers(url: str) -> bool:
    """Return whether a Prefect server answers that it is healthy."""
    import httpx

    try:
        return httpx.get(f"{url}/health", timeout=10).is_success
    except httpx.HTTPError:
        return False


def _wait(server: "subprocess.Popen[bytes]", url: str, output: int) -> None:
    deadline = time.monotonic() + START_S
    while not answers(url):
        if (code := server.poll()) is not None:
            raise XdcError(_failure(how_ended(code), output))
        if time.monotonic() > deadline:
            raise XdcError(_failure(f"did not answer within {START_S:.0f} s", output))
        time.sleep(0.2)


def _failure(how: str, output: int) -> str:
    """Return how the temporary server failed, its last error, and what can be done. Keeps its output in a file.

    `output`: descriptor of the file that has it.
    """
    from prefect.settings import PREFECT_HOME

    text = written(output).strip()
    reason = ", and has written nothing"
    if text:
        descriptor, log = tempfile.mkstemp(".log", "prefect-server-")
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{text}\n")
        reason = f": {last_error(text)} (all that it wrote: {log})"
    return (
        f"Prefect's temporary server {how}{reason}. Its records are in PREFECT_HOME, {PREFECT_HOME.value()}: that must "
        "be a folder in which files can be written, and prefect.db in it a sound database (it may be moved away: only "
        "records of past flow runs are lost). Or set PREFECT_HOME to another folder, or PREFECT_API_URL to a server."
    )
