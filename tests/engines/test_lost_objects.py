"""Objects of a corpus that was cut into a bucket, and that somebody has deleted or damaged: nobody is led to them."""

import shutil
import subprocess
from pathlib import Path

import pytest

import shards.objects.bucket
from shards.corpus.index import index_path, read_whole_index, shard_names
from shards.corpus.stage import shard
from shards.errors import StageError
from shards.indexing.check import tar_faults
from shards.objects.bucket import Bucket
from shards.objects.generation import CURRENT, folder_of, read_current, unused_tars
from shards.objects.mirror import mirror
from shards.progress import silent
from tests.engines.bucket_job import cut
from tests.engines.seaweed import BUCKET, Seaweed, client, put
from tests.runs import MakeRun
from tests.shards.test_append import NAMES, SETTINGS, video
from tests.sharing import made_once
from tests.xdc_core.test_growing import list_videos
from xdc_core.graph.run_stage import run_stage
from xdc_core.inspection.verification import commands, verify_run
from xdc_core.runs.node import SHARD
from xdc_core.runs.run import Run

pytestmark = pytest.mark.engines


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A folder with `videos`."""

    def make(root: Path) -> None:
        for number, name in enumerate(NAMES[:3]):
            video(root, name, shade=40 * number)

    return Path(shutil.copytree(made_once(tmp_path_factory, "lost", make), tmp_path / "place"))


def delete(s3: Seaweed, name: str, beginning: str = "") -> None:
    """Delete the objects of a corpus whose names begin so."""
    import obstore

    names = [each for each in Bucket(f"s3://{BUCKET}/{name}").objects() if each.startswith(beginning)]
    obstore.delete(client(s3), [f"{name}/{each}" for each in names])


@pytest.mark.parametrize("beginning", ["", "tars/000001", "generations/"])
def test_a_bucket_whose_objects_are_gone_is_not_made_to_name_them(s3: Seaweed, place: Path, beginning: str) -> None:
    name = f"emptied-{beginning.strip('/').replace('/', '-')}"
    url, corpus = f"s3://{BUCKET}/{name}", place / "corpus"
    cut(place / "videos", corpus, url)
    delete(s3, name, beginning)
    delete(s3, name, CURRENT)
    with pytest.raises(StageError, match=r"is missing: .*corpus has the index .* Nothing has changed there.*--force"):
        cut(place / "videos", corpus, url)
    assert read_current(Bucket(url)) is None
    shard(corpus, place / "videos", SETTINGS.model_copy(update={"path": url, "append": False}), force=True)
    assert mirror(place / "read", url, silent).rows == 6
    assert [fault for each in shard_names(corpus) for fault in tar_faults(corpus, each)] == []


def test_an_append_publishes_no_generation_whose_tars_are_gone(s3: Seaweed, place: Path) -> None:
    url, corpus = f"s3://{BUCKET}/emptied-append", place / "corpus"
    cut(place / "videos", corpus, url, append=True)
    delete(s3, "emptied-append")
    video(place, "dog/d")
    with pytest.raises(StageError, match=r"tars/000000\.\w+\.tar is missing: .* Nothing has changed there"):
        cut(place / "videos", corpus, url, append=True)
    assert not [each for each in Bucket(url).objects() if each.endswith(("manifest.json", CURRENT))]


def test_an_earlier_corpus_that_is_wanted_again_is_looked_for_first(s3: Seaweed, place: Path) -> None:
    url, corpus = f"s3://{BUCKET}/twice", place / "corpus"
    cut(place / "videos", corpus, url)
    first = read_current(Bucket(url))
    cut(place / "videos", corpus, url, crf=30)
    second = read_current(Bucket(url))
    assert first is not None
    delete(s3, "twice", folder_of(first.generation))
    with pytest.raises(StageError, match=f"twice/{folder_of(first.generation)}.* is missing"):
        cut(place / "videos", corpus, url)
    assert read_current(Bucket(url)) == second


def test_tars_are_not_called_unused_while_a_manifest_is_damaged(s3: Seaweed, place: Path) -> None:
    url = f"s3://{BUCKET}/unread"
    cut(place / "videos", place / "corpus", url)
    current = read_current(Bucket(url))
    assert current is not None
    name = f"{folder_of(current.generation)}manifest.json"
    put(s3, BUCKET, {f"unread/{name}": b"{"})
    with pytest.raises(StageError, match=f"unread/{name} is damaged: which tars this generation has is not known"):
        unused_tars(Bucket(url))


def unchecked(run: Run) -> list[str]:
    """What could not be checked."""
    return [finding.what for finding in verify_run(run) if finding.kind == "unchecked"]


def test_verify_has_a_damaged_index_fetched_again_and_says_what_cutting_all_again_costs(
    s3: Seaweed, make_run: MakeRun, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{BUCKET}/verified"
    run = make_run(corpus={"path": url, "videos": "../videos.csv", "append": True, "learn_splits": None})
    for last in (4, 6):
        list_videos(tmp_path, digits, 0, last)
        run_stage(run, SHARD)
    there, damaged = read_current(Bucket(url)), index_path(run.corpus, "000000")
    damaged.write_bytes(bytes(reversed(damaged.read_bytes())))
    again = f"xdc stage shard {run.root}"
    with pytest.raises(StageError, match="Remove the file and fetch it again: xdc stage shard RUN"):
        read_whole_index(run.corpus)
    assert commands(verify_run(run)) == [f"rm -rf {damaged} && {again}"]
    subprocess.run(["rm", "-rf", damaged], check=True)
    names, read = list[str](), Bucket.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "read", lambda self, name, *words: names.append(name) or read(self, name, *words))
        run_stage(run, SHARD)
    assert [name.rpartition("/")[2] for name in names] == ["manifest.json", "000000.parquet"]
    assert read_current(Bucket(url)) == there
    assert commands(verify_run(run)) == []
    (tar,) = (each for each in Bucket(url).objects() if each.startswith("tars/000000"))
    put(s3, BUCKET, {f"verified/{tar}": bytes(reversed(Bucket(url).read(tar)))})
    (command,) = commands(verify_run(run))
    assert command.startswith(f"{again} --force  # only if there is no copy of what is damaged: it cuts all clips")
    (tmp_path / "videos.csv").unlink()
    assert commands(verify_run(run)) == [f"# bring {url}/{tar} back from a copy"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 900, 100))  # type: ignore[attr-defined]
        (full,) = unchecked(run)
    assert "set TMPDIR to a folder on a larger disk" in full
    monkeypatch.setattr(shards.objects.bucket, "RETRY_S", 1.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert ["does not answer" in each for each in unchecked(run)] == [True, True], "for the tars, and for unused ones"
