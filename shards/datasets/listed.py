"""Data sets whose official lists name the files of every split."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shards.datasets.dataset import Dataset, Role, Split, check_splits, make_dataset
from shards.datasets.files import Files, index_files, look_up, tail, unlisted, without_suffix
from shards.errors import ConfigError
from shards.reject import Reject
from shards.sources.source import Source


@dataclass(frozen=True)
class Listed:
    """A line of a list: its file, class, and role by split (empty: in none). `where` names the line in messages."""

    name: str
    label: str
    roles: Mapping[str, Role]
    where: str


def read_listed(
    name: str,
    modalities: tuple[str, ...],
    files: Files,
    lines: Iterable[Listed | Reject],
    splits: Sequence[str],
    depth: int,
) -> Dataset:
    """Match lists and files by the last `depth` parts of their paths, and return the data set.

    Raises:
        ConfigError: lists contradict each other, no listed file exists, or a split cannot be used (check_splits).
    """
    index = index_files(files.names, depth)
    labels: dict[str, str] = {}
    roles: dict[str, dict[str, Role]] = {split: {} for split in splits}
    missing: set[str] = set()
    rejects: list[Reject] = []
    for line in lines:
        if isinstance(line, Reject):
            rejects.append(line)
            continue
        path = look_up(index, line.name, depth)
        if path is None:
            if line.name not in missing:
                rejects.append(
                    Reject(line.name, "list", "missing", f"{line.where} names it, but there is no such file")
                )
            missing.add(line.name)
            continue
        if labels.setdefault(path, line.label) != line.label:
            raise ConfigError(
                f"{files.root}: {line.where}: {path} is of class {line.label}, but an earlier line says "
                f"{labels[path]}. Correct the list."
            )
        if any(path in roles[split] for split in line.roles):
            rejects.append(Reject(path, "list", "duplicate", f"{line.where} names it a second time"))
        for split, role in line.roles.items():
            earlier = roles[split].setdefault(path, role)
            if earlier != role:
                raise ConfigError(
                    f"{files.root}: {line.where}: {path} is for {role} in split {split}, but an earlier line says "
                    f"for {earlier}. Correct the list."
                )
    rejects += [*unlisted(files, labels, lambda path: without_suffix(tail(path, depth))), *files.rejects]
    sources = [Source(path, labels={"label": label}) for path, label in labels.items()]
    return check_splits(
        make_dataset(name, modalities, files.root, sources, rejects, [Split(split, roles[split]) for split in splits])
    )
