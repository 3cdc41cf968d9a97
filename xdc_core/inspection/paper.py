"""The paper's results (Alwassel et al., NeurIPS 2020), shown in separate rows beside ours.

Top-1 in per cent. Pretraining is on Kinetics unless stated otherwise. Full fine-tuning (`all`), except where `fc` is
stated; averaged over the official splits. From tables 1, 4 and 6 of the paper, copied from notes: check them against
the paper before quoting them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperResult:
    """One number of the paper: method, what it was pretrained on, layout of the data set, protocol, per cent."""

    method: str
    pretrained_on: str
    layout: str
    protocol: str
    accuracy: float


def _row(method: str, pretrained_on: str, protocol: str, *values: float) -> list[PaperResult]:
    layouts = ("ucf101", "hmdb51", "esc50")
    return [
        PaperResult(method, pretrained_on, layout, protocol, value)
        for layout, value in zip(layouts, values, strict=True)
    ]


PAPER: tuple[PaperResult, ...] = (
    *_row("scratch", "nothing", "all", 54.5, 24.1, 54.3),
    *_row("supervised", "Kinetics", "all", 90.9, 58.0, 82.3),
    *_row("sdc", "Kinetics", "all", 61.8, 31.4, 66.5),
    *_row("mdc", "Kinetics", "all", 68.4, 37.1, 70.3),
    *_row("cdc", "Kinetics", "all", 72.9, 37.5, 74.8),
    *_row("xdc", "Kinetics", "all", 74.2, 39.0, 78.0),
    *_row("scratch", "nothing", "fc", 6.0, 7.5, 61.3),
    *_row("xdc", "IG-Random", "fc", 80.7, 49.9, 84.5),
    *_row("xdc", "IG-Random", "all", 88.8, 61.2, 86.3),
    *_row("xdc", "IG-Kinetics", "fc", 85.3, 56.0, 84.3),
    *_row("xdc", "IG-Kinetics", "all", 91.5, 63.1, 84.8),
)
