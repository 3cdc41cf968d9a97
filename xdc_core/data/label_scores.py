"""The pseudo-labels of a shard, and their scores, counted shard by shard."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from shards.corpus.index import read_index
from shards.store.files import part_among
from shards.store.manifest import read_manifest
from xdc_core.clustering.agreement import agreement
from xdc_core.clustering.counts import ClusterCounts
from xdc_core.data.labels import read_labels
from xdc_core.documents.scores import Agreement, Balance, Scores


@dataclass(frozen=True)
class Assigned:
    """The clips of a shard in one clustering: distance float32 [n], cluster int [n]. elsewhere: see `Balance`."""

    distance: np.ndarray
    cluster: np.ndarray
    elsewhere: int = 0


@dataclass(frozen=True)
class Labels:
    """The labels of a shard's clips: keys [n], the labels of each clustering, and the number of clips without one."""

    keys: pa.Array
    clusterings: list[Assigned]
    unlabelled: int = 0


def count_labels(counts: list[ClusterCounts], labels: Labels, corpus: Path, shard: str, before: Path | None) -> None:
    """Count the clips of a shard, for each clustering. before: the previous round's labels, to compare with.

    Where the corpus was appended to since, the previous round may have none of this shard.

    Raises:
        StageError: a file that the previous round has committed is missing or damaged.
    """
    keys, names = labels.keys.to_pylist(), list(counts[0].labels)
    index = read_index(corpus, shard, ["key", *names])
    row_of = {key: row for row, key in enumerate(index["key"].to_pylist())}
    rows = pa.array([row_of[key] for key in keys], pa.int64())
    columns = {name: index[name].take(rows).to_pylist() for name in names}
    committed = read_manifest(before) if before is not None else None
    for head, (own, assigned) in enumerate(zip(counts, labels.clusterings, strict=True)):
        own.sizes += np.bincount(assigned.cluster, minlength=len(own.sizes))
        own.elsewhere += assigned.elsewhere
        for name, contingency in own.labels.items():
            contingency.add(assigned.cluster, columns[name])
        if before is not None:
            if committed is not None and part_among(committed.files, shard) is None:
                own.previous.add(assigned.cluster, [None] * len(keys))
                continue
            earlier = dict(zip(*(values.tolist() for values in read_labels(before, shard, head)), strict=True))
            own.previous.add(assigned.cluster, [str(earlier[key]) if key in earlier else None for key in keys])


def scores_of(counts: list[ClusterCounts], compared: bool, plans: list[Balance]) -> Scores:
    """Return sizes and the agreement with the corpus's labels and, if it was `compared`, with the round before.

    counts: for each clustering. plans: the same, if the labels are balanced.
    """
    scores, *further = (_scores(own, compared) for own in counts)
    if plans:
        scores, *further = (
            found.model_copy(update={"balance": plan.model_copy(update={"elsewhere": own.elsewhere})})
            for found, plan, own in zip([scores, *further], plans, counts, strict=True)
        )
    return scores.model_copy(update={"clusterings": further}) if further else scores


def _scores(counts: ClusterCounts, compared: bool) -> Scores:
    sizes = counts.sizes
    return Scores(
        k=len(sizes),
        clips=int(sizes.sum()),
        empty=int((sizes == 0).sum()),
        largest=int(sizes.max()),
        largest_share=round(float(sizes.max() / max(1, sizes.sum())), 6),
        nmi_previous=agreement(counts.previous)["nmi"] if compared else None,
        labels={name: Agreement(**agreement(found)) for name, found in counts.labels.items()},
        sizes=sizes.tolist(),
    )
