"""DCASE 2014: acoustic scenes of London, 10 classes of 10 recordings of 30 s, and as many for evaluation.

Papers on self-supervision call it DCASE2014. It is the data of the scene classification task of the IEEE AASP challenge
of 2013 (dcase.community/challenge2013): scenes_stereo.zip, for development, and scenes_stereo_testset.zip.
"""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from shards.datasets.dataset import Dataset, Role, Split, check_splits, make_dataset
from shards.datasets.files import find_files, read_lines, tail, without_suffix, wrong_root
from shards.datasets.folds import FOLDS, fold_splits
from shards.errors import ConfigError
from shards.reject import Reject
from shards.sources.source import Source

LAYOUT = "the folder scenes_stereo with bus01.wav and others, the folder scenes_stereo_testset, or both"
KEY = "dcase2013_task1_filenamekey.csv"
CLASSES = (
    "bus",
    "busystreet",
    "office",
    "openairmarket",
    "park",
    "quietstreet",
    "restaurant",
    "supermarket",
    "tube",
    "tubestation",
)
_FOLD = re.compile(r"fold\d", re.IGNORECASE)
_NAME = re.compile(r"(?P<test>test_)?(?P<label>[a-z]+)\d+", re.IGNORECASE)


def read_dcase2014(root: Path) -> Dataset:
    """Read the recordings; the class is the letters of a file's name (established: the data set's own description).

    A file in a folder with test or eval in its name, or with a name that begins with test_, is for evaluation.
    With both parts there is one split, `evaluation`: train on development, test on evaluation, as in public loaders
    for audio-visual self-supervision (unverified for XDC). With one part there are five folds. If the file
    dcase2013_task1_filenamekey.csv is beside the evaluation part, they are its folds, the challenge's own protocol
    (columns as two public readers interpret them, unverified: fold first, file name last). Otherwise no official
    division is known, and the files of every class are assigned to the folds in turn, by name (unverified, ours).

    Raises:
        ConfigError: another layout, or a split cannot be used (see check_splits).
    """
    key = next(iter(sorted([*root.glob(KEY), *root.glob(f"*/{KEY}")])), None)
    files = find_files(root, read=[key] if key else [])
    rejects = list(files.rejects)
    development: dict[str, str] = {}
    evaluation: dict[str, str] = {}
    taken: dict[tuple[bool, str], str] = {}
    for path in files.names:
        folder, _, name = path.lower().rpartition("/")
        stem = without_suffix(name)
        match = _NAME.fullmatch(stem)
        if match is None or match["label"] not in CLASSES:
            rejects.append(Reject(path, "list", "unlisted", "not named as in bus01.wav, after one of the ten classes"))
            continue
        held_back = bool(match["test"]) or _for_evaluation(folder)
        if (twin := taken.setdefault((held_back, stem), path)) != path:
            rejects.append(Reject(path, "list", "duplicate", f"{twin} has the same name and was used"))
            continue
        (evaluation if held_back else development)[path] = match["label"]
    if not evaluation and _for_evaluation(root.name):
        development, evaluation = evaluation, development
    labels = development | evaluation
    if not labels:
        raise wrong_root(root, "no recording named after one of the ten classes", LAYOUT)
    if development and evaluation:
        roles: dict[str, Role] = {path: "test" if path in evaluation else "train" for path in labels}
        splits = [Split("evaluation", roles)]
    else:
        splits = fold_splits(_official_folds(key, labels, rejects) if key and evaluation else _dealt(labels))
    sources = [Source(path, labels={"label": label}) for path, label in labels.items()]
    return check_splits(make_dataset("dcase2014", ("audio",), root, sources, rejects, splits))


def _for_evaluation(folder: str) -> bool:
    return "test" in folder.lower() or "eval" in folder.lower()


def _official_folds(key: Path, labels: Mapping[str, str], rejects: list[Reject]) -> dict[str, int]:
    """Return the fold of every path in the key file; other files are rejects and in no fold."""
    by_stem = {without_suffix(tail(path, 1)).removeprefix("test_"): path for path in labels}
    fold_of: dict[str, str] = {}
    for number, (where, text) in enumerate(read_lines(key)):
        row = [cell.strip() for cell in next(csv.reader([text]))]
        fold, path = _FOLD.match(row[0]), by_stem.get(without_suffix(tail(row[-1], 1)))
        if fold and path:
            fold_of[path] = fold[0].lower()
        elif fold:
            rejects.append(Reject(row[-1], "list", "missing", f"{where} names it, but there is no such file"))
        elif number > 0:  # The first may be a header.
            rejects.append(Reject(text, "list", "bad_row", f"{where}: it does not begin with a fold such as fold1"))
    names = sorted(set(fold_of.values()))
    if len(names) != len(FOLDS):
        raise ConfigError(
            f"{key}: {len(FOLDS)} folds were expected, of which there are files for {', '.join(names) or 'none'}."
        )
    unnamed = sorted(set(labels) - set(fold_of))
    rejects += [Reject(path, "list", "unlisted", f"{key.name} does not name it: it is in no fold") for path in unnamed]
    return {path: 1 + names.index(fold) for path, fold in fold_of.items()}


def _dealt(labels: Mapping[str, str]) -> dict[str, int]:
    """Return the folds of the files: those of every class in turn, by name."""
    folds: dict[str, int] = {}
    for label in sorted(set(labels.values())):
        for place, path in enumerate(sorted(path for path in labels if labels[path] == label)):
            folds[path] = FOLDS[place % len(FOLDS)]
    return folds
