"""The artifact of a failed flow run on Prefect's pages: which stages failed, why, and how to repeat them."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from flows.orchestration.artifacts import artifact_key
from flows.orchestration.best_effort import only_reported
from flows.orchestration.node_parameters import parameters_of
from flows.runners.forked import log_path
from shards.command import command, stage_command
from shards.errors import XdcError
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

NOT_PLAIN = re.compile(r'["\\{\[\x00-\x1f]')  # Prefect would interpret these characters in a parameter.
SENTENCE = re.compile(r"(?<=[a-z0-9)][.!?]) (?=[A-Z])")  # The space between two sentences.
Commands = Callable[[], Sequence[str]]  # Called only after a failure, because they ask the server.


def deployment_command(flow: str, run: Path | str, **parameters: object) -> str:
    """Return the command with which a worker does a flow run of a deployment. Parameters that are None are left out.

    The run's path is made absolute, because a relative one is resolved in the folder of the worker.
    """
    given = {"run": str(Path(run).resolve())} | {name: value for name, value in parameters.items() if value is not None}
    words = [word for name, value in given.items() for word in ("-p", f"{name}={_parameter(value)}")]
    return command("prefect", "deployment", "run", f"{flow}/{_deployment_of(flow)}", *words)


def _deployment_of(flow: str) -> str:
    """Return the name of this flow run's deployment, if it is one of this flow; else the name in prefect.yaml."""
    from prefect.runtime import deployment, flow_run

    own = flow_run.flow_name == flow and flow_run.parent_flow_run_id is None
    return (deployment.name if own else None) or "local"


def _parameter(value: object) -> str:
    """Return a value in the form for Prefect's option -p: JSON, or text that is not valid JSON."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value if not NOT_PLAIN.search(value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def round_commands(run: Path | str, number: int | None) -> list[str]:
    """Return the commands that run a round, without and with a worker. None: the next round."""
    there = ["--round", number] if number is not None else []
    return [command("xdc", "round", run, *there), deployment_command("xdc-round", run=run, round=number)]


def run_commands(run: Path | str) -> list[str]:
    """Return the commands that run all rounds, without and with a worker."""
    return [command("xdc", "run", run), deployment_command("xdc", run=run)]


def stage_commands(run: Path | str, node: Node, force: bool) -> list[str]:
    """Return the commands that run one stage, without and with a worker."""
    deployed = deployment_command(node.stage, run=run, **parameters_of(node), force=force or None)
    return [stage_command(node.stage, run, node.modality, node.round, force), deployed]


@contextmanager
def failure_published(run: str, what: str, again: Commands) -> Iterator[None]:
    """Publish an error of the flow itself, such as one in the configuration. `what` names the flow run.

    Raises:
        Exception: what the block raised.
    """
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, XdcError) else f"{type(error).__name__}: {error}"
        publish_flow_failure(run, what, reason, again)
        raise


def publish_flow_failure(run: str, what: str, reason: str, again: Commands) -> None:
    """Publish why a flow run failed although no stage failed, and the commands that repeat it."""
    with only_reported(f"{what}: {reason}"):
        text = "\n".join([f"# {what}: failed", _verbatim(*_sentences(reason)), *_again(again())])
        create_markdown_artifact(text, artifact_key(Path(run).resolve().name, "failures"), what)


def publish_stage_failures(
    run: Run, failed: Mapping[Node, str], not_reached: Sequence[Node], force: bool, whole: Commands | None
) -> None:
    """Publish why stages failed, and the commands that repeat them.

    `whole` returns the commands for all nodes of the flow, if there are several.

    Raises:
        Exception: any error of the communication with the server.
    """
    name = run.root.resolve().name
    what = f"{', '.join(map(str, failed or not_reached))} of {name}"
    lines = [f"# {what}: failed"]
    for node, reason in failed.items():
        lines += [
            f"\n## {node}",
            _verbatim(*_sentences(reason)),
            f"\nLog, if the stage started: `{log_path(run, node)}`",
        ]
        lines += _again(stage_commands(run.root, node, force))
    if not_reached:
        lines.append(f"\nNot run, because they depend on failed stages: {', '.join(map(str, not_reached))}.")
    if whole:
        lines += ["\n## Everything that remains", "Finished stages are reused.", *_again(whole())]
    create_markdown_artifact("\n".join(lines), artifact_key(name, "failures"), what)


def _again(commands: Sequence[str]) -> list[str]:
    """Return lines with the commands, and the folder to which their paths are relative."""
    return [f"\nTo repeat it, in the folder `{Path.cwd()}` (without and with a worker):", _verbatim(*commands)]


def _sentences(text: str) -> list[str]:
    """Return each sentence in a line, so that Prefect's page shows more of it; commands in them are not broken."""
    return [sentence for line in text.splitlines() for sentence in SENTENCE.split(line)]


def _verbatim(*lines: str) -> str:
    """Return lines as a block without Markdown."""
    text = "\n".join(lines)
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"\n{fence}\n{text}\n{fence}"
