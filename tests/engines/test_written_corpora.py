"""Corpora that are cut into a bucket of a real S3 server: killed, at once, appended to, and with the server gone."""

import json
import shutil
import signal
import threading
from pathlib import Path

import pytest

import shards.objects.bucket
import shards.objects.generation
from shards.corpus.index import read_whole_index, shard_names
from shards.corpus.reader import ClipReader
from shards.corpus.recut import recut
from shards.corpus.stage import shard
from shards.errors import ConfigError, MachineError, StageError
from shards.exchange.wids import FILE_NAME as WIDS
from shards.indexing.check import tar_faults
from shards.objects.bucket import Bucket
from shards.objects.generation import folder_of, read_current, unused_tars
from shards.objects.mirror import mirror
from shards.objects.tars import TARS, tars_elsewhere
from shards.progress import silent
from shards.store.manifest import MANIFEST, read_manifest
from tests.engines.bucket_job import cut, started
from tests.engines.seaweed import BUCKET, Seaweed, client, kill_under, put
from tests.shards.test_append import NAMES, SETTINGS, video
from tests.sharing import made_once

pytestmark = pytest.mark.engines
POINTS = (
    "after begin",
    "before upload 000001.tar",
    "after upload 000001.tar",
    "before receipt 000001",
    "after receipt 000000",
    "before manifest",
    "after manifest",
    "after current",
    "before commit",
    "after commit",
)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with `videos`, and `corpus`, which was cut from them on the local disk. For reading only."""

    def make(root: Path) -> None:
        for number, name in enumerate(NAMES[:3]):
            video(root, name, shade=40 * number)
        shard(root / "corpus", root / "videos", SETTINGS.model_copy(update={"append": False}))

    return made_once(tmp_path_factory, "written", make)


def url_of(name: str) -> str:
    return f"s3://{BUCKET}/{name}"


def check_there(url: str, corpus: Path, local: Path) -> None:
    """What `current` names is whole, and has the bytes of the local corpus; `corpus` is its directory."""
    bucket = Bucket(url)
    current, elsewhere = read_current(bucket), tars_elsewhere(corpus)
    assert current is not None
    assert elsewhere is not None
    assert (elsewhere["generation"], elsewhere["manifest"]) == (current.generation, current.etag)
    there, here = (
        json.loads(data)
        for data in (bucket.read(folder_of(current.generation) + MANIFEST), (local / MANIFEST).read_bytes())
    )
    here["files"].pop(WIDS)  # It has the paths of tars on a disk.
    assert there["files"] == here["files"]
    assert there["summary"] == here["summary"]
    assert there["fingerprint"] == here["fingerprint"] == current.fingerprint
    manifests = [name for name in bucket.objects() if name.endswith(MANIFEST)]
    assert manifests == [folder_of(current.generation) + MANIFEST]
    assert [fault for name in shard_names(corpus) for fault in tar_faults(corpus, name)] == []
    assert not list(corpus.parent.rglob("*.tar"))
    assert members(corpus) == members(local)


def members(corpus: Path) -> list[bytes]:
    with ClipReader(corpus) as reader:
        rows = read_whole_index(corpus).to_pylist()
        return [reader.read(row["shard"], row, member) for row in rows for member in ("mp4", "flac")]


def test_it_ends_with_the_bytes_of_a_corpus_on_the_local_disk_and_is_used_again(
    s3: Seaweed, local: Path, tmp_path: Path
) -> None:
    record = cut(local / "videos", tmp_path / "corpus", url_of("plain"))
    assert (record.reused, record.rows) == (False, 6)
    check_there(url_of("plain"), tmp_path / "corpus", local / "corpus")
    assert cut(local / "videos", tmp_path / "corpus", url_of("plain")).reused
    other = cut(local / "videos", tmp_path / "elsewhere" / "corpus", url_of("plain"))
    assert other.reused, "another machine cuts nothing again"
    assert mirror(tmp_path / "read", url_of("plain"), silent).fingerprint == record.fingerprint
    shutil.rmtree(tmp_path / "corpus")
    shard(tmp_path / "corpus", local / "videos", SETTINGS.model_copy(update={"path": url_of("plain")}), force=True)
    check_there(url_of("plain"), tmp_path / "corpus", local / "corpus")


def test_on_a_machine_without_the_videos_the_corpus_in_the_bucket_is_used_if_its_settings_are_the_same(
    s3: Seaweed, local: Path, tmp_path: Path
) -> None:
    nowhere, url = tmp_path / "videos", url_of("without")
    with pytest.raises(ConfigError, match=r"corpus\.videos does not exist here, and no corpus was cut into s3://"):
        cut(nowhere, tmp_path / "read", url)
    cut(local / "videos", tmp_path / "corpus", url)
    assert [cut(nowhere, tmp_path / "read", url).reused for _ in range(2)] == [False, True]
    check_there(url, tmp_path / "read", local / "corpus")
    (tmp_path / "read" / "index" / "000001.parquet").unlink()
    cut(nowhere, tmp_path / "read", url)
    check_there(url, tmp_path / "read", local / "corpus")
    for place in ("read", "new"):
        with pytest.raises(ConfigError, match=r"other settings \(corpus\.crf\).* or set corpus\.videos to null"):
            cut(nowhere, tmp_path / place, url, crf=30)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_it_goes_on_and_nothing_half_done_is_seen(
    s3: Seaweed, local: Path, tmp_path: Path, point: str
) -> None:
    url, log = url_of(point.replace(" ", "-").replace(".", "-")), tmp_path / "log"
    killed = started(local / "videos", tmp_path / "corpus", url, log, f"kill:1:{point}")
    assert killed.wait() == -signal.SIGKILL, log.read_text()
    if point in POINTS[: POINTS.index("after current")]:
        with pytest.raises(StageError, match=r"manifest\.json is not there"):
            mirror(tmp_path / "early", url, silent)
    cut(local / "videos", tmp_path / "corpus", url)
    check_there(url, tmp_path / "corpus", local / "corpus")


def test_two_coordinators_at_once_make_one_manifest(s3: Seaweed, local: Path, tmp_path: Path) -> None:
    places = [tmp_path / name / "corpus" for name in ("one", "two")]
    for place in places:
        place.parent.mkdir()
    jobs = [started(local / "videos", place, url_of("two"), place.with_name("log")) for place in places]
    assert [job.wait() for job in jobs] == [0, 0], [place.with_name("log").read_text() for place in places]
    for place in places:
        check_there(url_of("two"), place, local / "corpus")


def test_of_two_coordinators_with_other_bytes_the_second_takes_what_the_first_has_made(
    s3: Seaweed, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another encoder on another machine: here another order of the clips, under the fingerprint of the first."""
    url = url_of("overtaken")
    from shards.corpus import stage

    write = stage.write_generation

    def late(bucket: Bucket, out: Path, manifest: object, tars: object, before: object) -> None:
        with pytest.MonkeyPatch.context() as once:
            once.setattr(stage, "write_generation", write)
            cut(local / "videos", tmp_path / "first" / "corpus", url)
        (out / "sources.parquet").write_bytes(b"other bytes")
        write(bucket, out, manifest, tars, before)  # type: ignore[arg-type]

    monkeypatch.setattr(stage, "write_generation", late)
    record = cut(local / "videos", tmp_path / "second" / "corpus", url)
    first, second = (read_manifest(tmp_path / name / "corpus") for name in ("first", "second"))
    assert first is not None
    assert second is not None
    assert first.files == second.files
    assert record.rows == 6
    elsewhere = tars_elsewhere(tmp_path / "second" / "corpus")
    current = read_current(Bucket(url))
    assert elsewhere is not None
    assert current is not None
    assert elsewhere["generation"] == current.generation


