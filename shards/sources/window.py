"""Windows of a fixed length round the parts of files that are sources."""

import math
from dataclasses import replace

from shards.sources.source import Source


def window_of(source: Source, seconds: float, fps: float, duration_s: float, slack_s: float) -> Source:
    """Return a source with a window of `seconds` round its middle as its span.

    The window begins with a frame of `fps`, the one nearest to where it would begin. It is moved where it would begin
    before the file or end after `duration_s`. Whole files, parts without an end, and parts that end more than `slack_s`
    after `duration_s` are returned unchanged.
    """
    if source.end_s is None or source.end_s > duration_s + slack_s:
        return source
    first = round(((source.start_s or 0.0) + source.end_s - seconds) / 2 * fps)
    last = math.floor((duration_s - seconds) * fps + 0.1)  # Durations are rounded, too.
    start_s = max(0, min(first, last)) / fps
    return replace(source, start_s=start_s, end_s=start_s + seconds)
