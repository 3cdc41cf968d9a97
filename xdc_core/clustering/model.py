"""The models of a clustering algorithm on disk: <name>.npy per array; <name>-1.npy and so on of further clusterings."""

from io import BytesIO
from pathlib import Path

import numpy as np

from shards.errors import StageError
from shards.store.checked_read import read_stored, remedy_of
from shards.store.files import new_file
from xdc_core.clustering.clusterer import Clusterer, Model


def array_file(name: str, head: int = 0) -> str:
    """Return the file name of an array of the clustering `head`; the first one is 0."""
    return f"{name}-{head}.npy" if head else f"{name}.npy"


def write_model(directory: Path, model: Model, head: int = 0) -> None:
    """Write the arrays of a model, without pickles. head: the number of the clustering."""
    for name, array in model.items():
        with new_file(directory / array_file(name, head)) as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)


def read_model(directory: Path, clusterer: Clusterer, head: int = 0) -> dict[str, np.ndarray]:
    """Read the arrays of an algorithm's model. Raises StageError if a file is missing or damaged."""
    return {name: read_array(directory / array_file(name, head), "cluster") for name in clusterer.arrays}


def read_array(path: Path, stage: str) -> np.ndarray:
    """Read an array that a stage wrote, without pickles. Raises StageError if the file is missing or damaged."""
    try:
        array: np.ndarray = np.load(BytesIO(read_stored(path, stage)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise StageError(f"{path} cannot be read ({error}). {remedy_of(path, stage)}") from error
    return array
