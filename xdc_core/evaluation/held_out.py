"""The training recordings that are held out to choose a hyper-parameter. The test recordings never choose."""

import numpy as np

from shards.errors import ConfigError


def hold_out(labels: np.ndarray, groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out about `share` of every class's recordings. labels and groups: int64 [n], a row a view.

    Whole recordings are held out: at least one, and at least one stays to learn from. A class with a single
    recording keeps it. The draw depends on the recordings only, not on the order or the number of their views.

    Returns:
        bool [n], true for views of held-out recordings; and int64 [...], the classes with a single recording.

    Raises:
        ConfigError: a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the held-out share is {share:g}. It must be more than 0 and less than 1.")
    rng = np.random.default_rng(seed)
    held: list[int] = []
    single: list[int] = []
    for number in np.unique(labels).tolist():
        members = np.unique(groups[labels == number])
        if len(members) == 1:
            single.append(number)
            continue
        wanted = int(share * len(members) + 0.5)
        held += rng.permutation(members)[: min(max(wanted, 1), len(members) - 1)].tolist()
    return np.isin(groups, held), np.array(single, np.int64)
