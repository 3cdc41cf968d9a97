"""The recordings of an evaluation: which clips belong together, their labels, and what part each plays."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shards.corpus.index import label_columns, read_whole_index
from shards.datasets.originals import original_of
from shards.errors import ConfigError
from shards.sources.split import split_name
from shards.store.node import Node
from shards.store.stage import Task
from xdc_core.compute.seed import derive_seed
from xdc_core.config.evaluation import CORPUS
from xdc_core.evaluation.examples import listed
from xdc_core.evaluation.held_out import hold_out
from xdc_core.evaluation.settings import Evaluation
from xdc_core.runs.node import SHARD

if TYPE_CHECKING:
    from shards.datasets.dataset import Dataset, Split

# The split of recordings that nobody has divided: `held_out` of every class are to be tested on.
DIVIDED = "divided"


@dataclass(frozen=True)
class Recordings:
    """A labelled set. A recording is a source file (or the part of one that has a label and a split of its own).

    names [recordings]: the sources. labels int64 [recordings]: numbers of `classes`, which is empty where nothing is
    labelled (retrieval does without; labels are 0 then). of_clip: a clip's key -> its recording. splits: name of a
    split -> the role of every recording, object [recordings]: "train", "test", or "". missing: reason -> how many
    recordings play no part for it. notes: what a reader of the results should know. originals int64 [recordings]: what
    a recording is cut from, one number an original; None where file names do not tell (shards/datasets/originals.py).
    """

    names: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    of_clip: Mapping[str, int]
    splits: Mapping[str, np.ndarray]
    missing: Mapping[str, int]
    notes: tuple[str, ...] = ()
    originals: np.ndarray | None = None

    def part(self, split: str, role: str) -> np.ndarray:
        """Numbers of the recordings with a role: int64 [n]."""
        return np.flatnonzero(self.splits[split] == role)


def read_recordings(task: Task[Evaluation]) -> Recordings:
    """Read what an evaluation learns from and is tested on.

    Raises:
        ConfigError: there is no such label or split, nothing to learn from or to test on, or the encoders were taught
            the labels of the recordings to test on; says what there is.
    """
    given, evaluation = task.settings, task.settings.evaluation
    corpus = evaluation.data == CORPUS
    directory = task.directory(SHARD if corpus else Node("data", evaluation.data))
    label = evaluation.label if corpus else "label"
    there = label_columns(directory)
    labelled = label in there
    if not labelled and evaluation.protocol != "retrieval":
        raise ConfigError(f"{directory} has no label column {label!r}. There are: {', '.join(there) or 'none'}.")
    table = read_whole_index(directory, ["key", "source", "split", *([label] if labelled else [])])
    keys, sources, parts = (table[name].to_pylist() for name in ("key", "source", "split"))
    labels = table[label].to_pylist() if labelled else [""] * len(keys)
    owners = list(zip(sources, map(split_name, parts), labels, strict=True))
    known = sorted({owner for owner in owners if owner[2] is not None})
    classes = tuple(sorted({name for _, _, name in known})) if labelled else ()
    if labelled and len(classes) < 2:
        raise ConfigError(f"{directory}: the column {label!r} has {len(classes)} labels; two are the least.")
    place = {owner: at for at, owner in enumerate(known)}
    of_class = {name: at for at, name in enumerate(classes)}
    names = [source for source, _, _ in known]
    numbers = np.array([of_class.get(name, 0) for _, _, name in known], np.int64)
    originals = _originals(given.layout, names)
    missing = Counter({"no label": len({owner for owner in owners if owner[2] is None})})
    if corpus:
        splits, notes = _splits_of_corpus(given, [part for _, part, _ in known], names, numbers, originals)
        notes += _seen_before(task, [part for _, part, _ in known], splits)
    else:
        splits, notes = _official_splits(task, names, numbers, originals, missing)
    found = Recordings(
        names,
        numbers,
        classes,
        {key: place[owner] for key, owner in zip(keys, owners, strict=True) if owner in place},
        splits,
        {reason: count for reason, count in missing.items() if count},
        tuple(notes),
        originals,
    )
    for split in splits:
        for role, purpose in (("train", "learn from"), ("test", "test on")):
            if len(found.part(split, role)) == 0:
                there = sorted({repr(part or "") for part in parts})
                raise ConfigError(
                    f"{directory}: there is no labelled recording to {purpose} in split {split!r}. The column split of "
                    f"its clips has: {', '.join(there)}."
                )
    return found


def _originals(layout: str | None, names: list[str]) -> np.ndarray | None:
    """Number the originals of recordings. One whose name tells of none is its own; None if that is so of all."""
    found = [original_of(layout, name) for name in names]
    if not any(found):
        return None
    own = [f"original {original}" if original else f"file {name}" for original, name in zip(found, names, strict=True)]
    return np.unique(np.array(own), return_inverse=True)[1].astype(np.int64)


def _divide(
    given: Evaluation, names: list[str], labels: np.ndarray, originals: np.ndarray | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Recordings that nobody has divided: the same division for all rounds, seeds and runs with one seed."""
    _, sources = np.unique(np.array(names, object).astype(str), return_inverse=True)
    seed = derive_seed(given.seed, "eval", "division")
    tested, kept = hold_out(labels, sources, given.evaluation.held_out, seed, originals)
    but = f", but for {listed(kept)}, of which none is" if len(kept) else ""
    note = (
        f"No test split is given: {tested.sum()} of {len(tested)} recordings were held out at random, stratified by "
        f"class{but}."
    )
    return {DIVIDED: np.where(tested, "test", "train").astype(object)}, [note]


