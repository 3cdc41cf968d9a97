"""AudioSet: sounds of 527 classes, several at a time, in 10 s of YouTube videos."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from shards.datasets.dataset import Dataset, Role
from shards.datasets.files import find_files, read_lines, wrong_root
from shards.datasets.segments import Segment, read_segments, segment_of
from shards.errors import ConfigError
from shards.reject import Reject
from shards.sources.table import read_table

LAYOUT = (
    "balanced_train_segments.csv, unbalanced_train_segments.csv or eval_segments.csv, class_labels_indices.csv for the "
    "names of the classes, and files such as <id>_<start>_<end>.mp4, Y<id>.wav or <id>.mp4, in any folder"
)
LISTS: Mapping[str, Role] = {
    "balanced_train_segments.csv": "train",
    "unbalanced_train_segments.csv": "train",
    "eval_segments.csv": "test",
}
NAMES = "class_labels_indices.csv"


def read_audioset(root: Path) -> Dataset:
    """Read the lists in the root or one folder below: YTID, start_seconds, end_seconds, positive_labels.

    A segment has several labels: `label` is the first in the list, `label_all` all of them joined by ";". They are
    names if class_labels_indices.csv exists, else identifiers such as /m/03v3yw. There is one split, `1`: both train
    lists are for training, the evaluation list is for test.

    `<id>.mp4` counts as the whole video. If such files contain only the segment, rename them `<id>_<start>_<end>`.

    Raises:
        ConfigError: another layout, a row of class_labels_indices.csv that cannot be read, or no segment exists (see
            read_segments).
    """
    lists = {
        path: LISTS[path.name] for pattern in ("*.csv", "*/*.csv") for path in root.glob(pattern) if path.name in LISTS
    }
    if not lists:
        raise wrong_root(root, f"no {', '.join(LISTS)}", LAYOUT)
    names = [*root.glob(NAMES), *root.glob(f"*/{NAMES}")]
    files = find_files(root, read=[*lists, *names])
    return read_segments("audioset", files, _rows(dict(sorted(lists.items())), _class_names(names)))


def _class_names(paths: list[Path]) -> dict[str, str]:
    names = {}
    for path in sorted(paths)[:1]:
        for row in read_table(path).rows:
            if row.problem:
                raise ConfigError(f"{path}: {row.where}: {row.problem}.")
            names[str(row.values.get("mid")).strip()] = str(row.values.get("display_name")).strip()
    return names


def _rows(lists: Mapping[Path, Role], names: Mapping[str, str]) -> Iterator[Segment | Reject]:
    for path, role in lists.items():
        for where, text in read_lines(path):
            if text.startswith("#"):
                continue
            row = [cell.strip() for cell in next(csv.reader([text], skipinitialspace=True))]
            if len(row) != 4:
                yield Reject(text, "list", "bad_row", f'{where}: not of the form id, start, end, "labels"')
                continue
            video, start, end, positive = row
            classes = [label for label in positive.split(",") if label]
            unknown = [label for label in classes if label not in names]
            if names and unknown:
                yield Reject(video, "list", "bad_row", f"{where}: the class {unknown[0]} is not in {NAMES}")
                continue
            all_names = [names.get(label, label) for label in classes]
            labels = {"label": all_names[0], "label_all": ";".join(all_names)} if classes else {}
            yield segment_of(video, start, end, role, labels, where)
