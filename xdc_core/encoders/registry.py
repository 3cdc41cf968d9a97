"""The encoders by name: those of xdc, those of installed packages, and a user's own functions."""

import difflib
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

from shards.errors import ConfigError
from shards.registry import Registry
from xdc_core.encoders.spec import EncoderSpec
from xdc_core.encoders.transformers_files import check_name, is_transformers

ENCODERS: Registry[EncoderSpec] = Registry(
    "encoder",
    "xdc.encoders",
    {
        spec.name: spec
        for spec in (
            EncoderSpec("r2plus1d_18", "video", 512, "xdc_core.encoders.r2plus1d", filled=True),
            EncoderSpec("torchvision_r2plus1d_18", "video", 512, "xdc_core.encoders.torchvision_r2plus1d", filled=True),
            EncoderSpec("r2plus1d_tiny", "video", 64, "xdc_core.encoders.r2plus1d", filled=True),
            EncoderSpec("audio_resnet_18", "audio", 512, "xdc_core.encoders.audio_resnet", filled=True),
            EncoderSpec("audio_resnet_tiny", "audio", 64, "xdc_core.encoders.audio_resnet", filled=True),
        )
    },
    of=EncoderSpec,
)


def encoder_spec(name: str, modality: str = "") -> EncoderSpec:
    """Return the entry of `ENCODERS`, or that of a function `package.module:function`, or of a model of transformers,
    `hf:...`, for a modality.

    Raises:
        ConfigError: the name is unknown or not of that form, or the package that gives it cannot be loaded.
    """
    if ":" not in name:
        spec = ENCODERS.find(name)
        if spec.name != name:
            raise ConfigError(
                f"the encoder {name!r} of {ENCODERS.distribution(name)} calls itself {spec.name!r}. Give its entry "
                "point the same name."
            )
        return spec
    if is_transformers(name):
        check_name(name)
        module, function = "xdc_core.encoders.transformers_model", "transformers_encoder"
        return EncoderSpec(name, modality, None, module, function, described=True)
    module, _, function = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), function)):
        raise ConfigError(f"the encoder {name!r} is not of the form package.module:function.")
    return EncoderSpec(name, modality, None, module, function)


def check_encoder(name: str, modality: str) -> EncoderSpec:
    """Return the entry of an encoder for a modality, and check that its module exists, without importing it.

    Raises:
        ConfigError: as `encoder_spec`; or the encoder is for another modality, or its module does not exist.
    """
    spec = encoder_spec(name, modality) if ":" in name or name in ENCODERS else None
    if spec is None or spec.modality != modality:
        fitting = [other.name for other in ENCODERS.loadable().values() if other.modality == modality]
        near = difflib.get_close_matches(name, fitting, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        why = f"is for {spec.modality}, not for {modality}" if spec else "is unknown"
        raise ConfigError(
            f"{name!r} {why}.{hint} Allowed: {', '.join(fitting)}, or package.module:function or hf:MODEL for "
            "another one."
        )
    if outside(name):
        source_file(spec)
    return spec


def outside(name: str) -> bool:
    """Return whether an encoder is not one of xdc's own."""
    return ":" in name or ENCODERS.distribution(name) != ""


def source_file(spec: EncoderSpec) -> Path:
    """Return the file of the module that defines an encoder. It is not imported, because this would load torch.

    Raises:
        ConfigError: the module does not exist.
    """
    first, *rest = spec.module.split(".")
    module_spec: ModuleSpec | None = find_spec(first)
    name = first
    for part in rest:
        name = f"{name}.{part}"
        places = module_spec.submodule_search_locations if module_spec else None
        module_spec = PathFinder.find_spec(name, places) if places else None
    if module_spec is None or module_spec.origin is None or not Path(module_spec.origin).is_file():
        raise ConfigError(
            f"the encoder {spec.name!r}: there is no module {spec.module}. Install its package, or put the folder in "
            "which it lies on PYTHONPATH."
        )
    return Path(module_spec.origin)
