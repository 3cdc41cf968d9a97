"""Kinetics-400, -600 and -700: human actions in 10 s of YouTube videos."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from shards.datasets.dataset import Dataset, role_of
from shards.datasets.files import find_files, wrong_root
from shards.datasets.segments import Segment, read_segments, segment_of
from shards.errors import ConfigError
from shards.reject import Reject
from shards.sources.table import read_table, text_of

LAYOUT = (
    "train.csv, validate.csv or test.csv (columns label, youtube_id, time_start, time_end, split), and videos "
    "<id>_<start>_<end>.mp4 with six digits of seconds, or <id>.mp4, in any folder"
)
COLUMNS = ("youtube_id", "time_start", "time_end")
_LIST = re.compile(r"(?:.*[-_ ])?(train|val|valid|validate|validation|test)\.csv", re.IGNORECASE)


def read_kinetics(root: Path) -> Dataset:
    """Read the lists in the root or one folder below. The only split, `1`, follows their column `split`.

    Without that column, or for rows where it is empty, the list's name gives the role. Rows without a label, as in the
    test list of the challenge, are sources in no split.

    Raises:
        ConfigError: another layout, or no segment exists (see read_segments).
    """
    lists = sorted(path for path in [*root.glob("*.csv"), *root.glob("*/*.csv")] if _LIST.fullmatch(path.name))
    if not lists:
        raise wrong_root(root, "no train.csv, validate.csv or test.csv", LAYOUT)
    return read_segments("kinetics", find_files(root, read=lists), _rows(lists))


def _rows(lists: Sequence[Path]) -> Iterator[Segment | Reject]:
    for path in lists:
        table = read_table(path)
        if lacking := [column for column in COLUMNS if column not in table.columns]:
            raise ConfigError(f"{path}: no column {', '.join(lacking)}; its columns are {', '.join(table.columns)}.")
        match = _LIST.fullmatch(path.name)
        assert match is not None
        for row in table.rows:
            where = f"{path.name}, {row.where}"
            video, start, end, label, split = (
                text_of(row.values.get(column)).strip() for column in (*COLUMNS, "label", "split")
            )
            if row.problem:
                yield Reject(video or where, "list", "bad_row", f"{where}: {row.problem}")
                continue
            labels = {"label": label} if label else {}
            yield segment_of(video, start, end, role_of(split or match[1]), labels, where)
