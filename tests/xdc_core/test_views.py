"""Views of stored clips: which frames, which part of the picture, which sound, and what training draws of it."""

from typing import Any

import av
import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from shards.media.decode import decode_sound
from shards.media.encode import encode_picture, encode_sound
from xdc_core.config.load import parse_config
from xdc_core.config.schema import Config
from xdc_core.config.views import views_of
from xdc_core.modalities.logmel import Align, align_frames, log_mel, mask_stretch, span_frames
from xdc_core.modalities.modality import Row, Where, view_start

FRAMES, FPS, HEIGHT, WIDTH, RATE = 50, 25, 48, 64, 16000
ROW = {"frames": FRAMES, "fps": float(FPS), "sample_rate": RATE, "samples": 2 * RATE}
SEEDS = range(120)


@pytest.fixture(scope="module")
def mp4() -> bytes:
    """50 frames of 64 x 48: red tells the frame's number, green rises from left to right, blue from top to bottom."""
    ramps = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    ramps[..., 1] = np.linspace(40, 200, WIDTH)
    ramps[..., 2] = np.linspace(40, 200, HEIGHT)[:, None]
    frames = []
    for number in range(FRAMES):
        ramps[..., 0] = 20 + 4 * number
        frames.append(av.VideoFrame.from_ndarray(ramps, format="rgb24"))
    return encode_picture(iter(frames), FPS, 8, 1)[0]


