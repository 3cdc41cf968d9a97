"""Shot boundaries, against videos whose shots are known, and corpora that are cut at them."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from shards.corpus.index import read_whole_index
from shards.corpus.seen import corpus_fingerprint_now
from shards.corpus.stage import shard
from shards.media.cut import cut
from shards.media.shots import boundaries_between
from shards.settings import CorpusSettings
from shards.sources.shots import WINDOW_S
from tests.places import DATA, needs
from tests.shards.media_maker import Array, pictures_of, plain, tone, write_video

SETTINGS = CorpusSettings(
    clip_seconds=2.0, min_seconds=0.5, short_side=32, fps=12.5, gop=5, sample_rate=8000, workers=2
)
AT_SHOTS = SETTINGS.model_copy(update={"cut_at_shots": True})
FPS = 25


def scene(seed: int, width: int = 400) -> Array:
    """A wide picture of smooth blobs, uint8 [48, width, 3], for a camera of 64 x 48 to look at."""
    rng = np.random.default_rng(seed)
    blobs = rng.uniform(0, 255, (2, width // 24 + 1, 3)).repeat(24, 0).repeat(24, 1)[:, :width]
    kernel = np.ones(25) / 25
    for axis in (0, 1):
        blobs = np.apply_along_axis(lambda line: np.convolve(np.pad(line, 12, "edge"), kernel, "valid"), axis, blobs)
    return blobs.astype(np.uint8)


def seen(picture: Array, left: float) -> Array:
    return picture[:, round(left) : round(left) + 64]


def still(seed: int, seconds: float) -> list[Array]:
    return [seen(scene(seed), 0)] * round(seconds * FPS)


def pan(seed: int, seconds: float, pixels_per_frame: float) -> list[Array]:
    picture = scene(seed)
    return [seen(picture, n * pixels_per_frame) for n in range(round(seconds * FPS))]


def mixed(one: Array, other: Array, steps: int) -> list[Array]:
    """A dissolve between two pictures."""
    shares = np.linspace(0, 1, steps + 2)[1:-1]
    return [((1 - share) * one + share * other).astype(np.uint8) for share in shares]


def dissolve(seconds: float) -> list[Array]:
    one, other = still(1, 1)[0], still(2, 1)[0]
    return [one] * 25 + mixed(one, other, round(seconds * FPS)) + [other] * 25


def fade(seconds: float) -> list[Array]:
    """To black and up again to another picture."""
    one, other, black = still(1, 1)[0], still(2, 1)[0], plain((0, 0, 0))
    steps = round(seconds * FPS)
    return [one] * 25 + mixed(one, black, steps) + mixed(black, other, steps) + [other] * 25


def flash(pictures: int) -> list[Array]:
    return [*still(1, 1), *[plain((255, 255, 255))] * pictures, *still(1, 1)]


def noisy(frames: Sequence[Array], deviation: float) -> list[Array]:
    rng = np.random.default_rng(0)
    return [np.clip(frame + rng.normal(0, deviation, frame.shape), 0, 255).astype(np.uint8) for frame in frames]


def inset() -> list[Array]:
    """A window that opens in a third of the picture, and stays."""
    before = still(1, 1)[0]
    after = before.copy()
    after[:24, :40] = 255
    return [before] * 25 + [after] * 25


KNOWN: dict[str, tuple[Callable[[], list[Array]], list[float]]] = {
    "three shots": (lambda: [*still(1, 1.2), *still(2, 0.8), *still(3, 1.2)], [1.2, 2.0]),
    "three moving shots": (lambda: [*pan(1, 1.2, 3), *pan(2, 0.8, 2), *pan(3, 1.2, 1)], [1.2, 2.0]),
    "three noisy shots": (lambda: noisy([*still(1, 1.2), *pan(2, 0.8, 2), *still(3, 1.2)], 12), [1.2, 2.0]),
    "a cut blended over two pictures": (
        lambda: [*still(1, 1), *mixed(still(1, 1)[0], still(2, 1)[0], 1), *still(2, 1)],
        [1.0],
    ),
    "a still picture": (lambda: still(1, 2), []),
    "a noisy still picture": (lambda: noisy(still(1, 2), 25), []),
    "a slow pan": (lambda: pan(1, 2, 2), []),
    "a fast pan": (lambda: pan(1, 1, 12), []),
    "a slow dissolve": (lambda: dissolve(1.0), []),
    "a fade to black and up": (lambda: fade(0.6), []),
    "a flash of one picture": (lambda: flash(1), []),
    "a flash of three pictures": (lambda: flash(3), []),
    "a window that opens": (inset, []),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_boundaries_found_are_those_of_the_shots(name: str, tmp_path: Path) -> None:
    make, expected = KNOWN[name]
    path = write_video(tmp_path / "a.mp4", make(), None)
    assert boundaries_between(path, 0.0, 60.0, SETTINGS) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", KNOWN)
def test_a_clip_is_measured_to_have_the_boundaries_of_its_shots(name: str, tmp_path: Path) -> None:
    """In the pictures that are stored, at another rate and size."""
    make, expected = KNOWN[name]
    path = write_video(tmp_path / "a.mp4", make(), None)
    for fps in (25, 30, 12.5):
        settings = SETTINGS.model_copy(update={"fps": fps, "modalities": ("video",)})
        measures = cut(path, 0.0, 10.0, settings).measures
        assert measures.shots == 1 + len(expected)
        assert measures.boundaries_s == pytest.approx(expected, abs=1 / fps)


def test_windows_of_a_file_together_have_all_its_boundaries(tmp_path: Path) -> None:
    frames = [frame for number in range(12) for frame in still(number, 0.6)]
    path = write_video(tmp_path / "a.mp4", frames, None)
    whole = boundaries_between(path, 0.0, 7.2, SETTINGS)
    assert whole == pytest.approx([0.6 * number for number in range(1, 12)], abs=1e-3)
    for bounds in ([0.0, 1.2, 3.0, 5.4, 7.2], [0.0, 0.61, 2.39, 7.2]):
        windows = [boundaries_between(path, *window, SETTINGS) for window in pairwise(bounds)]
        assert [at_s for window in windows for at_s in window] == whole


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shots of 1.2 s, 0.4 s and 2.6 s; a still picture; a quiet video; a pan; a fade."""
    folder = tmp_path_factory.mktemp("videos")
    shots = [*pan(1, 1.2, 2), *pan(2, 0.4, 2), *pan(3, 2.6, 2)]
    write_video(folder / "shots.mp4", shots, tone(300, 4.2))
    write_video(folder / "still.mp4", still(4, 2), tone(300, 2.0))
    write_video(folder / "quiet.mp4", pan(5, 2, 2), tone(300, 2.0, loudness=0.002))
    write_video(folder / "pan.mp4", pan(6, 2, 3), tone(300, 2.0))
    write_video(folder / "fade.mp4", fade(0.6), tone(300, 3.2))
    return folder


