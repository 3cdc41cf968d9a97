"""Corpora of sound alone and of pictures alone: what is asked of a file, and what of it is stored."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from shards.corpus.index import read_index, read_whole_index
from shards.corpus.plan import corpus_fingerprint, make_plan
from shards.corpus.reader import ClipReader
from shards.corpus.seen import corpus_fingerprint_now
from shards.corpus.stage import shard
from shards.corpus.survey import Surveyed
from shards.errors import MediaError, StageError
from shards.media.cut import cut
from shards.media.decode import decode_frames, decode_sound
from shards.media.probe import probe
from shards.settings import CorpusSettings, stored_part
from shards.sources.source import Listing, Source
from shards.store.manifest import read_manifest
from tests.places import DATA
from tests.shards.media_maker import Array, beeps_s, plain, tone, write_video

SMALL = CorpusSettings(
    clip_seconds=1.0,
    min_seconds=0.5,
    short_side=32,
    fps=12.5,
    sample_rate=8000,
    clips_per_shard=4,
    max_reject_share=0.8,
    workers=2,
)
BEEPS_S = (0.5, 5.25, 9.0, 12.25)


def only(modality: str, **changes: Any) -> CorpusSettings:
    return CorpusSettings.model_validate(SMALL.model_dump() | {"modalities": [modality]} | changes)


def brightening(seconds: float) -> list[Array]:
    return [plain((30, 4 * n + 20, 30)) for n in range(round(25 * seconds))]


def with_beeps(seconds: float, sample_rate: int = 48000) -> Array:
    """Silence with a beep of 0.12 s at each of BEEPS_S."""
    sound = np.zeros(round(seconds * sample_rate), np.float32)
    for at_s in BEEPS_S:
        beep = tone(1000, 0.12, sample_rate)
        sound[round(at_s * sample_rate) :][: len(beep)] = beep
    return sound


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with sound, a mute one, a video whose sound is digital silence, and sound without pictures."""
    folder = tmp_path_factory.mktemp("mixed") / "files"
    write_video(folder / "both.mp4", brightening(2.0), tone(300, 2.0))
    write_video(folder / "mute.mp4", brightening(1.6), None)
    write_video(folder / "silent.mkv", brightening(1.0), np.zeros(48000, np.float32), audio_codec="pcm_s16le")
    write_video(folder / "sound.wav", [], tone(400, 2.7), audio_codec="pcm_s16le")
    return folder


@pytest.fixture(scope="module")
def sound_corpus(mixed: Path) -> Path:
    shard(mixed.parent / "sound", mixed, only("audio"))
    return mixed.parent / "sound"


@pytest.fixture(scope="module")
def picture_corpus(mixed: Path) -> Path:
    shard(mixed.parent / "pictures", mixed, only("video"))
    return mixed.parent / "pictures"


def rejects_of(corpus: Path) -> dict[str, str]:
    return {row["source"]: row["reason"] for row in pq.read_table(corpus / "rejects.parquet").to_pylist()}


def rows_of(corpus: Path, source: str) -> list[dict[str, Any]]:
    rows = [row for row in read_whole_index(corpus).to_pylist() if row["source"] == source]
    return sorted(rows, key=lambda row: float(row["start_s"]))


def test_a_probe_asks_for_no_more_than_the_modalities(mixed: Path) -> None:
    heard = probe(mixed / "sound.wav", ["audio"])
    assert heard.duration_s == pytest.approx(2.7)
    assert (heard.audio_codec, heard.sample_rate) == ("pcm_s16le", 48000)
    assert (heard.width, heard.height, heard.fps, heard.video_codec) == (0, 0, 0.0, "")
    seen = probe(mixed / "mute.mp4", ["video"])
    assert seen.duration_s == pytest.approx(1.6)
    assert (seen.width, seen.height, seen.fps, seen.video_codec) == (64, 48, 25.0, "h264")
    assert (seen.audio_codec, seen.sample_rate) == ("", 0)
    with pytest.raises(MediaError, match="no picture"):
        probe(mixed / "sound.wav", ["video"])
    with pytest.raises(MediaError, match="no sound"):
        probe(mixed / "mute.mp4", ["audio"])


def test_what_is_stored_of_a_modality_does_not_depend_on_the_other(mixed: Path) -> None:
    both = cut(mixed / "both.mp4", 0.4, 1.6, SMALL)
    heard, seen = (cut(mixed / "both.mp4", 0.4, 1.6, only(name)) for name in ("audio", "video"))
    assert (heard.flac, heard.samples, heard.frames, heard.duration_s) == (both.flac, 9600, 15, pytest.approx(1.2))
    assert (heard.mp4, heard.width, heard.height) == (b"", 0, 0)
    assert (seen.mp4, seen.frames, seen.duration_s) == (both.mp4, 15, pytest.approx(1.2))
    assert (seen.width, seen.height) == (both.width, both.height)
    assert (seen.flac, seen.samples) == (b"", 0)