def test_another_corpus_that_was_written_there_meanwhile_is_not_replaced_unseen(
    s3: Seaweed, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of("other")
    from shards.corpus import stage

    write = stage.write_generation

    def late(*words: object) -> None:
        with pytest.MonkeyPatch.context() as once:
            once.setattr(stage, "write_generation", write)
            cut(local / "videos", tmp_path / "first" / "corpus", url, crf=30)
        write(*words)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "write_generation", late)
        with pytest.raises(
            StageError, match=r"other/current names the generation .* of another corpus.*Nothing is lost"
        ):
            cut(local / "videos", tmp_path / "second" / "corpus", url)
    cut(local / "videos", tmp_path / "second" / "corpus", url)
    current = read_current(Bucket(url))
    again = cut(local / "videos", tmp_path / "first" / "corpus", url, crf=30)
    assert again.reused, "what was set aside is brought back"
    there = read_current(Bucket(url))
    assert current is not None
    assert there is not None
    assert (again.fingerprint, there.generation != current.generation) == (there.fingerprint, True)


def test_a_server_that_is_killed_in_the_middle_and_started_again_is_waited_for(
    s3: Seaweed, local: Path, tmp_path: Path
) -> None:
    url, log = url_of("gone"), tmp_path / "log"
    job = started(local / "videos", tmp_path / "corpus", url, log, "stop:1:before upload 000001.tar")
    kill_under(s3, job, log, 3)
    check_there(url, tmp_path / "corpus", local / "corpus")


def test_without_a_server_it_ends_with_a_line_and_goes_on_later(
    s3: Seaweed, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of("away")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards.objects.bucket, "RETRY_S", 1.0)
        upload = Bucket.upload
        asked = threading.Event()

        def once(self: Bucket, name: str, path: Path) -> None:
            if "000001" in name:
                asked.set()
                s3.kill()
            upload(self, name, path)

        patch.setattr(Bucket, "upload", once)
        with pytest.raises(MachineError, match=r"tars/000001\..* does not answer, in 1 s \(.*refused\)\. What"):
            cut(local / "videos", tmp_path / "corpus", url)
    s3.start()
    uploaded = list[str]()
    monkeypatch.setattr(Bucket, "upload", lambda self, name, path: uploaded.append(name) or upload(self, name, path))
    cut(local / "videos", tmp_path / "corpus", url)
    assert [name[:11] for name in uploaded] == ["tars/000001"], "the first shard is kept"
    check_there(url, tmp_path / "corpus", local / "corpus")


