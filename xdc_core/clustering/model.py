"""What a clustering algorithm keeps of a fit, on disk: <name>.npy for each of its arrays."""

from io import BytesIO
from pathlib import Path

import numpy as np

from shards.errors import StageError
from shards.store.checked_read import read_stored, remedy_of
from shards.store.files import new_file
from xdc_core.clustering.clusterer import Clusterer, Model


def write_model(directory: Path, model: Model) -> None:
    """Write the arrays of a model, without pickles."""
    for name, array in model.items():
        with new_file(directory / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)


def read_model(directory: Path, clusterer: Clusterer) -> dict[str, np.ndarray]:
    """Read the arrays of an algorithm's model. Raises StageError where a file is missing or damaged."""
    return {name: _read_array(directory / f"{name}.npy") for name in clusterer.arrays}


def _read_array(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(BytesIO(read_stored(path, "cluster")), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise StageError(f"{path} cannot be read ({error}). {remedy_of(path, 'cluster')}") from error
    return array