@pytest.mark.parametrize(
    ("suffix", "codec", "late_s"),
    [
        ("wav", "pcm_s16le", 0),
        ("flac", "flac", 0),
        ("ogg", "libopus", 0),
        ("mp3", "libmp3lame", 0),
        ("m4a", "aac", 0),
        # No header: FFmpeg guesses the length from the bit rate, and nothing tells that the encoder begins early.
        ("aac", "aac", 0.022),
    ],
)
def test_a_long_sound_file_is_cut_into_clips_that_hold_what_is_heard_then(
    tmp_path: Path, suffix: str, codec: str, late_s: float
) -> None:
    file = write_video(tmp_path / f"a.{suffix}", [], with_beeps(13.0), audio_codec=codec)
    settings = only("audio", clip_seconds=4.0)
    listing = Listing(tmp_path, (Source(file.name),), ())
    found = {file.name: Surveyed(file.name, 1, 1, "content", probe(file, ["audio"]).duration_s)}
    planned = sorted(make_plan(settings, listing, found).clips, key=lambda clip: clip.start_s)
    clips = [cut(file, clip.start_s, clip.end_s, settings) for clip in planned]
    assert [clip.samples for clip in clips] == [32000, 32000, 32000, pytest.approx(8000, abs=300)]
    assert [clip.frames for clip in clips] == [50, 50, 50, 12]
    heard = [clip.start_s + at_s for clip, part in zip(planned, clips, strict=True) for at_s in beeps_s(part, 8000)]
    assert heard == pytest.approx([at_s + late_s for at_s in BEEPS_S], abs=0.004)


def test_a_clip_without_a_picture_ends_where_the_sound_ends(mixed: Path) -> None:
    clip = cut(mixed / "sound.wav", 2.0, 5.0, only("audio"))
    assert (clip.samples, clip.duration_s) == (5600, 0.7)
    assert clip.frames == 8
    assert len(decode_sound(clip.flac)) == 5600
    with pytest.raises(MediaError, match=r"only 0\.70 s of sound decoded from 2\.00 s on \(min_seconds is 0\.8\)"):
        cut(mixed / "sound.wav", 2.0, 5.0, only("audio", min_seconds=0.8))
    with pytest.raises(MediaError, match=r"no sound between 3\.00 s and 4\.00 s"):
        cut(mixed / "sound.wav", 3.0, 4.0, only("audio"))


def test_a_clip_without_a_picture_has_room_for_one_frame_at_least(mixed: Path) -> None:
    clip = cut(mixed / "sound.wav", 0.0, 0.05, only("audio", min_seconds=0.01))
    assert (clip.frames, clip.samples) == (1, 400)


@pytest.mark.parametrize(("seconds", "frames"), [(0.56, 7), (0.6, 7), (0.64, 8)])
def test_a_clip_without_a_picture_counts_whole_frames(mixed: Path, seconds: float, frames: int) -> None:
    assert cut(mixed / "sound.wav", 0.1, 0.1 + seconds, only("audio")).frames == frames


def test_sound_alone_is_taken_from_sound_files_and_from_videos(sound_corpus: Path) -> None:
    assert rejects_of(sound_corpus) == {
        "mute.mp4": "no sound: the file has no audio stream",
        "silent.mkv": "the sound is digital silence (keep such clips with silence: keep)",
    }
    assert [row["start_s"] for row in rows_of(sound_corpus, "both.mp4")] == [0, 1]
    rows = rows_of(sound_corpus, "sound.wav")
    assert [(row["samples"], row["frames"], row["duration_s"]) for row in rows] == [
        (8000, 12, 1.0),
        (8000, 12, 1.0),
        (5600, 8, 0.7),
    ]
    for row in rows:
        assert (row["fps"], row["sample_rate"], row["width"], row["height"]) == (12.5, 8000, 0, 0)
        assert (row["mp4_offset"], row["mp4_size"]) == (-1, 0)


def test_pictures_alone_are_taken_whether_or_not_there_is_sound(picture_corpus: Path) -> None:
    assert rejects_of(picture_corpus) == {"sound.wav": "no picture: the file has no video stream"}
    counts = {name: len(rows_of(picture_corpus, name)) for name in ("both.mp4", "mute.mp4", "silent.mkv")}
    assert counts == {"both.mp4": 2, "mute.mp4": 2, "silent.mkv": 1}
    for row in read_whole_index(picture_corpus).to_pylist():
        assert row["frames"] == round(row["duration_s"] * 12.5) > 0
        assert (row["fps"], row["width"], row["height"]) == (12.5, 42, 32)
        assert (row["sample_rate"], row["samples"], row["flac_offset"], row["flac_size"]) == (0, 0, -1, 0)


