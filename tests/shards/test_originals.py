"""Which recordings are cut from one original, by their file names."""

import pytest

from shards.datasets.originals import NAMES, original_of
from shards.layouts.registry import LAYOUTS


@pytest.mark.parametrize(
    ("layout", "one", "same", "others"),
    [
        (
            "ucf101",
            "UCF-101/HandstandPushups/v_HandStandPushups_g07_c01.avi",
            "HandstandPushups/v_HandstandPushups_g07_c04.mp4",
            ["Archery/v_Archery_g07_c01.avi", "HandstandPushups/v_HandStandPushups_g08_c01.avi"],
        ),
        (
            "esc50",
            "audio/1-100032-A-0.wav",
            "audio/1-100032-B-31.wav",
            ["audio/1-100033-A-0.wav", "audio/1-10003-A-0.wav"],
        ),
        ("esc10", "001 - Dog bark/1-100032-A.ogg", "002 - Rain/1-100032-B.ogg", ["001 - Dog bark/1-30226-A.ogg"]),
    ],
)
def test_a_name_tells_the_original(layout: str, one: str, same: str, others: list[str]) -> None:
    assert original_of(layout, one) is not None
    assert original_of(layout, one) == original_of(layout, same)
    assert original_of(layout, one) not in [original_of(layout, other) for other in others]
    assert None not in [original_of(layout, other) for other in others]


def test_other_names_and_other_layouts_tell_of_none() -> None:
    assert original_of("ucf101", "Archery/1-100032-A.avi") is None
    assert original_of("esc50", "audio/dog.wav") is None
    assert original_of("folder", "Archery/v_Archery_g07_c01.avi") is None
    assert original_of(None, "v_Archery_g07_c01.avi") is None
    assert NAMES.keys() <= LAYOUTS.keys()
