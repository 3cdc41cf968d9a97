"""The Prefect server of a command: the one that is set, or a temporary one that ends with the command.

Prefect starts a temporary server by itself, but in the terminal's process group and without a tie to our life: Ctrl-C
would kill it before the flow can say how it ended, and a killed command would leave it running.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.errors import XdcError
from xdc_core.parent_death import die_with_parent

START_S = 180.0


@contextmanager
def prefect_server() -> Iterator[None]:
    """Inside the block Prefect talks to a server that answers.

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
    """The URL of a server that lives as long as the block, with Prefect's ordinary database.

    Raises:
        XdcError: it does not start.
    """
    import prefect
    from prefect.settings import get_current_settings

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(Path(str(prefect.__file__)).parent), "--factory"]
    command += ["prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port)]
    owner = os.getpid()
    server = subprocess.Popen(
        [*command, "--log-level", "error", "--lifespan", "on"],
        env=os.environ
        | {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        | get_current_settings().to_environment_variables(exclude_unset=True),
        start_new_session=True,
        preexec_fn=lambda: die_with_parent(signal.SIGTERM, owner),
    )
    try:
        _wait(server, url := f"http://127.0.0.1:{port}/api")
        yield url
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def answers(url: str) -> bool:
    """Whether a Prefect server says that it is healthy."""
    import httpx

    try:
        return httpx.get(f"{url}/health", timeout=10).is_success
    except httpx.HTTPError:
        return False


def _wait(server: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + START_S
    while not answers(url):
        if server.poll() is not None:
            raise XdcError(f"Prefect's temporary server ended with exit code {server.returncode}. See: xdc doctor")
        if time.monotonic() > deadline:
            raise XdcError(f"Prefect's temporary server did not answer within {START_S:.0f} s. See: xdc doctor")
        time.sleep(0.2)