def test_tars_that_no_generation_has_are_listed(s3: Seaweed, local: Path, tmp_path: Path) -> None:
    url = url_of("left")
    cut(local / "videos", tmp_path / "corpus", url)
    put(s3, BUCKET, {"left/tars/000007.0123.tar": b"of a killed call"})
    assert unused_tars(Bucket(url)) == ["tars/000007.0123.tar"]


def test_a_tar_with_other_bytes_under_its_name_is_written_again(s3: Seaweed, local: Path, tmp_path: Path) -> None:
    url = url_of("changed")
    cut(local / "videos", tmp_path / "corpus", url)
    bucket = Bucket(url)
    name = next(name for name in bucket.objects() if name.startswith("tars/000000"))
    data = bytearray(bucket.read(name))
    data[1000] ^= 1
    put(s3, BUCKET, {f"changed/{name}": bytes(data)})
    (fault,) = tar_faults(tmp_path / "corpus", "000000")
    assert "is not what the corpus's index says (sha256 of the file)" in fault
    shard(tmp_path / "corpus", local / "videos", SETTINGS.model_copy(update={"path": url}), force=True)
    check_there(url, tmp_path / "corpus", local / "corpus")


@pytest.mark.slow
def test_appended_to_by_two_machines_in_turn_every_clip_is_there_once(s3: Seaweed, local: Path, tmp_path: Path) -> None:
    place, url = Path(shutil.copytree(local, tmp_path / "place")), url_of("grows")
    one, two = tmp_path / "one" / "corpus", tmp_path / "two" / "corpus"
    cut(place / "videos", one, url, append=True)
    tars = {name: each for name, each in Bucket(url).objects().items() if name.startswith("tars/")}
    video(place, "dog/d")
    killed = started(place / "videos", two, url, tmp_path / "log", "kill:1:before manifest", append=True)
    two.parent.mkdir(exist_ok=True)
    assert killed.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert mirror(tmp_path / "read", url, silent).rows == 6
    record = cut(place / "videos", two, url, append=True)
    assert (record.rows, shard_names(two)) == (8, ["000000", "000001", "000002"])
    (place / "videos" / "cat" / "b.mp4").unlink()
    assert cut(place / "videos", one, url, append=True).rows == 6
    now = Bucket(url).objects()
    assert {name: now[name] for name in tars} == tars
    assert len([name for name in now if name.startswith("tars/")]) == len(tars) + 1
    assert [fault for name in shard_names(one) for fault in tar_faults(one, name)] == []
    shard(place / "here", place / "videos", SETTINGS.model_copy(update={"append": False}))
    rows = [read_whole_index(corpus, ["source", "start_s"]).sort_by("source") for corpus in (one, place / "here")]
    assert sorted(map(str, rows[0].drop("shard").to_pylist())) == sorted(map(str, rows[1].drop("shard").to_pylist()))


@pytest.mark.parametrize(
    ("url", "user", "said"),
    [
        ("s3://nowhere/new", "owner", "there is no such bucket"),
        ("s3://corpora/denied", "reader", "s3:PutObject"),
        ("s3://private/denied", "reader", "no permission"),
    ],
)
def test_what_the_server_refuses_is_one_line(
    s3: Seaweed, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, user: str, said: str
) -> None:
    for name, value in s3.environment(user).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MachineError) as caught:
        cut(local / "videos", tmp_path / "corpus", url)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "corpus").exists()


def test_a_corpus_that_was_copied_there_is_not_written_over_and_shards_are_not_cut_again_one_by_one(
    s3: Seaweed, local: Path, tmp_path: Path
) -> None:
    put(s3, BUCKET, {"copied/manifest.json": (local / "corpus" / MANIFEST).read_bytes()})
    with pytest.raises(ConfigError, match="holds a corpus that was copied there"):
        cut(local / "videos", tmp_path / "corpus", url_of("copied"))
    with pytest.raises(ConfigError, match="in an object store, where single shards are not cut again"):
        recut(local / "corpus", local / "videos", SETTINGS.model_copy(update={"path": url_of("copied")}), ["cat/a.mp4"])


def test_half_an_upload_is_not_seen(s3: Seaweed, local: Path, tmp_path: Path) -> None:
    """A multipart upload that was begun and left: nothing has its name."""
    import obstore

    url = url_of("half")
    writer = obstore.open_writer(client(s3), "half/tars/000000.tar", buffer_size=5 << 20, max_concurrency=1)
    writer.write(bytes(6 << 20))
    writer.flush()
    assert "tars/000000.tar" not in Bucket(url).objects()
    cut(local / "videos", tmp_path / "corpus", url)
    check_there(url, tmp_path / "corpus", local / "corpus")
    assert (tmp_path / "corpus" / TARS).exists()
