"""The recordings of an evaluation: which clips belong together, their labels, and what part each plays."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shards.errors import ConfigError
from shards.index import label_columns, read_whole_index
from xdc_core.evaluation.settings import CORPUS, EvaluationSettings
from xdc_core.run import Node, Run


@dataclass(frozen=True)
class Recordings:
    """A labelled set. A recording is a source file (or the part of one that has a label and a split of its own).

    names [recordings]: the sources. labels int64 [recordings]: numbers of `classes`. of_clip: a clip's key -> its
    recording. splits: name of a split -> the role of every recording, object [recordings]: "train", "test", or "".
    missing: reason -> how many recordings play no part for it.
    """

    names: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    of_clip: Mapping[str, int]
    splits: Mapping[str, np.ndarray]
    missing: Mapping[str, int]

    def part(self, split: str, role: str) -> np.ndarray:
        """Numbers of the recordings with a role: int64 [n]."""
        return np.flatnonzero(self.splits[split] == role)


def read_recordings(run: Run, evaluation: EvaluationSettings) -> Recordings:
    """What an evaluation learns from and is tested on.

    Raises:
        ConfigError: there is no such label or split, or nothing to learn from or to test on; says what there is.
    """
    corpus = evaluation.data == CORPUS
    directory = run.corpus if corpus else run.directory(Node("data", evaluation.data))
    label = evaluation.label if corpus else "label"
    if label not in label_columns(directory):
        there = ", ".join(label_columns(directory)) or "none"
        raise ConfigError(f"{directory} has no label column {label!r}. There are: {there}.")
    table = read_whole_index(directory, ["key", "source", "split", label])
    keys, sources, parts, labels = (table[name].to_pylist() for name in ("key", "source", "split", label))
    owners = list(zip(sources, (part or "" for part in parts), labels, strict=True))
    known = sorted({owner for owner in owners if owner[2] is not None})
    classes = tuple(sorted({name for _, _, name in known}))
    if len(classes) < 2:
        raise ConfigError(f"{directory}: the column {label!r} has {len(classes)} labels; two are the least.")
    number = {owner: place for place, owner in enumerate(known)}
    of_class = {name: place for place, name in enumerate(classes)}
    names = [source for source, _, _ in known]
    missing = Counter({"no label": len({owner for owner in owners if owner[2] is None})})
    if corpus:
        splits = _splits_of_corpus(evaluation, [part for _, part, _ in known])
    else:
        splits = _official_splits(run, evaluation, names, missing)
    found = Recordings(
        names,
        np.array([of_class[name] for _, _, name in known], np.int64),
        classes,
        {key: number[owner] for key, owner in zip(keys, owners, strict=True) if owner in number},
        splits,
        {reason: count for reason, count in missing.items() if count},
    )
    for split in splits:
        for role, purpose in (("train", "learn from"), ("test", "test on")):
            if len(found.part(split, role)) == 0:
                there = ", ".join(sorted({repr(part or "") for part in parts}))
                raise ConfigError(
                    f"{directory}: there is no labelled recording to {purpose} in split {split!r}. The column split of "
                    f"its clips has: {there}."
                )
    return found


def _splits_of_corpus(evaluation: EvaluationSettings, parts: list[str]) -> dict[str, np.ndarray]:
    """A split for every name to test on; what is learnt from is the same."""
    if both := set(evaluation.learn) & set(evaluation.test):
        raise ConfigError(f"evaluate: {', '.join(sorted(both))} stands both in learn and in test.")
    column = np.array(parts, object)
    learnt = np.isin(column, evaluation.learn)
    return {test: np.where(learnt, "train", np.where(column == test, "test", "")) for test in evaluation.test}


def _official_splits(
    run: Run, evaluation: EvaluationSettings, names: list[str], missing: Counter[str]
) -> dict[str, np.ndarray]:
    """The roles that a data set's own split files give; a role "validation" is for nobody here."""
    from shards.datasets.layouts import read_dataset

    layout, root = run.config.datasets[evaluation.data].layout, run.dataset_root(evaluation.data)
    dataset = read_dataset(layout, root)
    there = {split.name: split for split in dataset.splits}
    wanted = evaluation.splits or tuple(there)
    for name in wanted:
        if name not in there:
            raise ConfigError(f"evaluate: {evaluation.data} has no split {name!r}. There are: {', '.join(there)}.")
    made = set(names)
    missing["rejected when its clips were made"] = len({path for name in wanted for path in there[name].roles} - made)
    return {name: np.array([there[name].roles.get(path, "") for path in names], object) for name in wanted}
