"""The training recordings that are held out to choose a hyper-parameter. The test recordings never choose."""

import numpy as np

from shards.errors import ConfigError


def hold_out(
    labels: np.ndarray, groups: np.ndarray, share: float, seed: int, originals: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out about `share` of every class's recordings, or of its originals where these are given.

    labels, groups, originals: int64 [n], a row a view: its class, its recording, and what the recording is cut from.
    The draw depends on the recordings only, not on the order or the number of their views.

    Whole recordings are held out: of every class at least one, and at least one stays to learn from, as long as each
    recording is of one class. A class with a single recording keeps it.

    Originals are held out with all of their recordings. One of several classes stays where one of these would lose its
    last, so that of some classes nothing may be held out.

    Returns:
        bool [n], true for views of what is held out; and int64 [...], the classes of which nothing was drawn.

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
        held += rng.permutation(members)[: _wanted(share, len(members))].tolist()
    return np.isin(groups, held), np.array(single, np.int64)


def _wanted(share: float, size: int) -> int:
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
    left = {number: set(own.tolist()) for number, own in members.items()}
    held: list[int] = []
    for number, own in members.items():
        size = len(own)
        if size == 1:
            continue
        wanted = _wanted(share, size)
        for original in rng.permutation(own).tolist():
            if size - len(left[number]) >= wanted:
                break
            if original in left[number] and all(len(left[other]) > 1 for other in classes_of[original]):
                held.append(original)
                for other in classes_of[original]:
                    left[other].discard(original)
    whole = [number for number, own in members.items() if len(left[number]) == len(own)]
    return np.isin(originals, held), np.array(whole, np.int64)
