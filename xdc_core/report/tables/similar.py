"""The clips whose features are most like those of the examples."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from shards.corpus.index import shard_names
from shards.store.files import part_path
from xdc_core.clustering.preprocess import unit_length
from xdc_core.data.features import read_features

COMPARED = 100_000  # Clips, those of the first shards, whose order is random: the work does not grow with the corpus.
NEAREST = 5

# Modality -> key of an example -> keys of the most similar clips with their cosines, the most similar first.
Similar = dict[str, dict[str, list[tuple[str, float]]]]


def similar_clips(corpus: Path, features: Mapping[str, Path], examples: Collection[str]) -> Similar:
    """Return the NEAREST clips of each example in each modality, by the cosine of features minus their mean.

    features: modality -> the directory of its features. Compares the first COMPARED clips; an example that is not among
    them is left out. Holds the features of a shard and of the examples.

    Raises:
        StageError: a file is missing or damaged.
    """
    return {name: dict(_of_modality(corpus, directory, examples)) for name, directory in features.items()}


def _of_modality(
    corpus: Path, features: Path, examples: Collection[str]
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    keys, vectors, total, count = list[str](), list[np.ndarray](), np.zeros(1), 0
    for own, part in _parts(corpus, features):
        total, count = total + part.sum(axis=0, dtype=np.float64), count + len(part)
        chosen = [row for row, key in enumerate(own) if key in examples]
        keys += [own[row] for row in chosen]
        vectors.append(part[chosen])
    if not keys:
        return
    mean = (total / count).astype(np.float32)
    queries = unit_length(np.concatenate(vectors) - mean)
    found: list[list[tuple[float, str]]] = [[] for _ in keys]
    for own, part in _parts(corpus, features):
        cosines = queries @ unit_length(part - mean).T
        for row, similarities in enumerate(cosines):
            # One more than is kept: the clip itself is among them.
            nearest = np.argsort(-similarities, kind="stable")[: NEAREST + 1].tolist()
            new = [(-round(float(similarities[at]), 4), own[at]) for at in nearest if own[at] != keys[row]]
            found[row] = sorted(found[row] + new)[:NEAREST]
    for key, near in zip(keys, found, strict=True):
        yield key, [(other, -negative) for negative, other in near]


def _parts(corpus: Path, directory: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield keys and features, float32 [clips, width], of the first shards, COMPARED clips at most."""
    left = COMPARED
    for shard in shard_names(corpus):
        keys, features = read_features(part_path(directory, shard))
        if len(keys):
            yield keys[:left].tolist(), features[:left]
        left -= len(keys)
        if left <= 0:
            return
