"""Where the files of a `transformers` model are: `hf:FOLDER` or `hf:OWNER/NAME[@REVISION]` in a configuration.

The configuration and the preprocessing of the model are read as JSON: neither torch nor transformers is imported here.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import ConfigError

PREFIX = "hf:"
CONFIG = "config.json"
# A preprocessor of videos has a file of its own in newer versions of transformers.
PREPROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("pytorch_model*.bin", "*.pth", "*.pt", "*.ckpt")
EXTRA = "pip install 'xdc-pipeline[hf]'"
CLOSE = 1e-3  # Means and deviations that differ by less are the same.


@dataclass(frozen=True)
class Family:
    """One architecture of transformers.

    modality: of its input. inputs: setting of the modality -> the key of config.json that must have the same value, and
    its value where config.json lacks the key. tubelet: for models that also take fewer frames, the key of the number
    of which these must be a multiple, and its default.
    """

    modality: str
    inputs: Mapping[str, tuple[str, int]]
    tubelet: tuple[str, int] | None = None


# By `model_type` in config.json.
FAMILIES = {
    "videomae": Family("video", {"frames": ("num_frames", 16), "crop": ("image_size", 224)}),
    "vjepa2": Family("video", {"frames": ("frames_per_clip", 64), "crop": ("crop_size", 256)}, ("tubelet_size", 2)),
    "audio-spectrogram-transformer": Family("audio", {"frames": ("max_length", 1024), "mels": ("num_mel_bins", 128)}),
}


def is_transformers(name: str) -> bool:
    """Return whether an encoder's name is of the form `hf:...`."""
    return name.startswith(PREFIX)


def check_name(name: str) -> None:
    """Raise ConfigError if the name of a `transformers` model is not of one of the two forms."""
    if _folder(name) is None and on_hub(name) is None:
        raise ConfigError(
            f"the encoder {name!r} is neither hf:FOLDER (beginning with /, ./, ../ or ~) nor hf:OWNER/NAME or "
            "hf:OWNER/NAME@REVISION, a model on the Hugging Face Hub."
        )


def model_folder(name: str, root: Path) -> Path | None:
    """Return the folder of `hf:FOLDER`, relative to the directory `root`; None for a model on the hub."""
    folder = _folder(name)
    return None if folder is None else (root / Path(folder).expanduser()).resolve()


def stored_name(name: str) -> str:
    """Return the name by which files know an encoder: of `hf:FOLDER` only the folder's own name, without the path."""
    folder = _folder(name) if is_transformers(name) else None
    return name if folder is None else f"{PREFIX}./{Path(folder).name.lstrip('.~') or 'model'}"


def _folder(name: str) -> str | None:
    place = name.removeprefix(PREFIX)
    return place if place.startswith(("/", "./", "../", "~")) or place in (".", "..") else None


def on_hub(name: str) -> tuple[str, str | None] | None:
    """Return owner/name and revision of a model on the hub; None for a name of another form."""
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name.removeprefix(PREFIX))
    return (found[1], found[2]) if found else None


def has_weights(folder: Path) -> bool:
    """Return whether there are pretrained weights in a model's folder.

    Raises:
        ConfigError: its weights are in pickles only, which are not read, or one of several files is missing.
    """
    index = folder / INDEX
    if index.is_file() and not (folder / WHOLE).is_file():
        files = sorted(set(map(str, (read_json(index).get("weight_map") or {}).values())))
        if missing := [name for name in files if not (folder / name).is_file()]:
            raise ConfigError(
                f"{folder}: {len(missing)} of the {len(files)} files of weights that {INDEX} names are missing "
                f"({missing[0]} first). Download the model again."
            )
    if any(path.is_file() for path in folder.glob(WEIGHTS[0])):
        return True
    if pickled := [path.name for pattern in PICKLED for path in sorted(folder.glob(pattern))]:
        raise ConfigError(
            f"{folder}: the weights are in {pickled[0]}, a pickle, which is not read because it can run code. Convert "
            "them to model.safetensors, or remove the file for random weights."
        )
    return False


