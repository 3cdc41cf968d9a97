"""The shard stage as a whole: from a folder of raw videos to tars, indices and rejects."""

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from shards.corpus.index import (
    LATER,
    MEMBERS,
    in_splits,
    label_columns,
    read_index,
    read_whole_index,
    shard_names,
)
from shards.corpus.reader import ClipReader
from shards.corpus.seen import corpus_fingerprint_now
from shards.corpus.stage import shard
from shards.errors import ConfigError, StageError
from shards.indexing.columns import SUFFIX
from shards.media.decode import decode_frames, decode_sound
from shards.settings import CorpusSettings
from shards.store.build import reusable
from shards.store.files import CARD, sha256_of
from shards.store.manifest import list_files, read_manifest
from tests.places import ROOT
from tests.processes import alive, children_of, wait_for

Stored = dict[str, tuple[int, int]]
SLOWLY = """
import sys, time
from pathlib import Path
from shards.corpus.stage import shard
from shards.settings import CorpusSettings

def slow(done, total, note=""):
    time.sleep(0.1)

if __name__ == "__main__":
    settings = CorpusSettings.model_validate_json(sys.argv[3])
    shard(Path(sys.argv[1]), Path(sys.argv[2]), settings, slow)
"""


class Listener:
    """What a progress listener heard; empty where nothing was worked on."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int, str]] = []

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.heard.append((done, total, note))

    @property
    def probed(self) -> int:
        """How many files were read."""
        return sum("probed" in note for *_, note in self.heard)


def rejects_of(corpus: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(corpus / "rejects.parquet").to_pylist()
    return rows


def content(corpus: Path) -> dict[str, str]:
    """Hashes of all files but the manifest, which holds the time."""
    files = (path for path in corpus.rglob("*.*") if path.name != "manifest.json")
    return {str(path.relative_to(corpus)): sha256_of(path) for path in files}


def stored(corpus: Path, pattern: str = "*") -> Stored:
    """Which file on disk each name is, and when it was written."""
    files = (path for folder in (corpus, corpus / "index") for path in folder.glob(pattern) if path.is_file())
    return {str(path.relative_to(corpus)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def copy(raw_videos: Path, tmp_path: Path) -> Path:
    """A private copy of the raw videos, with their times."""
    return Path(shutil.copytree(raw_videos, tmp_path / "videos"))


def test_every_input_is_in_the_corpus_or_among_the_rejects(raw_videos: Path, built_corpus: Path) -> None:
    index = read_whole_index(built_corpus)
    used = set(index["source"].to_pylist())
    rejects = rejects_of(built_corpus)
    files = {path.relative_to(raw_videos).as_posix() for path in raw_videos.rglob("*") if path.is_file()}
    assert used == {"dog/bark.mp4", "dog/two v1.0.mkv", "cat/miaow é.mp4", "cat/purr.avi"}
    assert used | {reject["source"] for reject in rejects} == files
    assert sorted((reject["source"], reject["step"], reject["reason"]) for reject in rejects) == [
        ("broken.mp4", "probe", "FFmpeg cannot open it: Invalid data found when processing input"),
        ("cat/mute.mp4", "probe", "no sound: the file has no audio stream"),
        ("dog/two v1.0.mkv", "plan", "the rest of the video is 0.40 s long, shorter than min_seconds (0.5)"),
        ("notes.txt", "list", "not a media file by its name (.txt)"),
        ("short.mp4", "plan", "the video is 0.28 s long, shorter than min_seconds (0.5)"),
        ("silent.mkv", "cut", "the sound is digital silence (keep such clips with silence: keep)"),
    ]


def test_every_planned_clip_is_stored_or_rejected_exactly_once_in_the_planned_order(built_corpus: Path) -> None:
    plan = pq.read_table(built_corpus / "plan.parquet").to_pylist()
    index = read_whole_index(built_corpus).to_pylist()
    lost = {reject["key"] for reject in rejects_of(built_corpus) if reject["step"] == "cut"}
    assert len(lost) == 1
    assert [row["key"] for row in index] == [row["key"] for row in plan if row["key"] not in lost]
    assert len({row["key"] for row in plan}) == len(plan) == 11
    by_key = {row["key"]: row for row in plan}
    for row in index:
        planned = by_key[row["key"]]
        assert (row["source"], row["start_s"]) == (planned["source"], planned["start_s"])
        assert int(row["shard"]) == planned["shard"]


def test_a_clip_has_the_settings_size_rate_and_length(built_corpus: Path) -> None:
    for row in read_whole_index(built_corpus).to_pylist():
        assert (row["fps"], row["sample_rate"], row["width"], row["height"]) == (12.5, 8000, 42, 32)
        assert row["duration_s"] == pytest.approx(row["frames"] / 12.5)
        assert row["samples"] == round(row["duration_s"] * 8000)
        assert row["frames"] in (12, 13)


def test_labels_are_the_folders_and_splits_are_empty_where_there_are_none(built_corpus: Path) -> None:
    index = read_whole_index(built_corpus)
    assert label_columns(built_corpus) == ["label"]
    for row in index.to_pylist():
        assert row["label"] == row["source"].split("/")[0]
    assert in_splits(index["split"], None).all()
    assert in_splits(index["split"], [""]).all()
    assert not in_splits(index["split"], ["train"]).any()


def test_the_reader_gives_the_bytes_that_webdataset_reads_in_the_same_order(built_corpus: Path) -> None:
    import webdataset

    assert json.loads((built_corpus / "shards.json").read_text()) == ["000000.tar", "000001.tar", "000002.tar"]
    with ClipReader(built_corpus) as reader:
        for name in shard_names(built_corpus):
            dataset = webdataset.WebDataset(str(built_corpus / f"{name}.tar"), shardshuffle=False)
            samples, rows = list(dataset), read_index(built_corpus, name).to_pylist()
            assert [sample["__key__"] for sample in samples] == [row["key"] for row in rows]
            for sample, row in zip(samples, rows, strict=True):
                assert {member: reader.read(name, row, member) for member in MEMBERS} == {
                    member: sample[member] for member in MEMBERS
                }
                assert hashlib.sha256(sample["mp4"] + sample["flac"]).hexdigest() == row["sha256"]
                for member in ("mp4", "flac"):
                    assert hashlib.sha256(sample[member]).hexdigest() == row[f"{member}_sha256"]
                assert decode_frames(sample["mp4"], 0, row["frames"]).shape == (row["frames"], 32, 42, 3)
                assert len(decode_sound(sample["flac"])) == row["samples"]
                note = json.loads(sample["json"])
                assert note == {key: row[key] for key in note}
                places = {f"{m}_{what}" for m in MEMBERS for what in ("offset", "size")}
                beside = places | {field.name for field in LATER}
                assert set(row) - set(note) == beside


def test_tars_hold_plain_files_without_traces_of_who_wrote_them(built_corpus: Path) -> None:
    for name in shard_names(built_corpus):
        with tarfile.open(built_corpus / f"{name}.tar") as archive:
            for member in archive:
                assert (member.isfile(), member.mtime, member.mode) == (True, 0, 0o644)
                assert (member.uname, member.gname) == ("xdc", "xdc")
                assert member.name.count(".") == 1
                assert "/" not in member.name


def test_the_manifest_counts_what_is_there(built_corpus: Path) -> None:
    manifest = read_manifest(built_corpus)
    assert manifest is not None
    assert (manifest.stage, manifest.rows, manifest.rejects) == ("shard", 10, 6)
    assert manifest.summary["rejects"] == {"list": 1, "probe": 2, "plan": 2, "cut": 1}
    assert manifest.summary["sources"] == 5
    sizes = read_whole_index(built_corpus, [f"{member}_size" for member in MEMBERS])
    assert manifest.summary["bytes"] == sum(sum(sizes[f"{member}_size"].to_pylist()) for member in MEMBERS)
    assert set(manifest.files) == set(content(built_corpus)) - {CARD}


def test_an_edited_card_costs_nothing(built_corpus: Path, tmp_path: Path) -> None:
    corpus = Path(shutil.copytree(built_corpus, tmp_path / "corpus"))
    (corpus / CARD).write_text("Our clips, under our licence.")
    manifest = read_manifest(corpus)
    assert manifest is not None
    assert reusable(corpus, manifest.fingerprint)
    assert list_files(corpus) == manifest.files  # With this `xdc verify` compares.


def test_beside_the_corpus_is_only_the_digest_of_its_sources(built_corpus: Path) -> None:
    there = {path.name for path in built_corpus.parent.iterdir() if not path.name.endswith(SUFFIX)}  # Of its readers.
    assert there == {".corpus.sources.json", "corpus"}


def test_one_worker_and_another_place_give_the_same_bytes(
    copy: Path, built_corpus: Path, corpus_settings: CorpusSettings, tmp_path: Path
) -> None:
    record = shard(tmp_path / "again", copy, corpus_settings.model_copy(update={"workers": 1}))
    assert not record.reused
    again, first = content(tmp_path / "again"), content(built_corpus)
    # The survey holds the files' modification times, which the copy keeps.
    assert again == first
    assert record.fingerprint == getattr(read_manifest(built_corpus), "fingerprint", None)


def test_a_second_call_reuses_the_corpus_and_reads_no_video(
    raw_videos: Path, built_corpus: Path, corpus_settings: CorpusSettings
) -> None:
    listener, before = Listener(), stored(built_corpus)
    record = shard(built_corpus, raw_videos, corpus_settings, listener)
    assert record.reused
    assert (record.rows, record.rejects) == (10, 6)
    assert listener.heard == []
    assert stored(built_corpus) == before
    assert corpus_fingerprint_now(built_corpus, raw_videos, corpus_settings) == (record.fingerprint, "")


@pytest.fixture
def private(copy: Path, built_corpus: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A private corpus, and the private videos it was made of."""
    return Path(shutil.copytree(built_corpus, tmp_path / "corpus")), copy


