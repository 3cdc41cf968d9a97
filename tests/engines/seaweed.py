"""A SeaweedFS on this machine alone, with a reader who may read one bucket only. It ends with this process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.engines.install_seaweed import FOLDER, WEED, seaweed_installed

BUCKET, OTHER = "corpora", "private"
PARTS = ("master", "volume", "filer", "s3")
ANSWER_S = 60.0  # Seconds for the server to start.
IDENTITIES = {
    "identities": [
        {
            "name": "owner",
            "credentials": [{"accessKey": "owner", "secretKey": "owner-secret"}],
            "actions": ["Admin", "Read", "Write", "List"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": "reader", "secretKey": "reader-secret"}],
            "actions": [f"Read:{BUCKET}", f"List:{BUCKET}"],
        },
    ]
}


def why_not() -> str:
    """Return why there can be no server here; "" if there can be one."""
    if not seaweed_installed():
        return "SeaweedFS is not in .engines/seaweed: python -m tests.engines.install seaweed"
    return ""


def find_client() -> None:
    """Let this process and those that it starts find obstore."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(FOLDER) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, paths), str(FOLDER)])


@dataclass
class Seaweed:
    """A server in `folder`. It can be killed and started again with what it holds."""

    folder: Path
    port: int
    others: list[int]
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def address(self) -> str:
        """The URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self, name: str = "owner") -> dict[str, str]:
        """Return the variables with which a user's programs reach it."""
        return {
            "AWS_ACCESS_KEY_ID": name,
            "AWS_SECRET_ACCESS_KEY": f"{name}-secret",
            "AWS_ENDPOINT_URL": self.address,
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start the server, and wait until it answers. It ends with the thread that calls this."""
        master, volume, filer, *grpc = self.others
        words: list[object] = [
            *("setpriv", "--pdeathsig", "KILL", WEED, "server", f"-dir={self.folder / 'data'}", "-s3"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={self.folder / 's3.json'}"),
            *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={self.port}"),
            *(f"-{part}.port.grpc={port}" for part, port in zip(PARTS, grpc, strict=True)),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64", "-volume.max=30"),
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([str(word) for word in words], stdout=log, stderr=log, cwd=self.folder)
        end = time.monotonic() + ANSWER_S
        while True:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            try:
                for bucket in (BUCKET, OTHER):
                    put(self, bucket, {"there": b"yes"})
                return
            except Exception:  # noqa: BLE001 (whatever it is: the server has not started yet)
                assert time.monotonic() < end, (self.folder / "log").read_text()[-2000:]
                time.sleep(0.2)

    def kill(self) -> None:
        """End the server at once."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def kill_under(server: Seaweed, job: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    """Kill the server as soon as a process has stopped, let that go on without it for so long, and start it again.

    The process waits for it, and ends well. log: its output.
    """
    assert os.WIFSTOPPED(os.waitpid(job.pid, os.WUNTRACED)[1]), log.read_text()
    server.kill()
    job.send_signal(signal.SIGCONT)
    try:
        job.wait(seconds)
    except subprocess.TimeoutExpired:
        server.start()
        assert job.wait() == 0, log.read_text()
    else:
        raise AssertionError(f"it did not wait for the server: {log.read_text()}")


@contextmanager
def seaweed(folder: Path) -> Iterator[Seaweed]:
    """A server for a `with` block."""
    find_client()
    (folder / "data").mkdir(parents=True)
    (folder / "s3.json").write_text(json.dumps(IDENTITIES))
    port, *others = _free_ports(8)
    server = Seaweed(folder, port, others)
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.kill()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def client(server: Seaweed, bucket: str = BUCKET) -> Any:
    """A client with all rights, which does not repeat what fails."""
    from obstore.store import S3Store

    return S3Store(
        bucket,
        access_key_id="owner",
        secret_access_key="owner-secret",
        endpoint=server.address,
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


def put(server: Seaweed, bucket: str, objects: dict[str, bytes]) -> None:
    """Write objects."""
    import obstore

    for name, data in objects.items():
        obstore.put(client(server, bucket), name, data)


def copy_there(server: Seaweed, directory: Path, prefix: str) -> str:
    """Copy a directory to the bucket, its manifest last, as `aws s3 cp --recursive` does; return its URL."""
    import obstore

    files = (path for path in directory.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == "manifest.json"):
        obstore.put(client(server), f"{prefix}/{path.relative_to(directory)}", path.read_bytes())
    return f"s3://{BUCKET}/{prefix}"
