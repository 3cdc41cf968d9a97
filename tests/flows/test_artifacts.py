"""What Prefect's pages are given of a round."""

import base64
import re
from xml.etree import ElementTree

from flows.orchestration.artifacts import cluster_sizes, curves, summary
from xdc_core.documents.report import Report, read_report
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def test_the_summary_of_a_round_begins_with_words_and_its_curves_are_a_text_of_their_own(worked_run: Run) -> None:
    directory = worked_run.directory(Node("report", None, 1))
    report = read_report(directory)
    text = summary(report, worked_run)
    assert text.startswith("Round 1 of run is reported: method XDC, 48 clips; clusters of video 0.")
    assert "data:image" not in text
    assert f"`{directory.resolve()}/report.html`" in text
    text = curves(report)
    assert re.match(r"Curves of run up to round 1: [A-Z]", text)
    pictures = re.findall(r"!\[[^]]+\]\(data:image/svg\+xml;base64,([^)]+)\)", text)
    assert len(pictures) == 4  # Agreement with labels, NMI with the round before, what is shared and what is kept.
    assert {ElementTree.fromstring(base64.b64decode(picture)).tag for picture in pictures} == {
        "{http://www.w3.org/2000/svg}svg"
    }
    assert len(cluster_sizes(report)) == sum(source.k for source in report.sources.values())


def test_labels_with_next_to_no_share_are_left_out_and_names_are_no_markdown(worked_run: Run) -> None:
    facts = read_report(worked_run.directory(Node("report", None, 1))).content()
    top = [{"label": "[a](b)", "share": 0.996}, {"label": "rare", "share": 0.004}]
    for source in facts["sources"].values():
        source["clusters"] = [row | {"purity": 0.996, "top": top} for row in source["clusters"]]
    text = summary(Report.model_validate(facts), worked_run)
    assert r"\[a\](b) 100%" in text
    assert "rare" not in text
