"""Corpora of videos that lie in a bucket: their clips are those of local files, and trouble rejects nothing."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import shards.objects.bucket
from shards.corpus.index import read_whole_index
from shards.corpus.seen import corpus_fingerprint_now
from shards.corpus.stage import shard
from shards.errors import MachineError, StageError
from shards.objects.bucket import Bucket
from shards.sources import fetched
from shards.store.build import Record
from shards.store.parquet import read_parquet
from tests.engines.seaweed import BUCKET, OTHER, Seaweed, client, put
from tests.engines.test_written_corpora import local as local
from tests.flows.test_cli import xdc
from tests.shards.test_append import SETTINGS
from xdc_core.data.features import read_features
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run

pytestmark = pytest.mark.engines
HERE = SETTINGS.model_copy(update={"append": False, "label_from_folder": False, "workers": 2})


class Place(NamedTuple):
    """A corpus of the videos of a manifest, which lie below `url`."""

    corpus: Path
    manifest: Path
    url: str

    def write(self, names: list[str]) -> None:
        """Write the manifest."""
        self.manifest.write_text("\n".join(["path", *(f"{self.url}/{name}" for name in names)]) + "\n")

    def cut(self, **changes: object) -> Record:
        """Cut the corpus."""
        return shard(self.corpus, self.manifest, HERE.model_copy(update=changes))


@pytest.fixture
def place(s3: Seaweed, local: Path, tmp_path: Path) -> Place:
    """Three videos in the bucket, and a manifest of them. Nothing is cut yet."""
    names = sorted(str(path.relative_to(local / "videos")) for path in (local / "videos").rglob("*.mp4"))
    put(s3, BUCKET, {f"{tmp_path.name}/{name}": (local / "videos" / name).read_bytes() for name in names})
    found = Place(tmp_path / "corpus", tmp_path / "list.csv", f"s3://{BUCKET}/{tmp_path.name}")
    found.write(names)
    return found


def sums(corpus: Path) -> list[str]:
    return sorted(read_whole_index(corpus, ["sha256"])["sha256"].to_pylist())


def forbidden(*words: object) -> None:
    raise AssertionError(words)


def test_their_clips_are_those_of_local_files_and_they_are_known_again(
    place: Place, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = list[int]()
    download = fetched._download

    def counted(url: str, path: Path) -> fetched.Content:
        found = download(url, path)
        copies.append(len(os.listdir(path.parent)))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetched, "_download", counted)
        record = place.cut()
    assert max(copies) <= 2, "no more than there are processes"
    assert sums(place.corpus) == sums(local / "corpus")
    assert {path.suffix for path in place.corpus.parent.rglob("*")} <= {"", ".csv", ".json", ".md", ".tar", ".parquet"}
    monkeypatch.setattr(Bucket, "ranges", forbidden)
    assert place.cut().reused
    assert corpus_fingerprint_now(place.corpus, place.manifest, HERE) == (record.fingerprint, "")


def test_their_features_are_those_of_local_files(place: Place, local: Path, worked_run: Run, tmp_path: Path) -> None:
    found = []
    for number, videos in enumerate((place.manifest, local / "videos")):
        code, output = xdc("embed", worked_run.root, videos, "--modality", "audio", "--out", tmp_path / str(number))
        assert code == 0, output
        run = open_run(tmp_path / str(number))
        files = sorted(run.directory(Node("extract", "audio", 0)).rglob("*.parquet"))
        found.append([read_features(file)[1].tolist() for file in files])
    assert found[0] == found[1]


def test_a_changed_object_is_noticed_and_read_again(s3: Seaweed, place: Place) -> None:
    place.cut()
    bucket = Bucket(place.url)
    put(s3, BUCKET, {f"{place.corpus.parent.name}/cat/a.mp4": bucket.read("dog/c.mp4")})
    changed = f"{place.url}/cat/a.mp4"
    assert corpus_fingerprint_now(place.corpus, place.manifest, HERE) == (None, f"new or changed source {changed}")
    read = list[str]()
    with pytest.MonkeyPatch.context() as patch:
        download = fetched._download
        patch.setattr(fetched, "_download", lambda url, path: read.append(url) or download(url, path))
        assert not place.cut(append=True).reused
    assert set(read) == {changed}, "with append, only this one is cut"


def test_a_missing_object_is_a_reject_with_its_url(place: Place) -> None:
    place.write(["cat/a.mp4", "cat/nothing.mp4", "dog/c.mp4"])
    place.cut()
    (reject,) = read_parquet(place.corpus / "rejects.parquet", "shard").to_pylist()
    missing = f"{place.url}/cat/nothing.mp4"
    assert (reject["source"], reject["kind"], reject["reason"]) == (missing, "missing", f"there is no object {missing}")
    assert place.cut().reused


def test_one_that_is_gone_after_the_survey_ends_the_stage_and_nothing_is_rejected(
    s3: Seaweed, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore

    from shards.corpus import stage

    write = stage.write_corpus

    def late(*words: object) -> object:
        obstore.delete(client(s3), f"{place.corpus.parent.name}/dog/c.mp4")
        return write(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(stage, "write_corpus", late)
    with pytest.raises(StageError, match=r"^s3://.*dog/c\.mp4 was there when it was surveyed, .* there is no object"):
        place.cut()
    assert not place.corpus.exists()


def test_one_that_is_replaced_after_the_survey_ends_the_stage_and_the_next_call_surveys_it_again(
    s3: Seaweed, place: Place
) -> None:
    from shards.corpus import stage

    write, other = stage.write_corpus, Bucket(place.url).read("dog/c.mp4")

    def late(*words: object) -> object:
        put(s3, BUCKET, {f"{place.corpus.parent.name}/cat/a.mp4": other})
        return write(*words)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "write_corpus", late)
        with pytest.raises(StageError, match=r"^s3://.*cat/a\.mp4 was there when it was surveyed.* has been replaced"):
            place.cut()
    assert not place.corpus.exists()
    place.cut()
    found = {row["path"]: row["sha256"] for row in read_parquet(place.corpus / "sources.parquet", "shard").to_pylist()}
    assert found[f"{place.url}/cat/a.mp4"] == hashlib.sha256(other).hexdigest()


def test_one_that_is_replaced_between_its_probe_and_its_shots_is_not_used(s3: Seaweed, place: Place) -> None:
    place.write(["cat/a.mp4", "dog/c.mp4"])
    download, other, name = fetched._download, Bucket(place.url).read("dog/c.mp4"), f"{place.url}/cat/a.mp4"
    read = list[str]()

    def late(url: str, path: Path) -> fetched.Content:
        read.append(url)
        if read.count(name) == 2:
            put(s3, BUCKET, {f"{place.corpus.parent.name}/cat/a.mp4": other})
        return download(url, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetched, "_download", late)
        place.cut(cut_at_shots=True, max_reject_share=0.9)
    rejects = read_parquet(place.corpus / "rejects.parquet", "shard").to_pylist()
    (why,) = [(each["kind"], each["reason"]) for each in rejects if each["source"] == name]
    assert why == ("missing", f"{name} was replaced while it was surveyed")
    assert (
        corpus_fingerprint_now(place.corpus, place.manifest, HERE.model_copy(update={"cut_at_shots": True}))[0] is None
    )


def refused(place: Place, monkeypatch: pytest.MonkeyPatch, s3: Seaweed) -> str:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "reader-secret")
    put(s3, OTHER, {"a.mp4": b"something"})
    place.manifest.write_text(f"path\ns3://{OTHER}/a.mp4\n")
    return "no permission"


def away(place: Place, monkeypatch: pytest.MonkeyPatch, s3: Seaweed) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(shards.objects.bucket, "RETRY_S", 1.0)
    return "does not answer"


def full(place: Place, monkeypatch: pytest.MonkeyPatch, s3: Seaweed) -> str:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 900, 100))  # type: ignore[attr-defined]
    return "free for its copy"


@pytest.mark.parametrize("trouble", [refused, away, full])
def test_trouble_of_the_machine_or_the_server_rejects_nothing(
    s3: Seaweed,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[Place, pytest.MonkeyPatch, Seaweed], str],
) -> None:
    said = trouble(place, monkeypatch, s3)
    with pytest.raises(MachineError, match=said) as caught:
        place.cut()
    assert "\n" not in str(caught.value)
    assert not place.corpus.exists()


def test_an_object_that_is_replaced_while_it_is_read_is_read_again(s3: Seaweed, place: Place, tmp_path: Path) -> None:
    ranges, count = Bucket.ranges, 0

    def replacing(self: Bucket, name: str, *words: list[int]) -> list[bytes]:
        nonlocal count
        count += 1
        found = ranges(self, name, *words)
        if count == 1:
            put(s3, BUCKET, {name: b"another one"})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "ranges", replacing)
        content = fetched._download(f"{place.url}/cat/a.mp4", tmp_path / "a.mp4")
    assert (content.size, (tmp_path / "a.mp4").read_bytes()) == (11, b"another one")
