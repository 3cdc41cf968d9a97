"""Handwritten digits: the 1,797 pictures of 8 x 8 pixels in scikit-learn.

They are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998, UCI
repository). The writers are not recorded there. The private factor is therefore `writing`, the index of the sample, and
not a writer. The first 1,400 samples are for training and the last 397 for test, so that neighbouring samples, probably
by one writer, mostly are on one side of the split. If a corpus has clips for validation, only they use the last 200 of
the training samples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SOURCE = "scikit-learn load_digits (UCI optical recognition of handwritten digits, test part), 1797 samples"
TRAIN_SAMPLES = 1400
VALIDATION_SAMPLES = 200


@dataclass(frozen=True)
class Handwriting:
    """Handwritten digits. `pictures`: float32 [1797, P, P], ink 0 to 1. `digits`: int [1797], the digit of each."""

    pictures: NDArray[np.float32]
    digits: NDArray[np.int64]

    def samples(self, digit: int, split: str, validated: bool = False) -> NDArray[np.int64]:
        """Return the indices of the samples of a digit in the split `train`, `validation` or `test`.

        validated: the corpus has a split `validation`; its samples are then not in `train`.
        """
        first_held_out = TRAIN_SAMPLES - VALIDATION_SAMPLES
        first, end = {
            "train": (0, first_held_out if validated else TRAIN_SAMPLES),
            "validation": (first_held_out, TRAIN_SAMPLES),
            "test": (TRAIN_SAMPLES, len(self.digits)),
        }[split]
        return np.flatnonzero(self.digits[first:end] == digit) + first


def load_handwriting(pixels: int) -> Handwriting:
    """Return all handwritten digits, enlarged from 8 x 8 to `pixels` x `pixels` by cubic splines."""
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    bundle = load_digits()
    scale = pixels / 8
    pictures = zoom(
        bundle.images / 16,
        (1, scale, scale),
        order=3,
        mode="grid-constant",
        grid_mode=True,
        output=np.float32,
    )
    return Handwriting(np.clip(pictures, 0, 1), bundle.target.astype(np.int64))
