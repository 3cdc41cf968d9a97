"""The overview of a run: every reported round in a line, and how it went over the rounds."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from shards.store.files import write_text
from xdc_core.report.charts import COLOURS, GREY, Line, lines_chart
from xdc_core.report.facts import read_report
from xdc_core.report.page import history_charts, render
from xdc_core.runs.run import Run

FILE_NAME = "overview.html"


def write_overview(run: Run, facts: dict[str, Any]) -> Path:
    """Write `overview.html` of a run from the report of its newest round and those of the rounds before it."""
    rounds = [_of(read_report(run, number)) for number in range(facts["round"])] + [_of(facts)]
    path = run.root / FILE_NAME
    page = render(
        "overview.html", **facts, rounds=rounds, charts=history_charts(facts) | _losses(rounds), last=facts["round"]
    )
    write_text(path, page)
    return path


def _of(facts: dict[str, Any]) -> dict[str, Any]:
    """What the overview says of one round. seconds: of its stages, by stage, without what was done once a run."""
    number = facts["round"]
    seconds: dict[str, float] = {}
    for node in facts["nodes"]:
        if node["round"] == number:
            seconds[node["stage"]] = seconds.get(node["stage"], 0) + node["seconds"]
    return {
        "round": number,
        "rows": [row for row in facts["history"] if row["round"] == number],
        "evaluations": {
            row["evaluation"]: row["mean"] for row in facts["evaluation_history"] if row["round"] == number
        },
        "training": {name: found["loss"] for name, found in facts["training"].items()},
        "seconds": seconds,
        "worst": facts["signs"][0][0] if facts["signs"] else "good",
        "finished": max((node["finished"] for node in facts["nodes"]), default=""),
    }


def _losses(rounds: list[dict[str, Any]]) -> dict[str, Markup]:
    names = list(dict.fromkeys(name for line in rounds for name in line["training"]))
    if not names:
        return {}
    lines = [
        Line(
            name,
            [line["round"] for line in rounds],
            [line["training"].get(name) for line in rounds],
            COLOURS.get(name, GREY),
        )
        for name in names
    ]
    return {"Loss at the end of training": Markup(lines_chart(lines, "round", "loss", "Loss by round", bottom=None))}
