"""A CSV or Parquet table of files, classes and splits."""

from pathlib import Path

from shards.datasets.dataset import Dataset, Role, Split, check_splits, make_dataset, role_of
from shards.datasets.files import certain_modalities
from shards.errors import ConfigError
from shards.reject import Reject
from shards.settings import is_url
from shards.sources.manifest import list_rows
from shards.sources.source_path import SourcePaths
from shards.sources.table import Table, read_table, text_of


def read_split_manifest(path: Path) -> Dataset:
    """Read the columns path, label, and split, or split_1, split_2 ... for several splits; start_s, end_s, label_... .

    Paths are relative to the table. A split's column contains train, validation, test, or nothing (not used in this
    split). The column split is the split `1`, split_x the split `x`. Without such a column there is one split, `all`,
    in which everything is for training; evaluations divide it. Files that the table does not name are ignored.

    Raises:
        ConfigError: no such table, a table that cannot be read or contradicts itself (see list_rows), no column path
            or label, a word that is not a role, a file with two roles in one split, or a split that cannot be used
            (see check_splits).
    """
    if not path.is_file():
        raise ConfigError(f"{path} is not a file. Give the CSV or Parquet table itself.")
    table = read_table(path)
    columns = table.columns
    splits = {column: column.removeprefix("split_") for column in columns if column.startswith("split_")}
    listing = list_rows(path, table, passed_over=list(splits))
    if "label" not in columns:
        raise ConfigError(f"{path}: no column 'label'; its columns are {', '.join(columns)}.")
    if "split" in columns and splits:
        raise ConfigError(f"{path}: there is a column split and columns split_...: rename the first one split_1.")
    if "split" in columns:
        splits = {"split": "1"}
    sources, rejects = [], list(listing.rejects)
    for source in listing.sources:
        if "label" not in source.labels:
            rejects.append(
                Reject(source.path, "list", "unlisted", "it has no label", start_s=source.start_s, end_s=source.end_s)
            )
        elif not is_url(source.path) and not (listing.root / source.path).is_file():
            rejects.append(Reject(source.path, "list", "missing", "there is no such file"))
        else:
            sources.append(source)
    used = {source.path for source in sources}
    official = [Split(name, _roles(path, table, column, used)) for column, name in splits.items()]
    everything = [Split("all", dict.fromkeys(sorted(used), "train"))]
    dataset = make_dataset("manifest", certain_modalities(used), listing.root, sources, rejects, official or everything)
    return check_splits(dataset) if official else dataset


def _roles(path: Path, table: Table, column: str, used: set[str]) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    paths = SourcePaths(path.parent)
    for row in table.rows:
        name, word = (text_of(row.values[cell]).strip() for cell in ("path", column))
        if row.problem or not name or not word or (name := paths.stored(name)) not in used:
            continue
        role = role_of(word)
        if role is None:
            raise ConfigError(
                f"{path}: {row.where}: {column} is {word!r}. Allowed: train, validation, test, or nothing."
            )
        if roles.setdefault(name, role) != role:
            raise ConfigError(
                f"{path}: {row.where}: {column} of {name} is {role}, but an earlier row says {roles[name]}. "
                "All parts of a file have the same role."
            )
    return roles
