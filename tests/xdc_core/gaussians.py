"""Labelled features of which it is known how well they can be told apart."""

import numpy as np

from xdc_core.evaluation.examples import Examples


def gaussians(
    recordings: int,
    distance: float,
    classes: int = 5,
    views: int = 1,
    width: int = 16,
    seed: int = 0,
    first: int = 0,
) -> Examples:
    """Views around the mean of their class, with deviation 1; means have deviation `distance` in every direction.

    Recordings are numbered from `first` and take the classes in turn; the rows are mixed.
    """
    rng = np.random.default_rng([seed, first])
    means = np.random.default_rng(7).normal(size=(classes, width)) * distance
    groups = rng.permutation(np.repeat(np.arange(first, first + recordings), views))
    labels = groups % classes
    return Examples((means[labels] + rng.normal(size=(len(groups), width))).astype(np.float32), labels, groups)


def relabelled(examples: Examples, seed: int) -> Examples:
    """The same recordings with their labels dealt out anew."""
    groups, labels = examples.recordings()
    dealt = np.random.default_rng(seed).permutation(labels)
    return Examples(examples.features, dealt[np.searchsorted(groups, examples.groups)], examples.groups)
