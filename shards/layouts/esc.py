"""ESC-50 and ESC-10: environmental sounds of 5 s, 40 of every class, in five official folds."""

import re
from collections.abc import Iterator
from pathlib import Path

from shards.datasets.dataset import Dataset, check_splits, make_dataset
from shards.datasets.files import Files, find_files, wrong_root
from shards.datasets.folds import FOLDS, fold_roles, fold_splits
from shards.datasets.listed import Listed, read_listed
from shards.errors import ConfigError
from shards.reject import Reject
from shards.sources.source import Source
from shards.sources.table import Row, read_table, text_of

TABLE = "meta/esc50.csv"
LAYOUT = f"{TABLE} and audio/*.wav, or the older layout: folders such as '001 - Dog bark' with files such as 1-1-A.ogg"
COLUMNS = ("filename", "fold", "category", "esc10")
_FILE = re.compile(r"(?:.*/)?\d+ - (?P<label>[^/]+)/(?P<fold>\d+)-[^/]+")


def read_esc50(root: Path) -> Dataset:
    """Read the 50 classes from the table of the repository karolpiczak/ESC-50 or from the older layout of folders.

    Split fold-k tests on fold k and trains on the other four, as in the data set's own description.

    Raises:
        ConfigError: another layout, or lists that cannot be used (see read_listed).
    """
    return _read_table(root, "esc50") if (root / TABLE).is_file() else _read_folders(root, "esc50")


def read_esc10(root: Path) -> Dataset:
    """Read the 10 classes: those marked esc10 in the table of ESC-50, or all folders of the older layout.

    Raises:
        ConfigError: as for read_esc50.
    """
    return _read_table(root, "esc10") if (root / TABLE).is_file() else _read_folders(root, "esc10")


def _read_table(root: Path, name: str) -> Dataset:
    table = read_table(root / TABLE)
    if lacking := [column for column in COLUMNS if column not in table.columns]:
        raise ConfigError(
            f"{root / TABLE}: no column {', '.join(lacking)}; its columns are {', '.join(table.columns)}."
        )
    if not (root / "audio").is_dir():
        raise wrong_root(root, "no folder audio", LAYOUT)
    files = find_files(root, below="audio")
    if name == "esc10":
        others = {f"audio/{row.values['filename']}" for row in table.rows if not row.problem and not _is_esc10(row)}
        rejects = (
            Reject(path, "list", "unlisted", f"{TABLE} says that it is not of ESC-10")
            for path in files.names
            if path in others
        )
        files = Files(root, tuple(path for path in files.names if path not in others), (*files.rejects, *rejects))

    def lines() -> Iterator[Listed | Reject]:
        for row in table.rows:
            where = f"{TABLE}, {row.where}"
            file, fold, label = (text_of(row.values[column]).strip() for column in COLUMNS[:3])
            if row.problem:
                yield Reject(file or row.where, "list", "bad_row", f"{where}: {row.problem}")
                continue
            if name == "esc10" and not _is_esc10(row):
                continue
            if not file or not label or fold not in map(str, FOLDS):
                reason = f"{where}: a file name, a category and a fold from 1 to 5 are needed (the fold is {fold!r})"
                yield Reject(file or row.where, "list", "bad_row", reason)
                continue
            yield Listed(file, label, fold_roles(int(fold)), where)

    return read_listed(name, ("audio",), files, lines(), list(fold_roles(1)), depth=1)


def _is_esc10(row: Row) -> bool:
    return str(row.values["esc10"]).strip().lower() == "true"


def _read_folders(root: Path, name: str) -> Dataset:
    """Read the layout of the first publication: the folder's name is the class, a file name's first number the fold."""
    files = find_files(root)
    sources, rejects, folds = [], list(files.rejects), {}
    for path in files.names:
        match = _FILE.fullmatch(path)
        if match is None or int(match["fold"]) not in FOLDS:
            rejects.append(
                Reject(path, "list", "unlisted", "not named as in '001 - Dog bark/1-1-A.ogg', with a fold from 1 to 5")
            )
            continue
        sources.append(Source(path, labels={"label": match["label"]}))
        folds[path] = int(match["fold"])
    if not sources:
        raise wrong_root(root, f"neither {TABLE} nor sound files in numbered folders", LAYOUT)
    dataset = make_dataset(name, ("audio",), root, sources, rejects, fold_splits(folds))
    if name == "esc10" and len(dataset.classes) > 10:
        raise ConfigError(f"{root}: {len(dataset.classes)} classes, but ESC-10 has 10. For ESC-50 the layout is esc50.")
    return check_splits(dataset)
