"""Regularised canonical correlation analysis: linear maps that bring two kinds of features into one space."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xdc_core.clustering.preprocess import unit_length
from xdc_core.probes.standardise import Standard, fit_standard


@dataclass(frozen=True)
class SharedSpace:
    """Maps of video and of audio features into one space, in which pairs lie in the same direction.

    standards: of video and of audio. maps: float64 [width, components] of each. correlations: float64 [components],
    the canonical ones of the pairs it was fitted on, largest first, lowered by the ridge.
    """

    ridge: float
    standards: tuple[Standard, Standard]
    maps: tuple[np.ndarray, np.ndarray]
    correlations: np.ndarray

    def __call__(self, video: np.ndarray, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 [n, width] of each -> float64 [n, components] of each, with length 1 (or 0, for a feature that is
        the mean of those it was fitted on).
        """
        mapped = [
            unit_length(standard(features) @ matrix)
            for standard, features, matrix in zip(self.standards, (video, audio), self.maps, strict=True)
        ]
        return mapped[0], mapped[1]


def fit_spaces(video: np.ndarray, audio: np.ndarray, ridges: Sequence[float], power: float) -> Iterator[SharedSpace]:
    """A space a ridge, from pairs: float32 [n, width] of each, row by row of the same clip.

    Features are standardised, so `ridge` is in units of the variance of a feature; it is added to the diagonals of
    both covariances. Every component is scaled by its canonical correlation to `power`: unscaled ones count alike in
    a cosine, whether the two modalities share them or not.
    """
    from scipy import linalg

    standards = fit_standard(video), fit_standard(audio)
    points = [standard(features) for standard, features in zip(standards, (video, audio), strict=True)]
    (video_values, video_axes), (audio_values, audio_axes) = (linalg.eigh(own.T @ own / len(own)) for own in points)
    cross = video_axes.T @ (points[0].T @ points[1] / len(video)) @ audio_axes
    for ridge in ridges:
        # Rounding leaves variances a little below 0.
        video_scale, audio_scale = (
            1 / np.sqrt(np.maximum(values, 0) + ridge) for values in (video_values, audio_values)
        )
        left, correlations, right = linalg.svd(video_scale[:, None] * cross * audio_scale, full_matrices=False)
        weights = correlations**power
        maps = (video_axes * video_scale) @ (left * weights), (audio_axes * audio_scale) @ (right.T * weights)
        yield SharedSpace(ridge, standards, maps, correlations)