@pytest.mark.parametrize(("modality", "member", "other"), [("audio", "flac", "mp4"), ("video", "mp4", "flac")])
def test_a_tar_has_no_member_for_what_is_not_stored(
    sound_corpus: Path, picture_corpus: Path, modality: str, member: str, other: str
) -> None:
    corpus = sound_corpus if modality == "audio" else picture_corpus
    rows = read_index(corpus, "000000").to_pylist()
    with tarfile.open(corpus / "000000.tar") as archive:
        assert set(archive.getnames()) == {f"{row['key']}.{kind}" for row in rows for kind in (member, "json")}
    with ClipReader(corpus) as reader:
        for row in rows:
            data = reader.read("000000", row, member)
            if modality == "audio":
                assert len(decode_sound(data)) == row["samples"]
            else:
                assert decode_frames(data, 0, row["frames"]).shape == (row["frames"], 32, 42, 3)
            assert json.loads(reader.read("000000", row, "json"))["key"] == row["key"]
            with pytest.raises(StageError, match=rf"clip {row['key']} has no {other}.*`modalities`"):
                reader.read("000000", row, other)
    manifest = read_manifest(corpus)
    assert manifest is not None
    assert manifest.settings["modalities"] == [modality]


@pytest.mark.slow
def test_with_other_modalities_the_same_files_are_judged_anew(mixed: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    shard(corpus, mixed, SMALL)
    assert set(rejects_of(corpus)) == {"mute.mp4", "silent.mkv", "sound.wav"}
    said = (None, "modalities: video, audio -> video")
    assert corpus_fingerprint_now(corpus, mixed, only("video")) == said
    record = shard(corpus, mixed, only("video"))
    assert set(rejects_of(corpus)) == {"sound.wav"}
    assert corpus_fingerprint_now(corpus, mixed, only("video")) == (record.fingerprint, "")
    assert not shard(corpus, mixed, only("audio")).reused
    assert set(rejects_of(corpus)) == {"mute.mp4", "silent.mkv"}
    assert shard(corpus, mixed, SMALL).reused


def test_what_a_broken_off_run_found_out_does_not_count_for_other_modalities(mixed: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, note: str = "") -> None:
        if "probed" not in note:
            raise KeyboardInterrupt

    corpus = tmp_path / "corpus"
    with pytest.raises(KeyboardInterrupt):
        shard(corpus, mixed, SMALL, interrupt)
    shard(corpus, mixed, only("audio"))
    assert set(rejects_of(corpus)) == {"mute.mp4", "silent.mkv"}


def test_a_corpus_of_both_is_what_it_was_before_there_was_a_choice() -> None:
    # As of version 2 of the stage.
    assert "modalities" not in stored_part(CorpusSettings())
    listing = Listing(Path("videos"), (Source("a.mp4", 1.0, 9.0, "train", {"label": "x"}),), ())
    found = {"a.mp4": Surveyed("a.mp4", 1, 1, "content", 10.0)}
    made_earlier = "f37e63bdc346365e68455cdb109f576b3613602080d8b2e0346b1409d8212904"
    assert corpus_fingerprint(CorpusSettings(), listing, found) == made_earlier
    assert corpus_fingerprint(CorpusSettings(modalities=("audio", "video")), listing, found) == made_earlier
    others = {corpus_fingerprint(CorpusSettings(modalities=(name,)), listing, found) for name in ("video", "audio")}
    assert len(others | {made_earlier}) == 3


@pytest.mark.parametrize(
    ("modalities", "says"),
    [
        ([], "at least 1 item"),
        (["audio", "audio"], "audio, audio: a modality is named twice"),
        (["sound"], "'video' or 'audio'"),
    ],
)
def test_modalities_that_make_no_sense_are_refused(modalities: list[str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        CorpusSettings.model_validate({"modalities": modalities})


@pytest.mark.slow
def test_real_recordings_without_pictures_become_clips(tmp_path: Path) -> None:
    folder = DATA / "esc10" / "009 - Rooster"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set XDC_TEST_DATA to a folder that holds esc10/")
    # Most are filled up with silence to 5 s.
    settings = only("audio", clip_seconds=2.0, min_seconds=0.9, silence="keep")
    record = shard(tmp_path / "corpus", folder, settings)
    assert (record.rows, record.rejects) == (3 * len(list(folder.glob("*.ogg"))), 0)
    for row in read_whole_index(tmp_path / "corpus").to_pylist():
        expected_s = 2.0 if row["start_s"] < 4 else 1.0
        assert row["duration_s"] == pytest.approx(expected_s, abs=0.002)
        assert row["frames"] == 12.5 * expected_s // 1


def test_real_videos_without_sound_become_clips(tmp_path: Path) -> None:
    files = sorted((DATA / "drone-ir").glob("*.mp4"))[:3]
    if not files:
        pytest.skip(f"{DATA / 'drone-ir'} is not there: set XDC_TEST_DATA to a folder that holds drone-ir/")
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{file}\n" for file in files))
    record = shard(tmp_path / "corpus", tmp_path / "list.csv", only("video", clip_seconds=5.0))
    assert record.rows >= 2 * len(files)
    assert {row["frames"] for row in read_whole_index(tmp_path / "corpus").to_pylist()} >= {62}
    assert read_whole_index(tmp_path / "corpus")["samples"].to_pylist() == [0] * record.rows