def test_a_source_with_a_new_time_stamp_is_read_once_more_and_then_known(
    private: tuple[Path, Path], corpus_settings: CorpusSettings
) -> None:
    corpus, videos = private
    known, _ = corpus_fingerprint_now(corpus, videos, corpus_settings)
    assert known is not None
    for name in ("dog/bark.mp4", "cat/purr.avi"):
        os.utime(videos / name, ns=(1, 10**18))
    assert corpus_fingerprint_now(corpus, videos, corpus_settings) == (
        None,
        "new or changed source cat/purr.avi and 1 more",
    )
    listener = Listener()
    assert shard(corpus, videos, corpus_settings, listener).reused
    assert listener.probed == 2
    assert corpus_fingerprint_now(corpus, videos, corpus_settings) == (known, "")
    again = Listener()
    assert shard(corpus, videos, corpus_settings, again).reused
    assert again.heard == []


def alter(video: Path) -> Callable[[], None]:
    """Change a file's content, but not what it shows. Returns what takes the change back."""
    before, status = video.read_bytes(), video.stat()

    def undo() -> None:
        video.write_bytes(before)
        os.utime(video, ns=(status.st_atime_ns, status.st_mtime_ns))

    video.write_bytes(before + struct.pack(">I4s", 8, b"free"))
    return undo