@pytest.fixture(scope="module")
def flac() -> bytes:
    """Two seconds of a tone that rises by steps: from 300 Hz, by 300 Hz every tenth of a second."""
    hertz = 300 * (1 + np.arange(2 * RATE) // (RATE // 10))
    sound = 0.3 * np.sin(2 * np.pi * np.cumsum(hertz) / RATE)
    return encode_sound((sound * 32767).astype(np.int16), RATE)


def config(**sections: Any) -> Config:
    video = {"frames": 8, "short_edges": [HEIGHT], "crop": 32, "flip": False}
    return parse_config(
        {"video": video | sections.get("video", {}), "audio": {"align": "start"} | sections.get("audio", {})}, "a test"
    )


def video_view(mp4: bytes, row: Row, config: Config, where: Where) -> Tensor:
    return views_of(config, "video").view(mp4, row, where)


def audio_view(flac: bytes, row: Row, config: Config, where: Where) -> Tensor:
    return views_of(config, "audio").view(flac, row, where)


def drawn(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def numbers(view: Tensor) -> list[int]:
    """The numbers of a view's frames in the clip."""
    return [round((frame.float().mean().item() - 20) / 4) for frame in view[0]]


def slopes(view: Tensor) -> tuple[float, float]:
    """How much green rises a pixel to the right, and blue a pixel down."""
    green, blue = view[1].float().mean(dim=(0, 1)), view[2].float().mean(dim=(0, 2))
    return green.diff().mean().item(), blue.diff().mean().item()


@pytest.mark.parametrize("frames", [1, 8, 16, 32, 50])
def test_extraction_sees_consecutive_frames_around_the_middle(mp4: bytes, frames: int) -> None:
    view = video_view(mp4, ROW, config(video={"frames": frames}), None)
    assert (view.shape, view.dtype) == ((3, frames, 32, 32), torch.uint8)
    first = (FRAMES - frames) // 2
    assert numbers(view) == list(range(first, first + frames))


@pytest.mark.parametrize("frames", [8, 16, 32])
def test_training_sees_consecutive_frames_from_any_start_alike(mp4: bytes, frames: int) -> None:
    settings = config(video={"frames": frames, "crop": 16, "short_edges": [16]})
    starts = []
    for seed in range(10 * (FRAMES - frames + 1)):
        seen = numbers(video_view(mp4, ROW, settings, drawn(seed)))
        assert seen == list(range(seen[0], seen[0] + frames))
        starts.append(seen[0])
    counts = np.bincount(starts, minlength=FRAMES - frames + 1)
    assert len(counts) == FRAMES - frames + 1
    assert counts.all()
    assert chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("training", [False, True])
def test_a_clip_that_is_too_short_is_held_on_its_last_frame(mp4: bytes, training: bool) -> None:
    row = ROW | {"frames": 5}
    view = video_view(mp4, row, config(video={"frames": 16}), drawn(0) if training else None)
    assert numbers(view) == [0, 1, 2, 3, 4] + [4] * 11


def test_the_short_edge_is_drawn_in_training_and_the_first_in_extraction(mp4: bytes) -> None:
    settings = config(video={"short_edges": [48, 96], "crop": 40, "frames": 1})
    of_48 = slopes(video_view(mp4, ROW, settings, None))
    assert of_48 == pytest.approx((160 / 63, 160 / 47), rel=0.05)
    wide = [slopes(video_view(mp4, ROW, settings, drawn(seed)))[0] < 0.75 * of_48[0] for seed in SEEDS]
    assert 0.35 < np.mean(wide) < 0.65
    assert slopes(video_view(mp4, ROW, config(video={"short_edges": [96, 48], "crop": 40}), None)) == pytest.approx(
        (of_48[0] / 2, of_48[1] / 2), rel=0.05
    )


def test_the_short_edge_may_be_the_height_or_the_width(mp4: bytes) -> None:
    view = video_view(mp4, ROW, config(video={"short_edges": [32], "crop": 32, "frames": 1}), None)
    # 64 x 48 became 43 x 32: all rows are seen, of the columns the middle ones.
    green, blue = view[1, 0].float().mean(0), view[2, 0].float().mean(1)
    assert blue[0] < 50
    assert blue[-1] > 190
    assert green[0] > 55
    assert green[-1] < 185


@pytest.mark.parametrize(("edges", "crop"), [((128, 160), 112), ((256, 320), 224)])
def test_the_crops_of_the_paper_are_cut_from_their_short_edges(mp4: bytes, edges: tuple[int, int], crop: int) -> None:
    settings = config(video={"short_edges": edges, "crop": crop, "flip": True})
    for seed in range(4):
        assert video_view(mp4, ROW, settings, drawn(seed)).shape == (3, 8, crop, crop)


def test_the_crop_is_the_centre_in_extraction_and_anywhere_in_training(mp4: bytes) -> None:
    settings = config(video={"frames": 1})
    centre = video_view(mp4, ROW, settings, None).float().mean(dim=(1, 2, 3))
    assert centre[1:].tolist() == pytest.approx([120, 120], abs=4)
    means = torch.stack([video_view(mp4, ROW, settings, drawn(seed)).float().mean(dim=(1, 2, 3)) for seed in SEEDS])
    # 33 places from left to right, 17 from top to bottom; the outermost ones are seen, too.
    assert means[:, 1].min() < 86
    assert means[:, 1].max() > 154
    assert means[:, 2].min() < 99
    assert means[:, 2].max() > 141
    assert abs(np.corrcoef(means[:, 1:].T)[0, 1]) < 0.3


def test_half_of_the_training_views_are_mirrored_if_asked_and_none_in_extraction(mp4: bytes) -> None:
    def mirrored(flip: bool, rng: np.random.Generator | None) -> bool:
        right, down = slopes(video_view(mp4, ROW, config(video={"flip": flip, "frames": 2}), rng))
        assert down > 1  # Never upside down.
        return right < 0

    assert 0.35 < np.mean([mirrored(True, drawn(seed)) for seed in SEEDS]) < 0.65
    assert not any(mirrored(False, drawn(seed)) for seed in range(20))
    assert not mirrored(True, None)


def test_all_frames_of_a_view_are_cut_and_mirrored_alike(mp4: bytes) -> None:
    for seed in range(6):
        view = video_view(mp4, ROW, config(video={"flip": True, "short_edges": [36, 48]}), drawn(seed)).float()
        for channel in (1, 2):
            assert (view[channel] - view[channel, :1]).abs().max() < 8


def test_a_normalised_batch_has_the_mean_and_the_deviation_taken_out() -> None:
    settings = config()
    batch = torch.full((2, 3, 4, 5, 5), 255, dtype=torch.uint8)
    made = views_of(settings, "video").normalise(batch)
    assert made.dtype == torch.float32
    for channel, (mean, std) in enumerate(zip(settings.video.mean, settings.video.std, strict=True)):
        torch.testing.assert_close(made[:, channel], torch.full((2, 4, 5, 5), (1 - mean) / std))


# --- sound -------------------------------------------------------------------------------------------------------


def tenth_heard(frame: Tensor) -> int:
    """The tenth of a second of which a log-mel frame [mels] comes, by its loudest band."""
    hertz = 300 * (1 + np.arange(20))
    bands = np.round(1127 * np.log1p(hertz / 700) / (1127 * np.log1p(RATE / 2 / 700)) * 41) - 1
    return int(np.abs(bands - int(frame.argmax())).argmin())


def test_the_sound_of_a_view_is_that_of_the_picture_drawn_with_the_same_seed(mp4: bytes, flac: bytes) -> None:
    settings = config()
    for seed in range(30):
        start_s = numbers(video_view(mp4, ROW, settings, drawn(seed)))[0] / FPS
        # High bands lie closer together than the tones: neighbours may be taken for each other.
        assert abs(tenth_heard(audio_view(flac, ROW, settings, drawn(seed))[0, 0]) - int(start_s * 10)) <= 1
    assert tenth_heard(audio_view(flac, ROW, settings, None)[0, 0]) == pytest.approx(8, abs=1)


@pytest.mark.parametrize("frames", [8, 16, 32])
def test_the_sound_of_the_whole_picture_is_stretched_onto_the_frames(flac: bytes, frames: int) -> None:
    view = audio_view(flac, ROW, config(video={"frames": frames}, audio={"align": "span"}), None)
    assert (view.shape, view.dtype) == ((1, 100, 40), torch.float32)
    start_s, end_s = (FRAMES - frames) / 2 / FPS, (FRAMES + frames) / 2 / FPS
    assert abs(tenth_heard(view[0, 0]) - int(10 * start_s)) <= 1
    assert abs(tenth_heard(view[0, -1]) - int(10 * end_s)) <= 1


@pytest.mark.parametrize("align", ["span", "start", "centre"])
@pytest.mark.parametrize("frames", [1, 8, 50])
def test_a_view_is_the_same_as_one_out_of_the_spectrogram_of_the_whole_sound(
    flac: bytes, align: Align, frames: int
) -> None:
    """Though only the sound that is seen is decoded. Bit for bit, but where BLAS adds up a few rows otherwise."""
    settings = config(video={"frames": frames}, audio={"align": align})
    whole = log_mel(torch.from_numpy(decode_sound(flac)))
    for first in range(FRAMES - frames + 1):
        span = span_frames(first / FPS, first / FPS + frames / FPS, len(whole))
        made, expected = audio_view(flac, ROW, settings, first)[0], align_frames(whole, 100, align, span)
        torch.testing.assert_close(made, expected, atol=1e-4 if frames == 1 else 0, rtol=0)


@pytest.mark.parametrize("samples", [1, 255, 256, 257, 415, 416, 16_000])
def test_a_view_of_little_sound_is_the_same_too(samples: int) -> None:
    pcm = (3000 * np.random.default_rng(samples).standard_normal(samples)).astype(np.int16)
    flac, row = encode_sound(pcm, RATE), ROW | {"samples": samples, "frames": max(1, samples * FPS // RATE)}
    whole = log_mel(torch.from_numpy(decode_sound(flac)))
    for align in ("span", "start", "centre"):
        made = audio_view(flac, row, config(audio={"align": align}), None)[0]
        span = span_frames(view_start(row["frames"], 8, None) / FPS, FRAMES, len(whole))
        if row["frames"] <= 8:
            assert torch.equal(made, align_frames(whole, 100, align, span))  # type: ignore[arg-type]
        assert made.shape == (100, 40)


MASKS = [("mask_frames", 30, 0), ("mask_mels", 12, 1)]


def silent(view: Tensor, axis: int) -> list[int]:
    """The frames (axis 0) or bands (axis 1) in which nothing is heard."""
    return (view[0].abs().sum(dim=1 - axis) == 0).nonzero().flatten().tolist()


@pytest.mark.parametrize(("name", "longest", "axis"), MASKS)
def test_a_mask_silences_one_stretch_of_a_training_view_and_touches_nothing_else(
    flac: bytes, name: str, longest: int, axis: int
) -> None:
    lengths, firsts = [], []
    for seed in SEEDS:
        plain = audio_view(flac, ROW, config(audio={"align": "span"}), drawn(seed))
        assert silent(plain, axis) == []
        masked = audio_view(flac, ROW, config(audio={"align": "span", name: longest}), drawn(seed))
        gone = silent(masked, axis)
        assert gone == list(range(gone[0], gone[0] + len(gone))) if gone else True
        lengths.append(len(gone))
        firsts += gone[:1]
        kept = [place for place in range(masked.shape[1 + axis]) if place not in gone]
        assert torch.equal(
            masked.index_select(1 + axis, torch.tensor(kept)), plain.index_select(1 + axis, torch.tensor(kept))
        )
    assert (min(lengths), max(lengths)) == (0, longest)
    assert len(set(lengths)) > longest / 2
    assert min(firsts) < 5
    assert max(firsts) > masked.shape[1 + axis] - longest


def test_both_masks_may_be_on_and_extraction_sees_neither(flac: bytes) -> None:
    settings = config(audio={"align": "span", "mask_frames": 30, "mask_mels": 12})
    masked = [audio_view(flac, ROW, settings, drawn(seed)) for seed in range(8)]
    assert any(silent(view, 0) and silent(view, 1) for view in masked)
    assert torch.equal(
        audio_view(flac, ROW, settings, None), audio_view(flac, ROW, config(audio={"align": "span"}), None)
    )


def test_a_mask_is_of_every_length_and_at_every_place_alike() -> None:
    rng, sound = drawn(0), torch.ones(6, 4)
    counts = np.zeros((4, 6), int)
    for _ in range(4000):
        gone = (mask_stretch(sound, 3, 0, rng).sum(dim=1) == 0).nonzero().flatten().tolist()
        counts[len(gone), gone[0] if gone else 0] += 1
    assert chisquare(counts.sum(axis=1)).pvalue > 0.01
    for length in (1, 2, 3):
        assert chisquare(counts[length, : 7 - length]).pvalue > 0.01
        assert not counts[length, 7 - length :].any()
    assert (sound == 1).all()


@pytest.mark.parametrize("longest", [-1, 5])
def test_a_mask_that_does_not_fit_is_refused(longest: int) -> None:
    with pytest.raises(ValueError, match=r"mask_stretch: a stretch of -?\d does not fit into 4 along axis 1"):
        mask_stretch(torch.ones(6, 4), longest, 1, drawn(0))
