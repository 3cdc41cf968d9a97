"""The training recordings held out for the choice of a hyper-parameter, which never uses test recordings."""

import numpy as np

from shards.errors import ConfigError


def hold_out(
    labels: np.ndarray, groups: np.ndarray, share: float, seed: int, originals: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out about `share` of the recordings of each class, or of its originals if these are given.

    labels, groups, originals: int64 [n], one row per view: its class, its recording, and the original that the
    recording was cut from. The random draw depends on the recordings only, not on the order or number of their views.

    Whole recordings are held out: at least one of each class, and at least one remains for training, provided that each
    recording has one class. The only recording of a class is not held out.

    Originals are held out with all of their recordings. An original with recordings of several classes is not held out
    if one of these classes would lose its last original, so some classes may have nothing held out.

    Returns:
        bool [n], true for views that are held out; and int64 [...], the classes of which nothing is held out.

    Raises:
        ConfigError: a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the held-out share is {share:g}. It must be more than 0 and less than 1.")
    if originals is not None:
        return _hold_out_originals(labels, originals, share, seed)
    rng = np.random.default_rng(seed)
    held: list[int] = []
    single: list[int] = []
    for number in np.unique(labels).tolist():
        members = np.unique(groups[labels == number])
        if len(members) == 1:
            single.append(number)
            continue
        held += rng.permutation(members)[: _count_to_hold_out(share, len(members))].tolist()
    return np.isin(groups, held), np.array(single, np.int64)


def _count_to_hold_out(share: float, size: int) -> int:
    return min(max(int(share * size + 0.5), 1), size - 1)


def _hold_out_originals(
    labels: np.ndarray, originals: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    members = {number: np.unique(originals[labels == number]) for number in np.unique(labels).tolist()}
    classes_of: dict[int, list[int]] = {}
    for number, own in members.items():
        for original in own.tolist():
            classes_of.setdefault(original, []).append(number)
    remaining = {number: set(own.tolist()) for number, own in members.items()}
    held: list[int] = []
    for number, own in members.items():
        size = len(own)
        if size == 1:
            continue
        count = _count_to_hold_out(share, size)
        for original in rng.permutation(own).tolist():
            if size - len(remaining[number]) >= count:
                break
            if original in remaining[number] and all(len(remaining[other]) > 1 for other in classes_of[original]):
                held.append(original)
                for other in classes_of[original]:
                    remaining[other].discard(original)
    kept = [number for number, own in members.items() if len(remaining[number]) == len(own)]
    return np.isin(originals, held), np.array(kept, np.int64)
