"""The time that a few clips of each source take to cut: how much costs differ between sources."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shards.cores import core_count
from shards.errors import MediaError, SourceError
from shards.media.cut import cut
from shards.media.limits import limits_of
from shards.media.sandbox import ordered_map
from shards.settings import CorpusSettings
from xdc_core.planning.draw import Drawn

CLIPS = 3  # Of a source, equally spaced.


def timed_cut(path: str, start_s: float, end_s: float, settings: CorpusSettings) -> float:
    """Cut a clip and return the seconds that this took, in a child process of the sandbox. A broken one costs, too."""
    began = time.perf_counter()
    with contextlib.suppress(MediaError, SourceError):
        cut(Path(path), start_s, end_s, settings)
    return time.perf_counter() - began


def costs(drawn: Sequence[Drawn], settings: CorpusSettings) -> list[float]:
    """Return for each source the seconds of one process for a second of its media; 0 for a source of no length."""
    jobs, owner, lasted = [], [], []
    for number, each in enumerate(drawn):
        length = min(settings.clip_seconds, each.tried_s)
        if length <= 0:
            continue
        first = each.tried.start_s or 0.0
        for start_s in np.unique(np.linspace(0, max(0.0, each.tried_s - length), CLIPS)):
            jobs.append((each.tried.path, first + float(start_s), first + float(start_s) + length, settings))
            owner.append(number)
            lasted.append(length)
    spent, seconds = np.zeros(len(drawn)), np.zeros(len(drawn))
    answers = ordered_map(timed_cut, jobs, settings.workers or core_count(), limits_of(settings))
    for answer, number, length in zip(answers, owner, lasted, strict=True):
        spent[number] += answer if isinstance(answer, float) else 0.0
        seconds[number] += length
    return np.divide(spent, seconds, out=np.zeros(len(drawn)), where=seconds > 0).tolist()
