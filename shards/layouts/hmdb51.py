"""HMDB51: 51 classes of human motion, 6,766 videos, three official splits."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from shards.datasets.dataset import Dataset, Role
from shards.datasets.files import find_files, find_lists, read_lines
from shards.datasets.listed import Listed, read_listed
from shards.reject import Reject

LAYOUT = (
    "<class>/*.avi, directly or in a folder, and the official lists <class>_test_split1.txt to "
    "<class>_test_split3.txt in testTrainMulti_7030_splits"
)
LISTS = (
    "testTrainMulti_7030_splits",
    "test_train_splits/testTrainMulti_7030_splits",
    "test_train_splits",
    "splits",
    ".",
)
SPLITS = ("1", "2", "3")
CODES: Mapping[str, Role | None] = {"0": None, "1": "train", "2": "test"}
_LIST = re.compile(r"(.+)_test_split([123])\.txt")


def read_hmdb51(root: Path) -> Dataset:
    """Read the 70/30 splits.

    Established from the official lists as torchvision and others read them: a line is `x.avi 0`, `1` or `2`, for not
    used in this split, train and test; 70 per class are for train and 30 for test.

    Raises:
        ConfigError: another layout, or lists that cannot be used (see read_listed).
    """
    lists = find_lists(root, LISTS, "*_test_split1.txt", LAYOUT)
    read = [lists] if lists != root else list(root.glob("*_test_split?.txt"))
    return read_listed("hmdb51", ("video",), find_files(root, read=read), _lines(lists), SPLITS, depth=2)


def _lines(lists: Path) -> Iterator[Listed | Reject]:
    labels = sorted({match[1] for path in lists.iterdir() if (match := _LIST.fullmatch(path.name))})
    for label in labels:
        for split in SPLITS:
            for where, text in read_lines(lists / f"{label}_test_split{split}.txt"):
                name, code = text.rsplit(maxsplit=1) if " " in text else (text, "")
                if code not in CODES:
                    yield Reject(text, "list", "bad_row", f"{where}: not of the form x.avi 0, x.avi 1 or x.avi 2")
                    continue
                role = CODES[code]
                yield Listed(f"{label}/{name}", label, {split: role} if role else {}, where)