def rejects_of(corpus: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(corpus / "rejects.parquet").to_pylist())


def spans_of(corpus: Path, source: str) -> list[tuple[float, float]]:
    rows = read_whole_index(corpus).to_pylist()
    return sorted((row["start_s"], round(row["duration_s"], 2)) for row in rows if row["source"] == source)


def test_a_corpus_is_cut_at_shots_only_if_that_is_set(videos: Path, tmp_path: Path) -> None:
    shard(tmp_path / "plain", videos, SETTINGS)
    assert spans_of(tmp_path / "plain", "shots.mp4") == [(0.0, 2.0), (2.0, 2.0)]
    assert [row["kind"] for row in rejects_of(tmp_path / "plain")] == ["too_short"]
    found = read_whole_index(tmp_path / "plain").to_pylist()
    assert {row["shots"] for row in found if row["source"] != "shots.mp4"} == {1}
    assert sorted(row["shots"] for row in found if row["source"] == "shots.mp4") == [1, 3]

    shard(tmp_path / "shots", videos, AT_SHOTS)
    assert spans_of(tmp_path / "shots", "shots.mp4") == [(0.0, 1.2), (1.6, 2.0), (3.6, 0.64)]
    assert set(read_whole_index(tmp_path / "shots")["shots"].to_pylist()) == {1}
    (reject,) = rejects_of(tmp_path / "shots")
    assert (reject["kind"], reject["step"], reject["source"]) == ("short_shot", "plan", "shots.mp4")
    assert (reject["start_s"], reject["end_s"]) == (1.2, 1.6)
    assert reject["reason"] == "the shot is 0.40 s long, shorter than min_seconds (0.5)"
    for name in ("pan.mp4", "fade.mp4", "still.mp4", "quiet.mp4"):
        assert spans_of(tmp_path / "shots", name) == spans_of(tmp_path / "plain", name) != []


