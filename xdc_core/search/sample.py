"""The clips to which maps are fitted: those that the run learns from, with their features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.corpus.index import shard_names
from xdc_core.config.selection import SelectSettings
from xdc_core.data.features import source_part
from xdc_core.data.selection import read_learnable


@dataclass(frozen=True)
class Learnt:
    """Clips to learn from. sources: the recording of each, text [clips]. features: by modality, float32 [clips, width].
    there: by modality, which clips have a feature, bool [clips]; the features of the others are zeros.
    """

    sources: np.ndarray
    features: dict[str, np.ndarray]
    there: dict[str, np.ndarray]

    def of(self, name: str) -> np.ndarray:
        """Return the features of a modality of the clips that have one."""
        return self.features[name][self.there[name]]

    def pairs(self, first: str, second: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the features of two modalities of the clips that have both, and the recordings, int64 [pairs]."""
        both = self.there[first] & self.there[second]
        owners = np.unique(self.sources[both], return_inverse=True)[1].astype(np.int64)
        return self.features[first][both], self.features[second][both], owners


def learnt_clips(
    corpus: Path,
    features: Mapping[str, Path],
    splits: Sequence[str] | None,
    select: SelectSettings,
    most: int,
    seed: int,
) -> Learnt:
    """Return clips of some splits (None: all) that thresholds keep and that have a feature in some modality.

    features: a directory of stage extract by modality. Of more than `most` clips, the first of randomly chosen shards
    are taken.

    Raises:
        StageError: a file is missing or damaged.
        ConfigError: a clip was not measured as a threshold needs it.
    """
    names = shard_names(corpus)
    sources: list[str] = []
    rows: dict[str, list[np.ndarray]] = {name: [] for name in features}
    there: dict[str, list[np.ndarray]] = {name: [] for name in features}
    for number in np.random.default_rng(seed).permutation(len(names)).tolist():
        if len(sources) >= most:
            break
        shard = names[number]
        index = read_learnable(corpus, shard, splits, select, "key", "source")
        place = {key: row for row, key in enumerate(index["key"].to_pylist()[: most - len(sources)])}
        sources += index["source"].to_pylist()[: len(place)]
        for name, directory in features.items():
            keys, (vectors,) = source_part([directory], shard)
            pairs = [(place[key], row) for row, key in enumerate(keys.tolist()) if key in place]
            into, taken = np.array(pairs, np.int64).reshape(-1, 2).T
            own, known = np.zeros((len(place), vectors.shape[1]), np.float32), np.zeros(len(place), bool)
            own[into], known[into] = vectors[taken], True
            rows[name].append(own)
            there[name].append(known)
    return Learnt(
        np.array(sources, object),
        {name: np.concatenate(parts) if parts else np.zeros((0, 0), np.float32) for name, parts in rows.items()},
        {name: np.concatenate(parts) if parts else np.zeros(0, bool) for name, parts in there.items()},
    )
