"""What Prefect's pages show of a flow run that failed: which stages, why, and the commands that repeat them."""

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

NOT_PLAIN = re.compile(r'["\\{\[\x00-\x1f]')  # Prefect does not take a parameter with one of these as it is.
Commands = Callable[[], Sequence[str]]  # Called only after a failure: they ask the server.


def deployment_command(flow: str, run: Path | str, **parameters: object) -> str:
    """Return the command that has a worker do a flow run of a deployment. Parameters that are None are left out.

    The run's path is made absolute: a deployment takes a relative one from the folder in which it was deployed.
    """
    given = {"run": str(Path(run).resolve())} | {name: value for name, value in parameters.items() if value is not None}
    words = [word for name, value in given.items() for word in ("-p", f"{name}={_parameter(value)}")]
    return command("prefect", "deployment", "run", f"{flow}/{_deployment_of(flow)}", *words)


def _deployment_of(flow: str) -> str:
    """Return the name of this flow run's deployment, if that is one of this flow; else the name in prefect.yaml."""
    from prefect.runtime import deployment, flow_run

    own = flow_run.flow_name == flow and flow_run.parent_flow_run_id is None
    return (deployment.name if own else None) or "local"


def _parameter(value: object) -> str:
    """Return a value as Prefect's option -p reads it: as JSON, and what is no JSON as text."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value if not NOT_PLAIN.search(value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def round_commands(run: Path | str, number: int | None) -> list[str]:
    """Return the commands that do a round, without a worker and by one. None: the next round."""
    there = ["--round", number] if number is not None else []
    return [command("xdc", "round", run, *there), deployment_command("xdc-round", run=run, round=number)]


def run_commands(run: Path | str) -> list[str]:
    """Return the commands that do all rounds, without a worker and by one."""
    return [command("xdc", "run", run), deployment_command("xdc", run=run)]


def stage_commands(run: Path | str, node: Node, force: bool) -> list[str]:
    """Return the commands that do one stage, without a worker and by one."""
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
    """Publish why a flow run failed, and the commands that repeat it, where no stage failed."""
    with only_reported(f"{what}: {reason}"):
        text = "\n".join([f"# {what}: failed", _verbatim(reason), *_again(again())])
        create_markdown_artifact(text, artifact_key(Path(run).resolve().name, "failures"), what)


def publish_stage_failures(
    run: Run, failed: Mapping[Node, str], not_reached: Sequence[Node], force: bool, whole: Commands | None
) -> None:
    """Publish why stages failed, and the commands that do them again.

    `whole`: makes the commands for all nodes of the flow, if these are several.

    Raises:
        Exception: whatever talking to the server raises.
    """
    name = run.root.resolve().name
    what = f"{', '.join(map(str, failed or not_reached))} of {name}"
    lines = [f"# {what}: failed"]
    for node, reason in failed.items():
        lines += [f"\n## {node}", _verbatim(reason), f"\nLog, if the stage began: `{log_path(run, node)}`"]
        lines += _again(stage_commands(run.root, node, force))
    if not_reached:
        lines.append(f"\nNot reached, because they read what failed: {', '.join(map(str, not_reached))}.")
    if whole:
        lines += ["\n## All that is left", "What is finished is reused.", *_again(whole())]
    create_markdown_artifact("\n".join(lines), artifact_key(name, "failures"), what)


def _again(commands: Sequence[str]) -> list[str]:
    """Return lines with the commands, and the folder to which their paths are relative."""
    return [f"\nTo do it again, in the folder `{Path.cwd()}` (without a worker, or by one):", _verbatim(*commands)]


def _verbatim(*lines: str) -> str:
    """Return a block of lines in which nothing is Markdown."""
    text = "\n".join(lines)
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"\n{fence}\n{text}\n{fence}"