def model_files(folder: Path) -> list[Path]:
    """Return the files of a model's folder that decide the encoder, sorted."""
    return sorted({path for pattern in (CONFIG, *PREPROCESSORS, *WEIGHTS) for path in folder.glob(pattern)})


def family_of(folder: Path) -> tuple[Family, dict[str, Any]]:
    """Return the architecture of the model in a folder, and its config.json.

    Raises:
        ConfigError: the file is missing or not JSON, or its architecture is not one of `FAMILIES`.
    """
    config = read_json(folder / CONFIG)
    return known_family(config, folder / CONFIG), config


def known_family(config: Mapping[str, Any], where: Path | str) -> Family:
    """Return the architecture that a model's configuration names. Raises ConfigError for others than `FAMILIES`."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ConfigError(
            f"{where}: model_type is {kind!r}, but one of {', '.join(FAMILIES)} is needed. Use another "
            "model, or write a function for this one: package.module:function."
        )
    return FAMILIES[kind]


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file. Raises ConfigError if it is missing or has no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist. Give a folder that transformers' save_pretrained has written."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Save the model again.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, but an object was expected. Save the model again.")
    return content


def misfits(folder: Path, modality: str, settings: Mapping[str, Any], sample_rate: int) -> list[str]:
    """Return in which settings of a modality views differ from the input of the model in a folder, with the right
    values; [] if they fit.

    sample_rate: of the corpus's sound, in Hz. What a model does not say of its input is not compared.

    Raises:
        ConfigError: the model cannot be read, or its architecture is unknown.
    """
    family, config = family_of(folder)
    if family.modality != modality:
        return [f"it is a model of {family.modality}, not of {modality}"]
    lines = []
    for name, (key, default) in family.inputs.items():
        given, wanted = settings[name], _side(config.get(key, default))
        if name == "frames" and family.tubelet is not None:
            tubelet = config.get(*family.tubelet)
            if given > wanted or given % tubelet:
                lines.append(f"{modality}.frames is {given}, but a multiple of {tubelet} up to {wanted} is needed")
        elif given != wanted:
            lines.append(f"{modality}.{name} is {given}, but {wanted} is needed ({key})")
    preprocessors = [folder / name for name in PREPROCESSORS if (folder / name).exists()]
    made = read_json(preprocessors[0]) if preprocessors else {}
    return [*lines, *(_other_sound if modality == "audio" else _other_pictures)(settings, made, sample_rate)]


def _side(value: Any) -> Any:
    """Return one side of a square size."""
    return value[0] if isinstance(value, list) and value else value


def _other_pictures(settings: Mapping[str, Any], made: Mapping[str, Any], _: int) -> Iterator[str]:
    if not made.get("do_normalize", True):
        return
    for name in ("mean", "std"):
        wanted = made.get(f"image_{name}")
        if wanted is not None and not _close(settings[name], wanted):
            yield f"video.{name} is {list(settings[name])}, but the model was trained with {wanted}"


def _other_sound(settings: Mapping[str, Any], made: Mapping[str, Any], sample_rate: int) -> Iterator[str]:
    if settings["filters"] != "kaldi":
        yield f"audio.filters is {settings['filters']}, but kaldi is needed"
    if settings["align"] == "span":
        yield "audio.align is span, but centre or start is needed: a step of the input is 10 ms"
    rate = made.get("sampling_rate", 16000)
    if sample_rate != rate:
        yield f"corpus.sample_rate is {sample_rate}, but {rate} is needed"
    if made and made.get("do_normalize", True):
        # AST divides by twice the deviation that it calls std.
        right = {"mean": made.get("mean", -4.2677393), "std": 2 * made.get("std", 4.5689974)}
        for name, wanted in right.items():
            if not _close([settings[name]], [wanted]):
                yield f"audio.{name} is {settings[name]}, but the model was trained with {wanted:.7g}"


def _close(given: Any, wanted: Any) -> bool:
    return len(given) == len(wanted) and all(
        math.isclose(a, b, abs_tol=CLOSE) for a, b in zip(given, wanted, strict=True)
    )