def test_no_clip_that_was_cut_at_shots_has_a_picture_of_the_next_shot(tmp_path: Path) -> None:
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    frames = [plain(colour) for colour in colours for _ in range(23)]
    write_video(tmp_path / "videos" / "a.mp4", frames, tone(300, 2.76))
    for fps in (25, 30, 10):
        corpus = tmp_path / f"corpus-{fps}"
        shard(corpus, tmp_path / "videos", AT_SHOTS.model_copy(update={"fps": fps}))
        clips = read_whole_index(corpus).sort_by("start_s").to_pylist()
        assert [row["start_s"] for row in clips] == pytest.approx([0.0, 0.92, 1.84], abs=1e-3)
        for row, colour in zip(clips, colours, strict=True):
            clip = cut(tmp_path / "videos" / "a.mp4", row["start_s"], row["start_s"] + 0.92, SETTINGS)
            assert np.abs(pictures_of(clip).astype(int) - colour).max() < 40


def test_a_corpus_stays_fresh_and_is_surveyed_once_more_where_boundaries_are_wanted(
    videos: Path, tmp_path: Path
) -> None:
    corpus, heard = tmp_path / "corpus", list[str]()

    def progress(done: int, total: int, note: str = "") -> None:
        heard.append(note)

    first = shard(corpus, videos, SETTINGS)
    assert corpus_fingerprint_now(corpus, videos, SETTINGS)[0] == first.fingerprint
    assert corpus_fingerprint_now(corpus, videos, AT_SHOTS)[0] != first.fingerprint
    second = shard(corpus, videos, AT_SHOTS, progress)
    assert any("probed" in note for note in heard)
    assert second.fingerprint == corpus_fingerprint_now(corpus, videos, AT_SHOTS)[0]
    heard.clear()
    shard(corpus, videos, AT_SHOTS.model_copy(update={"crf": 30}), progress)
    assert not any("probed" in note for note in heard)  # The boundaries are in the corpus.
    sources = pq.read_table(corpus / "sources.parquet").to_pylist()
    assert {row["path"]: row["boundaries_s"] for row in sources}["shots.mp4"] == pytest.approx([1.2, 1.6], abs=1e-3)


def test_corpora_of_settings_from_before_there_were_shots_have_the_same_fingerprint() -> None:
    from shards.settings import stored_part

    assert "cut_at_shots" not in stored_part(SETTINGS)
    assert stored_part(AT_SHOTS)["cut_at_shots"] is True


def test_shots_need_pictures() -> None:
    with pytest.raises(ValidationError, match="cut_at_shots needs pictures"):
        CorpusSettings(cut_at_shots=True, modalities=("audio",))


def test_a_file_whose_shots_cannot_be_found_within_the_limits_is_rejected(videos: Path, tmp_path: Path) -> None:
    settings = AT_SHOTS.model_copy(update={"clip_timeout_s": 0.001, "max_reject_share": 1.0})
    with pytest.raises(Exception, match="took longer"):
        shard(tmp_path / "corpus", videos, settings)


def test_files_that_cannot_be_used_keep_their_reasons(videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "c"):
        write_video(folder / f"{name}.mp4", [*still(1, 1), *still(2, 1)], tone(300, 2.0))
    (folder / "b.mp4").write_bytes(b"no video at all, but a text that is long enough")
    write_video(folder / "d.mp4", still(1, 1), None)
    shard(tmp_path / "corpus", folder, AT_SHOTS)
    assert {row["source"]: row["kind"] for row in rejects_of(tmp_path / "corpus")} == {
        "b.mp4": "damaged",
        "d.mp4": "no_sound",
    }
    assert len(spans_of(tmp_path / "corpus", "a.mp4")) == len(spans_of(tmp_path / "corpus", "c.mp4")) == 2


@needs(DATA / "videos" / "bunny")
def test_the_cuts_of_a_real_film_are_found() -> None:
    film = next((DATA / "videos" / "bunny").glob("*.mp4"))
    assert boundaries_between(film, 0.0, WINDOW_S, SETTINGS) == pytest.approx([11.875, 15.75, 23.042], abs=0.005)
