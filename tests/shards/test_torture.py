"""Hostile and odd files, as collected by the tests of other media software: each becomes what torture.py says."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.corpus.index import read_whole_index
from shards.corpus.reader import ClipReader
from shards.corpus.stage import shard
from shards.media.decode import decode_frames, decode_sound
from shards.settings import ALL_MODALITIES, CorpusSettings
from shards.sources.coverage import Span, slack_s, uncovered
from tests.places import DATA, needs
from tests.shards.mutants import NO_REASON
from tests.shards.packet_reader import last_packets_end
from tests.shards.torture import VERDICTS, Picture, Sound, Verdict

FILES = DATA / "torture"
pytestmark = [
    pytest.mark.slow,
    needs(FILES),
]
FPS, RATE = 30, 8000
SMALL = CorpusSettings(
    clip_seconds=120,
    min_seconds=0.04,
    short_side=32,
    fps=FPS,
    sample_rate=RATE,
    silence="keep",
    max_reject_share=1.0,
    workers=2,
)


def make(folder: Path, **changes: Any) -> Path:
    shard(folder, FILES, CorpusSettings.model_validate(SMALL.model_dump() | changes))
    return folder


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of pictures, of sound, and of both."""
    root = tmp_path_factory.mktemp("torture")
    return {
        "video": make(root / "video", modalities=["video"]),
        "audio": make(root / "audio", modalities=["audio"]),
        "both": make(root / "both", silence="reject"),
    }


def found_in(corpus: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The index rows and the reasons, by source. One clip per file at most, and no file in both.

    Sound that goes on after the picture is a reject of its own, and is left out here.
    """
    rows, rejects = read_whole_index(corpus).to_pylist(), pq.read_table(corpus / "rejects.parquet").to_pylist()
    rejects = [row for row in rejects if (row["step"], row["kind"]) != ("plan", "no_picture")]
    used, reasons = (
        {plain(row["source"]): row for row in rows},
        {plain(row["source"]): row["reason"] for row in rejects},
    )
    assert len(used) == len(rows)
    assert len(reasons) == len(rejects)
    assert not set(used) & set(reasons)
    return used, reasons


def plain(name: str) -> str:
    """Some file systems take names apart."""
    return unicodedata.normalize("NFC", name)


def expected() -> Iterator[tuple[str, Verdict]]:
    yield from ((plain(name), verdict) for name, verdict in VERDICTS.items())


@pytest.mark.parametrize("kind", ["video", "audio", "both"])
def test_every_second_is_in_a_clip_or_in_a_reject(corpora: dict[str, Path], kind: str) -> None:
    rows = read_whole_index(corpora[kind]).to_pylist()
    rejects = pq.read_table(corpora[kind] / "rejects.parquet").to_pylist()
    found = [Span(row["source"], row["start_s"], row["start_s"] + row["duration_s"]) for row in rows]
    found += [Span(row["source"], row["start_s"], row["end_s"]) for row in rejects if row["end_s"] is not None]
    kinds = {"video": ("video",), "audio": ("audio",), "both": ALL_MODALITIES}[kind]
    names = {row["path"] for row in pq.read_table(corpora[kind] / "sources.parquet").to_pylist()}
    asked = [Span(name, 0.0, last_packets_end(FILES / name, kinds)) for name in sorted(names)]
    assert list(uncovered(asked, found, slack_s(FPS))) == []


def test_the_table_has_every_file() -> None:
    files = {plain(path.relative_to(FILES).as_posix()) for path in FILES.rglob("*") if path.is_file()}
    assert files == {name for name, _ in expected()}


def test_every_picture_is_used_in_full_and_upright_or_rejected_for_the_right_reason(corpora: dict[str, Path]) -> None:
    used, reasons = found_in(corpora["video"])
    assert set(used) | set(reasons) == {name for name, _ in expected()}
    wrong = {}
    for name, verdict in expected():
        if isinstance(verdict.picture, str):
            if verdict.picture not in reasons.get(name, ""):
                wrong[name] = (verdict.picture, reasons.get(name) or used[name])
        elif name not in used or not matches(verdict.picture, used[name]):
            wrong[name] = (verdict.picture, reasons.get(name) or used[name])
    assert wrong == {}


def matches(picture: Picture, row: dict[str, Any]) -> bool:
    """Duration within a frame (of the clip, or of the source where those are longer), and the shape of the picture."""
    frame_s = 1 / min(picture.fps, FPS)
    shape = picture.width / picture.height
    return (
        abs(row["duration_s"] - picture.seconds) <= frame_s + 1e-3
        and row["frames"] == round(row["duration_s"] * FPS)
        and min(row["width"], row["height"]) == 32
        and abs(row["width"] - row["height"] * shape) <= 1.01 * max(1, shape)
    )


def test_every_sound_is_used_in_full_or_rejected_for_the_right_reason(corpora: dict[str, Path]) -> None:
    used, reasons = found_in(corpora["audio"])
    assert set(used) | set(reasons) == {name for name, _ in expected()}
    wrong = {}
    for name, verdict in expected():
        if isinstance(verdict.sound, str):
            if verdict.sound not in reasons.get(name, ""):
                wrong[name] = (verdict.sound, reasons.get(name) or used[name])
        elif name not in used or abs(used[name]["duration_s"] - verdict.sound.seconds) > 0.03:
            wrong[name] = (verdict.sound, reasons.get(name) or used[name]["duration_s"])
    assert wrong == {}


def test_a_corpus_of_both_has_the_files_whose_picture_and_sound_are_of_use(corpora: dict[str, Path]) -> None:
    used, reasons = found_in(corpora["both"])
    assert set(used) | set(reasons) == {name for name, _ in expected()}
    for name, verdict in expected():
        picture, sound = verdict.picture, verdict.sound
        if isinstance(picture, Picture) and isinstance(sound, Sound) and not sound.silent:
            assert matches(picture, used[name]), name
        elif isinstance(picture, Picture) and isinstance(sound, Sound):
            assert "digital silence" in reasons[name], name
        else:
            possible = [reason for reason in (picture, sound) if isinstance(reason, str)]
            assert any(reason in reasons[name] for reason in possible), (name, reasons[name])


@pytest.mark.parametrize("kind", ["video", "audio", "both"])
def test_no_reason_is_an_exception_or_a_dead_process(corpora: dict[str, Path], kind: str) -> None:
    for name, reason in found_in(corpora[kind])[1].items():
        assert len(reason) > 10, name
        assert not NO_REASON.search(reason), (name, reason)


@pytest.mark.parametrize("kind", ["video", "audio", "both"])
def test_every_clip_plays_in_full(corpora: dict[str, Path], kind: str) -> None:
    modalities = ALL_MODALITIES if kind == "both" else (kind,)
    silent = {name for name, verdict in expected() if isinstance(verdict.sound, Sound) and verdict.sound.silent}
    rows = found_in(corpora[kind])[0]
    assert len(rows) > 10
    with ClipReader(corpora[kind]) as reader:
        for name, row in rows.items():
            if "video" in modalities:
                frames = decode_frames(reader.read(row["shard"], row, "mp4"), 0, row["frames"])
                assert frames.shape == (row["frames"], row["height"], row["width"], 3), name
            if "audio" in modalities:
                sound = decode_sound(reader.read(row["shard"], row, "flac"))
                assert len(sound) == row["samples"], name
                assert (not np.any(sound)) == (name in silent), name
