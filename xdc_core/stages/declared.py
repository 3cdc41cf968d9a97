"""The stages whose work needs torch: declared apart from it, because torch loads slowly."""

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from shards.errors import ConfigError
from shards.progress import Progress
from shards.section import hashed_settings
from shards.store.build import Outcome
from shards.store.files import sha256_of
from shards.store.stage import Stage
from xdc_core.config.evaluation import CORPUS
from xdc_core.config.load import FILE_NAME
from xdc_core.config.schema import Config
from xdc_core.config.views import encoding_settings, view_settings, with_frames
from xdc_core.encoders.registry import encoder_spec, outside, source_file
from xdc_core.runs.node import SHARD, Node, encoder_node
from xdc_core.runs.run import Run
from xdc_core.stages.clips import DATA_STAGE, SHARD_STAGE
from xdc_core.stages.cluster import CLUSTER
from xdc_core.stages.evaluate import EVALUATE, due_evaluations
from xdc_core.stages.label import LABEL
from xdc_core.stages.train import TRAIN

WEIGHTS = "weights"
SOURCE = "the encoder's source"


def _later(module: str, function: str) -> Callable[[Run, Node, Path, Progress], Outcome]:
    def work(run: Run, node: Node, out: Path, progress: Progress) -> Outcome:
        outcome: Outcome = getattr(import_module(module), function)(run, node, out, progress)
        return outcome

    return work


def _init_nodes(config: Config, number: int | None) -> list[Node]:
    return [Node("init", modality) for modality in config.modalities] if number is None else []


def _init_inputs(config: Config, node: Node) -> list[Node]:
    # Only random encoders are calibrated, on the corpus.
    return [] if getattr(config, str(node.modality)).weights else [SHARD]


def _init_settings(config: Config, node: Node) -> dict[str, Any]:
    name = str(node.modality)
    if getattr(config, name).weights:
        return {"encoder": getattr(config, name).encoder}
    return {
        "seed": config.seed,
        "learn_splits": config.corpus.learn_splits,
        "batches": config.extract.calibration_batches,
        "batch": config.extract.batch,
        "view": view_settings(config, name, training=False),
    }


def _init_outside(run: Run, node: Node) -> dict[str, str]:
    return weights_read(run, node) | source_read(run, node)


def source_read(run: Run, node: Node) -> dict[str, str]:
    """Return the sha256 of the file with the function that makes an encoder, if it is not one of xdc's own.

    Raises:
        ConfigError: the encoder is unknown, or there is no such file.
    """
    modality = str(node.modality)
    name = getattr(run.config, modality).encoder
    if not outside(name):
        return {}
    path = source_file(encoder_spec(name, modality))
    status = path.stat()
    return {SOURCE: _sha256(path, status.st_size, status.st_mtime_ns)}


def weights_read(run: Run, node: Node) -> dict[str, str]:
    """Return the sha256 of the file of weights from which an encoder starts, if one is set.

    Raises:
        ConfigError: the file is missing, or cannot be read.
    """
    path = run.weights(str(node.modality))
    if path is None:
        return {}
    try:
        status = path.stat()
        return {WEIGHTS: _sha256(path, status.st_size, status.st_mtime_ns)}
    except OSError as error:
        raise ConfigError(
            f"{node.modality}.weights: {path} cannot be read ({error.strerror}). Bring the file there, correct the "
            f"path in {run.root}/{FILE_NAME} (it is relative to that file), or set it to null for random weights."
        ) from None


