"""A new run's configuration."""

import os
from pathlib import Path
from typing import Any

from shards.commit import write_text
from shards.errors import ConfigError
from xdc_core.config import FILE_NAME, commented_yaml, load_preset, parse_config
from xdc_core.run import open_run

NOTES = """The configuration of this run. Change it as you like, then: xdc status {run} tells which stages are stale,
xdc run {run} does those. Paths are relative to this file. Made from the preset {preset}."""


def make_run(
    root: Path, videos: Path | None, preset: str, corpus: Path | None, choices: dict[str, Any], keep: bool
) -> bool:
    """Write `root`/xdc.yaml from a preset. Returns whether it was written (with `keep`, an existing one stays).

    Raises:
        ConfigError: there is a run already, `videos` does not exist, or a value is wrong.
    """
    file = root / FILE_NAME
    if file.exists():
        if not keep:
            raise ConfigError(f"{file} is there already. Choose another directory, or keep it with --keep.")
        if videos is not None and open_run(root).videos != videos.resolve():
            raise ConfigError(f"{root} is a run on {open_run(root).videos}, not on {videos}. Choose another directory.")
        return False
    if videos is not None and not videos.exists():
        raise ConfigError(f"--videos {videos} does not exist. Give a folder of videos, or a manifest.")
    values = load_preset(preset) | choices
    places = {"path": relative(corpus or Path("corpora") / root.name, root)}
    if videos is not None:
        places["videos"] = relative(videos, root)
    values["corpus"] = values.get("corpus", {}) | places
    config = parse_config(values, f"preset {preset} with your choices")
    write_text(file, commented_yaml(config, NOTES.format(run=root, preset=preset)))
    return True


def relative(path: Path, root: Path) -> str:
    """How a path is written in a run's configuration: relative to the run's directory."""
    return os.path.relpath(path.resolve(), root.resolve())
