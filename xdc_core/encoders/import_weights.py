"""Import weights from a file, from which an encoder starts instead of random weights."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from shards.errors import ConfigError
from xdc_core.encoders.file import misfit, read_encoder, stored_header
from xdc_core.encoders.header import EncoderHeader
from xdc_core.encoders.registry import ENCODERS, encoder_spec
from xdc_core.encoders.spec import EncoderSpec
from xdc_core.encoders.transformers_files import stored_name
from xdc_core.modalities.view import Views

# The published XDC weights have no head, torchvision's have one. Encoders have none.
HEAD = ("fc.weight", "fc.bias")
NESTED_UNDER = ("state_dict", "model")
PARALLEL_PREFIX = "module."
COUNTER = ".num_batches_tracked"
SHOWN = 3


def load_weights(path: Path, name: str, modality: str = "") -> tuple[nn.Module, list[str]]:
    """Return the encoder `name` with the weights of a file, on the CPU, in training mode, and the names of dropped
    tensors. `modality`: needed if the encoder is a user's function.

    path: a .safetensors written by xdc, or a state dict written by torch.save: alone or under the key `state_dict` or
    `model`, with or without the prefix `module.` on all names. Pickled code is refused, not run. The file must have
    every parameter and buffer of the encoder in its shape, and nothing else except a head (`fc.weight` and `fc.bias`,
    both or neither), which is dropped. Batch norm's counters may all be absent. Running statistics are from the file;
    eps and momentum of batch norm are those of the encoder.

    Raises:
        ConfigError: the file cannot be read, or does not fit the encoder (the text names one that it fits, if any).
    """
    spec = encoder_spec(name, modality)
    where = f"{spec.modality}.weights: {path}"
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path, spec, where)
    else:
        tensors = _state_dict(_read_pickle(path, where), where)
    encoder = spec.build(tensors)
    expected = encoder.state_dict()
    if not any(key.endswith(COUNTER) for key in tensors):
        # Files converted from Caffe2, or older than torch 0.4.1, lack these counters of batches, which are not used.
        tensors |= {key: value for key, value in expected.items() if key.endswith(COUNTER)}
    if misfits := _misfits(tensors, expected):
        lines = [f"{where} does not fit {name}:", *(f"  {line}" for line in misfits)]
        if other := _fitting(tensors):
            lines.append(f"  This looks like {other.name}: {_where_it_belongs(other, spec)}")
        else:
            lines.append(f"  Use weights of {name}, or set {spec.modality}.encoder to the encoder of this file.")
        raise ConfigError("\n".join(lines))
    encoder.load_state_dict({key: tensors[key] for key in expected})
    for key, value in encoder.state_dict().items():
        if not torch.isfinite(value).all():
            raise ConfigError(
                f"{where}: {key} has values that are not finite. Download or export the file again, or use another one."
            )
    return encoder, [key for key in HEAD if key in tensors]


def header_of_weights(path: Path, views: Views) -> EncoderHeader | None:
    """Return what a file of weights says of the encoder in it; None if it is not one of xdc.

    views: of the run that starts from it.

    Raises:
        ConfigError: the file cannot be read, or its encoder was trained with other input.
    """
    if path.suffix != ".safetensors":
        return None
    modality = views.modality.name
    try:
        header = stored_header(path)
        lines = header.misfits(views, {}) if header else []
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"{modality}.weights: {path} cannot be read: {error}. Export the file again.") from error
    if lines:
        raise ConfigError(f"{modality}.weights: {path} is of an encoder for other input: {misfit(lines)}")
    if header and not header.modality:  # Of version 0.1.
        return None
    return header


def _read_safetensors(path: Path, spec: EncoderSpec, where: str) -> dict[str, Tensor]:
    try:
        stored, tensors = read_encoder(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"{where} cannot be read: {error}. Download or export the file again.") from error
    if stored == stored_name(spec.name):
        return tensors
    if stored is None:
        raise ConfigError(
            f"{where} has no encoder's name in its header, so xdc did not write it. Use a .pth file instead."
        )
    advice = "use other weights."
    if stored in ENCODERS or ":" in stored:
        advice = _where_it_belongs(encoder_spec(stored, spec.modality), spec)
    raise ConfigError(f"{where} holds the encoder {stored!r}, but {spec.modality}.encoder is {spec.name!r}: {advice}")


def _read_pickle(path: Path, where: str) -> Any:
    """Read tensors and plain values; nothing else is unpickled."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged pickle can raise almost any error.
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise ConfigError(
                f"{where} holds an object of {code[1]}. Only tensors and plain values are read: anything else could "
                "run code. If you trust the file, save its state dict alone with torch.save, and give that."
            ) from None
        raise ConfigError(
            f"{where} cannot be read: it is cut off, damaged, or not written by torch.save ({type(error).__name__}). "
            "Download or export the file again."
        ) from error


def _state_dict(content: Any, where: str) -> dict[str, Tensor]:
    """Return the state dict in a file's content, with names without the prefix of parallel training."""
    for key in NESTED_UNDER:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        what = "an empty state dict" if isinstance(content, dict) else f"an object of {type(content).__name__}"
        raise ConfigError(f"{where} holds {what}, but a state dict was expected: tensors by name.")
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise ConfigError(
                f"{where}: {key!r} is of type {type(value).__name__}, but a state dict was expected: tensors by "
                f"name, by itself or under one of the keys {', '.join(NESTED_UNDER)}."
            )
    prefix = PARALLEL_PREFIX if all(key.startswith(PARALLEL_PREFIX) for key in content) else ""
    return {key.removeprefix(prefix): value for key, value in content.items()}


def _misfits(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return why tensors do not fit an encoder, one line per kind; [] if they fit, with a complete head or without."""
    head = set(HEAD) if tensors.keys() & set(HEAD) else set()
    missing = [key for key in (*expected, *HEAD) if key in expected.keys() | head and key not in tensors]
    unexpected = [key for key in tensors if key not in expected and key not in HEAD]
    reshaped = [
        f"{key} is {list(tensors[key].shape)}, expected {list(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    # Integers or complex numbers would be converted silently.
    retyped = [
        f"{key} is {tensors[key].dtype}, expected {value.dtype}"
        for key, value in expected.items()
        if key in tensors and value.is_floating_point() and not tensors[key].is_floating_point()
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped, "of another type": retyped}
    return [f"{kind}: {_first(words)}" for kind, words in kinds.items() if words]


def _first(words: list[str]) -> str:
    more = len(words) - SHOWN
    return "; ".join(words[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _fitting(tensors: Mapping[str, Tensor]) -> EncoderSpec | None:
    """Return the encoder of xdc that these weights fit, if there is one."""
    return next((spec for spec in ENCODERS.built_in.values() if not _misfits(tensors, spec.build().state_dict())), None)


def _where_it_belongs(fitting: EncoderSpec, wanted: EncoderSpec) -> str:
    if fitting.modality == wanted.modality:
        return f"set {wanted.modality}.encoder to {fitting.name}."
    return f"it belongs to {fitting.modality}.weights, with {fitting.modality}.encoder set to {fitting.name}."
