"""A study's figure: the probes of every contender over rounds or over the values of a varied setting."""

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shards.store.files import new_file
from xdc_core.study.contenders import SCRATCH
from xdc_core.study.results import TEST, Row
from xdc_core.study.summary import last_of

# Colours that colour-blind people can distinguish (Okabe and Ito); the control and the baselines are grey or dashed.
COLOURS = {
    "supervised": "#000000",
    "sdc": "#E69F00",
    "mdc": "#CC79A7",
    "cdc": "#56B4E9",
    "cdc-canonical": "#0072B2",
    "xdc": "#D55E00",
    "xdc-protected": "#009E73",
    "shuffled": "#888888",
    SCRATCH: "#BBBBBB",
}
OF_OWN = ("#7A5195", "#B8A000", "#8C564B")
DASHED = ("supervised", "shuffled", SCRATCH)

# Of a contender's runs, in one panel: (draw, seed) -> place on the axis -> value.
Runs = dict[tuple[int, int], dict[int, float]]


def draw_figure(path: Path, results: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write an SVG with a panel per modality and target: thick lines are means over seeds, thin ones single runs."""
    import matplotlib
    from matplotlib.figure import Figure

    targets, modalities = results["targets"], results["modalities"]
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    # Text stays text, and the same numbers give the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "xdc", "font.size": 10}):
        size = (3.2 + 3.9 * len(modalities), 0.4 + 3.8 * len(targets))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(targets), len(modalities), sharey=True, squeeze=False)
        for line, target in zip(axes, targets, strict=True):
            for axis, (modality, factor) in zip(line, target.items(), strict=True):
                _draw_panel(axis, results, variants, _runs(results, rows, variants, modality, factor))
                axis.set_title(f"{modality} encoder")
            name = "the digit" if results["digits"] else " / ".join(dict.fromkeys(target.values()))
            line[0].set_ylabel(f"accuracy for {name}, frozen features\n(linear probe, test clips)")
        if axes[0][-1].has_data():
            axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        with new_file(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def _draw_panel(axis: Any, results: dict[str, Any], variants: list[str], runs: dict[str, Runs]) -> None:
    own = [name for name in results["contenders"] if name not in COLOURS]
    colours = COLOURS | {name: OF_OWN[number % len(OF_OWN)] for number, name in enumerate(own)}
    for contender in results["contenders"]:
        of_runs = runs.get(contender)
        if not of_runs:
            continue
        style = {"color": colours[contender], "linestyle": "--" if contender in DASHED else "-"}
        if len(of_runs) > 1 and contender != SCRATCH:
            for values in of_runs.values():
                axis.plot(*zip(*sorted(values.items()), strict=True), linewidth=0.7, alpha=0.55, **style)
        places = sorted({place for values in of_runs.values() for place in values})
        means = [statistics.mean(values[place] for values in of_runs.values() if place in values) for place in places]
        axis.plot(places, means, label=contender, marker="o", markersize=3, linewidth=2, **style)
    if len(variants) > 1:
        axis.set_xlabel(", ".join(json.loads(variants[0])))
        axis.set_xticks(range(len(variants)), [str(value) for v in variants for value in json.loads(v).values()])
    else:
        axis.set_xlabel("rounds of training")
    axis.grid(alpha=0.3)
    axis.set_ylim(0, 1)


def _runs(
    results: dict[str, Any], rows: Sequence[Row], variants: list[str], modality: str, factor: str
) -> dict[str, Runs]:
    """Return the probes by contender. With a varied setting they are those after the last round."""
    last, varied = results["rounds"], len(variants) > 1
    runs: dict[str, Runs] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        at = (row["metric"], row["split"], row["modality"], row["factor"])
        if at != ("probe", TEST, modality, factor) or row["value"] is None:
            continue
        run, place = (row["draw"], row["seed"]), variants.index(row["variant"])
        if not varied:
            runs[row["contender"]][run][row["round"]] = row["value"]
        elif row["round"] == last_of(results, row["variant"], row["contender"]):
            runs[row["contender"]][run][place] = row["value"]
        if row["round"] == 0 and row["contender"] not in results["other_untrained"]:
            # Untrained encoders are the same in every round.
            places = [place] if varied else range(last + 1)
            runs[SCRATCH][run].update({number: float(row["value"]) for number in places})
    return runs
