"""A study's table of runs: how many are finished and take off, and their CPU minutes; and what was not run."""

import json
import statistics
from typing import Any

from xdc_core.study.contenders import SCRATCH
from xdc_core.study.summary import last_of


def runs_table(results: dict[str, Any], variant: str) -> str:
    """Return the table, and the thresholds above which runs take off."""
    found = [row for row in results["takes_off"] if row["variant"] == variant]
    first = results["targets"][0]
    offs = {(row["contender"], row["modality"]): row for row in found if first.get(row["modality"]) == row["factor"]}
    modalities = [name for name in first if any(name == modality for _, modality in offs)]
    heads = ["finished runs", *(f"take off: {name}" for name in modalities), "CPU minutes: mean", "highest"]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for contender in results["contenders"]:
        cells = [
            cell
            for cell in results["cells"]
            if (cell["contender"], json.dumps(cell["variant"], sort_keys=True)) == (contender, variant)
        ]
        done = [cell["seconds"] / 60 for cell in cells if cell["finished"]]
        if contender == SCRATCH or not cells:
            continue
        took = [offs.get((contender, name)) for name in modalities]
        texts = [f"{len(done)} of {len(cells)}", *(f"{row['took']} of {row['of']}" if row else "" for row in took)]
        texts += [f"{statistics.mean(done):.1f}", f"{max(done):.1f}"] if done else ["", ""]
        lines.append(f"| {contender} | " + " | ".join(texts) + " |")
    text = "\n".join(lines) + "\n"
    if not modalities:
        return text
    bounds = {name: next(row for (_, modality), row in offs.items() if modality == name) for name in modalities}
    words = [
        f"{name} {row['threshold']:.3f} ({row['baseline']:.3f} of {row['baseline_of']})" for name, row in bounds.items()
    ]
    return (
        f"{text}\nA run takes off if its linear probe on validation clips, after the last round, has covered a tenth "
        "of the way from the highest of all untrained encoders and control runs to 1. It must be above: "
        f"{', '.join(words)}.\n"
    )


def left_text(results: dict[str, Any]) -> list[str]:
    """Return what is not run or left out, and the worst diagnostics of the runs, as paragraphs."""
    parts = []
    left = [cell for cell in results["cells"] if not cell["finished"]]
    if left:
        limit = results["cpu_hours"]
        why = f" The limit of {limit:g} CPU hours stopped the study." if limit is not None else ""
        parts.append(f"## Not run\n\n{len(left)} of {len(results['cells'])} runs are not finished.{why}\n")
        parts.append("".join(f"- {cell['run']}: {_rounds(results, cell)}\n" for cell in left))
    if unreadable := [cell for cell in results["cells"] if cell["unreadable"]]:
        lines = "".join(f"- {cell['run']}: {cell['unreadable']}\n" for cell in unreadable)
        parts.append(f"## Not readable\n\nThe numbers of {len(unreadable)} runs are left out:\n\n{lines}")
    warned = [(cell["run"], text) for cell in results["cells"] for level, text in cell["diagnostics"] if level == "bad"]
    if warned:
        lines = "".join(f"- {run}: {text}\n" for run, text in warned)
        parts.append(f"## Diagnostics\n\nOf the last finished round of each run, the bad ones:\n\n{lines}")
    if results["left_out"]:
        lines = "".join(f"- {text}\n" for text in results["left_out"][:20])
        parts.append(f"## Left out of the recordings to probe on: {len(results['left_out'])}\n\n{lines}")
    return parts


def _rounds(results: dict[str, Any], cell: dict[str, Any]) -> str:
    last = last_of(results, json.dumps(cell["variant"], sort_keys=True), cell["contender"])
    return "not begun" if cell["rounds"] is None else f"{cell['rounds']} of {last} rounds"
