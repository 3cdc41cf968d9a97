"""`xdc export`, as a person meets it, and the upload to a server that answers as the Hub does."""

import base64
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shards.store.files import sha256_of
from tests.flows.test_cli import xdc
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def test_export_writes_the_newest_encoders_and_says_where(worked_run: Run, tmp_path: Path) -> None:
    code, output = xdc("export", worked_run.root, "--to", tmp_path / "export")
    assert code == 0
    assert "video, audio of round 1" in output
    assert "fill in the licence" in output
    encoder = worked_run.directory(Node("train", "video", 0)) / "encoder.safetensors"
    assert sha256_of(tmp_path / "export" / "video" / "model.safetensors") == sha256_of(encoder)
    code, output = xdc("export", worked_run.root, "--to", tmp_path / "export", "--json")
    assert (code, json.loads(output)["reused"]) == (0, True)


def test_a_round_and_a_modality_can_be_chosen(worked_run: Run, tmp_path: Path) -> None:
    code, output = xdc("export", worked_run.root, "--to", tmp_path / "export", "--round", 0, "--modality", "audio")
    assert (code, "audio of round 0" in output) == (0, True)
    assert not (tmp_path / "export" / "video").exists()
    encoder = worked_run.directory(Node("init", "audio")) / "encoder.safetensors"
    assert sha256_of(tmp_path / "export" / "audio" / "model.safetensors") == sha256_of(encoder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--round", 7), "round 7"),
        (("--modality", "smell"), "has no modality 'smell'. There are: video, audio."),
    ],
)
def test_wrong_options_are_explained(worked_run: Run, tmp_path: Path, options: tuple[Any, ...], message: str) -> None:
    code, output = xdc("export", worked_run.root, "--to", tmp_path / "export", *options)
    assert code == 2
    assert message in output
    assert not (tmp_path / "export").exists()


def test_a_missing_extra_is_named_before_anything_is_written(
    worked_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, output = xdc("export", worked_run.root, "--to", tmp_path / "export", "--onnx")
    assert code == 2
    assert "pip install 'xdc-pipeline[onnx]'" in output
    assert not (tmp_path / "export").exists()


class Hub(ThreadingHTTPServer):
    """A server that answers the client of the Hub: repositories, and commits whose files are in the request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer hf_token":
            self._answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            self._answer({"url": f"{self._root}/someone/encoders", "name": "someone/encoders"})
        elif self.path.startswith("/api/models/someone/encoders/preupload/"):
            files = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        elif self.path.startswith("/api/models/someone/encoders/commit/"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = {"commitUrl": f"{self._root}/someone/encoders/commit/abc", "commitOid": "abc", "success": True}
            self._answer(commit)
        else:
            self._answer({"error": self.path}, 404)

    def do_GET(self) -> None:
        self._answer({"error": self.path}, 404)

    @property
    def _root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def _answer(self, value: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    monkeypatch.setattr(constants, "ENDPOINT", address)  # As HF_ENDPOINT sets it when the client is imported.
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_push_uploads_what_was_exported(worked_run: Run, tmp_path: Path, hub: Hub) -> None:
    export = tmp_path / "export"
    code, output = xdc("export", worked_run.root, "--to", export, "--modality", "audio", "--push", "someone/encoders")
    assert code == 0, output
    assert "pushed: " in output
    (made,) = hub.made
    assert made.get("private") or made.get("visibility") == "private"  # Before version 2 of the client, and from it on.
    written = {path.relative_to(export).as_posix(): path.read_bytes() for path in export.rglob("*") if path.is_file()}
    assert hub.files == written


def test_a_refused_push_says_what_to_do_and_keeps_the_export(
    worked_run: Run, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    code, output = xdc("export", worked_run.root, "--to", tmp_path / "export", "--push", "someone/encoders")
    assert code == 2
    assert "hf auth login" in output
    assert (tmp_path / "export" / "video" / "config.json").exists()
    assert hub.files == {}


def test_a_hub_that_cannot_be_reached_is_an_error_of_the_same_kind(
    worked_run: Run, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")  # A closed port.
    code, output = xdc("export", worked_run.root, "--to", tmp_path / "export", "--push", "someone/encoders")
    assert code == 2, output
    assert "hf auth login" in output
