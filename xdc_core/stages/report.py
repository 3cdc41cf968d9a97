"""The report stage: the measurements of a round as JSON and as a page with example clips."""

from functools import partial
from pathlib import Path

from shards.errors import StageError
from shards.store.build import Outcome
from shards.store.files import write_text
from shards.store.node import Node
from shards.store.stage import Stage, Task
from xdc_core.config.load import FILE_NAME
from xdc_core.config.schema import Config
from xdc_core.config.write import commented_yaml
from xdc_core.documents.report import FILE_NAME as REPORT_FILE
from xdc_core.documents.report import ReportedNode, read_report, write_report
from xdc_core.report.settings import Reporting
from xdc_core.runs.node import SHARD, encoder_node
from xdc_core.runs.run import Run
from xdc_core.stages.clips import DATA_STAGE, SHARD_STAGE
from xdc_core.stages.cluster import CLUSTER
from xdc_core.stages.embed import EMBED
from xdc_core.stages.evaluate import EVALUATE
from xdc_core.stages.extract import EXTRACT
from xdc_core.stages.init import INIT
from xdc_core.stages.label import LABEL
from xdc_core.stages.stop import STOP
from xdc_core.stages.teachers import TEACHERS
from xdc_core.stages.train import TRAIN

MEDIA = "media"
# The stages that a report shows, each after those that it reads: those of the run, and those of a round.
ONCE = (SHARD_STAGE, DATA_STAGE, INIT)
IN_ROUND = (EXTRACT, CLUSTER, LABEL, TEACHERS, TRAIN, EMBED, EVALUATE, STOP)


def report(task: Task[Reporting]) -> Outcome:
    """Write the report of a round, and overview.html of the run.

    The report has report.json (all measurements), report.html (the same as a page), media/ (pictures, spectrogram and
    sound of the clips nearest to each cluster's centre), clusters/ (the clips of each cluster, for the page), and
    xdc.yaml (the whole configuration of the round, with defaults).

    Raises:
        StageError: a file that is read is missing or damaged.
    """
    from xdc_core.report.clips import write_examples
    from xdc_core.report.gather import gather, moves_of
    from xdc_core.report.measures import measure_charts
    from xdc_core.report.overview import write_overview
    from xdc_core.report.round_page import FILE_NAME as PAGE
    from xdc_core.report.round_page import example_keys, labelled, round_page
    from xdc_core.report.tables.members import write_members
    from xdc_core.report.tables.rejects import rejects_by_kind

    number, out = task.round, task.out
    moves = moves_of(task)
    content = gather(task, moves)
    reports = [task.shown_directory(Node("report", None, earlier)) for earlier in range(number)]
    examples = example_keys(content)
    before = reports[-1] / MEDIA if reports else Path("none")
    cache = task.settings.runs_on.clip_cache
    unseen = write_examples(task.directory(SHARD), examples, out / MEDIA, before, task.progress, cache)
    write_members(task.directory(SHARD), labelled(task, content), out)
    write_report(out, content)
    write_text(out / FILE_NAME, task.settings.configuration())
    write_text(out / PAGE, round_page(task, content, unseen, moves, _nodes_before(task.target)))
    corpus = task.directory(SHARD)
    write_overview(task.root, reports, content, measure_charts(corpus, task.settings), rejects_by_kind(corpus))
    agreement = {
        name: {column: scores.content() for column, scores in source.agreement.items()}
        for name, source in content.sources.items()
    }
    return Outcome(len(content.nodes), 0, {"agreement": agreement, "examples": len(examples)})


def _nodes_before(directory: Path) -> list[ReportedNode]:
    """Return the nodes of the report to be replaced; empty if there is no report or it is damaged."""
    if not (directory / REPORT_FILE).exists():
        return []
    try:
        return read_report(directory).nodes
    except StageError:
        return []


def _nodes(config: Config, number: int | None) -> list[Node]:
    return [] if number is None else [Node("report", None, number)]


def _once(config: Config) -> list[Node]:
    return [node for stage in ONCE for node in stage.nodes(config, None)]


def _in_round(config: Config, number: int) -> list[Node]:
    return [node for stage in IN_ROUND for node in stage.nodes(config, number)]


def _inputs(config: Config, node: Node) -> list[Node]:
    assert node.round is not None
    # The report shows the first layers of the encoders at the start of the round.
    encoders = [encoder_node(modality, node.round) for modality in config.encoded]
    before = [Node("report", None, node.round - 1)] if node.round else []
    return [SHARD, *encoders, *_in_round(config, node.round), *before]


def _lists(config: Config, node: Node) -> list[Node]:
    assert node.round is not None
    # The labels of the round before enter with those of this round, which were compared with them.
    labels = [Node("label", made.modality, node.round - 1) for made in CLUSTER.nodes(config, node.round) if node.round]
    return [*_once(config), *(Node("report", None, number) for number in range(node.round)), *labels]


def _settings(config: Config, node: Node) -> Reporting:
    assert node.round is not None
    title = f"The configuration with which round {node.round} was done."
    return Reporting(
        seed=config.seed,
        learn_splits=config.corpus.learn_splits,
        runs_on=config.runs_on,
        method=config.method,
        rounds=config.rounds,
        nodes=(*_once(config), *_in_round(config, node.round)),
        report=config.report,
        # Not made before it is needed: fingerprints ask for the settings of every report.
        configuration=partial(commented_yaml, config.as_given, title),
        select=config.select,
        whiten=config.cluster.whiten,
        videos=config.corpus.videos,
        layout=config.corpus.layout,
    )


REPORT: Stage[Config, Run, Reporting] = Stage(
    name="report",
    # Raised when the measurements in report.json change. A change of the page alone leaves it: reports of finished
    # rounds stay as they are, and `xdc stage report --force` makes one again.
    version=4,
    summary="Write report.json and report.html of a round.",
    unit="example clip",
    counted="examples",
    folder="report",
    of=None,
    each_round=True,
    library="torch",
    modules=(
        "xdc_core.report.gather",
        "xdc_core.report.round_page",
        "xdc_core.report.tables.members",
        "xdc_core.report.tables.rejects",
        "xdc_core.probes.shared",
        "sklearn.linear_model",
        "sklearn.model_selection",
        "pandas",
        "matplotlib.figure",
        "matplotlib.backends.backend_svg",
    ),
    nodes=_nodes,
    inputs=_inputs,
    lists=_lists,
    settings=_settings,
    work=report,
)
