"""The cells of a study: each is an ordinary run."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.digits.settings import DigitsSettings
from shards.errors import ConfigError
from shards.store.files import write_text
from shards.store.manifest import MANIFEST, read_manifest
from xdc_core.config.load import FILE_NAME, load_preset, parse_config, read_yaml
from xdc_core.config.schema import Config
from xdc_core.config.write import commented_yaml
from xdc_core.graph.stages import all_nodes, evaluation_nodes
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.study.changes import has_begun, preset_of, set_value, without_newer
from xdc_core.study.contenders import CONTENDERS, PLAIN
from xdc_core.study.corpora import corpus_section, data_sections, digits_settings
from xdc_core.study.measures import RETRIEVAL, Measure, measures_of, word_of
from xdc_core.study.settings import StudySettings

# A study has dozens of runs, whose own reports are rarely read.
REPORT = {"examples": 0, "track": []}


@dataclass(frozen=True)
class Cell:
    """One run of a study. variant: the varied setting and its value. measures: by the name of the evaluation.

    digits, videos: the settings and the folder of its digits; None on a corpus of the user's own.
    """

    contender: str
    variant: dict[str, Any]
    draw: int
    seed: int
    run: Run
    measures: dict[str, Measure]
    digits: DigitsSettings | None = None
    videos: Path | None = None


def make_cells(study: StudySettings, root: Path) -> list[Cell]:
    """Return all cells as `plan_cells`, and write their xdc.yaml files."""
    cells = plan_cells(study, root)
    write_cells(cells, root)
    return cells


def plan_cells(study: StudySettings, root: Path) -> list[Cell]:
    """Return all cells, those of the first seed first, so that a study that is stopped early covers all contenders.

    Nothing is written. A study of which a stage is finished keeps the defaults of newer settings that its runs have,
    for the preset may have set them only since then.

    Raises:
        ConfigError: a setting is wrong, or the xdc.yaml of a run that has begun differs from the study in more than
            its measurements, or has more rounds.
    """
    begun = sorted(file for file in root.glob(f"runs/*/{FILE_NAME}") if has_begun(file.parent))
    stored = {file.parent: parse_config(read_yaml(file), str(file)) for file in begun}
    numbers = range(max(map(study.seeds_of, study.rows)))
    planned = [
        (root / "runs" / _name(study, contender, variant, seed := study.first_seed + number), contender, variant, seed)
        for number, variant, contender in itertools.product(numbers, study.variants, study.rows)
        if number < study.seeds_of(contender)
    ]
    # Contenders of the study's own are no example for others: they may set what the preset sets, too.
    examples = (stored.get(directory) for directory, contender, _, _ in planned if contender in CONTENDERS)
    example = next(filter(None, examples), None)
    return [_plan_cell(study, root, *cell, stored.get(cell[0]), example) for cell in planned]


def write_cells(cells: list[Cell], root: Path) -> None:
    """Write the xdc.yaml files that are missing or differ. root: the folder of the study."""
    for cell in cells:
        file = cell.run.root / FILE_NAME
        if not file.exists() or parse_config(read_yaml(file), str(file)) != cell.run.config:
            notes = f"A cell of the study {root.name}: {cell.contender}, seed {cell.seed}."
            write_text(file, commented_yaml(cell.run.config, notes))


def _plan_cell(
    study: StudySettings,
    root: Path,
    directory: Path,
    contender: str,
    variant: dict[str, Any],
    seed: int,
    there: Config | None,
    example: Config | None,
) -> Cell:
    """Return a cell. there: its configuration if it has begun. example: that of any built-in contender that has."""
    draw = 0 if study.own else seed % study.draws
    of_draw = _of_draw(study, seed)
    changed = variant | study.rows[contender]
    clips = _folder(changed, ("digits.", "corpus."), of_draw)
    digits = _folder(variant, ("digits.",), of_draw)
    values = _values(study, root, contender, variant, seed, (clips, digits), there or example)
    measures = measures_of(study, parse_config(values, f"the study's {contender}").modalities)
    values["evaluate"] = {name: measure.evaluation for name, measure in measures.items()}
    config = parse_config(values, f"the study's {contender}")
    if config.stop.when != "never":
        raise ConfigError("the study: stop.when must be never, for all runs of a study have the same number of rounds.")
    if there is not None:
        _check_unchanged(directory / FILE_NAME, there, config)
    run = Run(directory, config)
    if study.own:
        return Cell(contender, variant, draw, seed, run, measures)
    settings = digits_settings(study, root, variant, draw)
    return Cell(contender, variant, draw, seed, run, measures, settings, root / "digits" / digits)


def _name(study: StudySettings, contender: str, variant: dict[str, Any], seed: int) -> str:
    return "-".join([contender, *_words(variant), *_of_draw(study, seed), f"seed{seed}"])


def _of_draw(study: StudySettings, seed: int) -> list[str]:
    return [] if study.own else [f"draw{seed % study.draws}"]


def _folder(changed: dict[str, Any], kinds: tuple[str, ...], of_draw: list[str]) -> str:
    """Return the name of the folder of clips, or of digits, with these changes."""
    of_kinds = {name: value for name, value in changed.items() if name.startswith(kinds)}
    return "-".join([*_words(of_kinds), *of_draw]) or "clips"


def _words(variant: dict[str, Any]) -> Iterator[str]:
    for name, value in variant.items():
        yield word_of(f"{name.split('.')[-1]}{value}")


def _check_unchanged(file: Path, there: Config, config: Config) -> None:
    """Check that a run that has begun differs only in its measurements, or has fewer rounds.

    Raises:
        ConfigError: it differs in another setting.
    """
    added: dict[str, Any] = {"evaluate": config.evaluate, "datasets": config.datasets, "retain": config.retain}
    added["rounds"] = max(there.rounds, config.rounds)
    kept = there.model_copy(update=added)
    if differing := [name for name in type(config).model_fields if getattr(kept, name) != getattr(config, name)]:
        raise ConfigError(
            f"{file} differs from the study's settings, in {', '.join(differing)}. Choose another folder for this "
            "study, or move the run away."
        )


def _values(
    study: StudySettings,
    root: Path,
    contender: str,
    variant: dict[str, Any],
    seed: int,
    folders: tuple[str, str],
    begun: Config | None,
) -> dict[str, Any]:
    """Return the values of a run's xdc.yaml, without its evaluations.

    folders: of its clips and of its digits. begun: the configuration of a run that has begun.
    """
    values = load_preset(preset_of(study))
    if begun is not None:
        values = without_newer(values, begun)
    changes: dict[str, Any] = PLAIN | ({"truth": study.labels[0]} if study.own else {})
    changes = changes | study.change | variant | study.rows[contender]
    changes["seed"] = seed
    if study.rounds is not None:
        changes["rounds"] = study.rounds
    for name, value in changes.items():
        if name == "cluster.k" and not isinstance(value, dict):
            value = dict.fromkeys(("video", "audio", "joint"), value)
        if not name.startswith("digits."):
            set_value(values, name, value)
    modalities = values.get("modalities", ("video", "audio"))
    values["corpus"] = corpus_section(study, root, folders, values.get("corpus", {}), changes)
    values["datasets"] = data_sections(study, root, modalities, values["corpus"])
    values["report"] = values.get("report", {}) | REPORT
    values["runs_on"] = values.get("runs_on", {}) | {"threads": 1}
    return values


def nodes_of(cell: Cell) -> list[Node]:
    """Return the nodes of a cell, each after its inputs: those of its run, and the retrieval of untrained encoders."""
    config: Config = cell.run.config
    nodes = list(all_nodes(config))
    if RETRIEVAL in cell.measures:
        nodes += evaluation_nodes(config, [RETRIEVAL], 0)
    return sorted(dict.fromkeys(nodes), key=lambda node: node.round or 0)


def rounds_done(cell: Cell) -> int | None:
    """Return the last finished round of a cell, counted from 0; None if there is none."""
    run = cell.run
    reports = [node for node in nodes_of(cell) if node.stage == "report"]
    done = [node.round for node in reports if read_manifest(run.directory(node)) is not None]
    return max((number for number in done if number is not None), default=None)


def is_finished(cell: Cell) -> bool:
    """Return whether all nodes of a cell are finished."""
    return all((cell.run.directory(node) / MANIFEST).exists() for node in nodes_of(cell))
