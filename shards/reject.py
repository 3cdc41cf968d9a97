"""Inputs that gave no clip: which, at which step, of which kind, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

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


# What version 0.1.0, which stored no kinds, said of clips that it did not cut.
_OF_0_1_0: tuple[tuple[str, Kind], ...] = (
    ("digital silence", "silent"),
    ("no sound between", "no_sound"),
    ("decoded from", "too_short"),
    ("larger than max_", "too_large"),
    ("more than max_", "too_large"),
    ("too narrow", "too_large"),
    ("took longer", "over_limit"),
    ("needed more", "over_limit"),
    ("killed from outside", "killed"),
    ("crashed", "crashed"),
)


def reject_of(entry: Mapping[str, Any]) -> Reject:
    """A reject as it stands in a shard's rejects.json; the kind of one without is found by its reason."""
    if "kind" in entry:
        return Reject(**entry)
    kinds: list[Kind] = [kind for words, kind in _OF_0_1_0 if words in entry["reason"]]
    return Reject(**entry, kind=kinds[0] if kinds else "damaged")
