"""How much room a Ray cluster has for workers and agents, and the waiting for it."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shards.errors import ConfigError

RESOURCES = {"CPU": "CPUs", "GPU": "GPUs", "memory": "bytes of memory"}


def gpus_of_process(ray: Any, gpus: float | None, device: str) -> float:
    """Return how many GPUs a process is given for work that can use one.

    gpus: as set, which counts; None: 1 with the device cuda, and with auto if the cluster has GPUs at the moment.
    """
    if gpus is not None:
        return gpus
    if device == "auto" and not ray.cluster_resources().get("GPU"):
        _print(
            "The Ray cluster has no GPUs at the moment, so the work is done on CPUs. Where an autoscaler starts nodes "
            "with GPUs, set runs_on.device: cuda, or gpus: 1 in runs_on.executor_settings."
        )
        return 0
    return 0 if device == "cpu" else 1


@dataclass
class Wait:
    """The waiting until a cluster starts `what`, for which `machines` nodes must each have what is `needed`.

    needed: amounts by Ray's names of resources: CPU, GPU, memory (bytes). limit: seconds that too few nodes are large
    enough, after which it is an error with this `advice`; occupied nodes are waited for without limit. show: is called
    with what is waited for.
    """

    ray: Any
    what: str
    needed: Mapping[str, float]
    machines: int
    limit: float
    advice: str
    show: Callable[[str], None]
    since: float = field(default_factory=time.monotonic)
    shown: str = ""

    def look(self) -> None:
        """Look at the nodes, and show what is waited for. Raises ConfigError after the limit."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        large = sum(all(node.get(name, 0) >= amount for name, amount in self.needed.items()) for node in nodes)
        needs = " and ".join(f"{amount:g} {RESOURCES[name]}" for name, amount in self.needed.items())
        if large >= self.machines:
            self.end()
            self._show(f"waiting until Ray starts {self.what}: {_nodes(self.machines)} with {needs} must be free")
            return
        kinds = Counter(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        there = "; ".join(f"{count} with {kind}" for kind, count in kinds.items())
        lacking = f"{_nodes(self.machines)} with {needs}, free or not; {large} are large enough. There are: {there}"
        if time.monotonic() - self.since > self.limit:
            raise ConfigError(f"The Ray cluster has not had {lacking} (for {self.limit:g} s). {self.advice}")
        self._show(f"waiting up to {self.limit:g} s until the Ray cluster has {lacking}")

    def end(self) -> None:
        """Note that nothing is waited for at the moment."""
        self.since = time.monotonic()

    def _show(self, text: str) -> None:
        self.show(text)
        if text != self.shown:
            self.shown = text
            _print(text)


def _nodes(count: int) -> str:
    return "a node" if count == 1 else f"{count} nodes"


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
