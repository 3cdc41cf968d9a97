"""Trouble of the machine with source files: it is no verdict on them, and is over when it is over."""

import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.corpus.index import read_whole_index
from shards.corpus.known import survey_notes
from shards.corpus.listing import list_corpus
from shards.corpus.seen import corpus_fingerprint_now
from shards.corpus.stage import shard
from shards.corpus.survey import read_survey, survey
from shards.errors import Busy, StageError
from shards.media.source_file import hash_source
from shards.progress import silent
from shards.settings import CorpusSettings
from shards.sources import look
from shards.store.files import sha256_of
from shards.store.lock import exclusive
from tests.shards import sandbox_jobs
from tests.shards.media_maker import tone, write_video
from tests.shards.trouble import Disk, obeying_modes, open_folder

ONE = CorpusSettings(workers=1)
SMALL = CorpusSettings(
    clip_seconds=1.0, min_seconds=0.5, short_side=32, fps=12.5, sample_rate=8000, clips_per_shard=1, workers=1
)


class Listener:
    """Counts files that are read, and does something once when clips begin to be cut."""

    def __init__(self, at_cutting: Callable[[], object] = lambda: None) -> None:
        self.probed, self.at_cutting = 0, at_cutting

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.probed += "probed" in note
        if "clips" in note:
            self.at_cutting()
            self.at_cutting = lambda: None


def rejects_of(corpus: Path) -> set[tuple[str, str, str]]:
    rows: list[dict[str, Any]] = pq.read_table(corpus / "rejects.parquet").to_pylist()
    return {(row["source"], row["step"], row["reason"]) for row in rows}


def sources_of(corpus: Path) -> set[str]:
    return set(read_whole_index(corpus)["source"].to_pylist())


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def videos(place: Path, raw_videos: Path) -> Path:
    """Three clips in bark.mp4, two in purr.avi."""
    (place / "videos").mkdir()
    for name in ("dog/bark.mp4", "cat/purr.avi"):
        shutil.copy2(raw_videos / name, place / "videos")
    return place / "videos"


def test_a_file_that_may_not_be_read_is_a_reject_for_now_and_is_used_once_it_may(place: Path, videos: Path) -> None:
    (videos / "bark.mp4").chmod(0)
    with obeying_modes():
        first = shard(place / "corpus", videos, SMALL)
        assert rejects_of(place / "corpus") == {("bark.mp4", "probe", "cannot be read: Permission denied")}
        assert corpus_fingerprint_now(place / "corpus", videos, SMALL) == (first.fingerprint, "")
        assert shard(place / "corpus", videos, SMALL).reused
    (videos / "bark.mp4").chmod(0o644)  # Changes neither its size nor its time.
    with obeying_modes():
        assert corpus_fingerprint_now(place / "corpus", videos, SMALL) == (None, "new or changed source bark.mp4")
        listener = Listener()
        second = shard(place / "corpus", videos, SMALL, listener)
        assert (first.rows, second.rows, listener.probed) == (2, 5, 1)
        assert rejects_of(place / "corpus") == set()
        assert corpus_fingerprint_now(place / "corpus", videos, SMALL) == (second.fingerprint, "")


def test_what_was_noted_of_a_file_that_could_not_be_read_is_not_known_once_it_can(place: Path, videos: Path) -> None:
    (videos / "bark.mp4").chmod(0)
    with obeying_modes(), pytest.raises(StageError, match=r"1 x cannot be read: Permission denied"):
        shard(place / "corpus", videos, SMALL.model_copy(update={"max_reject_share": 0.0}))
    (videos / "bark.mp4").chmod(0o644)
    with obeying_modes():
        assert shard(place / "corpus", videos, SMALL.model_copy(update={"max_reject_share": 0.0})).rows == 5


