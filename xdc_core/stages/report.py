"""The report stage: a round in numbers, as a page, and to look at and listen to."""

from pathlib import Path

from shards.errors import StageError
from shards.progress import Progress
from shards.store.build import Outcome
from shards.store.files import write_text
from xdc_core.config.load import FILE_NAME
from xdc_core.config.write import commented_yaml
from xdc_core.documents.report import FILE_NAME as REPORT
from xdc_core.documents.report import ReportedNode, read_report, write_report
from xdc_core.graph.stages import round_nodes, setup_nodes
from xdc_core.report.clips import write_examples
from xdc_core.report.gather import gather
from xdc_core.report.overview import write_overview
from xdc_core.report.round_page import FILE_NAME as PAGE
from xdc_core.report.round_page import example_keys, round_page
from xdc_core.runs.node import Node, encoder_node
from xdc_core.runs.run import Run

MEDIA = "media"


def report(run: Run, node: Node, out: Path, progress: Progress) -> Outcome:
    """Write report.json (everything measured), report.html (the same as a page), media/ (of every cluster's nearest
    clips: pictures, spectrogram and sound), and xdc.yaml: the whole configuration, defaults filled in, as it was when
    the round was reported. Also writes overview.html of the run again.

    Raises:
        StageError: a file that is read is missing or damaged.
    """
    number = node.round
    assert number is not None
    nodes = [*setup_nodes(run.config), *round_nodes(run.config, number)[:-1]]
    content = gather(run, number, nodes)
    before = run.directory(Node("report", None, number - 1)) / MEDIA if number else Path("none")
    examples = example_keys(content)
    unseen = write_examples(run, examples, out / MEDIA, before, progress)
    write_report(out, content)
    write_text(out / FILE_NAME, commented_yaml(run.config, f"The configuration with which round {number} was done."))
    encoders = {str(own.modality): encoder_node(str(own.modality), number) for own in nodes if own.stage == "extract"}
    write_text(out / PAGE, round_page(run, content, encoders, unseen, _nodes_before(run.directory(node))))
    write_overview(run, content)
    agreement = {
        name: {column: scores.content() for column, scores in source.agreement.items()}
        for name, source in content.sources.items()
    }
    return Outcome(len(content.nodes), 0, {"agreement": agreement, "examples": len(examples)})


def _nodes_before(directory: Path) -> list[ReportedNode]:
    """Return the nodes of the report that is replaced; none where there is none, or where it is damaged."""
    if not (directory / REPORT).exists():
        return []
    try:
        return read_report(directory).nodes
    except StageError:
        return []