def test_a_source_with_other_content_makes_the_corpus_stale_until_it_is_as_before(
    private: tuple[Path, Path], corpus_settings: CorpusSettings
) -> None:
    corpus, videos = private
    first, _ = corpus_fingerprint_now(corpus, videos, corpus_settings)
    undo = alter(videos / "dog/bark.mp4")
    assert corpus_fingerprint_now(corpus, videos, corpus_settings) == (None, "new or changed source dog/bark.mp4")
    listener = Listener()
    second = shard(corpus, videos, corpus_settings, listener)
    assert not second.reused
    assert second.fingerprint != first
    assert listener.probed == 1
    assert (second.rows, second.rejects) == (10, 6)
    undo()
    back = shard(corpus, videos, corpus_settings)
    assert (back.reused, back.fingerprint) == (True, first)


def test_a_source_that_goes_is_gone_from_the_corpus(
    private: tuple[Path, Path], corpus_settings: CorpusSettings
) -> None:
    corpus, videos = private
    (videos / "dog/bark.mp4").unlink()
    listener = Listener()
    record = shard(corpus, videos, corpus_settings, listener)
    assert (record.reused, record.rows, listener.probed) == (False, 7, 0)
    assert "dog/bark.mp4" not in read_whole_index(corpus)["source"].to_pylist()


def test_force_reads_and_cuts_everything_anew(private: tuple[Path, Path], corpus_settings: CorpusSettings) -> None:
    corpus, videos = private
    before, listener = content(corpus), Listener()
    record = shard(corpus, videos, corpus_settings, listener, force=True)
    assert not record.reused
    assert listener.probed == 8
    assert content(corpus) == before


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["sources.parquet gone", "sources.parquet no parquet", "tar cut off"])
def test_a_damaged_corpus_is_made_anew(
    private: tuple[Path, Path], corpus_settings: CorpusSettings, damage: str
) -> None:
    corpus, videos = private
    before = content(corpus)
    match damage:
        case "sources.parquet gone":
            (corpus / "sources.parquet").unlink()
        case "sources.parquet no parquet":
            (corpus / "sources.parquet").write_bytes(b"no parquet")
        case "tar cut off":
            os.truncate(corpus / "000001.tar", 2048)
    assert not shard(corpus, videos, corpus_settings).reused
    assert content(corpus) == before


