"""Numbers published by XDC's authors, shown in separate rows beside ours; each says where it is from.

Top-1 in per cent, averaged over the official splits. The paper's (Alwassel et al., NeurIPS 2020, tables 1, 4 and 6) are
from memory: check them against the paper before quoting them. Those of the published files stand in the README of the
authors' repository (HumamAlwassel/XDC), after full fine-tuning; that these models see 32 frames of 224 pixels is from
memory of the paper, unverified.
"""

from dataclasses import dataclass

PAPER_FROM_MEMORY = "paper, from memory"
README = "README of the authors' repository"


@dataclass(frozen=True)
class PublishedResult:
    """One published number: what was evaluated, layout of the data set, protocol, per cent, and where it is from.

    file: the published file of weights that was evaluated, without the digest and the suffix of its name; its number
    is shown beside an evaluation of that file. None: a number of the paper, which is always shown.
    """

    what: str
    layout: str
    protocol: str
    accuracy: float
    source: str
    file: str | None = None


def _paper(method: str, pretrained_on: str, protocol: str, *values: float) -> list[PublishedResult]:
    layouts = ("ucf101", "hmdb51", "esc50")
    return [
        PublishedResult(f"{method}, pretrained on {pretrained_on}", layout, protocol, value, PAPER_FROM_MEMORY)
        for layout, value in zip(layouts, values, strict=True)
    ]


def _file(name: str, ucf101: float, hmdb51: float) -> list[PublishedResult]:
    values = {"ucf101": ucf101, "hmdb51": hmdb51}
    what = f"{name} (32 frames, 224 pixels: unverified)"
    return [PublishedResult(what, layout, "all", value, README, name) for layout, value in values.items()]


PUBLISHED: tuple[PublishedResult, ...] = (
    *_paper("scratch", "nothing", "all", 54.5, 24.1, 54.3),
    *_paper("supervised", "Kinetics", "all", 90.9, 58.0, 82.3),
    *_paper("sdc", "Kinetics", "all", 61.8, 31.4, 66.5),
    *_paper("mdc", "Kinetics", "all", 68.4, 37.1, 70.3),
    *_paper("cdc", "Kinetics", "all", 72.9, 37.5, 74.8),
    *_paper("xdc", "Kinetics", "all", 74.2, 39.0, 78.0),
    *_paper("scratch", "nothing", "fc", 6.0, 7.5, 61.3),
    *_paper("xdc", "IG-Random", "fc", 80.7, 49.9, 84.5),
    *_paper("xdc", "IG-Random", "all", 88.8, 61.2, 86.3),
    *_paper("xdc", "IG-Kinetics", "fc", 85.3, 56.0, 84.3),
    *_paper("xdc", "IG-Kinetics", "all", 91.5, 63.1, 84.8),
    *_file("r2plus1d_18_xdc_ig65m_kinetics", 95.5, 68.9),
    *_file("r2plus1d_18_xdc_ig65m_random", 94.6, 66.5),
    *_file("r2plus1d_18_xdc_audioset", 93.0, 63.7),
    *_file("r2plus1d_18_fs_kinetics", 94.2, 65.1),
    *_file("r2plus1d_18_fs_imagenet", 84.0, 48.1),
)


def file_of(weights: str | None) -> str | None:
    """Return the published file that a path of weights names, or None."""
    if weights is None:
        return None
    stem = weights.replace("\\", "/").rpartition("/")[2].partition("-")[0].partition(".")[0]
    return stem if any(result.file == stem for result in PUBLISHED) else None
