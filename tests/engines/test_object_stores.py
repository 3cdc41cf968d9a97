"""Corpora on a real S3 server: runs on them end as on a local disk, and what goes wrong is said in a line."""

import http.server
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import shards.objects.bucket
from shards.corpus.index import read_index, shard_names
from shards.corpus.reader import ClipReader
from shards.errors import ConfigError, MachineError, StageError
from shards.indexing.check import tar_faults
from shards.objects.bucket import REQUEST_S, RETRY_S, Bucket
from shards.objects.cache import Cache
from shards.objects.mirror import mirror
from shards.progress import silent
from shards.store.manifest import read_manifest
from tests.engines.seaweed import BUCKET, Seaweed, client, copy_there, put
from tests.runs import MakeRun
from xdc_core.config.views import views_of
from xdc_core.data.clips import ClipItem, ClipViews, ShardRows
from xdc_core.data.loader import load_views
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.inspection.verification import verify_run
from xdc_core.modalities.registry import MODALITIES
from xdc_core.runs.node import SHARD
from xdc_core.runs.run import Run

pytestmark = pytest.mark.engines
CPU = torch.device("cpu")
READER = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "reader-secret"}


@pytest.fixture(scope="module")
def url(object_store: Seaweed, tiny_corpus: Path) -> str:
    """The tests' small corpus, copied to the bucket."""
    return copy_there(object_store, tiny_corpus, "digits")


def sums(run: Run) -> dict[str, str]:
    """Return the sha256 of all files of labels, centroids and encoders, by name."""
    found = {}
    for node in all_nodes(run.config):
        manifest = read_manifest(run.directory(node))
        assert manifest is not None
        if node.stage in ("extract", "cluster", "label", "train"):
            kept = (".parquet", ".npy", ".safetensors")
            found |= {f"{node}/{name}": entry.sha256 for name, entry in manifest.files.items() if name.endswith(kept)}
    return found