def test_without_its_videos_a_corpus_is_taken_as_it_stands(
    private: tuple[Path, Path], corpus_settings: CorpusSettings
) -> None:
    corpus, videos = private
    shutil.rmtree(videos)
    known = getattr(read_manifest(corpus), "fingerprint", None)
    for gone in (videos, None):
        record = shard(corpus, gone, corpus_settings)
        assert (record.reused, record.rows, record.fingerprint) == (True, 10, known)
        assert corpus_fingerprint_now(corpus, gone, corpus_settings) == (known, "")


def test_without_its_videos_a_corpus_is_not_taken_for_one_with_other_settings(
    private: tuple[Path, Path], corpus_settings: CorpusSettings
) -> None:
    corpus, videos = private
    shutil.rmtree(videos)
    other = corpus_settings.model_copy(update={"crf": 30})
    with pytest.raises(ConfigError, match=r"videos does not exist, and .*corpus holds no finished corpus"):
        shard(corpus, videos, other)
    assert corpus_fingerprint_now(corpus, videos, other) == (None, f"{videos} is gone, and the settings changed")
    # Whoever names no videos wants this corpus, whatever it was made with.
    assert shard(corpus, None, other).reused


def test_without_its_videos_a_damaged_corpus_is_an_error_that_names_the_file(
    private: tuple[Path, Path], corpus_settings: CorpusSettings
) -> None:
    corpus, videos = private
    shutil.rmtree(videos)
    os.truncate(corpus / "000001.tar", 2048)
    with pytest.raises(StageError, match=r"000001\.tar missing or cut off, and there are no videos"):
        shard(corpus, videos, corpus_settings)


def test_neither_videos_nor_corpus_is_an_error(corpus_settings: CorpusSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"corpus\.videos is not set, and .*corpus holds no finished corpus"):
        shard(tmp_path / "corpus", None, corpus_settings)
    assert corpus_fingerprint_now(tmp_path / "corpus", None, corpus_settings) == (
        None,
        "no videos to make it from",
    )


@pytest.mark.parametrize("place", ["videos", "videos/.."])
def test_a_corpus_is_not_made_in_the_place_of_its_videos(
    copy: Path, corpus_settings: CorpusSettings, place: str
) -> None:
    with pytest.raises(ConfigError, match="the corpus would take its place"):
        shard(copy.parent / place, copy, corpus_settings)
    assert (copy / "dog/bark.mp4").exists()


