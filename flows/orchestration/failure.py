"""What Prefect's pages show of a flow run that failed: which stages, why, and the commands that do them again."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from flows.orchestration.artifacts import artifact_key
from flows.orchestration.best_effort import only_reported
from flows.runners.forked import log_path
from shards.command import command, stage_command
from shards.errors import XdcError
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

NAMED = ("data", "embed", "eval")  # Their flows have `name` where others have `modality`.
NOT_PLAIN = re.compile(r'["\\{\[\x00-\x1f]')  # Prefect does not take a parameter with one of these as it is.
Commands = Callable[[], Sequence[str]]  # Made where something has failed: they need answers of the server.


def deployment_command(flow: str, run: Path | str, **parameters: object) -> str:
    """Return the command that has a worker do a flow run of a deployment. Parameters that are None are left out.

    The run's path is made absolute: a deployment takes a relative one from the folder in which it was deployed.
    """
    given = {"run": str(Path(run).resolve())} | {name: value for name, value in parameters.items() if value is not None}
    words = [word for name, value in given.items() for word in ("-p", f"{name}={_parameter(value)}")]
    return command("prefect", "deployment", "run", f"{flow}/{_deployment_of(flow)}", *words)


def _deployment_of(flow: str) -> str:
    """The name of the deployment that this flow run is of, if it is one of this flow; else as in prefect.yaml."""
    from prefect.runtime import deployment, flow_run

    own = flow_run.flow_name == flow and flow_run.parent_flow_run_id is None
    return (deployment.name if own else None) or "local"


def _parameter(value: object) -> str:
    """A value as Prefect's option -p reads it: as JSON, and what is none as text."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value if not NOT_PLAIN.search(value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def round_commands(run: Path | str, number: int | None) -> list[str]:
    """The commands that do a round, without a worker and by one. None: the next round."""
    there = ["--round", number] if number is not None else []
    return [command("xdc", "round", run, *there), deployment_command("xdc-round", run=run, round=number)]


def run_commands(run: Path | str) -> list[str]:
    """The commands that do all rounds."""
    return [command("xdc", "run", run), deployment_command("xdc", run=run)]


def stage_commands(run: Path | str, node: Node, force: bool) -> list[str]:
    """The commands that do one stage."""
    modality = {"name" if node.stage in NAMED else "modality": node.modality}
    deployed = deployment_command(node.stage, run=run, **modality, round=node.round, force=force or None)
    return [stage_command(node.stage, run, node.modality, node.round, force), deployed]


@contextmanager
def failure_published(run: str, what: str, again: Commands) -> Iterator[None]:
    """Publish an error in the flow itself, as of the configuration. `what`: of what flow run.

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
    """Why a flow run failed, and the commands that do it again, where no stage is to blame."""
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
    """The commands, and the folder to which their paths are relative."""
    return [f"\nTo do it again, in the folder `{Path.cwd()}` (without a worker, or by one):", _verbatim(*commands)]


def _verbatim(*lines: str) -> str:
    """A block in which nothing is Markdown."""
    text = "\n".join(lines)
    longest = max((len(found) for found in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"\n{fence}\n{text}\n{fence}"
