"""The feature of a media file, computed as the run's extraction does, in a run of its own."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flows.cli.using.nodes import make_nodes
from shards.corpus.index import read_whole_index
from shards.errors import ConfigError
from shards.media.limits import limits_of
from shards.media.probe import probe_file
from shards.media.sandbox import ordered_map
from xdc_core.config.schema import Config
from xdc_core.data.features import source_part
from xdc_core.modalities.registry import MODALITIES
from xdc_core.new_clips.embedding import make_embedding, setup_of
from xdc_core.new_clips.encoders import encoders_of_run
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def embed_query(
    run: Run, number: int, by: str, file: Path, at: float | None, folder: Path
) -> tuple[np.ndarray, Path, dict[str, Any]]:
    """Return the feature of a file's clip, float32 [1, width], the directory of the clip, and what it is.

    by: the modality whose encoder, of the start of round `number`, computes it. The clip is as long as the run's, and
    begins at `at` seconds, or is in the middle of the file. Everything is made in `folder`.

    Raises:
        ConfigError: the file cannot be used, lacks the modality, or is shorter than a view.
        StageError: a stage failed, or the clip was rejected.
    """
    encoders = encoders_of_run(run, number, [by])
    settings = encoders.config
    begin, end = _span(settings, by, file, at)
    manifest = folder / "query.csv"
    with manifest.open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([("path", "start_s", "end_s"), (str(file.resolve()), begin, end)])
    values = dict(encoders.values)
    values["corpus"] = values["corpus"] | {"cut_at_shots": False, "append": False, "max_reject_share": 1.0}
    values["corpus"]["min_seconds"] = min(values["corpus"]["min_seconds"], view_seconds(settings))
    values["runs_on"] = values["runs_on"] | {"executor": "local", "executor_settings": {}}
    made = make_embedding(folder / "run", replace(encoders, values=values), manifest, None)
    extraction = Node("extract", by, 0)
    make_nodes(made, [*setup_of(made.config), extraction], quiet=True)
    clip = read_whole_index(made.corpus).to_pylist()[0]
    _, (features,) = source_part([made.directory(extraction)], clip["shard"])
    if not len(features):
        raise _unusable(file, "its clip does not decode")
    about = {name: clip[name] for name in ("key", "start_s", "duration_s")}
    return features, made.corpus, about | {"source": str(file), "path": str(file.resolve())}


def _span(settings: Config, by: str, file: Path, at: float | None) -> tuple[float, float]:
    """Return begin and end of the clip in a file, in seconds. Raises ConfigError if the file cannot be used."""
    corpus, stored = settings.corpus, MODALITIES[by].stored
    jobs = [(str(file.parent.resolve()), file.name, (stored,))]
    (answer,) = ordered_map(probe_file, jobs, 1, limits_of(corpus))
    if isinstance(answer, Exception):
        raise _unusable(file, str(answer))
    found, reason, _ = answer
    if reason:
        raise _unusable(file, f"{reason}; --by {MODALITIES[by].word or by} needs it")
    length = corpus.clip_seconds
    begin = max(0.0, (found.duration_s - length) / 2) if at is None else at
    if not 0 <= begin < found.duration_s:
        raise ConfigError(f"--at {begin:g}: {file} is {found.duration_s:.2f} s long. Choose a time within it.")
    end, view = min(found.duration_s, begin + length), view_seconds(settings)
    if end - begin < view:
        raise _unusable(
            file,
            f"its clip is {end - begin:.2f} s long, and a view has {settings.video.frames} frames at "
            f"{corpus.fps:g} fps, {view:.2f} s. Give a longer file" + ("" if at is None else ", or an earlier --at"),
        )
    return begin, end


def view_seconds(settings: Config) -> float:
    """Return the duration of a view."""
    return settings.video.frames / settings.corpus.fps


def _unusable(file: Path, reason: str) -> ConfigError:
    return ConfigError(f"{file} cannot be used as a query: {reason}.")
