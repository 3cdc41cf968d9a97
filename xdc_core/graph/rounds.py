"""The rounds of a run: the number of the next one, its check, and where a stopping rule ends them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shards.command import command
from shards.errors import ConfigError
from shards.store.build import reusable
from shards.store.manifest import read_manifest
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import all_fresh, reuse
from xdc_core.graph.stages import round_nodes
from xdc_core.runs.node import Node, encoder_node
from xdc_core.runs.run import Run
from xdc_core.stages.stop import STOP, stop_node


def as_stopped(run: Run, fingerprints: Fingerprints | None = None) -> Run:
    """Return the run as far as its stopping rule lets it go: with `rounds` of the round in which the rule ended it.

    Only fresh decisions count, by their manifests. Without a rule, or before it has ended the run, return the run
    itself.
    `fingerprints`: those of the run, if they are there; those without `compare` where a run is only listed.
    """
    if run.config.stop.when == "never" or run.stopped:
        return run
    fingerprints = fingerprints or Fingerprints(run)
    for number in range(run.config.rounds):
        wanted = fingerprints.of(stop_node(number))
        if wanted is None or reusable(run.directory(stop_node(number)), wanted) is None:
            return run
        if (decided := after_decision(run, number)).stopped:
            return decided
    return run


def after_decision(run: Run, number: int) -> Run:
    """Return the run after the decision of a round, which must be fresh: ended in this round, or unchanged."""
    if run.stopped or number >= run.config.rounds or not _decision(run, number).get("stop"):
        return run
    return replace(run, config=run.config.ended_in(number), stopped=True)


def _decision(run: Run, number: int) -> dict[str, Any]:
    """Return the decision of a round as its manifest has it; {} if there is none."""
    manifest = read_manifest(run.directory(stop_node(number)))
    return dict(manifest.summary) if manifest else {}


def until_decision(run: Run, nodes: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """Divide a round's nodes: up to its decision, which comes last, and those that there are only after it.

    The second part is empty if no decision of these nodes can end the run.
    """
    deciding = [
        place
        for place, node in enumerate(nodes, start=1)
        if node.stage == STOP.name and node.round is not None and node.round < run.config.rounds
    ]
    place = deciding[0] if deciding else len(nodes)
    return list(nodes[:place]), list(nodes[place:])


def stop_line(run: Run) -> str:
    """Return a line that says that a run has stopped, why, and how to go on; "" if it has not."""
    if not run.stopped:
        return ""
    number = run.config.rounds
    why = _decision(run, number).get("why", "")
    return (
        f"{run.root} stopped in round {number} by its rule (stop). {why} To go on, set stop.when to never in its "
        "xdc.yaml, or change the rule."
    )


def next_round(run: Run) -> int:
    """Return the first round that is not finished; the last one if all are."""
    fingerprints = Fingerprints(run)
    for number in range(run.config.last_round):
        if not all_fresh(run, round_nodes(run.config, number), fingerprints):
            return number
    return run.config.last_round


def newest_with_encoders(run: Run, modalities: Sequence[str], fingerprints: Fingerprints | None = None) -> int:
    """Return the last round whose first encoders of these modalities exist and are up to date; 0 with given features.

    `fingerprints`: those of the run, if they are there.

    Raises:
        ConfigError: there is none.
    """
    if not run.config.encoded:
        return 0
    fingerprints = fingerprints or Fingerprints(run)
    for number in range(run.config.last_round, -1, -1):
        if all(reuse(run, encoder_node(name, number), fingerprints) for name in modalities):
            return number
    if all(run.weights(name) for name in modalities):
        return 0
    make_one = command("xdc", "round", run.root)
    raise ConfigError(f"{run.root} has no encoder yet that is up to date. Create one: {make_one}")


def check_round(run: Run, number: int) -> int:
    """Raise ConfigError for a round that the configuration does not have, or that the run stopped before."""
    last = run.config.last_round
    if number > last and run.stopped:
        raise ConfigError(f"round {number}: {stop_line(run)}")
    if not 0 <= number <= last:
        raise ConfigError(
            f"round {number}: {run.root} has rounds 0 to {last} (the last one without training). "
            "Raise `rounds` in its xdc.yaml for more."
        )
    return number
