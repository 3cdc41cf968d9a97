"""The Prefect server of a command: the one that is set, or a temporary one that ends with the command.

Prefect can start a temporary server itself, but in the terminal's process group and independent of this process: Ctrl-C
would kill it before the flow can report its end, and a killed command would leave it running.
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

from flows.executors.process_output import how_ended, last_error, written
from shards.errors import XdcError
from xdc_core.compute.parent_death import die_with_parent

START_S = 180.0
# The server's own errors are written, also where the command shows no messages: they say why it does not start.
ERRORS = {"PREFECT_SERVER_LOGGING_LEVEL": "ERROR", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR"}


@contextmanager
def prefect_server() -> Iterator[None]:
    """Connect Prefect to a server that answers, while the block runs.

    Raises:
        XdcError: the server that is set does not answer, or the temporary one does not start.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    if url := PREFECT_API_URL.value():
        if not answers(url):
            raise XdcError(
                f"the Prefect server at {url} does not answer. Start it (prefect server start), or unset "
                "PREFECT_API_URL to have a temporary one."
            )
        yield
    else:
        # Messages are sent later by a thread, which would find this server gone.
        settings = {PREFECT_LOGGING_TO_API_ENABLED: False}
        with temporary_server() as url, temporary_settings(settings | {PREFECT_API_URL: url}):
            yield


@contextmanager
def temporary_server() -> Iterator[str]:
    """Start a server that runs until the block ends, with Prefect's ordinary database. Yield its URL.

    Raises:
        XdcError: it does not start; the text has its last error.
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
    with tempfile.TemporaryFile() as output:  # Shown only if the server fails.
        server = subprocess.Popen(
            [*command, "--log-level", "error", "--lifespan", "on"],
            env=os.environ | settings | ERRORS,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM, owner),
        )
        try:
            _wait(server, url := f"http://127.0.0.1:{port}/api", output.fileno())
            try:
                yield url
            finally:  # If it has died, the block has most likely raised an error, too.
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
    """Return how the temporary server failed, its last error, and what to do. Keep its output in a file.

    `output`: descriptor of the file with its output.
    """
    from prefect.settings import PREFECT_HOME

    text = written(output).strip()
    reason = ", without output"
    if text:
        descriptor, log = tempfile.mkstemp(".log", "prefect-server-")
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{text}\n")
        reason = f": {last_error(text)} (all output: {log})"
    return (
        f"Prefect's temporary server {how}{reason}. Its records are in PREFECT_HOME, {PREFECT_HOME.value()}: this must "
        "be a writable folder, and prefect.db in it an undamaged database (it can be moved away: only "
        "records of past flow runs are lost). Or set PREFECT_HOME to another folder, or PREFECT_API_URL to a server."
    )
