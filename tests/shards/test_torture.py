"""Hostile and odd files, as collected by the tests of other media software: each is used, or rejected with a reason."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from shards.decode import decode_frames, decode_sound
from shards.index import read_whole_index
from shards.make import shard
from shards.read import ClipReader
from shards.settings import CorpusSettings

ROOT = Path(__file__).resolve().parents[2]
FILES = Path(os.environ.get("XDC_TEST_DATA") or ROOT.parent / "shared" / "data") / "torture"
pytestmark = pytest.mark.skipif(
    not FILES.is_dir(), reason=f"{FILES} is not there: set XDC_TEST_DATA to a folder that holds torture/"
)
INVALID = "FFmpeg cannot open it: Invalid data found when processing input"
KNOWN = {
    "moviepy/result.webm": "the file is empty",
    "moviepy/bitmap.mp4": "no sound: the file has no audio stream",
    "media3/wav__sample_8bit.wav": "no picture: the file has no video stream",
    "media3/mp4__sample_missing_stsd.mp4": "no sound: FFmpeg has no decoder for its audio stream",
    "media3/drm__sample_av1c_fragmented_clearkey.mp4": INVALID,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("torture") / "corpus"
    settings = CorpusSettings(
        min_seconds=0.1, short_side=32, fps=10, sample_rate=8000, max_reject_share=1.0, workers=2, clip_timeout_s=60
    )
    shard(out, FILES, settings)
    return out


def test_every_file_is_a_source_of_clips_or_rejected_with_a_reason_that_a_person_understands(corpus: Path) -> None:
    files = {path.relative_to(FILES).as_posix() for path in FILES.rglob("*") if path.is_file()}
    used = set(read_whole_index(corpus)["source"].to_pylist())
    rejects = pq.read_table(corpus / "rejects.parquet").to_pylist()
    assert len(used) > 10
    assert used | {reject["source"] for reject in rejects} == files
    for reject in rejects:
        assert len(reject["reason"]) > 10, reject
        assert "unknown" not in reject["reason"].lower(), reject
        # Neither an exception that nobody expected nor a process that died.
        assert "Error" not in reject["reason"], reject
        assert "decoder" not in reject["reason"] or reject["reason"].startswith("no "), reject


def test_reasons_are_the_right_ones(corpus: Path) -> None:
    rejects = {reject["source"]: reject["reason"] for reject in pq.read_table(corpus / "rejects.parquet").to_pylist()}
    present = {name: reason for name, reason in KNOWN.items() if (FILES / name).exists()}
    assert present
    assert {name: rejects.get(name) for name in present} == present


def test_every_clip_decodes_in_full(corpus: Path) -> None:
    with ClipReader(corpus) as reader:
        for row in read_whole_index(corpus).to_pylist():
            frames = decode_frames(reader.read(row["shard"], row, "mp4"), 0, row["frames"])
            assert frames.shape == (row["frames"], row["height"], row["width"], 3)
            assert len(decode_sound(reader.read(row["shard"], row, "flac"))) == row["samples"]


def test_a_turned_video_is_upright(corpus: Path) -> None:
    name = "media3/mp4__sample_rotate_and_reflect.mp4"
    if not (FILES / name).exists():
        pytest.skip(f"{name} is not there")
    sizes = {(row["width"], row["height"]) for row in read_whole_index(corpus).to_pylist() if row["source"] == name}
    assert sizes == {(32, 48)}
