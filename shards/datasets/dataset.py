"""A labelled data set: its files, their classes, and their roles (training, validation, test) in every split."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from shards.errors import ConfigError
from shards.reject import Reject
from shards.sources.source import Source

Role = Literal["train", "validation", "test"]
WORDS: Mapping[str, Role] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Split:
    """One official division of a data set into training and test, or one fold.

    `roles` maps paths, relative to the data set's root, to roles. Other files are not used in this split.
    """

    name: str
    roles: Mapping[str, Role]


@dataclass(frozen=True)
class Dataset:
    """The contents of a data set. Every source of a split has its class as the label `label`.

    `modalities` are those that the files certainly have. `rejects` are unusable inputs with the reason: listed files
    that do not exist, files that no list names, invalid lines. A source's `split` is its role if there is one split,
    and empty if there are several.
    """

    name: str
    modalities: tuple[str, ...]
    root: Path
    sources: tuple[Source, ...]
    rejects: tuple[Reject, ...]
    splits: tuple[Split, ...]
    classes: tuple[str, ...]


def role_of(word: str) -> Role | None:
    """Return the role (train, validation or test) that a word in a list or a folder's name means."""
    return WORDS.get(word.strip().lower())


def make_dataset(
    name: str,
    modalities: tuple[str, ...],
    root: Path,
    sources: Iterable[Source],
    rejects: Sequence[Reject],
    splits: Sequence[Split],
) -> Dataset:
    """Make a data set with sources sorted by path and sorted classes.

    Raises:
        ConfigError: there are no sources.
    """
    ordered = sorted(sources, key=lambda source: (source.path, source.start_s or 0.0))
    if not ordered:
        raise ConfigError(
            f"{root} holds no file that can be used as the layout {name} has it. {_first_reject(rejects)}"
        )
    if len(splits) == 1:
        ordered = [replace(source, split=splits[0].roles.get(source.path, "")) for source in ordered]
    classes = sorted({source.labels["label"] for source in ordered if "label" in source.labels})
    return Dataset(name, modalities, root, tuple(ordered), tuple(rejects), tuple(splits), tuple(classes))


def check_splits(dataset: Dataset) -> Dataset:
    """Return the data set unchanged if every split can be used for training and testing.

    Raises:
        ConfigError: a split has no training item, or neither test nor validation items, or a test item of a class
            without training items.
    """
    labels_of: dict[str, set[str]] = {}
    for source in dataset.sources:
        labels_of.setdefault(source.path, set()).add(source.labels["label"])
    for split in dataset.splits:
        classes: dict[str, set[str]] = {"train": set(), "validation": set(), "test": set()}
        for path, role in split.roles.items():
            classes[role] |= labels_of[path]
        for role, items in (("train", classes["train"]), ("test", classes["test"] | classes["validation"])):
            if not items:
                raise ConfigError(
                    f"{dataset.root}: split {split.name} of {dataset.name} has no {role} item. "
                    f"{_first_reject(dataset.rejects)}"
                )
        unseen = sorted((classes["validation"] | classes["test"]) - classes["train"])
        if unseen:
            raise ConfigError(
                f"{dataset.root}: split {split.name} of {dataset.name} tests {len(unseen)} of "
                f"{len(dataset.classes)} classes of which it has no training item ({', '.join(unseen[:3])}"
                f"{', ...' if len(unseen) > 3 else ''}). {_first_reject(dataset.rejects)}"
            )
    return dataset


def _first_reject(rejects: Sequence[Reject]) -> str:
    if not rejects:
        return "No input was rejected: the lists themselves are incomplete."
    return f"{len(rejects)} inputs were rejected, the first: {rejects[0].source}: {rejects[0].reason}."
