"""Check that every requested second of every source is in a clip, or in a reject with a span."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shards.reject import Reject

SLACK_S = 0.1  # Headers and timestamps are rounded, and a packet of sound may be as long.


def slack_s(fps: float) -> float:
    """Return the seconds by which a clip may be shorter than planned at `fps`, because it ends with a whole frame."""
    return max(SLACK_S, 1 / fps) + 1e-3


class Span(NamedTuple):
    """A span of a source file, in seconds."""

    source: str
    start_s: float
    end_s: float


def uncovered(requested: Iterable[Span], covered: Iterable[Span], slack_s: float) -> Iterator[Span]:
    """Yield the requested parts, longer than `slack_s`, that no span of `covered` covers, by source.

    Spans may overlap. Covered spans may exceed the requested ones.
    """
    there = _merged(covered)
    for source, wanted in _merged(requested).items():
        spans = there.get(source, [])
        at = 0
        for start_s, end_s in wanted:
            reached_s = start_s
            while at < len(spans) and spans[at][0] < end_s:
                if spans[at][0] - reached_s > slack_s:
                    yield Span(source, reached_s, spans[at][0])
                reached_s = max(reached_s, spans[at][1])
                if spans[at][1] > end_s:  # It may overlap the next requested span.
                    break
                at += 1
            if end_s - reached_s > slack_s:
                yield Span(source, reached_s, end_s)


def _merged(spans: Iterable[Span]) -> dict[str, list[tuple[float, float]]]:
    """Return the spans of each source in order, with overlapping ones joined."""
    by_source: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for source, start_s, end_s in sorted(spans):
        merged = by_source[source]
        if merged and start_s <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end_s)
        else:
            merged.append((start_s, end_s))
    return by_source


def rejected_spans(rejects: Iterable[Reject]) -> Iterator[Span]:
    """Return the spans of rejects with both ends."""
    for reject in rejects:
        if reject.start_s is not None and reject.end_s is not None:
            yield Span(reject.source, reject.start_s, reject.end_s)
