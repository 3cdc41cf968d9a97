"""Contestants that do the same work in turns, so that what else the machine does hits all of them alike."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "faiss-gpu", "faiss-cpu", "scikit-learn", "pyarrow", "webdataset", "av", "numpy")


@dataclass(frozen=True)
class Contest:
    """Seconds of every contestant by turn; `work` is how much each did in one, in `unit`s."""

    title: str
    unit: str
    work: float
    seconds: Mapping[str, list[float]]

    def rates(self, name: str) -> list[float]:
        """Units a second, by turn."""
        return [self.work / seconds for seconds in self.seconds[name]]

    def ratio(self, ours: str, theirs: str) -> float:
        """Median over the turns of our rate over theirs: each turn is compared with itself."""
        pairs = zip(self.seconds[ours], self.seconds[theirs], strict=True)
        return statistics.median(other / own for own, other in pairs)


class Pace:
    """When how much was done, of what may take a while to start."""

    def __init__(self) -> None:
        self.notes: list[tuple[float, float]] = []
        self.began = time.perf_counter()

    def note(self, done: float) -> None:
        """So much is done now."""
        if done:
            self.notes.append((time.perf_counter(), done))

    @property
    def start_s(self) -> float:
        """Seconds to the first note."""
        return self.notes[0][0] - self.began

    def seconds(self, work: float) -> float:
        """For so much work at the pace between the first note and the last."""
        (first, before), (last, after) = self.notes[0], self.notes[-1]
        return (last - first) / (after - before) * work


def contest(title: str, unit: str, work: float, contestants: Mapping[str, Callable[[], object]], turns: int) -> Contest:
    """Let everyone work `turns` times, after once to warm up. The order turns round, so that nobody is always first.

    A contestant that returns a float has taken the time itself: that many seconds count.
    """
    names = list(contestants)
    for name in names:
        contestants[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            began = time.perf_counter()
            told = contestants[name]()
            took = time.perf_counter() - began
            seconds[name].append(told if isinstance(told, float) else took)
    return Contest(title, unit, work, seconds)


def show(found: Contest, ours: str) -> None:
    """A table: median rate, lowest and highest, and our rate over each."""
    print(f"{found.title}, {len(found.seconds[ours])} turns")
    print(f"{'':<34}{'median':>14}{'lowest':>14}{'highest':>14}  ours/this")
    for name in found.seconds:
        rates = found.rates(name)
        numbers = "".join(
            f"{value:>14,.1f}" if value >= 10 else f"{value:>14.3f}"
            for value in (statistics.median(rates), min(rates), max(rates))
        )
        print(f"  {name:<32}{numbers}{found.ratio(ours, name):>11.3f}")
    print(f"  ({found.unit} a second)\n", flush=True)


def machine() -> dict[str, Any]:
    """What the figures are of."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "packages": versions,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def record(out: Path | None, **found: Any) -> None:
    """Write figures with the machine's description as JSON, where a file was named."""
    if out is None:
        return
    plain = {
        name: [vars(each) | {"seconds": dict(each.seconds)} for each in value] if name == "contests" else value
        for name, value in found.items()
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine()} | plain, indent=2) + "\n")


def parser(text: str | None) -> argparse.ArgumentParser:
    """With what all benchmarks have."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--turns", type=int, default=5)
    made.add_argument("--out", type=Path, help="write the figures here, as JSON")
    return made
