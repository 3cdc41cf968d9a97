"""Inputs that gave no clip: which, at which step, of which kind, and why."""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "not_media",
    "bad_row",
    "duplicate",
    "missing",
    "unlisted",
    "unreadable",
    "no_picture",
    "no_sound",
    "no_decoder",
    "encrypted",
    "damaged",
    "too_large",
    "over_limit",
    "killed",
    "crashed",
    "too_short",
    "outside",
    "silent",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Reject:
    """An input that did not make it: which, at which step, and why, in words.

    `kind` is one of KINDS (docs/media.md says what each means); numbers stand in `reason`. Seconds of the source;
    None where it is not known how far it reaches.
    """

    source: str
    step: str
    kind: Kind
    reason: str
    key: str = ""
    start_s: float | None = None
    end_s: float | None = None
