"""The recordings of an evaluation: their clips, their labels, and their part in training or test."""

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

# The split of recordings without a given split: the share `held_out` of each class is the test part.
DIVIDED = "divided"


@dataclass(frozen=True)
class Recordings:
    """The labelled recordings of an evaluation. A recording is a source file, or the part with one label and split.

    names [recordings]: the sources. labels: int64 [recordings], numbers of `classes`; without labels, which retrieval
    does not need, `classes` is empty and labels are 0. of_clip: key of a clip -> its recording. splits: name of a split
    -> the role of each recording, object [recordings]: "train", "test", or "". missing: reason -> number of recordings
    that are left out for it. notes: what a reader of the results should know. originals: int64 [recordings], the number
    of the original that a recording was cut from; None if file names do not have it (shards/datasets/originals.py).
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
        """Return the numbers of the recordings with a role: int64 [n]."""
        return np.flatnonzero(self.splits[split] == role)


def read_recordings(task: Task[Evaluation]) -> Recordings:
    """Read the training and test recordings of an evaluation.

    Raises:
        ConfigError: the label column or a split does not exist, there are no training or no test recordings, or the
            encoders were trained on the labels of test recordings.
    """
    given, evaluation = task.settings, task.settings.evaluation
    corpus = evaluation.data == CORPUS
    directory = task.directory(SHARD if corpus else Node("data", evaluation.data))
    label = evaluation.label if corpus else "label"
    available = label_columns(directory)
    labelled = label in available
    if not labelled and evaluation.protocol != "retrieval":
        raise ConfigError(f"{directory} has no label column {label!r}. There are: {', '.join(available) or 'none'}.")
    table = read_whole_index(directory, ["key", "source", "split", *([label] if labelled else [])])
    keys, sources, parts = (table[name].to_pylist() for name in ("key", "source", "split"))
    labels = table[label].to_pylist() if labelled else [""] * len(keys)
    owners = list(zip(sources, map(split_name, parts), labels, strict=True))
    known = sorted({owner for owner in owners if owner[2] is not None})
    classes = tuple(sorted({name for _, _, name in known})) if labelled else ()
    if labelled and len(classes) < 2:
        raise ConfigError(f"{directory}: the column {label!r} has {len(classes)} labels. At least two are needed.")
    number_of = {owner: number for number, owner in enumerate(known)}
    class_of = {name: number for number, name in enumerate(classes)}
    names = [source for source, _, _ in known]
    numbers = np.array([class_of.get(name, 0) for _, _, name in known], np.int64)
    originals = _originals(given.layout, names)
    missing = Counter({"no label": len({owner for owner in owners if owner[2] is None})})
    if corpus:
        splits, notes = _splits_of_corpus(given, [part for _, part, _ in known], names, numbers, originals)
        notes += _seen_in_training(task, [part for _, part, _ in known], splits)
    else:
        splits, notes = _official_splits(task, names, numbers, originals, missing)
    recordings = Recordings(
        names,
        numbers,
        classes,
        {key: number_of[owner] for key, owner in zip(keys, owners, strict=True) if owner in number_of},
        splits,
        {reason: count for reason, count in missing.items() if count},
        tuple(notes),
        originals,
    )
    for split in splits:
        for role, purpose in (("train", "learn from"), ("test", "test on")):
            if len(recordings.part(split, role)) == 0:
                values = sorted({repr(part or "") for part in parts})
                raise ConfigError(
                    f"{directory}: there is no labelled recording to {purpose} in split {split!r}. The column split of "
                    f"its clips has: {', '.join(values)}."
                )
    return recordings


def _originals(layout: str | None, names: list[str]) -> np.ndarray | None:
    """Number the originals of recordings. A recording without a known original is its own; None if all are."""
    originals = [original_of(layout, name) for name in names]
    if not any(originals):
        return None
    own = [
        f"original {original}" if original else f"file {name}" for original, name in zip(originals, names, strict=True)
    ]
    return np.unique(np.array(own), return_inverse=True)[1].astype(np.int64)


def _divide(
    given: Evaluation, names: list[str], labels: np.ndarray, originals: np.ndarray | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Divide recordings without a split, in the same way for all rounds, seeds and runs with the same seed."""
    _, sources = np.unique(np.array(names, object).astype(str), return_inverse=True)
    seed = derive_seed(given.seed, "eval", "division")
    tested, kept = hold_out(labels, sources, given.evaluation.held_out, seed, originals)
    except_for = f", except for {listed(kept)}, of which none is" if len(kept) else ""
    note = (
        f"No test split is given: {tested.sum()} of {len(tested)} recordings were held out at random, stratified by "
        f"class{except_for}."
    )
    return {DIVIDED: np.where(tested, "test", "train").astype(object)}, [note]


