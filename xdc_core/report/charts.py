"""The charts of the pages, as SVG that is readable on light and dark backgrounds."""

import io
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from xdc_core.config.methods import JOINT
from xdc_core.modalities.registry import MODALITIES

# Okabe and Ito's colours, which people with colour blindness can distinguish.
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
JOINT_COLOUR = PALETTE[2]
GREY = "#808080"
NUMBERED = 40  # Rows of a matrix whose numbers can be read.
SCORES = 0.1  # What the axis of scores between 0 and 1 spans at least.
WIDTH = 5.2  # Inches, as are the margins: left, right, bottom, top.
MARGINS = (0.8, 0.1, 0.45, 0.08)
HEIGHT = 2.6
LINE_STYLES = ("-", "--", ":", "-.")
INSIDE = 4  # Lines whose legend has room among them; more have it below, in two columns with rows of this height:
LEGEND_ROW = 0.19
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "xdc",
    "font.size": 9,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def source_colour(name: str) -> str:
    """Return the colour of a modality or of the joint label source; grey for another label source."""
    if name == JOINT:
        return JOINT_COLOUR
    return MODALITIES[name].colour if name in MODALITIES else GREY


@dataclass(frozen=True)
class Line:
    """One line of a chart. x, y: its points; points whose y is None are left out. style: matplotlib's, "-" or "--"."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str
    style: str = "-"


def sizes_chart(sizes: Sequence[int], colour: str) -> str:
    """Draw clips per cluster, largest first, on a logarithmic scale; empty clusters leave a gap at the end."""
    ordered = sorted(sizes, reverse=True)

    def paint(axis: Any) -> None:
        axis.bar(range(len(ordered)), ordered, width=0.9, color=colour)
        axis.axhline(sum(ordered) / len(ordered), color=GREY, linewidth=0.8, linestyle="--")
        axis.set_yscale("log")
        axis.set_ylim(bottom=0.8)
        axis.set_xlabel("clusters, largest first (dashed: all equal)")
        axis.set_ylabel("clips")

    return _draw("Sizes of the clusters", paint)


def histogram_chart(counts: Sequence[int], edges: Sequence[float], x: str, title: str, threshold: float | None) -> str:
    """Draw clips per bin, with a dashed line at the threshold. Geometric edges get a logarithmic axis."""

    def paint(axis: Any) -> None:
        axis.stairs(counts, edges, fill=True, color=PALETTE[1])
        if edges[1] - edges[0] < 0.5 * (edges[-1] - edges[-2]):
            axis.set_xscale("log")
        if threshold is not None:
            axis.axvline(threshold, color=PALETTE[0], linewidth=1.2, linestyle="--")
        filled = np.flatnonzero(counts)
        # One bin on both sides shows that there is no more.
        ends = [edges[max(filled[0] - 1, 0)], edges[min(filled[-1] + 2, len(counts))]] if len(filled) else [*edges]
        ends = [*ends, threshold] if threshold is not None else ends
        axis.set_xlim(min(ends), max(ends))
        if all(edge % 1 == 0.5 for edge in edges):
            _whole_numbers(axis)
        axis.set_yscale("symlog", linthresh=10)  # Shows single clips beside many.
        axis.set_ylim(bottom=0)
        axis.set_xlabel(x)
        axis.set_ylabel("clips")

    return _draw(title, paint)


def lines_chart(
    lines: Sequence[Line], x: str, y: str, title: str, bottom: float | None = 0.0, least: float = 0.0
) -> str:
    """Draw lines. x, y: labels of the axes; x has whole numbers. bottom: the lower end of the y axis, unless a value is
    below it; None: from the values. least: what the y axis above the bottom spans at least, so that small differences
    between scores do not fill it.
    """
    values = [value for line in lines for value in line.y if value is not None]
    places = [place for line in lines for place, value in zip(line.x, line.y, strict=True) if value is not None]
    drawn = [line for line in lines if any(value is not None for value in line.y)]

    def paint(axis: Any) -> None:
        for line in drawn:
            kept = [pair for pair in zip(line.x, line.y, strict=True) if pair[1] is not None]
            marker = "o" if len(kept) < 40 else ""
            axis.plot(*zip(*kept, strict=True), line.style, label=line.name, color=line.colour, marker=marker, ms=3)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.grid(alpha=0.2)
        axis.set_ylim(*_y_range(values, bottom, least))
        if len(drawn) > INSIDE:
            margin = MARGINS[2] / (HEIGHT - MARGINS[2] - MARGINS[3])  # As a share of the axis.
            axis.legend(loc="upper left", bbox_to_anchor=(0, -margin), ncols=2, borderpad=0, labelspacing=0.3)
        elif len(drawn) > 1:
            axis.legend(loc="best")
        if places and min(places) == max(places):  # Else a single round gets an axis of its hundredths.
            axis.set_xlim(places[0] - 1, places[0] + 1)
            axis.set_xticks([places[0]])
        else:
            _whole_numbers(axis)

    return _draw(title, paint, below=LEGEND_ROW * math.ceil(len(drawn) / 2) if len(drawn) > INSIDE else 0.0)


def _whole_numbers(axis: Any) -> None:
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def _y_range(values: Sequence[float], bottom: float | None, least: float) -> tuple[float | None, float | None]:
    """Return the ends of a y axis. Without a bottom, differences below a tenth of the values do not fill it."""
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return bottom, None
    low, high = min(finite), max(finite)
    if bottom is None:
        least = max(least, 0.1 * max(abs(low), abs(high), 1e-9))
        middle, half = (low + high) / 2, max(high - low, least) / 2
        return middle - 1.1 * half, middle + 1.1 * half
    low = min(low, bottom)
    return (low if low == bottom else low - 0.05 * (high - low)), low + 1.05 * (max(high - low, least) or 1.0)


def cross_chart(shares: np.ndarray, rows: tuple[str, Sequence[int]], columns: tuple[str, Sequence[int]]) -> str:
    """Draw a matrix, float [rows, columns], of shares of each row. rows, columns: a label, and the clusters' numbers in
    the order of the matrix, which are shown where there is room.
    """

    def paint(axis: Any) -> None:
        axis.imshow(shares, cmap="viridis", aspect="auto", interpolation="nearest", vmin=0)
        for of, (label, numbers) in ((axis.yaxis, rows), (axis.xaxis, columns)):
            of.set_label_text(label)
            shown = numbers if len(numbers) <= NUMBERED else []
            of.set_ticks(range(len(shown)), [str(number) for number in shown], fontsize=7)

    return _draw(f"{rows[0]} against {columns[0]}", paint, height=4.2)


def scatter_chart(places: np.ndarray, values: Sequence[object], title: str) -> str:
    """Draw points, float [n, 2], coloured by value: the most frequent values first, grey for None.

    There are 20 colours; further values repeat them. The first 8 are named in a legend.
    """
    counts = Counter(value for value in values if value is not None)
    ordered = sorted(counts, key=lambda value: (-counts[value], str(value)))
    number = {value: place % 20 for place, value in enumerate(ordered)}

    def paint(axis: Any) -> None:
        from matplotlib import colormaps

        colours = [GREY if value is None else colormaps["tab20"](number[value]) for value in values]
        # As a picture: thousands of points as SVG would be most of the page.
        axis.scatter(places[:, 0], places[:, 1], c=colours, s=6, linewidths=0, rasterized=True)
        axis.set_xticks([])
        axis.set_yticks([])
        for value in ordered[:8]:
            axis.scatter([], [], color=colormaps["tab20"](number[value]), s=18, label=str(value)[:24])
        axis.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=8, fontsize=9, handletextpad=0.1, columnspacing=0.8)

    return _draw(title, paint, height=4.2)


def _draw(title: str, paint: Callable[[Any], None], height: float = HEIGHT, below: float = 0.0) -> str:
    """Return the SVG of a chart. height: in inches, without `below`, which is left free under the axis."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.StringIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height + below))
        # matplotlib's automatic layouts draw everything twice to find margins.
        left, right, bottom, top = MARGINS
        whole = height + below
        axis = figure.add_axes(
            (left / WIDTH, (bottom + below) / whole, 1 - (left + right) / WIDTH, (height - bottom - top) / whole)
        )
        paint(axis)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue(), flags=re.DOTALL)
    return text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
