"""What a person should notice first about a round: plain sentences, each good, worth a look, or bad."""

import math
from collections.abc import Iterator
from typing import Any, Literal

Level = Literal["good", "look", "bad"]
Sign = tuple[Level, str]


def signs(facts: dict[str, Any]) -> list[Sign]:
    """The signs of a round's facts (the content of report.json), the worst first."""
    found = [*_of_clusters(facts), *_of_training(facts), *_of_labels(facts)]
    return sorted(found, key=lambda sign: ("bad", "look", "good").index(sign[0]))


def _of_clusters(facts: dict[str, Any]) -> Iterator[Sign]:
    for name, source in facts["sources"].items():
        if source["empty"]:
            level: Level = "bad" if source["empty"] > source["k"] / 4 else "look"
            yield level, f"{name}: {source['empty']} of {source['k']} clusters are empty."
        share = source["largest_share"]
        if share > 0.5:
            yield "bad", f"{name}: one cluster holds {share:.0%} of the clips: the encoder tells little apart."
        elif share > 8 / source["k"] and source["k"] > 8:
            times = share * source["k"]
            yield "look", f"{name}: the largest cluster holds {share:.0%} of the clips, {times:.0f} times its part."
        before = [row for row in facts["history"] if row["source"] == name and row["nmi_previous"] is not None]
        if before and before[-1]["round"] == facts["round"]:
            now = before[-1]["nmi_previous"]
            trend = f", {before[-2]['nmi_previous']:.2f} the round before" if len(before) > 1 else ""
            yield (
                "good" if now > 0.05 else "look",
                f"{name}: NMI of {now:.2f} with the clusters of the round before{trend}.",
            )


def _of_training(facts: dict[str, Any]) -> Iterator[Sign]:
    for name, found in facts["training"].items():
        learnt = found["first_loss"] - found["loss"]
        words = f"{name}: training brought the loss from {found['first_loss']:.2f} to {found['loss']:.2f}"
        if not math.isfinite(found["loss"]):
            yield "bad", f"{name}: the loss is {found['loss']}. Lower train.lr, or clip gradients."
        elif learnt <= 0.02 * found["first_loss"]:
            yield "look", f"{words}: it learnt next to nothing."
        else:
            yield "good", f"{words}."


def _of_labels(facts: dict[str, Any]) -> Iterator[Sign]:
    column = next(iter(facts["label_columns"]), None)
    for name in facts["sources"]:
        rows = [row for row in facts["history"] if row["source"] == name]
        values = [row[f"ami:{column}"] for row in rows] if column else []
        if not values or values[-1] is None:
            continue
        now, earlier = values[-1], values[-2] if len(values) > 1 else None
        words = f"{name}: AMI of {now:.2f} with {column}"
        if earlier is None:
            yield ("good" if now > 0.05 else "look"), f"{words}."
        else:
            yield ("good" if now >= earlier - 0.02 else "look"), f"{words}, {earlier:.2f} in the round before."
