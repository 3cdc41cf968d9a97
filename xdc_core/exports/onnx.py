"""model.onnx: an exported encoder as an ONNX graph with a dynamic batch, checked against PyTorch.

The graph is the network alone. Its input is that of the network in PyTorch, float32: for pictures normalised with mean
and std, for sound the log-mel. Cutting, normalisation and log-mel are outside of the graph.
"""

import copy
import logging
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from shards.errors import ConfigError, StageError
from shards.store.files import sha256_of
from xdc_core.exports.config import ONNX, ExportConfig, ExportedOnnx
from xdc_core.exports.load import LoadedEncoder, load_weights_of

INPUT, OUTPUT = "views", "features"
TRACED = 2  # Batch of the example. A batch of 1 would be taken for a constant.
CHECKED = (1, 2, 3, 5)
TOLERANCE = 1e-4  # Of a feature's length.


def check_installed() -> None:
    """Raise ConfigError if a package of the extra `onnx` is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"--onnx needs the package {name} ({error}). Run: pip install 'xdc-pipeline[onnx]'"
            ) from None


def write_onnx(folder: Path, config: ExportConfig) -> ExportedOnnx:
    """Write model.onnx into the folder of an export, which has model.safetensors. Return its description.

    The input is called `views`, the output `features`: float32 [batch, width].

    Raises:
        ConfigError: a package is missing.
        StageError: the network cannot be converted, or the graph's features differ from PyTorch's by more than 1e-4 of
            their length.
    """
    check_installed()
    loaded = load_weights_of(folder, config)
    # A copy in the default memory format: the graph has none.
    encoder = copy.deepcopy(loaded.encoder).eval()
    encoder.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    shape = input_shape(loaded)
    path = folder / ONNX
    example = torch.zeros(TRACED, *shape)
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            torch.onnx.export(
                encoder,
                (example,),
                str(path),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # The network may be a user's, and conversion can raise any error.
        raise StageError(
            f"{config.encoder} cannot be converted to ONNX: {type(error).__name__}: {error}. Export it without --onnx."
        ) from error
    _without_places(path)
    difference = largest_difference(path, encoder, shape)
    if not difference <= TOLERANCE:
        raise StageError(
            f"{config.encoder}: the features of {ONNX} differ from PyTorch's by {difference:.2g} of their length, more "
            f"than {TOLERANCE:g}. Export it without --onnx, or with other versions of onnx and onnxruntime. (nan: the "
            "features of one of them are not finite numbers. Then look at those of the run, too.)"
        )
    return ExportedOnnx.model_validate(
        {
            "sha256": sha256_of(path),
            "input": ["batch", *shape],
            "difference": float(f"{difference:.2g}"),
            "checked": list(CHECKED),
        }
    )


def _without_places(path: Path) -> None:
    """Remove the notes of torch from a graph: they have the paths of the machine's source files."""
    import onnx

    model = onnx.load(path)
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for function in model.functions:
        for part in (function, *function.node, *function.value_info):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
    for end in (*model.graph.input, *model.graph.output):
        end.ClearField("metadata_props")
    onnx.save(model, path)


def input_shape(loaded: LoadedEncoder) -> tuple[int, ...]:
    """Return the shape of one view as the network gets it: of a clip in which nothing is seen or heard."""
    modality, settings = loaded.config.modality, loaded.config.view
    if modality == "video":
        return (3, settings["frames"], settings["crop"], settings["crop"])
    if modality == "audio":
        return (1, settings["frames"], settings["mels"])
    raise ConfigError(f"--onnx knows the input of video and audio, not of {modality}. Export it without --onnx.")


def largest_difference(path: Path, encoder: torch.nn.Module, shape: tuple[int, ...]) -> float:
    """Return the largest distance of the graph's features from PyTorch's, as a share of their length: NaN or infinite
    if one of them is.
    """
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator, distances = torch.Generator().manual_seed(0), []
    for size in CHECKED:
        views = torch.randn(size, *shape, generator=generator)
        with torch.inference_mode():
            wanted = encoder(views).float().numpy()
        (made,) = session.run([OUTPUT], {INPUT: views.numpy()})
        if made.shape != wanted.shape:
            return float("inf")
        norms = np.maximum(np.linalg.norm(wanted, axis=1), np.finfo(np.float32).tiny)
        distances.append(np.linalg.norm(made - wanted, axis=1) / norms)
    return float(np.concatenate(distances).max())  # NumPy's maximum keeps a NaN, Python's does not.
