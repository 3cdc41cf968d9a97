"""The flow `xdc`: all rounds of a run, each a flow run of `xdc-round`.

A round begins as soon as its inputs from the previous round are finished. The previous round's report and evaluations,
which no training reads, run in parallel.
"""

import flows.server.prefect_defaults  # noqa: F401  # isort: skip - sets what Prefect reads when it is imported

from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture, PrefectWrappedFuture
from prefect.states import Completed, Crashed, Failed

from flows.executors.preflight import check_run
from flows.orchestration.best_effort import only_reported
from flows.orchestration.broken_pipe import outlive_reader
from flows.orchestration.failure import failure_published, run_commands
from flows.orchestration.tasks import Futures
from flows.orchestration.xdc_round import round_flow
from flows.runners.forked import CHILDREN
from flows.server.dead_runs import record_process
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.rounds import after_decision, as_stopped, stop_line
from xdc_core.graph.run_stage import all_fresh
from xdc_core.graph.stages import inputs, round_nodes, setup_nodes
from xdc_core.runs.run import Run, open_run
from xdc_core.stages.stop import stop_node


@flow(
    name="xdc",
    description="Run all rounds of a run, and evaluate the last encoders. Continues where an earlier call ended.",
    flow_run_name="{run}",
    persist_result=False,
)
def xdc(run: str = "runs/demo") -> State[Any]:
    """Run all rounds of a run, and evaluate the last encoders. Continues where an earlier call ended.

    Args:
        run: the run's directory, relative to the folder of the process: for a deployment, that of the worker.

    Rounds in which everything is fresh are skipped. After a failure, or when the stopping rule ends the run, no further
    round begins. The configuration is read when the flow run begins; a later change of xdc.yaml affects the next flow
    run.
    """
    outlive_reader()
    with only_reported("which process this is"):
        record_process()
    with failure_published(run, run, lambda: run_commands(run)):
        opened = open_run(run)
        states = run_rounds(opened)
    failures = [f"round {number}: {state.message}" for number, state in states.items() if not state.is_completed()]
    if failures:
        return Failed(message=" | ".join(failures))  # The rounds' own flow runs have published why.
    ended = as_stopped(opened)
    fresh = ended.config.last_round + 1 - len(states)
    stopped = f". {stop_line(ended)}" if ended.stopped else ""
    return Completed(message=f"{len(states)} rounds were run, {fresh} were finished already{stopped}")


def run_rounds(run: Run) -> dict[int, State[Any]]:
    """Run the rounds in which not everything is fresh. Return the states of their flow runs when all have ended.

    After a failure, or when the stopping rule ends the run, no further round begins; those in progress are finished.

    Raises:
        ConfigError: a round is to be run, and the executor of the run cannot be used.
    """
    rounds: dict[int, Future[State[Any]]] = {}
    tasks: Futures = {}  # Of all rounds: a report waits for that of the previous round.
    finished = Fingerprints(run, compare=False)
    with ThreadPoolExecutor(run.config.last_round + 1, thread_name_prefix="round") as threads:
        try:
            for number in range(run.config.last_round + 1):
                # The sources are looked at once for all rounds that are finished, and again when stages have run.
                known = Fingerprints(run, compare=False) if rounds else finished
                if (decided := as_stopped(run, known)).stopped and not run.stopped:
                    run, finished = decided, (known := Fingerprints(decided, compare=False))
                if number > run.config.last_round:
                    break
                nodes = [*setup_nodes(run.config), *round_nodes(run.config, number)]
                if all_fresh(run, nodes, known):
                    continue
                check_run(run)
                submitted: Future[Futures] = Future()
                rounds[number] = threads.submit(copy_context().run, _run_round, run, number, tasks, submitted)
                tasks |= submitted.result()
                if stop_node(number) in tasks and not _failed(tasks[stop_node(number)]):
                    run = after_decision(run, number)
                if number == run.config.last_round or not _next_may_begin(run, number, tasks):
                    break
                if any(_failed(task) for task in tasks.values()):
                    break
            return {number: future.result() for number, future in rounds.items()}
        except BaseException as error:
            if not isinstance(error, Exception):  # A cancel or Ctrl-C: the rounds end when their stages do.
                CHILDREN.close()
            raise


def _run_round(run: Run, number: int, earlier: Futures, submitted: "Future[Futures]") -> State[Any]:
    """Run a round in its own thread. `submitted` gets its tasks, or none if it failed earlier."""
    try:
        return round_flow(run, earlier, submitted.set_result)(str(run.root), number, return_state=True)
    except TerminationSignal:
        return Crashed(message="ended with the flow run that began it")
    finally:
        if not submitted.done():
            submitted.set_result({})


def _failed(task: PrefectFuture[Any]) -> bool:
    """Return whether a task has ended without success. One that still runs is not asked for at the server."""
    if isinstance(task, PrefectWrappedFuture) and not task.wrapped_future.done():
        return False
    task.wait()
    return not task.state.is_completed()


def _next_may_begin(run: Run, number: int, tasks: Futures) -> bool:
    """Wait for what the next round reads from this one, except the report. Return whether all of it is finished."""
    readers = [node for node in round_nodes(run.config, number + 1) if node.stage != "report"]
    read = {source for node in readers for source in inputs(run.config, node)}
    awaited = [node for node in round_nodes(run.config, number) if node in read]
    for node in awaited:
        if node not in tasks:
            return False
        tasks[node].wait()
    return all(tasks[node].state.is_completed() for node in awaited)