@pytest.mark.slow
def test_a_run_on_a_bucket_ends_with_the_bytes_of_one_on_a_local_disk(
    s3: Seaweed, url: str, worked_run: Run, make_run: MakeRun, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    run = make_run(corpus={"path": url, "videos": None}, runs_on={"cache": str(cache), "cache_gb": 0.02})
    for node in all_nodes(run.config):
        run_stage(run, node)
    assert sums(run) == sums(worked_run)
    assert not list(run.corpus.glob("*.tar"))
    assert any(cache.rglob("*"))
    assert verify_run(run) == []
    files = [path.read_bytes() for path in run.root.rglob("*") if path.is_file()]
    assert not any(b"owner-secret" in data for data in files)


@pytest.mark.slow
def test_sharding_to_a_bucket_and_training_from_it_gives_the_labels_of_a_local_disk(
    s3: Seaweed, worked_run: Run, make_run: MakeRun, digits: Path
) -> None:
    put(s3, BUCKET, {"there": b""})
    run = make_run(corpus={"path": f"s3://{BUCKET}/sharded", "videos": str(digits)})
    for node in all_nodes(run.config):
        run_stage(run, node)
        if node.stage == "init":  # Between two stages; under one: test_runs_there.py.
            s3.kill()
            s3.start()
    assert sums(run) == sums(worked_run)
    assert not list(run.root.rglob("*.tar"))
    assert verify_run(run) == []
    put(s3, BUCKET, {"sharded/tars/000007.0123.tar": b"of a killed call"})
    (finding,) = verify_run(run)
    assert (finding.kind, finding.path) == ("left over", f"s3://{BUCKET}/sharded/tars/000007.0123.tar")


def test_the_directory_of_a_corpus_is_used_again_until_its_manifest_changes(
    s3: Seaweed, url: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    first, second = (mirror(tmp_path / "corpus", url, silent) for _ in range(2))
    assert (first.reused, second.reused, first.fingerprint) == (False, True, second.fingerprint)
    manifest = read_manifest(tiny_corpus)
    assert manifest is not None
    assert (first.rows, first.summary, first.fingerprint) == (manifest.rows, manifest.summary, manifest.fingerprint)
    copied = copy_there(s3, tiny_corpus, "copied")
    assert not mirror(tmp_path / "other", copied, silent).reused
    put(s3, BUCKET, {"copied/manifest.json": (tiny_corpus / "manifest.json").read_bytes() + b"\n"})
    assert not mirror(tmp_path / "other", copied, silent).reused
    assert mirror(tmp_path / "other", copied, silent).reused


def members(corpus: Path, cache: Cache | None = None) -> list[bytes]:
    with ClipReader(corpus, cache) as reader:
        return [
            reader.read(shard, row, member)
            for shard in shard_names(corpus)
            for row in read_index(corpus, shard).to_pylist()
            for member in ("mp4", "flac")
        ]


def test_a_cache_makes_requests_needless_and_changes_nothing(
    s3: Seaweed, url: str, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror(tmp_path / "corpus", url, silent)
    cache = Cache(tmp_path / "cache", 2**30)
    assert members(tmp_path / "corpus", cache) == members(tiny_corpus)
    monkeypatch.setattr(Bucket, "ranges", None)
    assert members(tmp_path / "corpus", cache) == members(tiny_corpus)


def test_a_tar_that_changed_under_its_name_is_noticed_before_anything_is_decoded(
    s3: Seaweed, tiny_corpus: Path, tmp_path: Path
) -> None:
    url = copy_there(s3, tiny_corpus, "changed")
    corpus = tmp_path / "corpus"
    mirror(corpus, url, silent)
    tar = bytearray((tiny_corpus / "000000.tar").read_bytes())
    row = read_index(corpus, "000000").to_pylist()[0]
    tar[row["mp4_offset"] + 100] ^= 1
    put(s3, BUCKET, {"changed/000000.tar": bytes(tar)})
    with pytest.raises(StageError, match=r"s3://corpora/changed/000000\.tar is not what .* index says .* mp4 of clip"):
        members(corpus)
    (fault,) = tar_faults(corpus, "000000")
    assert "changed/000000.tar is not what the corpus's index says (sha256 of the file)" in fault
    put(s3, BUCKET, {"changed/000000.tar": bytes(tar[:5000])})
    with pytest.raises(StageError, match=r"000000\.tar has only 5000 bytes"):
        members(corpus)
    import obstore

    obstore.delete(client(s3), "changed/000000.tar")
    with pytest.raises(StageError, match=r"changed/000000\.tar is not there"):
        members(corpus)
    with pytest.raises(StageError, match=r"changed/000000\.tar is missing: the corpus was not copied completely"):
        mirror(tmp_path / "again", url, silent)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.objects.bucket, "RETRY_S", 1.0)


@pytest.mark.parametrize(
    ("url", "variables", "said"),
    [
        ("s3://nowhere/digits", {}, "there is no such bucket"),
        ("s3://corpora/nothing", {}, "manifest.json is not there"),
        ("s3://private/digits", READER, "permission"),
        ("s3://corpora/digits", {"AWS_ACCESS_KEY_ID": "nobody"}, "AWS_ACCESS_KEY_ID"),
        ("s3://corpora/digits", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "AWS_SECRET_ACCESS_KEY"),
        ("s3://corpora/digits", {"AWS_ACCESS_KEY_ID": None, "HOME": "/nonexistent"}, "no credentials"),
        ("s3://corpora/digits", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "does not answer, in 1 s"),
    ],
)
def test_what_the_server_refuses_is_one_line_with_what_to_do(
    s3: Seaweed,
    impatient: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    variables: dict[str, str | None],
    said: str,
) -> None:
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(StageError) as caught:
        mirror(tmp_path / "corpus", url, silent)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert url in str(caught.value)
    assert not (tmp_path / "corpus").exists()


def test_credentials_and_the_address_may_be_in_a_profile(
    s3: Seaweed, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in s3.environment():
        monkeypatch.delenv(name)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(
        "[default]\naws_access_key_id = nobody\naws_secret_access_key = x\n"
        "[lab]\naws_access_key_id = reader\naws_secret_access_key = reader-secret\n"
    )
    (tmp_path / ".aws/config").write_text(f"[profile lab]\nendpoint_url = {s3.address}\nregion = us-east-1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert mirror(tmp_path / "corpus", url, silent).rows == 48


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """A server that gives one answer to everything; yields its address."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_wrong_clock_is_named(s3: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message></Error>"
    with answering(403, body) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(MachineError, match=r"this machine's clock differs too much .* timedatectl"):
            Bucket("s3://corpora/digits").read("manifest.json")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [(403, "", "no permission: the credentials need s3:ListBucket"), (200, "<html>", "is not an object store")],
)
def test_answers_without_a_reason_have_a_remedy_too(
    s3: Seaweed, monkeypatch: pytest.MonkeyPatch, status: int, body: str, said: str
) -> None:
    with answering(status, body) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(MachineError, match=said):
            Bucket("s3://corpora/digits").look("manifest.json")


def test_a_server_that_is_not_known_by_name_is_said_to_be_so(
    s3: Seaweed, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://nowhere.invalid")
    with pytest.raises(MachineError, match=r"does not answer, in 1 s \(its name is not known"):
        Bucket("s3://corpora/digits").look("manifest.json")


def test_an_empty_object_has_no_bytes(s3: Seaweed) -> None:
    put(s3, BUCKET, {"some/empty": b""})
    bucket = Bucket("s3://corpora/some")
    assert bucket.look("empty").size == 0
    assert bucket.read("empty") == b""
    with pytest.raises(StageError, match="some/empty has only 0 bytes"):
        bucket.ranges("empty", [0], [4])


def test_a_request_that_stalls_is_repeated(s3: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 3 * REQUEST_S <= RETRY_S
    monkeypatch.setattr(shards.objects.bucket, "REQUEST_S", 1)
    requests, ended = list[str](), threading.Event()

    class Stalling(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            if len(requests) < 3:
                ended.wait(60)
            self.send_response(206)
            for name, value in {"Content-Length": "4", "Content-Range": "bytes 0-3/4", "ETag": "'x'"}.items():
                self.send_header(name, value)
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(b"data")

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stalling) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        assert Bucket("s3://corpora/digits").ranges("tar", [0], [4]) == [b"data"]
        ended.set()
        server.shutdown()
    assert len(requests) == 3


def test_an_upload_that_is_lost_after_longer_than_a_server_is_waited_for_is_begun_once_more(
    s3: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore
    from obstore.exceptions import GenericError

    clock, put_there = [0.0], obstore.put

    def lost_once(*words: Any, **others: Any) -> Any:
        if not clock[0]:
            clock[0] = 2 * RETRY_S
            raise GenericError("<Code>NoSuchUpload</Code>")
        return put_there(*words, **others)

    monkeypatch.setattr(shards.objects.bucket, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep))
    monkeypatch.setattr(obstore, "put", lost_once)
    (tmp_path / "tar").write_bytes(b"of a large tar")
    Bucket("s3://corpora/long").upload("tar", tmp_path / "tar")
    assert Bucket("s3://corpora/long").read("tar") == b"of a large tar"


def say_what_happens(bucket: Bucket, method: str, said: Connection) -> None:
    try:
        said.send(getattr(bucket, method)("manifest.json"))
    except StageError as error:
        said.send(str(error))


@pytest.mark.parametrize("method", ["look", "find", "fetch"])
def test_a_process_that_is_forked_says_that_it_cannot_read(s3: Seaweed, url: str, method: str) -> None:
    bucket = Bucket(url)
    bucket.look("manifest.json")
    context = get_context("fork")
    heard, said = context.Pipe(duplex=False)
    child = context.Process(target=say_what_happens, args=(bucket, method, said), daemon=True)
    child.start()
    assert heard.poll(60), "it waits for ever"
    assert "this process was forked from one that had used an object store" in heard.recv()
    child.join()


def test_workers_read_object_stores_after_their_parent_has(
    s3: Seaweed, url: str, worked_run: Run, tmp_path: Path
) -> None:
    mirror(tmp_path / "corpus", url, silent)
    video, made = MODALITIES["video"], []
    for corpus, workers in ((worked_run.corpus, 0), (tmp_path / "corpus", 1)):
        rows = ShardRows(corpus, {"000000": 16}, video)
        views = ClipViews(corpus, rows, views_of(worked_run.config, "video"))
        made.append([batch.views for batch in load_views(views, [[ClipItem(3), ClipItem(5)]], workers, CPU)])
    assert all(torch.equal(*pair) for pair in zip(*made, strict=True))


def test_a_server_that_is_killed_and_started_again_is_waited_for(
    s3: Seaweed, url: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    mirror(tmp_path / "corpus", url, silent)
    asked = threading.Event()
    with ThreadPoolExecutor(1) as thread, pytest.MonkeyPatch.context() as patch:
        ranges = Bucket.ranges
        patch.setattr(Bucket, "ranges", lambda *words: asked.set() or ranges(*words))
        s3.kill()
        reading = thread.submit(members, tmp_path / "corpus")
        assert asked.wait(60)
        s3.start()
        assert reading.result() == members(tiny_corpus)


def test_a_url_must_have_a_bucket(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="s3:// is not the URL of a folder in an object store"):
        run_stage(make_run(corpus={"path": "s3://", "videos": None}), SHARD)


def test_a_mirror_that_was_killed_goes_on(s3: Seaweed, url: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    mirror(corpus, url, silent)
    names = {path.name for path in corpus.iterdir()}
    fingerprint = mirror(corpus, url, silent).fingerprint
    partial = tmp_path / f".corpus.{fingerprint[:12]}.partial"
    shutil.move(corpus, partial)
    (partial / "index" / "000001.parquet").unlink()
    (partial / "plan.parquet").write_bytes(b"half")
    fetched = list[str]()
    read = Bucket.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "read", lambda self, name, *size: fetched.append(name) or read(self, name, *size))
        mirror(corpus, url, silent)
    assert sorted(fetched) == ["index/000001.parquet", "manifest.json", "plan.parquet"]
    assert {path.name for path in corpus.iterdir()} == names
    assert re.fullmatch("[0-9a-f]{64}", fingerprint)
    assert os.listdir(tmp_path).count("corpus") == 1
