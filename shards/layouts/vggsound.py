"""VGGSound: 309 classes of sounds whose source is seen, in 10 s of YouTube videos."""

import csv
from collections.abc import Iterator
from pathlib import Path

from shards.datasets.dataset import Dataset, role_of
from shards.datasets.files import find_files, read_lines, wrong_root
from shards.datasets.segments import Segment, read_segments, segment_of
from shards.reject import Reject

LIST = "vggsound.csv"
LAYOUT = f"{LIST}, directly or in a folder, and videos <id>_<start>.mp4 with six digits of seconds, or <id>.mp4"
SECONDS = 10


def read_vggsound(root: Path) -> Dataset:
    """Read the list in the root or one folder below: id, start in seconds, label, train or test; no header.

    A segment lasts 10 s. The only split is `1`.

    Raises:
        ConfigError: another layout, or no segment exists (see read_segments).
    """
    lists = sorted([*root.glob(LIST), *root.glob(f"*/{LIST}")])[:1]
    if not lists:
        raise wrong_root(root, f"no {LIST}", LAYOUT)
    return read_segments("vggsound", find_files(root, read=lists), _rows(lists[0]))


def _rows(path: Path) -> Iterator[Segment | Reject]:
    for where, text in read_lines(path):
        row = [cell.strip() for cell in next(csv.reader([text], skipinitialspace=True))]
        if len(row) != 4 or not row[2]:
            yield Reject(
                row[0] or where, "list", "bad_row", f"{where}: not of the form id, start, label, train or test"
            )
            continue
        video, start, label, role = row
        try:
            end = f"{float(start) + SECONDS:g}"
        except ValueError:
            end = ""
        yield segment_of(video, start, end, role_of(role), {"label": label}, where)
