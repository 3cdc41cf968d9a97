"""A study's figure: the probes of every contender over rounds, or, where a setting is varied, over its values."""

import json
from pathlib import Path
from typing import Any

from shards.store.files import new_file
from xdc_core.study.settings import SCRATCH
from xdc_core.study.table import SHARED, contenders, find, last_row

# Colours that colour-blind people tell apart (Okabe and Ito); the control and the baselines are grey or dashed.
COLOURS = {
    "supervised": "#000000",
    "sdc": "#E69F00",
    "mdc": "#CC79A7",
    "cdc": "#56B4E9",
    "xdc": "#D55E00",
    "shuffled": "#888888",
    SCRATCH: "#BBBBBB",
}
DASHED = ("supervised", "shuffled", SCRATCH)


def draw_figure(path: Path, results: dict[str, Any]) -> None:
    """Write an SVG: a panel a modality; lines are means over seeds, bands from the lowest to the highest seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Text stays text, and the same numbers give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "xdc", "font.size": 10})
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    variants = list(dict.fromkeys(row["variant"] for row in results["summary"]))
    for axis, modality in zip(axes, ("video", "audio"), strict=True):
        for contender in dict.fromkeys(name for variant in variants for name in contenders(results, variant)):
            points = _points(results, variants, contender, modality)
            if not points:
                continue
            places, rows = zip(*points, strict=True)
            style = {"color": COLOURS[contender], "linestyle": "--" if contender in DASHED else "-"}
            axis.plot(places, [row["mean"] for row in rows], label=contender, marker="o", markersize=3, **style)
            low, high = ([row[name] for row in rows] for name in ("min", "max"))
            axis.fill_between(places, low, high, color=COLOURS[contender], alpha=0.12, linewidth=0)
        axis.set_title(f"{modality} encoder")
        if len(variants) > 1:
            axis.set_xlabel(", ".join(json.loads(variants[0])))
            axis.set_xticks(range(len(variants)), [str(value) for v in variants for value in json.loads(v).values()])
        else:
            axis.set_xlabel("rounds of training")
        axis.grid(alpha=0.3)
        axis.set_ylim(0, 1)
    axes[0].set_ylabel("digit told from frozen features\n(linear probe, test clips)")
    if axes[1].has_data():
        axes[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    with new_file(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def _points(
    results: dict[str, Any], variants: list[str], contender: str, modality: str
) -> list[tuple[int, dict[str, Any]]]:
    if len(variants) > 1:
        found = [last_row(results, variant, contender, modality, "probe", "test") for variant in variants]
        return [(place, row) for place, row in enumerate(found) if row]
    at = {"variant": variants[0], "modality": modality, "metric": "probe", "split": "test", "factor": SHARED[modality]}
    rounds = range(results["rounds"] + 1)
    if contender == SCRATCH:  # It is not trained: the same all along.
        row = find(results, **at, contender=SCRATCH, round=results["rounds"])
        return [(number, row) for number in rounds if row]
    found = [find(results, **at, contender=contender, round=number) for number in rounds]
    return [(number, row) for number, row in zip(rounds, found, strict=True) if row]