def test_a_folder_that_may_not_be_read_is_a_reject_and_is_listed_once_it_may(place: Path, videos: Path) -> None:
    (videos / "deep" / "er").mkdir(parents=True)
    shutil.copy2(videos / "bark.mp4", videos / "deep" / "er" / "c.mp4")
    (videos / "deep" / "er").chmod(0)
    with obeying_modes():
        listing = list_corpus(videos)
        assert [source.path for source in listing.sources] == ["bark.mp4", "purr.avi"]
        found = [(reject.source, reject.step, reject.reason) for reject in listing.rejects]
        assert found == [("deep/er", "list", "the folder cannot be read: Permission denied")]
        shard(place / "corpus", videos, SMALL)
        assert rejects_of(place / "corpus") == set(found)
    (videos / "deep" / "er").chmod(0o755)
    assert list_corpus(videos).rejects == ()
    shard(place / "corpus", videos, SMALL)
    assert sources_of(place / "corpus") == {"bark.mp4", "purr.avi", "deep/er/c.mp4"}
    assert rejects_of(place / "corpus") == set()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """With noise.mkv on it: 3 s, 8 MB."""
    pictures = np.random.default_rng(0).integers(0, 256, (75, 240, 320, 3), np.uint8)
    write_video(tmp_path / "content" / "noise.mkv", list(pictures), tone(300, 3.0), video_codec="ffv1")
    made = Disk(tmp_path, tmp_path / "content", 16)
    try:
        yield made
    finally:
        made.umount()


@pytest.mark.slow
def test_a_file_on_a_disk_with_a_bad_place_is_a_reject_until_it_can_be_read(
    place: Path, videos: Path, disk: Disk
) -> None:
    (videos / "noise.mkv").symlink_to(disk.place / "noise.mkv")
    disk.mount(5 << 20)
    first = shard(place / "corpus", videos, SMALL)
    assert rejects_of(place / "corpus") == {("noise.mkv", "probe", "cannot be read: Input/output error")}
    assert corpus_fingerprint_now(place / "corpus", videos, SMALL) == (first.fingerprint, "")
    disk.mount(disk.size)
    assert corpus_fingerprint_now(place / "corpus", videos, SMALL) == (None, "new or changed source noise.mkv")
    assert shard(place / "corpus", videos, SMALL).rows == 8


def test_a_disk_that_gets_a_bad_place_while_clips_are_cut_ends_the_stage_and_commits_nothing(
    place: Path, videos: Path, disk: Disk
) -> None:
    (videos / "noise.mkv").symlink_to(disk.place / "noise.mkv")
    whole = shard(place / "undisturbed", videos, SMALL)
    with pytest.raises(StageError, match=r"noise\.mkv was there when it was surveyed.*now: Input/output error"):
        shard(place / "corpus", videos, SMALL, Listener(lambda: disk.mount(5 << 20)))
    assert not (place / "corpus").exists()
    disk.mount(disk.size)
    assert shard(place / "corpus", videos, SMALL).rows == whole.rows == 8
    for path in (place / "undisturbed").glob("0*"):
        assert sha256_of(path) == sha256_of(place / "corpus" / path.name)


def test_a_disk_that_goes_away_while_clips_are_cut_ends_the_stage_and_commits_nothing(
    place: Path, videos: Path, disk: Disk
) -> None:
    (videos / "noise.mkv").symlink_to(disk.place / "noise.mkv")
    generous = SMALL.model_copy(update={"max_reject_share": 1.0})
    with pytest.raises(StageError, match=r"noise\.mkv was there .*No such file or directory.*the same command again"):
        shard(place / "corpus", videos, generous, Listener(disk.umount))
    assert not (place / "corpus").exists()
    (partial,) = place.glob(".corpus.*.partial")
    kept = {path.name: path.stat().st_ino for path in partial.glob("0*.tar")}
    disk.mount(disk.size)
    listener = Listener()
    assert (shard(place / "corpus", videos, generous, listener).rows, listener.probed) == (8, 0)
    assert kept.items() <= {path.name: path.stat().st_ino for path in (place / "corpus").glob("*.tar")}.items()