def test_too_many_rejects_stop_it_with_the_counts_and_a_larger_share_goes_on(
    raw_videos: Path, corpus_settings: CorpusSettings, built_corpus: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    strict = corpus_settings.model_copy(update={"max_reject_share": 0.2})
    with pytest.raises(StageError) as caught:
        shard(corpus, raw_videos, strict)
    text = str(caught.value)
    assert "3 inputs were rejected and 10 clips are good" in text
    assert "max_reject_share (0.2)" in text
    assert "1 x no sound: the file has no audio stream" in text
    assert not corpus.exists()
    (partial,) = tmp_path.glob(".corpus.*.partial")
    before, listener = stored(partial, "0*"), Listener()
    assert len(before) == 9
    record = shard(corpus, raw_videos, strict.model_copy(update={"max_reject_share": 0.25}), listener)
    assert (record.reused, record.rows) == (False, 10)
    assert listener.heard == [(11, 11, "clips")]
    assert stored(corpus, "0*") == before
    assert content(corpus) == content(built_corpus)


def test_nothing_but_rejects_is_an_error_even_if_all_may_be_rejected(
    raw_videos: Path, corpus_settings: CorpusSettings, tmp_path: Path
) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("cat/mute.mp4", "silent.mkv"):
        shutil.copy(raw_videos / name, tmp_path / "videos")
    with pytest.raises(StageError, match="2 inputs were rejected and 0 clips are good"):
        shard(tmp_path / "corpus", tmp_path / "videos", corpus_settings.model_copy(update={"max_reject_share": 1.0}))


def test_a_manifest_brings_spans_splits_and_labels_into_the_index(
    raw_videos: Path, corpus_settings: CorpusSettings, tmp_path: Path
) -> None:
    rows = [
        "path,start_s,end_s,split,label,label_sound",
        f"{raw_videos}/dog/bark.mp4,0.5,1.7,train,dog,bark",
        f"{raw_videos}/cat/purr.avi,,,test,,purr",
        "missing.mp4,,,test,,",
        "http://host/a.mp4,,,,,",
    ]
    (tmp_path / "list.csv").write_text("\n".join(rows), encoding="utf-8")
    shard(tmp_path / "corpus", tmp_path / "list.csv", corpus_settings)
    index = read_whole_index(tmp_path / "corpus")
    assert label_columns(tmp_path / "corpus") == ["label", "label_sound"]
    found = sorted((row["start_s"], row["split"], row["label"] or "", row["label_sound"]) for row in index.to_pylist())
    assert found == [(0.0, "test", "", "purr"), (0.5, "train", "dog", "bark"), (1.0, "test", "", "purr")]
    assert in_splits(index["split"], ["test"]).sum() == 2
    assert (in_splits(index["split"], [" Test", "none"]) == in_splits(index["split"], ["test"])).all()
    before = sorted(tmp_path.iterdir())
    learn = corpus_settings.model_copy(update={"learn_splits": ["train", "val"]})
    with pytest.raises(ConfigError, match=r"list\.csv has the split 'val'\. Its splits are: 'test', 'train'\."):
        shard(tmp_path / "new", tmp_path / "list.csv", learn)
    assert sorted(tmp_path.iterdir()) == before
    assert {(reject["source"], reject["reason"]) for reject in rejects_of(tmp_path / "corpus")} == {
        ("missing.mp4", "the file does not exist"),
        ("http://host/a.mp4", "row 4: only local files and s3:// are read, no other addresses and no pipes"),
        (
            f"{raw_videos}/dog/bark.mp4",
            "the rest of the video is 0.20 s long, shorter than min_seconds (0.5)",
        ),
    }


@pytest.fixture(scope="module")
def killed(
    raw_videos: Path, corpus_settings: CorpusSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, list[int]]:
    """A corpus whose making was killed after its first shard: where it was to be, its partial, and the children."""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("looks at processes through /proc")
    folder = tmp_path_factory.mktemp("killed")
    script = folder / "slowly.py"
    script.write_text(SLOWLY)
    arguments = [str(folder / "corpus"), str(raw_videos), corpus_settings.model_dump_json()]
    process = subprocess.Popen([sys.executable, str(script), *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        wait_for("the first shard", lambda: list(folder.glob(".corpus.*.partial/index/000000.parquet")), of=process)
        children = children_of(process.pid)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    (partial,) = folder.glob(".corpus.*.partial")
    return folder / "corpus", partial, children


def test_a_killed_shard_stage_leaves_no_corpus_and_no_process(killed: tuple[Path, Path, list[int]]) -> None:
    corpus, partial, children = killed
    assert not corpus.exists()
    assert read_manifest(partial) is None
    assert len(children) >= 2
    wait_for("the end of the children", lambda: not any(alive(pid) for pid in children))


def test_a_killed_shard_stage_resumes_at_the_next_shard_and_ends_with_the_same_bytes(
    killed: tuple[Path, Path, list[int]],
    raw_videos: Path,
    corpus_settings: CorpusSettings,
    built_corpus: Path,
    tmp_path: Path,
) -> None:
    partial = Path(shutil.copytree(killed[1].parent, tmp_path / "copy", copy_function=os.link)) / killed[1].name
    corpus = partial.parent / "corpus"
    finished = stored(partial, "000000.*")
    assert set(finished) == {"000000.tar", "index/000000.parquet", "000000.rejects.json"}
    assert not (partial / "index" / "000002.parquet").exists()
    listener = Listener()
    record = shard(corpus, raw_videos, corpus_settings, listener)
    assert (record.reused, record.rows, record.rejects) == (False, 10, 6)
    assert listener.probed == 0
    assert listener.heard[0] in [(4, 11, "clips"), (8, 11, "clips")]
    assert stored(corpus, "000000.*") == finished
    assert content(corpus) == content(built_corpus)
    assert sorted(path.name for path in corpus.parent.iterdir()) == [".corpus.sources.json", "corpus", "slowly.py"]


def test_a_killed_forerunner_with_other_settings_is_cleaned_up(
    killed: tuple[Path, Path, list[int]], raw_videos: Path, corpus_settings: CorpusSettings, tmp_path: Path
) -> None:
    partial = Path(shutil.copytree(killed[1].parent, tmp_path / "copy", copy_function=os.link)) / killed[1].name
    corpus, listener = partial.parent / "corpus", Listener()
    record = shard(corpus, raw_videos, corpus_settings.model_copy(update={"clips_per_shard": 100}), listener)
    assert (record.rows, shard_names(corpus)) == (10, ["000000"])
    assert not partial.exists()
    # What the survey had found holds whatever the settings are.
    assert listener.probed == 0
