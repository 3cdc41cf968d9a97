"""Labelled features for training or for the test."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from shards.errors import ConfigError, StageError


@dataclass(frozen=True)
class Examples:
    """Features of views of labelled recordings, one row per view.

    features: float32 [n, width]. labels: int64 [n], from 0. groups: int64 [n], the number of the view's recording, the
    same in training and test. originals: int64 [n], the number of the original that the view's recording was cut from:
    the recordings of one original are held out together. None: every recording is its own original.

    Raises:
        StageError: features that are not finite, an unknown label (below 0), or a recording with two labels.
        ValueError: arrays whose shapes do not match.
    """

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    originals: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.features)
        if self.features.ndim != 2 or self.labels.shape != (count,) or self.groups.shape != (count,):
            shapes = self.features.shape, self.labels.shape, self.groups.shape
            raise ValueError(f"features, labels and groups have the shapes {shapes}, not [n, width], [n] and [n]")
        if self.originals is not None and self.originals.shape != (count,):
            raise ValueError(f"originals have the shape {self.originals.shape}, not [{count}]")
        bad = np.flatnonzero(~np.isfinite(self.features).all(axis=1))
        if len(bad):
            raise StageError(
                f"{len(bad)} of {count} features have numbers that are not finite; the first belongs to recording "
                f"{self.groups[bad[0]]}. The encoder has diverged: lower train.lr and run its training again."
            )
        unknown = np.flatnonzero(self.labels < 0)
        if len(unknown):
            raise StageError(
                f"{len(unknown)} of {count} examples have no label; the first belongs to recording "
                f"{self.groups[unknown[0]]}. Leave out what is not labelled, or label it."
            )
        groups, labels = self.recordings()
        twice = groups[1:][groups[1:] == groups[:-1]]
        if len(twice):
            first = labels[groups == twice[0]].tolist()
            raise StageError(
                f"{len(np.unique(twice))} recordings have more than one label; the first is recording {twice[0]} with "
                f"the labels {first}. All views of a recording have one label: correct the list of labels."
            )

    def __len__(self) -> int:
        return len(self.features)

    def recordings(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the recordings, int64 [recordings], in ascending order, and their labels."""
        pairs = np.unique(np.stack([self.groups, self.labels], axis=1), axis=0)
        return pairs[:, 0], pairs[:, 1]

    def where(self, mask: np.ndarray) -> Self:
        """Return the rows for which the mask, bool [n], is true."""
        originals = None if self.originals is None else self.originals[mask]
        return type(self)(self.features[mask], self.labels[mask], self.groups[mask], originals)


def check_split(train: Examples, test: Examples, classes: int) -> tuple[str, ...]:
    """Return warnings about a division into training and test examples of `classes` classes; empty without any.

    Raises:
        ConfigError: fewer than two classes in training, or no test example.
        StageError: a recording is in both.
        ValueError: features of two widths, or a label of `classes` or more.
    """
    if train.features.shape[1] != test.features.shape[1]:
        raise ValueError(f"features are {train.features.shape[1]} wide in training, {test.features.shape[1]} in test")
    largest = max(train.labels.max(initial=-1), test.labels.max(initial=-1))
    if largest >= classes:
        raise ValueError(f"there is a label {largest}, but the {classes} classes go from 0 to {classes - 1}")
    trained, tested = np.unique(train.labels), np.unique(test.labels)
    if len(trained) < 2:
        what = f"only class {trained[0]} has" if len(trained) else "no class has"
        raise ConfigError(f"{what} training recordings: a classifier needs at least two classes.")
    if not len(tested):
        raise ConfigError("there is no test recording. Check the split: some recordings must be left for the test.")
    shared = np.intersect1d(train.groups, test.groups)
    if len(shared):
        raise StageError(
            f"{len(shared)} recordings are in training and in test, the first is recording {shared[0]}. "
            "Correct the split: a test must use other recordings than the training."
        )
    warnings = []
    if not np.ptp(train.features, axis=0).any():
        warnings.append("all training features are the same: the encoder has collapsed, and nothing can be learnt")
    if len(missing := np.setdiff1d(np.arange(classes), trained)):
        warnings.append(f"no training recording of {listed(missing)}: it is never predicted")
    if len(tested) == 1:
        warnings.append(f"all test recordings are of class {tested[0]}: the accuracy does not measure other classes")
    elif len(missing := np.setdiff1d(np.arange(classes), tested)):
        warnings.append(f"no test recording of {listed(missing)}: left out of the mean over classes")
    return tuple(warnings)


def listed(classes: np.ndarray, most: int = 10) -> str:
    """Return class numbers as text: "class 3", "classes 3, 5"; of more than `most` the first ones and a count."""
    shown = ", ".join(map(str, classes[:most].tolist()))
    more = f" and {len(classes) - most} more" if len(classes) > most else ""
    return f"class{'es' if len(classes) > 1 else ''} {shown}{more}"
