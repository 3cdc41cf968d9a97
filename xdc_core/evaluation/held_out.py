"""The training recordings that are held out to choose a hyper-parameter. The test recordings never choose."""

import numpy as np

from shards.errors import ConfigError


def hold_out(labels: np.ndarray, groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out about `share` of every class's groups. labels and groups: int64 [n], a row a view.

    A group is a recording, or all recordings that are cut from one original. Whole groups are held out: of every class
    at least one, and at least one stays to learn from. A class with a single group keeps it; a group of several classes
    stays where one of them would lose its last. The draw depends on the groups only, not on the order or the number of
    their views.

    Returns:
        bool [n], true for views of held-out groups; and int64 [...], the classes with a single group.

    Raises:
        ConfigError: a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the held-out share is {share:g}. It must be more than 0 and less than 1.")
    rng = np.random.default_rng(seed)
    members = {number: np.unique(groups[labels == number]) for number in np.unique(labels).tolist()}
    classes_of: dict[int, list[int]] = {}
    for number, own in members.items():
        for group in own.tolist():
            classes_of.setdefault(group, []).append(number)
    left = {number: set(own.tolist()) for number, own in members.items()}
    held: list[int] = []
    for number, own in members.items():
        size = len(own)
        if size == 1:
            continue
        wanted = min(max(int(share * size + 0.5), 1), size - 1)
        for group in rng.permutation(members[number]).tolist():
            if size - len(left[number]) >= wanted:
                break
            if group in left[number] and all(len(left[other]) > 1 for other in classes_of[group]):
                held.append(group)
                for other in classes_of[group]:
                    left[other].discard(group)
    return np.isin(groups, held), np.array([number for number, own in members.items() if len(own) == 1], np.int64)
