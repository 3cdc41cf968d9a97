"""A part of the picture is stored: a rectangle, or a square round what moves in it."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from shards.corpus.index import read_whole_index, shard_names
from shards.corpus.recut import recut
from shards.corpus.stage import shard
from shards.errors import MediaError
from shards.indexing.check import tar_faults
from shards.media.crop import Rectangle, as_stored, centre_of_motion, rectangle_of, square_of
from shards.media.cut import cut
from shards.settings import CorpusSettings, CropSettings, stored_part
from tests.shards.grid_maker import moving_square
from tests.shards.media_maker import Array, pictures_of, plain, tone, write_video
from tests.shards.test_media import TURNS, set_matrix

COLOURS = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "w": (255, 255, 255)}
CORNERS = {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}


def with_crop(modalities: tuple[str, ...] = ("video",), **crop: Any) -> CorpusSettings:
    values = {"clip_seconds": 1.0, "min_seconds": 0.4, "short_side": 32, "fps": 25, "workers": 2}
    return CorpusSettings.model_validate(values | {"modalities": modalities, "crop": crop})


def four_colours() -> Array:
    """A picture of 96x64 pixels: red and green above blue and white."""
    picture = np.zeros((64, 96, 3), np.uint8)
    for colour, (x, y) in zip("rgbw", CORNERS.values(), strict=True):
        picture[32 * y : 32 * y + 32, 48 * x : 48 * x + 48] = COLOURS[colour]
    return picture


def brightest(pictures: Array) -> tuple[float, float]:
    """Where the bright square is in the middle of its movement: x and y in pixels."""
    places = np.argwhere(pictures[..., 1].mean(axis=0) > 150)
    y, x = places.mean(axis=0) + 0.5
    return float(x), float(y)


@pytest.mark.parametrize("unit", ["pixels", "shares"])
@pytest.mark.parametrize("how", TURNS)
def test_a_rectangle_is_that_of_the_picture_as_it_is_shown(tmp_path: Path, how: str, unit: str) -> None:
    matrix, corners = TURNS[how]
    path = write_video(tmp_path / "a.mp4", [four_colours()] * 15, None)
    set_matrix(path, *matrix)
    width, height = (96, 64) if matrix[0] else (64, 96)
    across, down = (width, height) if unit == "pixels" else (1.0, 1.0)
    for corner, (x, y) in zip(corners, CORNERS.values(), strict=True):
        part = {"x": x * across / 2, "y": y * down / 2, "width": across / 2, "height": down / 2}
        clip = cut(path, 0, 0.6, with_crop(unit=unit, **part))
        assert (clip.width, clip.height) == ((48, 32) if matrix[0] else (32, 48))
        inner = pictures_of(clip)[5, 4:-4, 4:-4].astype(int)
        assert np.abs(inner - COLOURS[corner]).max() <= 8


def test_without_a_size_a_rectangle_reaches_to_the_edges(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [four_colours()] * 15, None)
    clip = cut(path, 0, 0.6, with_crop(x=48))
    assert (clip.width, clip.height) == (32, 42)
    inner = pictures_of(clip)[5, 2:18, 2:-2].astype(int)
    assert np.abs(inner - COLOURS["g"]).max() <= 8


def test_a_rectangle_keeps_pixels_that_are_not_square(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [four_colours()] * 15, None, pixel_aspect=Fraction(2, 1))
    clip = cut(path, 0, 0.6, with_crop(width=48, height=32))
    assert (clip.width, clip.height) == (96, 32)
    moving = write_video(tmp_path / "b.mp4", moving_square(0.6, (60, 48)), None, pixel_aspect=Fraction(2, 1))
    square = cut(moving, 0, 0.6, with_crop(square=32))
    assert (square.width, square.height) == (32, 32)


@pytest.mark.parametrize("name", ["a.mp4", "a.mpg"])
@pytest.mark.parametrize("motion_of", ["clip", "recording"])
def test_a_square_is_round_the_centre_of_motion(tmp_path: Path, name: str, motion_of: str) -> None:
    codecs = {"video_codec": "mpeg1video", "audio_codec": "mp2"} if name.endswith("mpg") else {}
    path = write_video(
        tmp_path / name, moving_square(2.0, (80, 60)), tone(300, 2.0, 44100), sample_rate=44100, **codecs
    )
    settings = with_crop(("video", "audio"), x=40, y=30, width=70, height=60, square=32, motion_of=motion_of)
    clip = cut(path, 0.52, 1.52, settings)
    assert (clip.width, clip.height, clip.frames) == (32, 32, 25)
    assert brightest(pictures_of(clip)) == pytest.approx((16, 16), abs=1.5)
    assert cut(path, 0.52, 1.52, settings) == clip  # The same bytes.


def test_a_square_at_the_edge_is_moved_into_the_picture(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_square(1.0, (110, 88)), None)
    clip = cut(path, 0, 1.0, with_crop(square=48))
    assert (clip.width, clip.height) == (32, 32)  # 48x48 pixels from x 72 and y 48 on, scaled.
    assert brightest(pictures_of(clip)) == pytest.approx((38 * 32 / 48, 40 * 32 / 48), abs=1.5)


def test_motion_outside_of_the_rectangle_does_not_count(tmp_path: Path) -> None:
    inside, outside = moving_square(1.0, (90, 70)), moving_square(1.0, (20, 20))
    frames = [np.maximum(one, other) for one, other in zip(inside, outside, strict=True)]
    path = write_video(tmp_path / "a.mp4", frames, None)
    clip = cut(path, 0, 1.0, with_crop(x=60, y=40, square=32))
    assert brightest(pictures_of(clip)) == pytest.approx((16, 16), abs=1.5)


def test_noise_and_changes_of_brightness_do_not_move_the_centre(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [
        np.clip(frame + rng.normal(10 * (number % 3), 6, frame.shape), 0, 255).astype(np.uint8)
        for number, frame in enumerate(moving_square(1.0, (90, 70)))
    ]
    path = write_video(tmp_path / "a.mp4", frames, None)
    x, y = centre_of_motion(path, 0, 1.0, with_crop(square=32))
    assert (x * 120, y * 96) == pytest.approx((90, 70), abs=6)


def test_motion_is_of_the_clip_or_of_the_recording(tmp_path: Path) -> None:
    frames = [*moving_square(1.0, (30, 48)), *moving_square(1.0, (90, 48))]
    path = write_video(tmp_path / "a.mp4", frames, None)
    for start_s, x in ((0.0, 30), (1.0, 90)):
        centre = centre_of_motion(path, start_s, start_s + 1, with_crop(square=32))
        assert centre[0] * 120 == pytest.approx(x, abs=1.5)
        clip = cut(path, start_s, start_s + 1, with_crop(square=32, motion_of="clip"))
        assert brightest(pictures_of(clip)) == pytest.approx((16, 16), abs=1.5)
    whole = cut(path, 0.0, 1.0, with_crop(square=32))
    assert pictures_of(whole).mean() == pytest.approx(60, abs=3)  # Between the two, where nothing is.


def test_what_does_not_move_has_its_centre_in_the_middle_of_the_rectangle(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [four_colours()] * 15, None)
    assert centre_of_motion(path, 0, 0.6, with_crop(x=48, width=48, square=16)) == (0.5, 0.5)
    clip = cut(path, 0, 0.6, with_crop(x=48, height=32, square=16))
    assert np.abs(pictures_of(clip)[5].astype(int) - COLOURS["g"]).max() <= 8


def test_another_file_of_the_same_name_is_measured_again(tmp_path: Path) -> None:
    for centre in ((30, 48), (90, 48)):
        path = write_video(tmp_path / "a.mp4", moving_square(0.6, centre), tone(centre[0], 0.6))
        clip = cut(path, 0, 0.6, with_crop(square=32))
        assert brightest(pictures_of(clip)) == pytest.approx((16, 16), abs=1.5)


@pytest.mark.parametrize(
    ("crop", "reason"),
    [
        (
            {"x": 90, "width": 40},
            r"corpus\.crop is not inside the picture: it has 40x96 pixels from x 90 and y 0 on, the picture has 120x96",
        ),
        ({"y": 96}, r"it has 120x0 pixels from x 0 and y 96 on, the picture has 120x96"),
        ({"square": 100}, r"corpus\.crop\.square is larger than the picture: 100x100 pixels of 120x96"),
    ],
)
def test_a_part_that_is_not_inside_the_picture_is_an_error_of_the_clip(
    tmp_path: Path, crop: dict[str, float], reason: str
) -> None:
    path = write_video(tmp_path / "a.mp4", moving_square(0.6, (60, 48)), None)
    with pytest.raises(MediaError, match=reason) as raised:
        cut(path, 0, 0.6, with_crop(**crop))
    assert raised.value.kind == "outside"


def test_a_corpus_of_crops_is_cut_checked_reused_and_cut_again(tmp_path: Path) -> None:
    videos, corpus = tmp_path / "videos", tmp_path / "corpus"
    for name, centre in (("a", (40, 48)), ("b", (80, 60)), ("c", (60, 50))):
        write_video(videos / f"{name}.mp4", moving_square(2.0, centre), tone(300, 2.0))
    write_video(videos / "small.mp4", [plain((40, 40, 40))] * 50, tone(300, 2.0))
    settings = with_crop(("video", "audio"), width=100, square=40)
    record = shard(corpus, videos, settings)
    assert (record.rows, record.rejects) == (6, 2)
    index = read_whole_index(corpus).to_pylist()
    assert {(row["width"], row["height"]) for row in index} == {(32, 32)}
    rejects = pq.read_table(corpus / "rejects.parquet").to_pylist()
    assert {(row["source"], row["step"], row["kind"]) for row in rejects} == {("small.mp4", "cut", "outside")}
    assert shard(corpus, videos, settings).reused
    assert not shard(corpus, videos, with_crop(("video", "audio"), width=100)).reused
    assert shard(corpus, videos, settings).fingerprint == record.fingerprint
    again = recut(corpus, videos, settings, ["a.mp4"])
    assert (again.rows, again.rejects) == (6, 2)
    assert read_whole_index(corpus).to_pylist() == index
    assert [fault for name in shard_names(corpus) for fault in tar_faults(corpus, name)] == []


def test_sides_are_even_and_a_square_is_one_on_the_screen() -> None:
    assert rectangle_of(CropSettings(x=3, y=5, width=11, height=7), 20, 20) == Rectangle(2, 4, 10, 6)
    crop = CropSettings(square=96)
    assert square_of(crop, Rectangle(100, 100, 200, 100), (0.5, 0.5), (360, 288), 1.0) == Rectangle(152, 102, 96, 96)
    assert square_of(crop, Rectangle(0, 0, 180, 288), (0.0, 1.0), (180, 288), 2.0) == Rectangle(0, 192, 48, 96)


def test_a_part_of_an_upright_picture_is_found_in_the_stored_one() -> None:
    stored = np.arange(6 * 4).reshape(4, 6)
    for turns in range(4):
        for mirrored in (False, True):
            upright = np.rot90(stored[:, ::-1] if mirrored else stored, turns)
            size = (upright.shape[1], upright.shape[0])
            x, y, wide, high = as_stored(Rectangle(1, 0, 2, 3), size, turns, mirrored)
            assert set(stored[y : y + high, x : x + wide].flat) == set(upright[0:3, 1:3].flat)


@pytest.mark.parametrize(
    "crop",
    [
        {"unit": "shares", "x": 0.6, "width": 0.5},
        {"unit": "shares", "y": 1},
        {"unit": "shares", "square": 2},
        {"width": 0},
        {"x": -1},
        {"unit": "percent"},
    ],
)
def test_impossible_settings_are_refused(crop: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CropSettings.model_validate(crop)


def test_a_crop_enters_the_fingerprint_and_none_does_not() -> None:
    assert "crop" not in stored_part(CorpusSettings())
    assert "segment_seconds" not in stored_part(CorpusSettings())
    crop = stored_part(with_crop(square=96))["crop"]
    assert crop == {
        "unit": "pixels",
        "x": 0.0,
        "y": 0.0,
        "width": None,
        "height": None,
        "square": 96.0,
        "motion_of": "recording",
    }


def test_a_window_is_no_longer_than_a_clip() -> None:
    with pytest.raises(ValidationError, match=r"segment_seconds \(2\) must be from min_seconds \(1\) to clip_seconds"):
        CorpusSettings(segment_seconds=2.0, clip_seconds=1.5)
