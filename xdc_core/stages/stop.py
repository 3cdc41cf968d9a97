"""The stop stage: decide whether a run ends in this round, by a rule that uses no test labels."""

from dataclasses import dataclass
from typing import Any

from shards.errors import ConfigError
from shards.store.build import Outcome
from shards.store.stage import Stage, Task
from xdc_core.config.methods import clustered_sources
from xdc_core.config.schema import Config
from xdc_core.config.stopping import StopSettings
from xdc_core.documents.results import headline, read_results
from xdc_core.documents.scores import read_scores
from xdc_core.documents.stop import FILE_NAME, Decision, Seen, read_decision, write_decision
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


@dataclass(frozen=True)
class Stopping:
    """The part of the configuration for the stage."""

    rule: StopSettings

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide."""
        return self.rule.used()


def stop(task: Task[Stopping]) -> Outcome:
    """Write stop.json: the values of the rounds so far, and whether the run ends in this one.

    Raises:
        ConfigError: the evaluation has no main metric on the split that counts.
    """
    earlier = read_decision(task.directory(stop_node(task.round - 1))).seen if task.round else []
    decision = decide(task.settings.rule, [*earlier, Seen(round=task.round, values=_values(task))])
    write_decision(task.out, decision)
    return Outcome(len(decision.seen), 0, {"stop": decision.stop, "why": decision.why}, (FILE_NAME,))


def decide(rule: StopSettings, seen: list[Seen]) -> Decision:
    """Return the decision of the last round in `seen`.

    agreement: every value was at least `rule.agreement` in this round and the `rule.rounds - 1` before; a value that is
    not defined is below it. validation: none of the last `rule.rounds` rounds was better than the best one before.
    """
    number, now = seen[-1].round, seen[-1].values
    shown = ", ".join(f"{name} {'undefined' if value is None else f'{value:.4f}'}" for name, value in now.items())
    common = {"round": number, "rule": rule.used(), "seen": seen}
    if rule.when == "agreement":
        reached = [all(value is not None and value >= rule.agreement for value in row.values.values()) for row in seen]
        low = [row.round for row, high in zip(seen, reached, strict=True) if not high]
        holds = number - (low[-1] if low else -1)
        what = f"NMI with the round before: {shown}; at least {rule.agreement:g} in {holds} successive rounds"
        ended, best = holds >= rule.rounds, {}
    else:
        values = [value for row in seen for value in row.values.values() if value is not None]
        first = values.index(max(values))
        holds = number - seen[first].round
        best_at = f"the best was {values[first]:.4f} in round {seen[first].round}, {holds} rounds before"
        what = f"{shown} on {rule.split}; {best_at if holds else 'the best so far'}"
        ended, best = holds >= rule.rounds, {"best": seen[first].round}
    early = ended and number < rule.not_before
    why = f"{what}; {rule.rounds} are enough" + (f", but not before round {rule.not_before}" if early else "") + "."
    return Decision.model_validate({"round": number, "stop": ended and not early, "why": why} | best | common)


def _values(task: Task[Stopping]) -> dict[str, float | int | None]:
    if task.settings.rule.when == "agreement":
        labels = {node: path for node, path in task.inputs.items() if node.stage == "label"}
        return {str(node.modality): read_scores(path).nmi_previous for node, path in labels.items()}
    (directory,), split = task.directories("eval"), task.settings.rule.split
    results = read_results(directory)
    metrics = results.by_split.get(split, {})
    name = headline(results.protocol, metrics)
    if name not in metrics or metrics[name].mean is None:
        raise ConfigError(
            f"stop.evaluation: {results.evaluation} has no {name} on {split} in round {task.round} "
            f"({directory}/results.json). Choose another evaluation or split."
        )
    return {f"{results.evaluation}: {name}": metrics[name].mean}


def stop_node(number: int) -> Node:
    """Return the node of the decision of a round."""
    return Node("stop", None, number)


def _nodes(config: Config, number: int | None) -> list[Node]:
    there = number is not None and number <= config.rounds and config.stop.when != "never"
    return [stop_node(number)] if there and number is not None else []


def _inputs(config: Config, node: Node) -> list[Node]:
    assert node.round is not None
    before = [stop_node(node.round - 1)] if node.round else []
    if config.stop.when == "validation":
        return [Node("eval", config.stop.evaluation, node.round), *before]
    sources = clustered_sources(config.method, config.modalities)
    return [*(Node("label", source, node.round) for source in sources), *before]


def _settings(config: Config, node: Node) -> Stopping:
    return Stopping(config.stop)


STOP: Stage[Config, Run, Stopping] = Stage(
    name="stop",
    version=1,
    summary="Decide whether the run ends in this round, by the rule in `stop`.",
    unit="round",
    folder="stop",
    of=None,
    each_round=True,
    library="faiss",  # It needs none: this process is there already, from the labels.
    modules=(),
    nodes=_nodes,
    inputs=_inputs,
    settings=_settings,
    work=stop,
)