def _splits_of_corpus(
    given: Evaluation,
    parts: list[str],
    names: list[str],
    labels: np.ndarray,
    originals: np.ndarray | None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """A split for every name to test on; what is learnt from is the same. `parts` are as split_name makes them."""
    evaluation = given.evaluation
    learn, test = ([split_name(split) for split in splits] for splits in (evaluation.learn, evaluation.test))
    if both := set(learn) & set(test):
        raise ConfigError(f"evaluate: {', '.join(sorted(both))} stands both in learn and in test.")
    if len(set(parts)) == 1 and (learn, test) == (["train"], ["test"]) and parts[0] != "test":
        return _divide(given, names, labels, originals)
    column = np.array(parts, object)
    learnt = np.isin(column, learn)
    tested = zip(evaluation.test, test, strict=True)
    return {name: np.where(learnt, "train", np.where(column == split, "test", "")) for name, split in tested}, []


def _seen_before(task: Task[Evaluation], parts: list[str], splits: Mapping[str, np.ndarray]) -> list[str]:
    """Whether the encoders have learnt from clips to test on.

    Raises:
        ConfigError: with their labels.
    """
    learnt = task.settings.learn_splits
    tested = np.isin(np.stack(list(splits.values())), "test").any(axis=0)
    seen = (
        tested if learnt is None else tested & np.isin(np.array(parts, object), [split_name(split) for split in learnt])
    )
    if task.round == 0 or not seen.any():
        return []
    how = "Name in corpus.learn_splits the splits to learn from, and train again, to keep them apart."
    if task.settings.method == "supervised":
        raise ConfigError(
            f"the encoders of {task.root} were taught the labels of {seen.sum()} of the {tested.sum()} recordings to "
            f"test on: that is no test. {how}"
        )
    return [f"the encoders have seen {seen.sum()} of the {tested.sum()} test recordings, without labels. {how}"]


def _official_splits(
    task: Task[Evaluation],
    names: list[str],
    labels: np.ndarray,
    originals: np.ndarray | None,
    missing: Counter[str],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The roles that a data set's own split files give.

    A role "validation" is for nobody here, unless there is none "test" (Kinetics publishes no labels of its test).
    """
    from shards.layouts.registry import read_dataset

    evaluation, entry = task.settings.evaluation, task.settings.dataset
    assert entry is not None
    dataset = read_dataset(entry.layout, (task.root / entry.root).resolve())
    there = {split.name: split for split in dataset.splits}
    spelt = {split_name(name): name for name in there}
    wanted = [spelt.get(split_name(name), name) for name in evaluation.splits or there]
    for name in wanted:
        if name not in there:
            raise ConfigError(f"evaluate: {evaluation.data} has no split {name!r}. There are: {', '.join(there)}.")
    made = set(names)
    missing["rejected when its clips were made"] = len({path for name in wanted for path in there[name].roles} - made)
    missing.update(_of_no_use(dataset))
    found: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for name in wanted:
        roles = set(there[name].roles.values())
        if roles == {"train"}:
            divided, reasons = _divide(task.settings, names, labels, originals)
            found[name], notes = divided[DIVIDED], notes + reasons
            continue
        found[name] = _roles(there[name], names, tested="test" if "test" in roles else "validation")
        if "test" not in roles:
            notes.append(f"split {name} has no test part: its validation part is tested on")
    return found, notes


def _roles(split: "Split", names: list[str], tested: str) -> np.ndarray:
    words = {"train": "train", tested: "test"}
    return np.array([words.get(split.roles.get(path, ""), "") for path in names], object)


def _of_no_use(dataset: "Dataset") -> Counter[str]:
    """Inputs that the lists name and that cannot be used, by reason. Files that no list names are not missed."""
    counts: Counter[str] = Counter()
    for reject in dataset.rejects:
        if reject.reason.endswith(("there is no such file", "there is no file of it")):
            counts["named by the lists, but there is no such file"] += 1
        elif reject.reason == "it has no label":
            counts["named by the lists, but without a label"] += 1
    return counts