@lru_cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Return the digest of a file, read once per process as long as size and time stay the same."""
    return sha256_of(path)


INIT: Stage[Config, Run] = Stage(
    name="init",
    version=2,
    summary="Make the encoder with which the first round begins.",
    folder="init",
    of="modality",
    each_round=False,
    library="torch",
    modules=("xdc_core.stages.init", "xdc_core.encoders.r2plus1d", "xdc_core.encoders.audio_resnet"),
    nodes=_init_nodes,
    inputs=_init_inputs,
    settings=_init_settings,
    work=_later("xdc_core.stages.init", "make_initial_encoder"),
    outside=_init_outside,
)


def _extract_nodes(config: Config, number: int | None) -> list[Node]:
    return [] if number is None else [Node("extract", modality, number) for modality in config.modalities]


def _extract_inputs(config: Config, node: Node) -> list[Node]:
    assert node.round is not None
    return [SHARD, encoder_node(str(node.modality), node.round)]


def _extract_settings(config: Config, node: Node) -> dict[str, Any]:
    return {"view": view_settings(config, str(node.modality), training=False), **encoding_settings(config)}


EXTRACT: Stage[Config, Run] = Stage(
    name="extract",
    version=2,
    summary="Compute one modality's features.",
    folder="features",
    of="modality",
    each_round=True,
    library="torch",
    modules=("xdc_core.stages.extract",),
    nodes=_extract_nodes,
    inputs=_extract_inputs,
    settings=_extract_settings,
    work=_later("xdc_core.stages.extract", "extract"),
)


def embedded_data_sets(config: Config, evaluations: list[str]) -> list[str]:
    """Return the data sets of whose recordings these evaluations need features."""
    chosen = [config.evaluate[name] for name in evaluations]
    frozen = {each.data for each in chosen if each.data != CORPUS and each.protocol != "all"}
    return [name for name in config.datasets if name in frozen]


def _embed_nodes(config: Config, number: int | None) -> list[Node]:
    if number is None:
        return []
    return [Node("embed", name, number) for name in embedded_data_sets(config, due_evaluations(config, number))]


def _embed_inputs(config: Config, node: Node) -> list[Node]:
    assert node.round is not None
    data = config.datasets[str(node.modality)]
    return [Node("data", node.modality), encoder_node(data.modality, node.round)]


def _embed_settings(config: Config, node: Node) -> dict[str, Any]:
    data = config.datasets[str(node.modality)]
    view = view_settings(with_frames(config, data.frames), data.modality, training=False)
    return {"views": data.views, "view": view, **encoding_settings(config)}


EMBED: Stage[Config, Run] = Stage(
    name="embed",
    version=1,
    summary="Compute features of a data set's recordings with the encoder that a round begins with.",
    folder="embeddings",
    of="name",
    each_round=True,
    library="torch",
    modules=("xdc_core.stages.embed",),
    nodes=_embed_nodes,
    inputs=_embed_inputs,
    settings=_embed_settings,
    work=_later("xdc_core.stages.embed", "embed"),
)

# The stages of a round that a report shows, each after those that it reads.
_SHOWN = (EXTRACT, CLUSTER, LABEL, TRAIN, EMBED, EVALUATE)


def _report_nodes(config: Config, number: int | None) -> list[Node]:
    return [] if number is None else [Node("report", None, number)]


def _report_inputs(config: Config, node: Node) -> list[Node]:
    assert node.round is not None
    shown = [other for stage in _SHOWN for other in stage.nodes(config, node.round)]
    # Of the encoders that the round begins with it shows the first layers.
    begun_with = [encoder_node(modality, node.round) for modality in config.modalities]
    return [SHARD, *begun_with, *shown, *([Node("report", None, node.round - 1)] if node.round else [])]


def _report_settings(config: Config, node: Node) -> dict[str, Any]:
    return {"method": config.method, **hashed_settings(config.report)}


REPORT: Stage[Config, Run] = Stage(
    name="report",
    version=4,
    summary="Write report.json and report.html of a round.",
    folder="report",
    of=None,
    each_round=True,
    library="torch",
    modules=("xdc_core.stages.report", "pandas", "matplotlib.figure", "matplotlib.backends.backend_svg"),
    nodes=_report_nodes,
    inputs=_report_inputs,
    settings=_report_settings,
    work=_later("xdc_core.stages.report", "report"),
)

STAGES_IN_ORDER = (SHARD_STAGE, DATA_STAGE, INIT, *_SHOWN, REPORT)
