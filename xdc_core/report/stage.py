"""The report stage."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from shards.commit import write_json, write_text
from shards.progress import Progress
from shards.stage import Outcome
from xdc_core.config import FILE_NAME, commented_yaml
from xdc_core.report.facts import gather
from xdc_core.run import Node, Run


def report(run: Run, node: Node, out: Path, progress: Progress) -> Outcome:
    """Write report.json (everything measured), report.html (the same, to be read without any server), and xdc.yaml:
    the whole configuration, defaults filled in, as it was when the round was reported.
    """
    assert node.round is not None
    facts = gather(run, node.round)
    write_json(out / "report.json", facts)
    write_text(
        out / FILE_NAME, commented_yaml(run.config, f"The configuration with which round {node.round} was done.")
    )
    # Names and labels come from strangers' files: everything is escaped.
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    write_text(out / "report.html", templates.get_template("report.html").render(facts))
    progress(1, 1, "page written")
    summary = {source: found["agreement"] for source, found in facts["sources"].items()}
    return Outcome(len(facts["nodes"]), 0, {"agreement": summary})