def test_without_a_source_that_went_away_for_good_the_next_call_goes_on(place: Path, videos: Path) -> None:
    with pytest.raises(StageError, match=r"bark\.mp4 was there when it was surveyed"):
        shard(place / "corpus", videos, SMALL, Listener((videos / "bark.mp4").unlink))
    assert shard(place / "corpus", videos, SMALL).rows == 2
    assert sources_of(place / "corpus") == {"purr.avi"}
    assert rejects_of(place / "corpus") == set()


def reason_of_bark(place: Path, videos: Path) -> str:
    return survey(list_corpus(videos), [], place / "notes", ONE, silent)["bark.mp4"].reason


def test_a_kill_from_outside_is_not_remembered_of_a_file(
    place: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (videos / "purr.avi").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(look, "probe_file", sandbox_jobs.be_killed)
        killed = "the decoding process was killed from outside (signal 9)"
        assert reason_of_bark(place, videos).startswith(killed)
    assert list(read_survey(place / "notes")) == []
    assert reason_of_bark(place, videos) == ""


def test_kills_before_any_file_is_read_end_the_survey(place: Path, videos: Path) -> None:
    over = threading.Event()

    def kill_all() -> None:
        while not over.wait(0.02):
            for child in multiprocessing.active_children():
                child.kill()

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        with pytest.raises(StageError, match=r"did not get to its first file, 3 times: .*\(signal 9\)"):
            reason_of_bark(place, videos)
    finally:
        over.set()
        killer.join()
    assert list(read_survey(place / "notes")) == []
    assert reason_of_bark(place, videos) == ""


def test_a_rotten_byte_in_the_notes_costs_one_file(place: Path, videos: Path) -> None:
    survey(list_corpus(videos), [], place / "notes", ONE, silent)
    content = bytearray((place / "notes").read_bytes())
    content[content.index(b"bark")] = 0xFF
    (place / "notes").write_bytes(content)
    listener = Listener()
    assert len(survey(list_corpus(videos), [], place / "notes", ONE, listener)) == 2
    assert listener.probed == 1


@pytest.mark.slow
def test_hashing_a_large_file_counts_against_no_limit_of_the_decoder(place: Path, videos: Path) -> None:
    size = 6 << 30  # Seconds of processor time to hash; next to nothing to store, for it is a hole.
    with (videos / "bark.mp4").open("ab") as file:
        file.write((1).to_bytes(4, "big") + b"free" + size.to_bytes(8, "big"))
        file.truncate(file.tell() + size - 16)
    found = survey(list_corpus(videos), [], place / "notes", ONE.model_copy(update={"clip_cpu_s": 1.0}), silent)
    assert (found["bark.mp4"].reason, len(found["bark.mp4"].sha256)) == ("", 64)


def test_a_file_that_is_one_large_hole_is_not_hashed_for_hours(place: Path, videos: Path) -> None:
    try:
        os.truncate(videos / "bark.mp4", 3 << 40)
    except OSError:
        pytest.skip("this file system has no files of 3 TiB")
    found = survey(list_corpus(videos), [], place / "notes", ONE, silent)
    assert found["bark.mp4"].reason == "it is 3072 GiB long, most of it holes: a copy that was broken off"


def test_a_pipe_is_not_waited_for(place: Path, videos: Path) -> None:
    os.mkfifo(videos / "pipe.mp4")
    assert hash_source(videos / "pipe.mp4") == ""
    found = survey(list_corpus(videos), [], place / "notes", ONE, silent)
    assert found["pipe.mp4"].reason == "not a regular file"


def test_while_another_process_is_at_a_corpus_no_source_is_read_for_it(place: Path, videos: Path) -> None:
    listener = Listener()
    with exclusive(place / "corpus"), pytest.raises(Busy):
        shard(place / "corpus", videos, SMALL, listener)
    assert listener.probed == 0
    assert not survey_notes(place / "corpus", SMALL.modalities).exists()
