"""The overview of a run: one row per reported round, and charts over the rounds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from shards.store.files import write_text
from xdc_core.documents.report import Report, read_report
from xdc_core.report.charts import Line, lines_chart, source_colour
from xdc_core.report.page import history_charts, render
from xdc_core.report.tables.rejects import Rejects

FILE_NAME = "overview.html"


def write_overview(
    root: Path,
    before: Sequence[Path],
    newest: Report,
    measures: Mapping[str, Markup] | None = None,
    rejects: Sequence[Rejects] | None = None,
) -> Path:
    """Write `overview.html` into a run's directory.

    before: the directories of the reports of the rounds before the newest, in order. measures: charts of the corpus, by
    heading. rejects: of the corpus, by kind; None: by step, as in its manifest.
    """
    reports = [*map(read_report, before), newest]
    path = root / FILE_NAME
    rounds = [_of_round(report) for report in reports]
    charts = history_charts(newest) | _losses(reports)
    page = render(
        "overview.html",
        **newest.content(),
        rounds=rounds,
        charts=charts,
        measures=measures or {},
        rejects=rejects,
        last=newest.round,
    )
    write_text(path, page)
    return path


def _of_round(report: Report) -> dict[str, Any]:
    """Return the overview's row for one round. seconds: by stage, without the stages that run once per run."""
    number = report.round
    seconds: dict[str, float] = {}
    for node in report.nodes:
        if node.round == number:
            seconds[node.stage] = seconds.get(node.stage, 0) + node.seconds
    return {
        "round": number,
        "rows": [row.content() for row in report.history if row.round == number],
        "evaluations": {row.evaluation: row.mean for row in report.evaluation_history if row.round == number},
        "training": {name: training.loss for name, training in report.training.items()},
        "seconds": seconds,
        "worst": report.diagnostics[0][0] if report.diagnostics else "good",
        "finished": max((node.finished for node in report.nodes), default=""),
    }


def _losses(reports: list[Report]) -> dict[str, Markup]:
    names = list(dict.fromkeys(name for report in reports for name in report.training))
    if not names:
        return {}
    rounds = [report.round for report in reports]
    losses = {
        name: [report.training[name].loss if name in report.training else None for report in reports] for name in names
    }
    lines = [Line(name, rounds, losses[name], source_colour(name)) for name in names]
    return {"Loss at the end of training": Markup(lines_chart(lines, "round", "loss", "Loss by round", bottom=None))}
