"""HTML pages without external resources. Pictures and sounds are files beside them, and loaded when visible."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from xdc_core.documents.report import EvaluationRow, HistoryRow, Report
from xdc_core.report.charts import LINE_STYLES, PALETTE, SCORES, Line, lines_chart, source_colour
from xdc_core.report.diagnostics import share_within

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
        within = share_within(report.shared_history)
        where = ", within recordings" if within else ""
        charts[f"What clusters share with another modality's features{where} (nats per clip)"] = _shared(report, within)
    if report.kept_history:
        since = report.kept_history[-1].since
        charts[f"What features keep of their clusters of round {since} (nats per clip)"] = _kept(report, since)
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


def _shared(report: Report, within: bool) -> Markup:
    """Draw what decides who teaches: what is shared within recordings, or, if nothing is, over all clips."""
    history = report.shared_history
    lines, students = [], list(dict.fromkeys(row.student for row in history))
    for student, teacher in dict.fromkeys((row.student, row.teacher) for row in history):
        rows = [row for row in history if (row.student, row.teacher) == (student, teacher)]
        name = f"clusters of {teacher}, seen by {student}"
        values = [row.within if within else row.shared for row in rows]
        style = LINE_STYLES[students.index(student) % len(LINE_STYLES)]
        lines.append(Line(name, [row.round for row in rows], values, source_colour(teacher), style))
    return Markup(lines_chart(lines, "round", "nats per clip", "Shared between modalities by round", least=SCORES))


def _kept(report: Report, since: int) -> Markup:
    """Draw what shows that a modality forgets, from the round whose clusters are followed."""
    rows = [row for row in report.kept_history if row.since == since]
    lines = []
    for name in dict.fromkeys(row.modality for row in rows):
        of_name = [row for row in rows if row.modality == name]
        places, values = [row.round for row in of_name], [row.kept for row in of_name]
        lines.append(Line(f"features of {name}", places, values, source_colour(name)))
    title = f"Kept of the clusters of round {since} by round"
    return Markup(lines_chart(lines, "round", "nats per clip", title, least=SCORES))


def _evaluations(history: list[EvaluationRow]) -> Markup:
    lines = []
    for number, name in enumerate(dict.fromkeys(row.evaluation for row in history)):
        rows = [row for row in history if row.evaluation == name]
        values = [row.mean for row in rows]
        turn, colour = divmod(number, len(PALETTE))
        style = LINE_STYLES[turn % len(LINE_STYLES)]
        lines.append(Line(name, [row.round for row in rows], values, PALETTE[colour], style))
    return Markup(lines_chart(lines, "round", "score", "Evaluations by round", least=SCORES))
