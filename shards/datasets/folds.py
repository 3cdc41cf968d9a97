"""Five folds, each used once for testing."""

from collections.abc import Mapping

from shards.datasets.dataset import Role, Split

FOLDS = range(1, 6)


def fold_roles(fold: int) -> dict[str, Role]:
    """Return the role of a file in every split: split fold-k tests on fold k and trains on the other four."""
    return {f"fold-{number}": "test" if number == fold else "train" for number in FOLDS}


def fold_splits(folds: Mapping[str, int]) -> list[Split]:
    """Return the splits for files and their folds."""
    roles = {path: fold_roles(fold) for path, fold in folds.items()}
    return [Split(name, {path: role_in[name] for path, role_in in roles.items()}) for name in fold_roles(1)]
