"""The pages: HTML that asks no server for anything. Pictures and sounds lie beside it and are loaded when seen."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from xdc_core.report.charts import COLOURS, GREY, Line, lines_chart

PAGES = Path(__file__).parent / "pages"
# Names and labels come from strangers' files: everything is escaped.
_templates = Environment(
    loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def render(name: str, **values: Any) -> str:
    """A page from its template, with the style of all pages."""
    style, script = (Markup((PAGES / file).read_text(encoding="utf-8")) for file in ("style.css", "gallery.js"))
    return _templates.get_template(name).render(**values, style=style, script=script)


def embedded(value: object) -> Markup:
    """JSON that can stand in a script element: nothing in it can end that."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def history_charts(facts: dict[str, Any]) -> dict[str, Markup]:
    """Charts over all rounds so far, by heading."""
    label = next(iter(facts["label_columns"]), None)
    charts = {}
    if label and facts["sources"]:
        name = label.removeprefix("label_")
        charts[f"Agreement of the clusters with {name} (AMI)"] = _by_source(facts, f"ami:{label}", "AMI")
    if any(row["nmi_previous"] is not None for row in facts["history"]):
        charts["NMI with the clusters of the round before"] = _by_source(facts, "nmi_previous", "NMI")
    if facts["evaluation_history"]:
        charts["Evaluations of the encoders"] = _evaluations(facts["evaluation_history"])
    return charts


def _by_source(facts: dict[str, Any], measure: str, shown: str) -> Markup:
    lines = []
    for source in facts["sources"]:
        rows = [row for row in facts["history"] if row["source"] == source]
        places, values = [row["round"] for row in rows], [row[measure] for row in rows]
        lines.append(Line(source, places, values, COLOURS.get(source, GREY)))
    return Markup(lines_chart(lines, "round", shown, f"{shown} by round", bottom=None))


def _evaluations(history: list[dict[str, Any]]) -> Markup:
    colours = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
    lines = []
    for place, name in enumerate(dict.fromkeys(row["evaluation"] for row in history)):
        rows = [row for row in history if row["evaluation"] == name]
        values = [row["mean"] for row in rows]
        lines.append(Line(name, [row["round"] for row in rows], values, colours[place % len(colours)]))
    return Markup(lines_chart(lines, "round", "score", "Evaluations by round"))
