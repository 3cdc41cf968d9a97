"""Find the shot boundaries of source files, window by window, in child processes of the sandbox."""

import contextlib
from collections import deque
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shards.cores import core_count
from shards.errors import MediaError, SourceError
from shards.media.limits import limits_of, too_much
from shards.media.probe import Probe
from shards.media.sandbox import Fetch, ordered_map
from shards.media.shots import boundaries_of
from shards.settings import CorpusSettings

WINDOW_S = 60.0  # Of a file, decoded within the limits for one clip.
Answer = Any  # Of the sandbox for a probed file: (Probe, reason, kind), a MediaError or a SourceError.


@dataclass
class _File:
    """A probed file whose windows are being looked at. boundaries_s: of the windows so far."""

    answer: Answer
    windows: int
    boundaries_s: list[float] = field(default_factory=list)
    error: MediaError | SourceError | None = None

    @property
    def result(self) -> Answer:
        """Return the answer for the file with its boundaries, or why they are not known."""
        if self.error is not None or not self.windows:
            return self.error or self.answer
        probed, reason, kind = self.answer
        return replace(probed, boundaries_s=tuple(sorted(self.boundaries_s))), reason, kind


def with_boundaries(
    root: Path, answers: Iterator[tuple[str, Answer]], settings: CorpusSettings, fetch: Fetch | None = None
) -> Generator[Answer, None, None]:
    """Yield the answers for probed files, given with the files' names, each probe with its `boundaries_s`.

    A file with a window that exceeds the limits, or whose decoder crashes, has that error as its answer. Files that
    cannot be used, or that exceed the limits according to their headers, are not decoded.
    """
    files: deque[_File] = deque()

    def jobs() -> Iterator[tuple[str, str, float, float, CorpusSettings]]:
        for name, answer in answers:
            ends = _windows(answer, settings)
            files.append(_File(answer, len(ends)))
            for start_s, end_s in ends:
                yield str(root), name, start_s, end_s, settings

    found = ordered_map(boundaries_of, jobs(), settings.workers or core_count(), limits_of(settings), fetch)
    done = 0
    with contextlib.closing(found):
        for window in found:
            while not files[0].windows:
                yield files.popleft().result
            done += 1
            if isinstance(window, (MediaError, SourceError)):
                files[0].error = _explained(window)
            else:
                files[0].boundaries_s += window
            if done == files[0].windows:
                yield files.popleft().result
                done = 0
        while files:
            yield files.popleft().result


def _windows(answer: Answer, settings: CorpusSettings) -> Collection[tuple[float, float]]:
    if isinstance(answer, (MediaError, SourceError)) or answer[1]:
        return ()
    probed: Probe = answer[0]
    if too_much(probed.width, probed.height, probed.fps, probed.duration_s, settings):
        return ()
    starts = [number * WINDOW_S for number in range(max(1, -int(-probed.duration_s // WINDOW_S)))]
    return list(zip(starts, [*starts[1:], probed.duration_s], strict=True))


def _explained(error: MediaError | SourceError) -> MediaError | SourceError:
    if isinstance(error, MediaError):
        error.args = (f"while its shots were looked for: {error}",)
    return error
