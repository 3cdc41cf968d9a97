"""The clips of a study's runs: audio-visual digits or the user's own, and labelled recordings to probe on."""

import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from shards.corpus.index import label_columns, read_whole_index
from shards.corpus.listing import check_places, open_sources
from shards.digits.settings import DigitsSettings
from shards.errors import ConfigError
from shards.layouts.registry import read_dataset
from shards.section import NotHashed
from shards.settings import CorpusSettings
from shards.sources.source import Source
from shards.sources.split import split_name
from shards.store.files import write_text
from shards.store.manifest import read_manifest
from xdc_core.config.evaluation import BY_LAYOUT
from xdc_core.config.load import parse_section
from xdc_core.study.changes import set_value
from xdc_core.study.measures import data_name, factor_of, targets_of, word_of
from xdc_core.study.settings import FILE_NAME, StudySettings

# The folder of a run, from the folder of its study.
DEEP = Path("runs", "run")


def digits_settings(study: StudySettings, root: Path, variant: dict[str, Any], draw: int) -> DigitsSettings:
    """Return the settings of one draw of digits. Raises ConfigError for an unknown name or a wrong value."""
    values: dict[str, Any] = {
        "clips": study.clips,
        "validation_clips": study.validation_clips,
        "test_clips": study.test_clips,
        "seed": draw,
        "speech": (root / study.speech).resolve() if study.speech else None,
    }
    for name, value in (study.change | variant).items():
        if name.startswith("digits."):
            values[name.removeprefix("digits.")] = value
    try:
        return DigitsSettings(**values)
    except ValueError as error:
        raise ConfigError(f"{root / FILE_NAME}: wrong settings of the digits: {error}") from error


def corpus_section(
    study: StudySettings, root: Path, folders: tuple[str, str], section: dict[str, Any], changes: dict[str, Any]
) -> dict[str, Any]:
    """Return the section `corpus` of a run in `root`/runs.

    folders: the names of the corpus and of the digits, in the study's folder. section: as the preset and the study's
    `changes` have it. A corpus that is cut already keeps the settings that it was cut with.

    Raises:
        ConfigError: there is no such corpus, or it was cut with other settings than those that the study changes.
    """
    clips, digits = folders
    path = f"../../corpora/{clips}"
    if not study.own:
        places = {"path": path, "videos": f"../../digits/{digits}/manifest.csv"}
        return section | places | {"learn_splits": ["train"]}
    learn = None if study.learn is None else list(study.learn)
    if study.corpus is None:
        videos = _from_run(root, str(study.videos))
        return section | {"path": path, "videos": videos, "layout": study.layout, "learn_splits": learn}
    directory = (root / study.corpus).resolve()
    manifest = read_manifest(directory)
    if manifest is None or manifest.stage != "shard":
        raise ConfigError(f"corpus: {directory} holds no finished corpus. Give one, or videos to make it from.")
    return (
        section
        | _cut_with(directory, manifest.settings, changes)
        | {
            "path": _from_run(root, study.corpus),
            "learn_splits": learn,
        }
    )


