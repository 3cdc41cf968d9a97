"""A run that only computes features: its directory, and whether an existing one is the same."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.command import command
from shards.corpus.listing import check_places, check_sources
from shards.errors import ConfigError
from shards.settings import is_url, stored_part
from shards.store.files import link_or_copy, new_file, sha256_of, write_text
from xdc_core.config.load import FILE_NAME, parse_config
from xdc_core.config.schema import Config
from xdc_core.config.views import encoding_settings, views_of
from xdc_core.config.write import commented_yaml
from xdc_core.new_clips.encoders import Encoders
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run

CORPUS = "corpus"  # The folder of its clips.
NOTES = """The configuration of a run that computes features with {about}.
{status} shows what is there. Paths are relative to this file. {note} runs_on may be changed."""
AS_LEARNT = """xdc embed with the same arguments goes on.
Encoders, corpus, views and extraction are those of the run that has learnt."""


def make_embedding(root: Path, encoders: Encoders, videos: Path, layout: str | None) -> Run:
    """Write a run directory that computes features of videos with given encoders, or check that `root` is the same one.

    The encoders are linked into it, or copied where there are no links: it can be moved, and used without the run that
    has learnt. An existing directory stays as it is; what enters no fingerprint may have been changed in its xdc.yaml.

    Raises:
        ConfigError: videos do not exist or cannot be listed, the layout is unknown, or `root` has other encoders,
            videos or settings.
    """
    if not videos.exists():
        raise ConfigError(f"{videos} does not exist. Give a folder of videos, or a .csv or .parquet manifest.")
    places: dict[str, Any] = {"path": CORPUS, "videos": os.path.relpath(videos.resolve(), root.resolve())}
    if layout is not None:
        places |= {"layout": layout, "label_from_folder": False}
    config = _config(encoders, corpus=places)
    if (root / FILE_NAME).exists():
        return _same(root, config, encoders, videos)
    check_places(root / CORPUS, videos)
    check_sources(videos, config.corpus)
    return _write(root, config, encoders, AS_LEARNT)


def make_embedding_of_clips(root: Path, encoders: Encoders, run: Run, views: int) -> Run:
    """Write a run directory that computes features of a run's clips, means over `views` views, or check that `root` is
    the same one. Encoders are linked as in `make_embedding`; the clips are not copied.

    Raises:
        ConfigError: `root` has other encoders, clips or settings.
    """
    path = run.config.corpus.path
    places = {"path": path if is_url(path) else os.path.relpath(run.corpus, root.resolve()), "videos": None}
    config = _config(encoders, corpus=places, extract={"views": views})
    if (root / FILE_NAME).exists():
        return _same(root, config, encoders, None)
    return _write(
        root, config, encoders, f"Encoders and clips are those of the run; features are means over {views} views."
    )


def _config(encoders: Encoders, **changes: dict[str, Any]) -> Config:
    """Return the configuration of a run that computes features. changes: to sections of the encoders' values."""
    values = encoders.values | {name: encoders.values[name] | change for name, change in changes.items()}
    values |= {name: values[name] | {"weights": _inside(name, file)} for name, file in encoders.files.items()}
    return parse_config(values, f"the settings of {encoders.about}")


def _inside(modality: str, file: Path) -> str:
    """Return where the encoder of a modality lies in the directory of an embedding."""
    return f"encoders/{modality}{file.suffix}"


def _write(root: Path, config: Config, encoders: Encoders, note: str) -> Run:
    for name, file in encoders.files.items():
        with new_file(root / _inside(name, file)) as temporary:
            link_or_copy(file, temporary)
    notes = NOTES.format(about=encoders.about, status=command("xdc", "status", root), note=note)
    write_text(root / FILE_NAME, commented_yaml(config, notes))
    return open_run(root)


def setup_of(config: Config) -> list[Node]:
    """Return what a run without training makes before its features: its corpus and encoders. [] for other runs."""
    return [] if config.rounds else [SHARD, *(Node("init", name) for name in config.encoded)]


def _same(root: Path, config: Config, encoders: Encoders, videos: Path | None) -> Run:
    """Return the run in an existing directory. Raises ConfigError if it computes other features than `config`."""
    there = open_run(root)
    file = root / FILE_NAME
    instead = "Choose another --out, or remove this directory."
    if there.config.rounds or not all(there.weights(name) for name in there.config.modalities):
        raise ConfigError(f"{file} is the configuration of a run that learns. Choose another --out.")
    if there.videos != (None if videos is None else videos.resolve()):
        raise ConfigError(f"{root} has features of {there.videos}, not of {videos or config.corpus.path}. {instead}")
    given = encoders.sha256
    for name in there.config.modalities:
        path = there.weights(name)
        if name in given and (path is None or not path.is_file() or sha256_of(path) != given[name]):
            raise ConfigError(
                f"{root} has features by another {name} encoder ({path}), not by {encoders.about}. {instead}"
            )
    was, wanted = dict(_decides(there.config)), dict(_decides(config))
    for name in dict.fromkeys((*was, *wanted)):
        if was.get(name) != wanted.get(name):
            raise ConfigError(
                f"{root}: {name} is {was.get(name)}, and with {encoders.about} it is {wanted.get(name)}. {instead}"
            )
    return there


def _decides(config: Config) -> Iterator[tuple[str, Any]]:
    """Yield the settings that decide the features, by name."""
    yield "modalities", list(config.modalities)
    for name, value in stored_part(config.corpus).items():
        yield f"corpus.{name}", value
    for modality in config.modalities:
        for name, value in views_of(config, modality).hashed(training=False).items():
            yield f"{modality}.{name}", value
    for name, value in encoding_settings(config.extract).items():
        yield f"extract.{name}", value
    yield "extract.views", config.extract.views
