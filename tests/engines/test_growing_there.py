"""A corpus in a bucket that is appended to three times, by two machines, and killed in every append."""

import shutil
import signal
from pathlib import Path

import pytest

from shards.corpus.generation import earlier_generations
from shards.corpus.index import read_whole_index, shard_names
from shards.indexing.check import tar_faults
from shards.objects.bucket import Bucket
from shards.objects.mirror import mirror
from shards.progress import silent
from shards.store.manifest import read_manifest
from tests.engines.bucket_job import cut, started
from tests.engines.seaweed import BUCKET, Seaweed
from tests.engines.test_written_corpora import local as local
from tests.shards.test_append import video

pytestmark = [pytest.mark.engines, pytest.mark.slow]
# Of each append: which machine makes it, and where it is killed. The last one is killed while it fetches what the
# first machine has made, and has set aside what it had itself.
APPENDS = (("one", "after upload 000002.tar"), ("one", "after current"), ("two", "after set_aside"))


def grow(place: Path, number: int) -> None:
    """Add a video; with the second one a video is removed, with the third one another is changed."""
    video(place, f"new/{number}", shade=30 * number + 10)
    if number == 1:
        (place / "videos" / "cat" / "b.mp4").unlink()
    if number == 2:
        video(place, "dog/c", shade=200)


def test_three_appends_that_are_killed_end_as_three_that_are_not(s3: Seaweed, local: Path, tmp_path: Path) -> None:
    place, here = (Path(shutil.copytree(local, tmp_path / name)) for name in ("place", "here"))
    url, other = f"s3://{BUCKET}/killed", f"s3://{BUCKET}/whole"
    cut(place / "videos", place / "one" / "corpus", url, append=True)
    cut(place / "videos", place / "two" / "corpus", url, append=True)
    first = Bucket(url).objects("tars/")
    cut(here / "videos", here / "there" / "corpus", other, append=True)
    for number, (machine, point) in enumerate(APPENDS):
        corpus, log = place / machine / "corpus", tmp_path / f"log-{number}"
        grow(place, number)
        grow(here, number)
        killed = started(place / "videos", corpus, url, log, f"kill:1:{point}", append=True)
        assert killed.wait() == -signal.SIGKILL, log.read_text()
        cut(place / "videos", corpus, url, append=True)
        cut(here / "videos", here / "there" / "corpus", other, append=True)
    mirror(tmp_path / "read", url, silent)
    now = Bucket(url).objects("tars/")
    assert {name: now[name] for name in first} == first
    assert now == Bucket(other).objects("tars/")
    whole = read_manifest(here / "there" / "corpus")
    assert whole is not None
    assert len(earlier_generations(whole)) == 3
    for corpus in (place / "two" / "corpus", tmp_path / "read"):
        manifest = read_manifest(corpus)
        assert manifest is not None
        assert (manifest.fingerprint, manifest.summary) == (whole.fingerprint, whole.summary)
        assert read_whole_index(corpus).equals(read_whole_index(here / "there" / "corpus"))
        assert [fault for name in shard_names(corpus) for fault in tar_faults(corpus, name)] == []
    rows = [(row["source"], row["start_s"]) for row in read_whole_index(tmp_path / "read").to_pylist()]
    assert len(rows) == len({*rows}) == 10
