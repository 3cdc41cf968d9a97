"""UCF101: 101 classes of human action, 13,320 videos, three official splits."""

import re
from collections.abc import Iterator
from pathlib import Path

from shards.datasets.dataset import Dataset
from shards.datasets.files import find_files, find_lists, read_lines
from shards.datasets.listed import Listed, read_listed
from shards.reject import Reject

LAYOUT = (
    "<Class>/v_*.avi, directly or in a folder such as UCF-101, and the official lists "
    "trainlist01.txt to testlist03.txt in ucfTrainTestlist"
)
LISTS = ("ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist", "splits", ".")
SPLITS = ("1", "2", "3")
_LINE = re.compile(r"(?P<name>(?P<label>[^/]+)/\S+)(?:\s+(?P<number>\d+))?")


def read_ucf101(root: Path) -> Dataset:
    """Read the lists of the action recognition task.

    Established from the official lists as torchvision and others read them: a line of a train list is
    `Class/v_x.avi 1`, of a test list `Class/v_x.avi`; classInd.txt, if it exists, numbers the classes. The class
    HandstandPushups has files named v_HandStandPushups, so names are compared without regard to case.

    Raises:
        ConfigError: another layout, or lists that cannot be used (see read_listed).
    """
    lists = find_lists(root, LISTS, "trainlist01.txt", LAYOUT)
    read = [lists] if lists != root else [*root.glob("*list0?.txt"), root / "classInd.txt"]
    return read_listed("ucf101", ("video",), find_files(root, read=read), _lines(lists), SPLITS, depth=2)


def _lines(lists: Path) -> Iterator[Listed | Reject]:
    classes = _classes(lists / "classInd.txt")
    for split in SPLITS:
        for role in ("train", "test"):
            for where, text in read_lines(lists / f"{role}list0{split}.txt"):
                match = _LINE.fullmatch(text)
                if match is None:
                    yield Reject(text, "list", "bad_row", f"{where}: not of the form Class/v_x.avi or Class/v_x.avi 1")
                    continue
                number, label = classes.get(match["label"].casefold(), ("", match["label"]))
                if classes and not number:
                    yield Reject(match["name"], "list", "bad_row", f"{where}: the class {label} is not in classInd.txt")
                elif number and match["number"] not in (None, number):
                    reason = f"{where}: class number {match['number']}, but in classInd.txt {label} has {number}"
                    yield Reject(match["name"], "list", "bad_row", reason)
                else:
                    yield Listed(match["name"], label, {split: role}, where)


def _classes(path: Path) -> dict[str, tuple[str, str]]:
    """Return number and name of every class, by its name in lower case; None if the file does not exist."""
    if not path.exists():
        return {}
    pairs = (text.split(maxsplit=1) for _, text in read_lines(path))
    return {pair[1].casefold(): (pair[0], pair[1]) for pair in pairs if len(pair) == 2}