def _cut_with(directory: Path, stored: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return all settings with which a corpus was cut, those of its manifest and the defaults of the others.

    Raises:
        ConfigError: one of `changes` differs from them.
    """
    settings = parse_section(CorpusSettings, stored, str(directory))
    fields = CorpusSettings.model_fields.items()
    names = {name for name, field in fields if not any(mark in (NotHashed, NotHashed()) for mark in field.metadata)}
    cut: dict[str, Any] = settings.model_dump(mode="json", include=names)
    for name, value in changes.items():
        section, _, key = name.partition(".")
        top = key.partition(".")[0]
        if section == "corpus" and top in names:
            asked = settings.model_dump(mode="json")
            set_value(asked, key, value)
            changed = parse_section(CorpusSettings, asked, name).model_dump(mode="json", include={top})
            if changed[top] != cut[top]:
                raise ConfigError(
                    f"{name} is {value}, but {directory} was cut with corpus.{top} {cut[top]}. Leave it out, or give "
                    "the videos instead of the corpus."
                )
    return cut


def data_sections(
    study: StudySettings, root: Path, modalities: Iterable[str], corpus: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the data sets to probe on, as a run in `root`/runs has them in xdc.yaml, by name; {} without any.

    corpus: the section of the run. The data sets have its crop and its windows, unless the study sets others.
    """
    if study.probe_on is None:
        return {}
    alike = {name: corpus[name] for name in ("crop", "segment_seconds") if corpus.get(name) is not None}
    common = {"views": 1} | BY_LAYOUT.get(study.probe_layout, {}) | alike | study.probe_settings
    return {
        data_name(modality, column): common
        | {
            "layout": "manifest",
            "root": os.path.relpath(_manifest(root, column), root / DEEP),
            "modality": modality,
        }
        for target in targets_of(study, list(modalities))
        for modality, column in target.items()
    }


def _from_run(root: Path, path: str) -> str:
    return os.path.relpath((root / path).resolve(), (root / DEEP).resolve())


def _manifest(root: Path, column: str) -> Path:
    return root / "probe_on" / f"{word_of(factor_of(column))}.csv"


def write_probe_data(study: StudySettings, root: Path) -> list[str]:
    """Write a manifest per label column of the recordings to probe on. Return what is left out of it, in words.

    A manifest has two splits, `validation` and `test`: both learn from the training part.

    Raises:
        ConfigError: there are no such recordings, labels or splits, or a class is tested but not learnt.
    """
    if study.probe_on is None:
        return []
    place = (root / study.probe_on).resolve()
    if not place.exists() and all(_manifest(root, column).exists() for column in study.labels):
        return []  # The clips of these recordings may be there still.
    dataset = read_dataset(study.probe_layout, place)
    parts = {split_name(source.split) for source in dataset.sources}
    wanted = [part for part in ("train", "validation" if study.validation else None, "test") if part]
    if lacking := [part for part in wanted if part not in parts]:
        raise ConfigError(
            f"probe_on: {place} has no part {', '.join(lacking)}, but {', '.join(sorted(parts)) or 'no recording'}. "
            "Give recordings with one division into train, validation and test."
        )
    left_out = [f"{reject.source}: {reject.reason}" for reject in dataset.rejects]
    for column in study.labels:
        path = _manifest(root, column)
        rows = [source for source in dataset.sources if source.labels.get(column)]
        if not rows:
            known = sorted({name for source in dataset.sources for name in source.labels})
            raise ConfigError(f"labels: {place} has no label column {column!r}. There are: {', '.join(known)}.")
        if len(rows) < len(dataset.sources):
            left_out.append(f"{len(dataset.sources) - len(rows)} recordings have no {column}")
        _check_classes(rows, column, place)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["path", "start_s", "end_s", "label", *(f"split_{part}" for part in wanted[1:])])
        for source in rows:
            file = os.path.relpath(dataset.root / source.path, path.parent.resolve())
            part = split_name(source.split)
            roles = ["train" if part == "train" else "test" if part == tested else "" for tested in wanted[1:]]
            if any(roles):
                table.writerow([file, _number(source.start_s), _number(source.end_s), source.labels[column], *roles])
        if not path.exists() or path.read_text(encoding="utf-8") != text.getvalue():
            write_text(path, text.getvalue())
    return left_out


def _check_classes(rows: Sequence[Source], column: str, place: Path) -> None:
    """Check that every class of a label column has recordings to learn from. Raises ConfigError."""
    classes: dict[str, set[str]] = defaultdict(set)
    for source in rows:
        classes[split_name(source.split)].add(source.labels[column])
    for part in ("validation", "test"):
        if unknown := sorted(classes[part] - classes["train"]):
            shown = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
            raise ConfigError(
                f"probe_on: in {place}, {len(unknown)} classes of {column} are in {part} but not in train: {shown}. "
                "Leave these recordings out, or divide the recordings in another way."
            )


def _number(seconds: float | None) -> str:
    return "" if seconds is None else repr(seconds)


def check_own_corpus(
    study: StudySettings, corpus: Path, videos: Path | None, settings: CorpusSettings, truths: Sequence[str] = ()
) -> None:
    """Check that the clips of a study on a corpus of the user's own have its splits and labels. No video is opened.

    A corpus that is cut can be used without its videos.

    truths: the label columns that runs learn.

    Raises:
        ConfigError: one is missing; the text lists the existing ones. Or the videos cannot be listed.
    """
    if videos is None or (not videos.exists() and read_manifest(corpus) is not None):
        splits = {split_name(text) for text in read_whole_index(corpus, ["split"])["split"].unique().to_pylist()}
        labels, where = set(label_columns(corpus)), corpus
    else:
        check_places(corpus, videos)
        found = [(split_name(source.split), frozenset(source.labels)) for source in open_sources(videos, settings)[1]]
        splits = {split for split, _ in found}
        labels, where = {name for _, names in found for name in names}, videos
    wanted = list(_splits_of_clips(study))
    if lacking := [split for split in wanted if split_name(split) not in splits]:
        there = ", ".join(repr(split) for split in sorted(splits)) or "none"
        raise ConfigError(f"{where} has no clip of the split {', '.join(lacking)}. Its splits are: {there}.")
    needed = [*(study.labels if study.probe_on is None else ()), *truths]
    if unknown := [label for label in dict.fromkeys(needed) if label not in labels]:
        there = ", ".join(sorted(labels)) or "none"
        learnt = " (supervised learns it: leave that contender out)" if set(unknown) & set(truths) else ""
        raise ConfigError(f"{where} has no label column {', '.join(unknown)}{learnt}. There are: {there}.")


def _splits_of_clips(study: StudySettings) -> Iterator[str]:
    yield from study.learn or ()
    if study.probe_on is None or study.retrieval not in (None, "never"):
        yield from (split for split in (study.validation, study.test) if split)
