"""A new run's configuration."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.cli.running.change import check_kept, check_named_paths, parse_settings
from shards.command import command
from shards.corpus.listing import check_places, check_sources
from shards.errors import ConfigError
from shards.store.files import write_text
from shards.store.lock import in_turn
from xdc_core.config.load import FILE_NAME, load_preset, parse_config
from xdc_core.config.write import commented_yaml
from xdc_core.modalities.registry import MODALITIES
from xdc_core.modalities.video import VIDEO
from xdc_core.outside.tables import feature_files, width_of
from xdc_core.runs.run import open_run
from xdc_core.study.changes import set_value

NOTES = """The configuration of this run. Change it as you like, then: {status} shows which stages are stale,
{run} does those. Paths are relative to this file. Made from the preset {preset}."""


def make_run(
    root: Path,
    videos: Path | None,
    preset: str,
    corpus: Path | None,
    choices: dict[str, Any],
    weights: dict[str, Path],
    keep: bool,
    features: dict[str, Path] | None = None,
    settings: Sequence[str] = (),
) -> bool:
    """Write `root`/xdc.yaml from a preset. Return whether it was written (with `keep`, an existing one stays).

    `weights` are the files from which encoders start, by modality. `features`: folders of features that somebody else
    computed, by modality, instead of `videos`. `settings`: NAME=VALUE texts, which are set last.

    The videos are listed as by `xdc run`, without opening any.

    Raises:
        ConfigError: the run exists already, `videos` or a file of weights does not exist, a value is wrong, or
            `xdc run` could not list the videos or find the splits to learn from.
    """
    file = root / FILE_NAME
    if file.exists():
        if not keep:
            raise ConfigError(f"{file} exists already. Choose another directory, or keep it with --keep.")
        if videos is not None and open_run(root).videos != videos.resolve():
            raise ConfigError(f"{root} is a run on {open_run(root).videos}, not on {videos}. Choose another directory.")
        if features and open_run(root).features != {name: folder.resolve() for name, folder in features.items()}:
            raise ConfigError(f"{root} is not a run on these features. Choose another directory.")
        for modality, path in weights.items():
            if (given := open_run(root).weights(modality)) != path.resolve():
                raise ConfigError(
                    f"{root} is a run that starts {modality} from {given or 'random weights'}, not from {path}. Choose "
                    f"another directory, or set {modality}.weights in {file}."
                )
        check_kept(root, list(settings))
        return False
    if videos is not None and not videos.exists():
        raise ConfigError(f"--videos {videos} does not exist. Give a folder of videos, or a manifest.")
    for modality, path in weights.items():
        if not path.is_file():
            raise ConfigError(
                f"the {modality} weights {path} do not exist. Give a .safetensors of xdc, a .pth or a .pt."
            )
    if features:
        width = _check_features(features, videos, weights)
        choices = (
            {"modalities": list(features), "rounds": 0} | ({} if len(features) > 1 else {"method": "sdc"}) | choices
        )
    set_last = parse_settings(list(settings))
    if isinstance(named := set_last.get("modalities"), list):
        choices = choices | {"modalities": named}  # The preset's settings follow from them.
    values = load_preset(preset, choices.get("modalities", ())) | choices
    if features and (values["cluster"].get("pca") or 0) > width > 0:
        values["cluster"] = values["cluster"] | {"pca": width}
    places: dict[str, Any] = {"path": _corpus_path(corpus or Path("corpora") / root.name, root)}
    if videos is not None:
        places["videos"] = relative(videos, root)
    if features:
        places["features"] = {name: relative(folder, root) for name, folder in features.items()}
    values["corpus"] = values.get("corpus", {}) | places
    for modality, path in weights.items():
        values[modality] = values.get(modality, {}) | {"weights": relative(path, root)}
    for name, value in set_last.items():
        set_value(values, name, value)
    config = parse_config(values, f"preset {preset} with your choices")
    check_named_paths(file, None, config)
    if config.corpus.videos is not None:
        videos = (root / config.corpus.videos).resolve() if videos is None else videos
        check_places(root / config.corpus.path, videos)
        check_sources(videos, config.corpus)
    status, work = (command("xdc", name, root) for name in ("status", "run"))
    notes = NOTES.format(status=status, run=work, preset=preset)
    with in_turn(file):
        if file.exists():  # Another process has just made it.
            raise ConfigError(f"{file} exists already. Choose another directory, or keep it with --keep.")
        write_text(file, commented_yaml(config, notes))
    return True


def _check_features(features: dict[str, Path], videos: Path | None, weights: dict[str, Path]) -> int:
    """Return the smallest width of the features of a modality.

    Raises:
        ConfigError: there are also videos or weights, or a folder has no Parquet files with features.
    """
    if videos is not None or weights:
        raise ConfigError("--features is instead of --videos and --init: nothing is computed from media.")
    return min(max(map(width_of, feature_files(folder))) for folder in features.values())


def files_by_modality(texts: list[str]) -> dict[str, Path]:
    """Return files or folders by modality, from texts such as `audio=FILE`. One without a name is for video."""
    files = {}
    for text in texts:
        name, sign, path = text.partition("=")
        named = bool(sign) and name in MODALITIES
        files[name if named else VIDEO.name] = Path(path if named else text)
    return files


def _corpus_path(corpus: Path, root: Path) -> str:
    """Return the path of a corpus as it is written in the configuration; a Path has one slash less than a URL."""
    store, given = "s3:/", corpus.as_posix()
    return f"{store}/{given.removeprefix(store)}" if given.startswith(store) else relative(corpus, root)


def relative(path: Path, root: Path) -> str:
    """Return a path relative to the run's directory, as it is written in the run's configuration."""
    return os.path.relpath(path.resolve(), root.resolve())