def _splits_of_corpus(
    given: Evaluation,
    parts: list[str],
    names: list[str],
    labels: np.ndarray,
    originals: np.ndarray | None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return one split per test split, all with the same training part. `parts` are normalised by split_name."""
    evaluation = given.evaluation
    learn, test = ([split_name(split) for split in splits] for splits in (evaluation.learn, evaluation.test))
    if both := set(learn) & set(test):
        raise ConfigError(f"evaluate: {', '.join(sorted(both))} is in both learn and test. Remove it from one.")
    if len(set(parts)) == 1 and (learn, test) == (["train"], ["test"]) and parts[0] != "test":
        return _divide(given, names, labels, originals)
    column = np.array(parts, object)
    trained = np.isin(column, learn)
    tested = zip(evaluation.test, test, strict=True)
    return {name: np.where(trained, "train", np.where(column == split, "test", "")) for name, split in tested}, []


def _seen_in_training(task: Task[Evaluation], parts: list[str], splits: Mapping[str, np.ndarray]) -> list[str]:
    """Return a note if the encoders were trained on test clips; empty otherwise.

    Raises:
        ConfigError: they were trained on the labels of test clips.
    """
    learnt = task.settings.learn_splits
    tested = np.isin(np.stack(list(splits.values())), "test").any(axis=0)
    seen = (
        tested if learnt is None else tested & np.isin(np.array(parts, object), [split_name(split) for split in learnt])
    )
    if task.round == 0 or not seen.any():
        return []
    remedy = "To separate them, set corpus.learn_splits to the splits to learn from, and train again."
    if task.settings.method == "supervised":
        raise ConfigError(
            f"the encoders of {task.root} were trained on the labels of {seen.sum()} of the {tested.sum()} test "
            f"recordings. {remedy}"
        )
    return [f"the encoders have seen {seen.sum()} of the {tested.sum()} test recordings, without labels. {remedy}"]


def _official_splits(
    task: Task[Evaluation],
    names: list[str],
    labels: np.ndarray,
    originals: np.ndarray | None,
    missing: Counter[str],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the roles of the recordings in a data set's own splits.

    The role "validation" is ignored, unless a split has no role "test" (Kinetics publishes no labels of its test part).
    """
    from shards.layouts.registry import read_dataset

    evaluation, entry = task.settings.evaluation, task.settings.dataset
    assert entry is not None
    dataset = read_dataset(entry.layout, (task.root / entry.root).resolve())
    available = {split.name: split for split in dataset.splits}
    official_name = {split_name(name): name for name in available}
    wanted = [official_name.get(split_name(name), name) for name in evaluation.splits or available]
    for name in wanted:
        if name not in available:
            raise ConfigError(f"evaluate: {evaluation.data} has no split {name!r}. There are: {', '.join(available)}.")
    made = set(names)
    missing["rejected when its clips were made"] = len(
        {path for name in wanted for path in available[name].roles} - made
    )
    missing.update(_unusable(dataset))
    splits: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for name in wanted:
        roles = set(available[name].roles.values())
        if roles == {"train"}:
            divided, reasons = _divide(task.settings, names, labels, originals)
            splits[name], notes = divided[DIVIDED], notes + reasons
            continue
        splits[name] = _roles(available[name], names, tested="test" if "test" in roles else "validation")
        if "test" not in roles:
            notes.append(f"split {name} has no test part: its validation part is used for testing")
    return splits, notes


def _roles(split: "Split", names: list[str], tested: str) -> np.ndarray:
    words = {"train": "train", tested: "test"}
    return np.array([words.get(split.roles.get(path, ""), "") for path in names], object)


def _unusable(dataset: "Dataset") -> Counter[str]:
    """Count the inputs that the lists name and that cannot be used, by reason."""
    counts: Counter[str] = Counter()
    for reject in dataset.rejects:
        if reject.reason.endswith(("there is no such file", "there is no file of it")):
            counts["named by the lists, but there is no such file"] += 1
        elif reject.reason == "there is no align file of it":
            counts["without an align file, so that the times of its words are not known"] += 1
        elif reject.reason == "it has no label":
            counts["named by the lists, but without a label"] += 1
    return counts
