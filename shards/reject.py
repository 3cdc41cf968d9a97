"""Rejected inputs: which, at which step, of which kind, and why."""

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
    "short_shot",
    "outside",
    "silent",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Reject:
    """A rejected input: which, at which step, and why, in words.

    `kind` is one of KINDS (docs/media.md says what each means); `reason` has numbers and details. `start_s` and
    `end_s` are seconds of the source; None if its duration is not known.
    """

    source: str
    step: str
    kind: Kind
    reason: str
    key: str = ""
    start_s: float | None = None
    end_s: float | None = None


# Words in the reasons of version 0.1.0, which stored no kinds.
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
    """Return an entry of a shard's rejects.json as a Reject; without a kind, the kind follows from the reason."""
    if "kind" in entry:
        return Reject(**entry)
    kinds: list[Kind] = [kind for words, kind in _OF_0_1_0 if words in entry["reason"]]
    return Reject(**entry, kind=kinds[0] if kinds else "damaged")
