import math

import numpy as np
import pytest
import torch
from torch import Tensor

from xdc_core.modalities.logmel import align_frames, log_mel, span_frames


def ramp(frames: int, mels: int = 3) -> Tensor:
    """Frame i holds i + 1, so that 0 means silence; bands differ by 1000."""
    return torch.arange(1.0, frames + 1)[:, None] + 1000 * torch.arange(mels)


@pytest.mark.parametrize("mode", ["span", "start", "centre"])
def test_100_frames_stay_as_they_are(mode: str) -> None:
    assert torch.equal(align_frames(ramp(100), mode=mode), ramp(100))


def test_span_reads_between_frames_and_not_beyond_the_ends() -> None:
    assert align_frames(ramp(2), frames=4)[:, 0].tolist() == [1.0, 1.25, 1.75, 2.0]
    assert align_frames(ramp(8), frames=4)[:, 0].tolist() == [1.5, 3.5, 5.5, 7.5]
    assert align_frames(ramp(9), frames=3)[:, 0].tolist() == [2.0, 5.0, 8.0]
    assert align_frames(ramp(1), frames=3)[:, 1].tolist() == [1001.0] * 3


def test_span_reads_nothing_outside_the_span() -> None:
    made = align_frames(ramp(50), frames=4, span=(10, 12))
    assert made[:, 0].tolist() == [11.0, 11.25, 11.75, 12.0]


def test_span_is_the_same_as_a_half_pixel_resize() -> None:
    seconds = np.arange(6000) / 16000
    rows = log_mel(torch.from_numpy(np.sin(2 * np.pi * (100 + 3900 * seconds) * seconds)).float())
    expected = torch.nn.functional.interpolate(rows.T[None], size=100, mode="linear", align_corners=False)[0].T
    torch.testing.assert_close(align_frames(rows), expected, atol=1e-4, rtol=0)


def test_start_takes_frames_from_the_start_of_the_span_and_goes_on_with_silence() -> None:
    assert torch.equal(align_frames(ramp(300), mode="start", span=(7, 9)), ramp(300)[7:107])
    late = align_frames(ramp(120), mode="start", span=(50, 60))
    assert torch.equal(late[:70], ramp(120)[50:])
    assert late.shape == (100, 3)
    assert not late[70:].any()


def test_centre_takes_the_frames_around_the_middle_of_the_span() -> None:
    assert torch.equal(align_frames(ramp(300), mode="centre"), ramp(300)[100:200])
    assert torch.equal(align_frames(ramp(300), mode="centre", span=(140, 161)), ramp(300)[100:200])
    assert torch.equal(align_frames(ramp(300), mode="centre", span=(0, 26)), ramp(300)[:100])
    late = align_frames(ramp(300), mode="centre", span=(290, 300))
    assert torch.equal(late[:55], ramp(300)[245:])
    assert not late[55:].any()


@pytest.mark.parametrize("mode", ["span", "start", "centre"])
def test_a_batch_is_aligned_like_each_of_its_spectrograms(mode: str) -> None:
    batch = torch.stack([ramp(60), 2 * ramp(60)])
    made = align_frames(batch, mode=mode, span=(5, 31))
    assert made.shape == (2, 100, 3)
    assert made.dtype == torch.float32
    assert torch.equal(made[1], align_frames(batch[1], mode=mode, span=(5, 31)))


@pytest.mark.parametrize(
    ("span", "frames", "mode"),
    [
        ((3, 3), 100, "span"),
        ((-1, 3), 100, "start"),
        ((0, 11), 100, "span"),
        ((5, 4), 100, "centre"),
        (None, 0, "span"),
        (None, 100, "center"),
    ],
)
def test_what_cannot_be_aligned_is_refused(span: tuple[int, int] | None, frames: int, mode: str) -> None:
    with pytest.raises(ValueError, match="align_frames"):
        align_frames(ramp(10), frames, mode, span)


@pytest.mark.parametrize(
    ("start_s", "end_s", "frames", "expected"),
    [
        (0.0, 1.0, 99, (0, 99)),
        (0.29, 0.57, 99, (29, 57)),
        (0.295, 0.571, 99, (29, 58)),
        (0.1, 0.1001, 99, (10, 11)),
        (2.0, 3.0, 99, (98, 99)),
        (0.0, 8 / 30, 99, (0, 27)),
        (0.5, 1e9, 99, (50, 99)),
    ],
)
def test_seconds_become_the_frames_around_them(
    start_s: float, end_s: float, frames: int, expected: tuple[int, int]
) -> None:
    assert span_frames(start_s, end_s, frames) == expected


@pytest.mark.parametrize(
    ("start_s", "end_s", "frames"), [(1.0, 1.0, 9), (-0.1, 1.0, 9), (0.0, 1.0, 0), (0.0, math.nan, 9)]
)
def test_an_empty_stretch_of_time_is_refused(start_s: float, end_s: float, frames: int) -> None:
    with pytest.raises(ValueError, match="span_frames"):
        span_frames(start_s, end_s, frames)
