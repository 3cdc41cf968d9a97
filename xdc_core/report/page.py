"""HTML pages without external resources. Pictures and sounds are files beside them, and loaded when visible."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from xdc_core.documents.report import EvaluationRow, HistoryRow, Report, SharedRow
from xdc_core.report.charts import PALETTE, SCORES, Line, lines_chart, source_colour

PAGES = Path(__file__).parent / "pages"
# Everything is escaped, because names and labels come from files of unknown origin.
_templates = Environment(
    loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def render(name: str, **values: Any) -> str:
    """Return a page made from its template, with the style and script of all pages."""
    style, script = (Markup((PAGES / file).read_text(encoding="utf-8")) for file in ("style.css", "gallery.js"))
    return _templates.get_template(name).render(**values, style=style, script=script)


def history_charts(report: Report) -> dict[str, Markup]:
    """Return charts over all rounds so far, by heading."""
    charts = {}
    if (label := report.first_label) and report.sources:
        ami = {source: [row.score("ami", label) for row in _rows_of(report, source)] for source in report.sources}
        charts[f"Agreement of the clusters with {label.removeprefix('label_')} (AMI)"] = _by_source(report, ami, "AMI")
    if any(row.nmi_previous is not None for row in report.history):
        nmi = {source: [row.nmi_previous for row in _rows_of(report, source)] for source in report.sources}
        charts["NMI with the clusters of the round before"] = _by_source(report, nmi, "NMI")
    if report.shared_history:
        charts["What clusters share with another modality's features (nats per clip)"] = _shared(report.shared_history)
    if report.evaluation_history:
        charts["Evaluations of the encoders"] = _evaluations(report.evaluation_history)
    return charts


def _rows_of(report: Report, source: str) -> list[HistoryRow]:
    return [row for row in report.history if row.source == source]


def _by_source(report: Report, values: dict[str, list[float | None]], shown: str) -> Markup:
    lines = [
        Line(source, [row.round for row in _rows_of(report, source)], measured, source_colour(source))
        for source, measured in values.items()
    ]
    return Markup(lines_chart(lines, "round", shown, f"{shown} by round", least=SCORES))


def _shared(history: list[SharedRow]) -> Markup:
    lines, students = [], list(dict.fromkeys(row.student for row in history))
    for student, teacher in dict.fromkeys((row.student, row.teacher) for row in history):
        rows = [row for row in history if (row.student, row.teacher) == (student, teacher)]
        name, values = f"clusters of {teacher}, seen by {student}", [row.shared for row in rows]
        style = ("-", "--", ":", "-.")[students.index(student) % 4]
        lines.append(Line(name, [row.round for row in rows], values, source_colour(teacher), style))
    return Markup(lines_chart(lines, "round", "nats per clip", "Shared between modalities by round", least=SCORES))


def _evaluations(history: list[EvaluationRow]) -> Markup:
    lines = []
    for number, name in enumerate(dict.fromkeys(row.evaluation for row in history)):
        rows = [row for row in history if row.evaluation == name]
        values = [row.mean for row in rows]
        lines.append(Line(name, [row.round for row in rows], values, PALETTE[number % len(PALETTE)]))
    return Markup(lines_chart(lines, "round", "score", "Evaluations by round", least=SCORES))
