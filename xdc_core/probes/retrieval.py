"""Cross-modal retrieval: find one modality of a clip by another one, in both directions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shards.errors import ConfigError, StageError
from xdc_core.probes.cca import SharedSpace, fit_spaces
from xdc_core.probes.ranking import class_chance, class_recall, mean_ranks, partner_ranks, partner_recall

AT = (1, 5, 10)
RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
POWER = 2.0


def retrieve(
    train_first: np.ndarray,
    train_second: np.ndarray,
    test_first: np.ndarray,
    test_second: np.ndarray,
    labels: np.ndarray | None,
    seed: int,
    owners: np.ndarray | None = None,
    held_out_share: float = 0.2,
    ridges: Sequence[float] = RIDGES,
    power: float = POWER,
    names: tuple[str, str] = ("video", "audio"),
) -> dict[str, Any]:
    """Measure recall at 1, 5 and 10 of test clips by another modality, in both directions, and the level of chance.

    Features are float32 [n, width]; row i of first and second is of the same clip. names: of the two modalities.
    labels: int64 of the test clips, or None. owners: int64 [training pairs], the recording of each; None: each pair is
    its own recording. XDC has no loss that aligns the encoders' spaces, so linear maps are fitted on the training pairs
    (regularised CCA, unverified option, see docs/method.md); similarity is the cosine. The ridge with the highest mean
    reciprocal rank on held-out training pairs (of whole recordings) is chosen (with a share of 0 the middle one); then
    the maps are fitted on all pairs.

    Returns:
        pairs: number of test pairs. <first>_to_<second> and <second>_to_<first>: "pair", {"1": .., "5": .., "10": ..},
        the share of clips whose partner is among the first k; with labels "class", the share with a clip of their label
        (also the partner); and median_rank, from 1. chance: "pair" and "class" for a random order. chosen: ridge,
        power, held_out (pairs) and all tried ridges. correlations: the first ten canonical correlations in training.
        warnings.

    Raises:
        ConfigError: fewer than 4 training pairs, no test pair, or an impossible setting.
        StageError: features that are not finite, or unknown labels (below 0).
        ValueError: arrays whose shapes do not match.
    """
    first, second = names
    _check(train_first, train_second, test_first, test_second, labels, names)
    if not ridges or not all(value > 0 for value in (*ridges, power)) or not 0 <= held_out_share < 1:
        raise ConfigError(
            f"retrieval cannot use ridges {list(ridges)}, power {power:g} and held-out share {held_out_share:g}. "
            "Give one ridge or more, all above 0, a power above 0, and a share from 0 to below 1."
        )
    owners = np.arange(len(train_first)) if owners is None else owners
    space, chosen = choose_space(train_first, train_second, owners, seed, held_out_share, ridges, power)
    mapped, others = space(test_first, test_second)
    pairs = len(mapped)
    chance = {"pair": _by_k([min(1.0, k / pairs) for k in AT])}
    if labels is not None:
        chance["class"] = _by_k(class_chance(labels, AT))
    return {
        "pairs": pairs,
        f"{first}_to_{second}": _recalls(mapped, others, labels),
        f"{second}_to_{first}": _recalls(others, mapped, labels),
        "chance": chance,
        "chosen": chosen,
        "correlations": [float(value) for value in space.correlations[:10]],
        "warnings": _warnings(space, pairs, labels),
    }


def choose_space(
    first: np.ndarray,
    second: np.ndarray,
    owners: np.ndarray,
    seed: int,
    held_out_share: float = 0.2,
    ridges: Sequence[float] = RIDGES,
    power: float = POWER,
) -> tuple[SharedSpace, dict[str, Any]]:
    """Fit the space that two modalities share to training pairs, after its ridge was chosen on some of them.

    first, second: float32 [n, width], at least 4 pairs. owners: int64 [n], the recording of each pair. The ridge is
    chosen as `retrieve` says. Return the space, and: ridge, power, held_out (pairs) and all tried ridges.
    """
    ordered = sorted(ridges, reverse=True)
    if held_out_share:
        chosen = _choose(first, second, ordered, power, held_pairs(owners, held_out_share, seed))
    else:
        chosen = {"ridge": ordered[len(ordered) // 2], "power": power, "held_out": 0, "tried": []}
    (space,) = fit_spaces(first, second, [chosen["ridge"]], power)
    return space, chosen


def _recalls(queries: np.ndarray, candidates: np.ndarray, labels: np.ndarray | None) -> dict[str, Any]:
    nearer, equal = partner_ranks(queries, candidates)
    recalls: dict[str, Any] = {"pair": _by_k([partner_recall(nearer, equal, k) for k in AT])}
    if labels is not None:
        recalls["class"] = _by_k(class_recall(queries, candidates, labels, AT))
    return recalls | {"median_rank": float(np.median(mean_ranks(nearer, equal)))}


def _by_k(values: list[float]) -> dict[str, float]:
    return {str(k): value for k, value in zip(AT, values, strict=True)}


def held_pairs(owners: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return which pairs are held out to choose the ridge, bool [n]: about `share`, but at least 2 and at most n - 2.

    Whole recordings are held out if that leaves two pairs on either side; otherwise single pairs.
    """
    count = len(owners)
    wanted = min(max(round(share * count), 2), count - 2)
    rng = np.random.default_rng(seed)
    names, owner_of, sizes = np.unique(owners, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    sums = np.cumsum(sizes[order])
    enough = int(np.searchsorted(sums, wanted)) + 1
    if count - sums[enough - 1] >= 2:
        return np.isin(owner_of, order[:enough])
    held = np.zeros(count, bool)
    held[rng.choice(count, wanted, replace=False)] = True
    return held


def _choose(
    first: np.ndarray, second: np.ndarray, ridges: Sequence[float], power: float, held: np.ndarray
) -> dict[str, Any]:
    """Return the best ridge and all tried ones; of equally good ridges the first is chosen."""
    tried = []
    for space in fit_spaces(first[~held], second[~held], ridges, power):
        mapped = space(first[held], second[held])
        both = [mean_ranks(*partner_ranks(*way)) for way in (mapped, mapped[::-1])]
        tried.append({"ridge": space.ridge, "mean_reciprocal_rank": float(np.mean(1 / np.stack(both)))})
    best = max(tried, key=lambda row: row["mean_reciprocal_rank"])
    return {"ridge": best["ridge"], "power": power, "held_out": int(held.sum()), "tried": tried}


def _warnings(space: SharedSpace, pairs: int, labels: np.ndarray | None) -> list[str]:
    warnings = []
    if not space.correlations.any():
        warnings.append(
            "all training features of a modality are the same: its encoder has collapsed, and ranks are random"
        )
    if pairs <= max(AT):
        warnings.append(f"only {pairs} test pairs: recall at {max(AT)} is always 1")
    if labels is not None and len(np.unique(labels)) == 1:
        warnings.append("all test clips have the same label: the recall of the class is always 1")
    return warnings


def _check(
    train_first: np.ndarray,
    train_second: np.ndarray,
    test_first: np.ndarray,
    test_second: np.ndarray,
    labels: np.ndarray | None,
    names: tuple[str, str],
) -> None:
    first, second = names
    given = {
        f"training {first}": train_first,
        f"training {second}": train_second,
        f"test {first}": test_first,
        f"test {second}": test_second,
    }
    shapes = [features.shape for features in given.values()]
    fits = (
        all(len(shape) == 2 for shape in shapes)
        and shapes[0][0] == shapes[1][0]
        and shapes[2][0] == shapes[3][0]
        and shapes[0][1] == shapes[2][1]
        and shapes[1][1] == shapes[3][1]
        and (labels is None or labels.shape == shapes[2][:1])
    )
    if not fits:
        of_labels = "" if labels is None else f", and labels {labels.shape}"
        raise ValueError(f"features of {', '.join(given)} have the shapes {shapes}{of_labels}, which do not match")
    if len(train_first) < 4:
        raise ConfigError(
            f"there are {len(train_first)} training pairs. Give at least 4 clips with {first} and {second}."
        )
    if not len(test_first):
        raise ConfigError("there is no test pair. Check the split: some clips must be left for the test.")
    for name, features in given.items():
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(bad):
            raise StageError(
                f"{len(bad)} of {len(features)} {name} features have numbers that are not finite; the first is in row "
                f"{bad[0]}. The encoder has diverged: lower train.lr and run its training again."
            )
    if labels is not None and (labels < 0).any():
        raise StageError(
            f"{int((labels < 0).sum())} of {len(labels)} test clips have no label; the first is in row "
            f"{int((labels < 0).argmax())}. Leave out what is not labelled, or label it."
        )
