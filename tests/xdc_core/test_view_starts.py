"""Views of a recording are equally spaced, whatever clips it is stored in."""

import pytest

from xdc_core.data.view_starts import spaced_starts


def test_the_first_view_starts_with_the_recording_and_the_last_ends_with_it() -> None:
    assert spaced_starts([100], 10, 10) == [(0, start) for start in range(0, 91, 10)]


def test_a_single_view_lies_in_the_middle() -> None:
    assert spaced_starts([21], 5, 1) == [(0, 8)]


def test_views_are_spread_over_all_clips_of_a_recording() -> None:
    places = spaced_starts([40, 40, 20], 10, 10)
    assert places == [(0, 0), (0, 10), (0, 20), (0, 30), (1, 0), (1, 10), (1, 20), (1, 30), (2, 0), (2, 10)]


def test_no_view_reaches_over_the_end_of_its_clip() -> None:
    for clip, first in spaced_starts([15, 15, 15], 10, 30):
        assert 0 <= first <= 5
        assert clip in (0, 1, 2)


@pytest.mark.parametrize("frames", [[3], [3, 2], [1]])
def test_of_clips_shorter_than_a_view_all_is_taken(frames: list[int]) -> None:
    places = spaced_starts(frames, 8, 4)
    assert len(places) == 4
    assert all(first == 0 for _, first in places)
