"""What tests of `xdc clean` share: the nodes that they look at, and what was removed or kept."""

from pathlib import Path

from tests.faults.traces import contents
from xdc_core.cleaning.clean import Cleaning
from xdc_core.config.load import FILE_NAME
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import all_fresh, run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.graph.state import node_state
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

VIDEO, AUDIO = Node("extract", "video", 0), Node("extract", "audio", 0)
CLUSTER = Node("cluster", "video", 0)


def states(run: Run) -> dict[Node, str]:
    known = Fingerprints(run)
    return {node: node_state(run, node, known)[0] for node in all_nodes(run.config)}


def features(run: Run, node: Node) -> list[str]:
    return sorted(path.name for path in run.directory(node).glob("data/*.parquet"))


def removed(found: Cleaning) -> set[Path]:
    return {Path(removal.path) for removal in found.removed}


def kept(found: Cleaning) -> dict[Path, str]:
    return {Path(entry.path): entry.why for entry in found.kept}


def finish(run: Run) -> list[Node]:
    """Do all nodes that are not finished, in order. Returns them."""
    todo = [node for node in all_nodes(run.config) if not all_fresh(run, [node])]
    for node in todo:
        run_stage(run, node)
    return todo


def results(run: Run) -> dict[str, bytes]:
    """The files that are a result of the run; not the features, and not what tells of the cleaning or of the time."""
    found = contents(run.root)
    return {name: data for name, data in found.items() if "/features/" not in name and name != FILE_NAME}
