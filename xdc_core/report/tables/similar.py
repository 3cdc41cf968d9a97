"""The clips whose features are most like those of the examples."""

from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import numpy as np

from shards.corpus.index import shard_names
from shards.store.files import part_path
from shards.store.parquet import read_column
from xdc_core.clustering.preprocess import unit_length
from xdc_core.data.features import read_features

# Clips, those of the first shards. The order of clips is random in a corpus that was cut at once; with given features
# it is theirs, and what was appended comes last.
COMPARED = 100_000
BLOCK = 4096  # Clips that are compared at once.
NEAREST = 5

# Modality -> key of an example -> keys of the most similar clips with their cosines, the most similar first.
Similar = dict[str, dict[str, list[tuple[str, float]]]]


def similar_clips(corpus: Path, features: Mapping[str, Path], examples: Set[str]) -> Similar:
    """Return the NEAREST clips of each example in each modality, by the cosine of features minus their mean.

    features: modality -> the directory of its features. Examples of all shards are compared with the first COMPARED
    clips, whose mean is subtracted. Equal cosines, to four digits, are in the order of the keys. Holds the features of
    a shard and of the examples.

    Raises:
        StageError: a file is missing or damaged.
    """
    return {name: dict(_of_modality(corpus, directory, examples)) for name, directory in features.items()}


def _of_modality(corpus: Path, features: Path, examples: Set[str]) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    keys, vectors, total, count = list[str](), list[np.ndarray](), np.zeros(1), 0
    for shard in shard_names(corpus):
        path = part_path(features, shard)
        if count >= COMPARED and not examples & {*read_column(path, "extract", "key").to_pylist()}:
            continue
        own, part = read_features(path)
        compared = part[: COMPARED - count]
        total, count = total + compared.sum(axis=0, dtype=np.float64), count + len(compared)
        chosen = [row for row, key in enumerate(own) if key in examples]
        keys += [own[row] for row in chosen]
        vectors.append(part[chosen])
    if not keys:
        return
    mean = (total / count).astype(np.float32)
    queries = unit_length(np.concatenate(vectors) - mean)
    found: list[list[tuple[float, str]]] = [[] for _ in keys]
    for own_keys, block in _blocks(corpus, features):
        # Rounded before they are compared, so that the last bits of a product do not decide between equal clips.
        cosines = np.round(queries @ unit_length(block - mean).T, 4)
        for row, at in enumerate(_nearest(cosines)):
            new = [(-round(float(cosines[row, clip]), 4), own_keys[clip]) for clip in at if own_keys[clip] != keys[row]]
            found[row] = sorted(found[row] + new)[:NEAREST]
    for key, near in zip(keys, found, strict=True):
        yield key, [(other, -negative) for negative, other in near]


def _nearest(cosines: np.ndarray) -> Iterator[list[int]]:
    """Yield the columns of the largest values of each row, one more than NEAREST, because the clip itself may be among
    them; of equal values the first columns.
    """
    kept = min(NEAREST + 1, cosines.shape[1])
    limits = np.partition(cosines, -kept, axis=1)[:, -kept]
    for row, limit in zip(cosines, limits, strict=True):
        yield [*np.flatnonzero(row > limit).tolist(), *np.flatnonzero(row == limit).tolist()][:kept]


def _blocks(corpus: Path, directory: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield keys in their order, and features, float32 [clips, width], of up to BLOCK of the first COMPARED clips."""
    left = COMPARED
    for shard in shard_names(corpus):
        if left <= 0:
            return
        keys, features = read_features(part_path(directory, shard))
        keys, features = keys[:left], features[:left]
        left -= len(keys)
        for start in range(0, len(keys), BLOCK):
            own = keys[start : start + BLOCK]
            order = np.argsort(own.astype(str), kind="stable")
            yield own[order].tolist(), features[start : start + BLOCK][order]
