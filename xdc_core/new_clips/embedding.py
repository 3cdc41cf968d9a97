"""A run that only computes features: its directory, and whether an existing one is the same."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.command import command
from shards.corpus.listing import check_places, check_sources
from shards.errors import ConfigError
from shards.settings import stored_part
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
{status} shows what is there; xdc embed with the same arguments goes on. Paths are relative to this file.
Encoders, corpus, views and extraction are those of the run that has learnt. runs_on may be changed."""


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
    values = dict(encoders.values)
    places: dict[str, Any] = {"path": CORPUS, "videos": os.path.relpath(videos.resolve(), root.resolve())}
    if layout is not None:
        places |= {"layout": layout, "label_from_folder": False}
    values["corpus"] = values["corpus"] | places
    for name, file in encoders.files.items():
        values[name] = values[name] | {"weights": f"encoders/{name}{file.suffix}"}
    config = parse_config(values, f"the settings of {encoders.about}")
    if (root / FILE_NAME).exists():
        return _same(root, config, encoders, videos)
    check_places(root / CORPUS, videos)
    check_sources(videos, config.corpus)
    for name, file in encoders.files.items():
        with new_file(root / f"encoders/{name}{file.suffix}") as temporary:
            link_or_copy(file, temporary)
    notes = NOTES.format(about=encoders.about, status=command("xdc", "status", root))
    write_text(root / FILE_NAME, commented_yaml(config, notes))
    return open_run(root)


def setup_of(config: Config) -> list[Node]:
    """Return what a run without training makes before its features: its corpus and encoders. [] for other runs."""
    return [] if config.rounds else [SHARD, *(Node("init", name) for name in config.encoded)]


def _same(root: Path, config: Config, encoders: Encoders, videos: Path) -> Run:
    """Return the run in an existing directory. Raises ConfigError if it computes other features than `config`."""
    there = open_run(root)
    file = root / FILE_NAME
    instead = "Choose another --out, or remove this directory."
    if there.config.rounds or not all(there.weights(name) for name in there.config.modalities):
        raise ConfigError(f"{file} is the configuration of a run that learns. Choose another --out.")
    if there.videos != videos.resolve():
        raise ConfigError(f"{root} has features of {there.videos}, not of {videos}. {instead}")
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
