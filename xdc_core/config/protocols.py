"""The protocols of evaluations by name: probes of frozen features, built in or of installed packages, and others."""

import difflib
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

from pydantic import AfterValidator

from shards.registry import Registry

# These look at more than the features of labelled views.
WHOLE = ("all", "retrieval", "clusters")


@dataclass(frozen=True)
class Probe:
    """A probe: it learns labels from frozen features, and is tested. Light to import.

    name: that of the protocol. module: the module with the function, imported when a probe is first used. function:
        (train: Examples, test: Examples, classes: int, seed: int, held_out_share: float) -> Predictions
    with the types of `xdc_core.evaluation`; `xdc_core.probes.probe.probe` does what all of them have in common.
    version: to be raised when the same settings give other figures; from 2 on it is part of the fingerprint.
    """

    name: str
    module: str
    function: str
    version: int = 1

    def __call__(self, train: Any, test: Any, classes: int, seed: int, held_out_share: float) -> Any:
        """Learn from `train` and predict `test`. Raises what the function raises."""
        return getattr(import_module(self.module), self.function)(train, test, classes, seed, held_out_share)


PROBES: Registry[Probe] = Registry(
    "probe",
    "xdc.probes",
    {
        "fc": Probe("fc", "xdc_core.probes.linear", "fc"),
        "svm": Probe("svm", "xdc_core.probes.svm", "svm"),
        "knn": Probe("knn", "xdc_core.probes.neighbours", "neighbours"),
    },
    of=Probe,
)


def probe_settings(protocol: str) -> dict[str, int]:
    """Return what of a protocol itself enters the fingerprint of an evaluation: the version of a probe, from 2 on."""
    version = PROBES.find(protocol).version if protocol not in WHOLE else 1
    return {} if version == 1 else {"probe_version": version}


def _known_protocol(name: str) -> str:
    there = (*PROBES, *WHOLE)
    if name not in there:
        near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"the protocol {name!r} is unknown.{hint} There are: {', '.join(there)}")
    return name


ProtocolName = Annotated[str, AfterValidator(_known_protocol)]
