"""The spaces in which clips are compared, and the maps of features into them, as they are stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from shards.errors import StageError
from shards.store.checked_read import read_stored, remedy_of
from shards.store.files import new_file
from xdc_core.clustering.preprocess import unit_length

FILE_NAME = "maps.npz"
BY = "-by-"


@dataclass(frozen=True)
class Space:
    """Clips of one modality, found by clips of the same modality or of another one."""

    of: str
    by: str

    @property
    def name(self) -> str:
        """Return the name, as of nodes and folders: `video`, or `video-by-audio` for pictures found by sound."""
        return self.of if self.of == self.by else f"{self.of}{BY}{self.by}"


def space_named(name: str) -> Space:
    """Return the space with a name."""
    of, _, by = name.partition(BY)
    return Space(of, by or of)


@dataclass(frozen=True)
class Map:
    """x -> (x - mean) @ matrix, scaled to length 1. mean: float32 [width]. matrix: float32 [width, components]."""

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, features: np.ndarray, what: str = "features") -> np.ndarray:
        """Map features, float32 [n, width], to float32 [n, components]. A feature that is the mean has length 0.

        what: the features' name, for the error.

        Raises:
            StageError: they have another width, or are not finite.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise StageError(
                f"{what} are {'x'.join(map(str, features.shape[1:]))} wide, but the maps were fitted to features that "
                f"are {len(self.mean)} wide: another encoder computed them. Compute them with the run's encoder."
            )
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(bad):
            raise StageError(
                f"{what}: {len(bad)} of {len(features)} are not finite; the first is in row {bad[0]}. The encoder has "
                "diverged, or the file was not written by the extract stage: compute the features again."
            )
        return np.ascontiguousarray(unit_length((features - self.mean) @ self.matrix), np.float32)


# By (modality, the modality with which it shares the space; itself for its own).
Maps = Mapping[tuple[str, str], Map]


def write_maps(folder: Path, maps: Maps) -> None:
    """Write maps.npz, without pickles: `<modality>.<other>.mean` and `.matrix`."""
    arrays = {
        f"{name}.{other}.{part}": getattr(own, part)
        for (name, other), own in maps.items()
        for part in ("mean", "matrix")
    }
    with new_file(folder / FILE_NAME) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_maps(directory: Path) -> Maps:
    """Read the maps of a directory of the maps stage. Raises StageError if the file is missing or damaged."""
    path = directory / FILE_NAME
    try:
        with np.load(BytesIO(read_stored(path, "maps")), allow_pickle=False) as stored:
            names = [name.rsplit(".", 1)[0] for name in stored.files if name.endswith(".matrix")]
            pairs = [tuple(name.split(".")) for name in names]
            return {
                (own, other): Map(stored[f"{name}.mean"], stored[f"{name}.matrix"])
                for name, (own, other) in zip(names, pairs, strict=True)
            }
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise StageError(f"{path} cannot be read ({error}). {remedy_of(path, 'maps')}") from error
