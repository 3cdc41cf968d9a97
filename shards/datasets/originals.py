"""The original from which a recording is cut, for data sets whose file names contain it."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

# By layout. UCF101: v_Archery_g07_c02 is a clip of group 7 of its class (one video, or several of one scene). ESC-50
# and its subset: 1-100032-A-0 is take A of the recording 100032, as in the column src_file of the official table. GRID:
# the words of one sentence, by all talkers.
NAMES: Mapping[str, re.Pattern[str]] = {
    "ucf101": re.compile(r"(?P<original>v_.+_g\d+)_c\d+", re.IGNORECASE),
    "esc50": re.compile(r"\d+-(?P<original>[^-]+)-.+"),
    "esc10": re.compile(r"\d+-(?P<original>[^-]+)-.+"),
    "grid": re.compile(r"(?P<original>.+)"),
}


def original_of(layout: str | None, path: str) -> str | None:
    """Return the name of the original of a file; None if its layout or its name has none."""
    pattern = NAMES.get(layout or "")
    match = pattern.fullmatch(PurePosixPath(path).stem) if pattern else None
    return match["original"].casefold() if match else None
