"""One Prefect task per node, and the graph of tasks in a flow run."""

import flows.server.prefect_defaults  # noqa: F401  # isort: skip - sets what Prefect reads when it is imported

import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed

from flows.executors.preflight import check_run
from flows.orchestration.artifacts import publish_round
from flows.orchestration.best_effort import only_reported
from flows.orchestration.broken_pipe import outlive_reader
from flows.orchestration.curves import await_curves, send_curves
from flows.orchestration.failure import Commands, failure_published, publish_stage_failures
from flows.orchestration.progress import ProgressArtifact
from flows.runners.do_node import do_node
from flows.runners.events import LISTENERS
from flows.runners.forked import CHILDREN
from flows.server.dead_runs import record_process
from shards.corpus.generation import read_as
from shards.errors import XdcError
from shards.store.build import Record
from xdc_core.graph.rounds import after_decision, stop_line, until_decision
from xdc_core.graph.run_stage import all_fresh, readers_among
from xdc_core.graph.stages import inputs, round_nodes
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run

Futures = dict[Node, PrefectFuture[Any]]


@task(task_run_name="{node.name}", cache_policy=NO_CACHE, persist_result=False)
def node_task(
    run: Run, node: Node, force: bool = False, shard: tuple[Record, ...] = (), readers: list[Node] | None = None
) -> State[Any] | Record:
    """Run one node. The manifest decides: a fresh one gives the state Cached, independent of Prefect's records.

    `shard` has the record of the corpus in this flow run, if it is known: the sources are then not listed again, and
    clips that are appended meanwhile are not read. A tuple, because Prefect draws a task inside another one whose
    future is a parameter of its own while that one runs.
    `readers`: as for `do_node`.

    Raises:
        XdcError: the stage failed; its finished parts are kept.
    """
    listeners = [*LISTENERS, ProgressArtifact(run.root.resolve().name, node)]
    corpus = read_as(*shard) if shard else None
    record = do_node(run, node, CHILDREN, listeners, force=force, wait=True, corpus_read_as=corpus, readers=readers)
    if node.stage == "report":
        with only_reported(str(node)):
            publish_round(run, node)
    if node.stage in ("train", "report") and not record.reused:
        send_curves(run)
    if record.reused:
        return Completed(name="Cached", message=f"reused {record.path}", data=record)
    return record


def run_nodes(
    run: Run,
    nodes: list[Node],
    force: bool,
    again: Commands,
    earlier: Mapping[Node, PrefectFuture[Any]] | None = None,
    submitted: Callable[[Futures], None] = lambda futures: None,
) -> State[Any]:
    """Submit a task per node, each after its inputs. Return the flow's state when all have ended.

    If a node of a stopping rule is among them, the nodes that come after it in the round are submitted when it has
    decided: without training if the run ends in this round.

    Args:
        run: the run, with the configuration for all nodes.
        nodes: each after its inputs.
        force: rebuild them even if they are fresh.
        again: returns the commands that repeat the nodes; they are published with failures.
        earlier: tasks of other flow runs in this process whose results the nodes may read, too.
        submitted: called with the tasks of all nodes as soon as they are submitted.

    Raises:
        ConfigError: not all are fresh, and the executor of the run cannot be used.
        TerminationSignal: the stages were ended, because the flow that started this one in a thread is being stopped.
    """
    outlive_reader()
    with only_reported("which process this is"):
        record_process()
    with failure_published(str(run.root), f"{run.root}, {nodes[-1]}", again):
        if force or not all_fresh(run, nodes):
            check_run(run)
            CHILDREN.warm_up()
        futures: Futures = {}
        whole = nodes

        def submit(run: Run, nodes: list[Node], after: list[PrefectFuture[Any]]) -> None:
            for node in nodes:
                there = {**(earlier or {}), **futures}
                waits = [there[source] for source in inputs(run.config, node) if source in there]
                # What is built once a run: an earlier round may still be building it, or have failed to.
                waits += [earlier[node]] if earlier and node in earlier else []
                shard = (futures[SHARD],) if SHARD in futures else ()
                # The files of the only node are wanted, even if nothing else reads them.
                readers = readers_among(run, node, whole) if len(whole) > 1 else None
                futures[node] = node_task.submit(
                    run=run,
                    node=node,
                    force=force,
                    shard=shard,
                    readers=readers,
                    wait_for=[*waits, *after],
                    return_state=False,
                )

        try:
            first, later = until_decision(run, nodes)
            submit(run, first, [])
            if later:
                number, decision = first[-1].round, futures[first[-1]]
                assert number is not None
                decision.wait()
                if decision.state.is_completed():
                    run = after_decision(run, number)
                    later = [node for node in round_nodes(run.config, number) if node not in futures]
                submit(run, later, [decision])
            submitted(futures)
            for future in futures.values():
                future.wait()
            await_curves()
        except Exception:  # Other flow runs may use the same children.
            for future in futures.values():
                future.wait()
            raise
        except BaseException:  # A cancel or Ctrl-C: the threads that wait for children end when the children do.
            CHILDREN.close()
            raise
    if CHILDREN.closed and threading.current_thread() is not threading.main_thread():
        # The main thread was interrupted and has closed them. This flow run ends as its parent does.
        raise TerminationSignal(signal.SIGTERM)
    return _state_of(run, futures, force, again)


def _state_of(run: Run, futures: Futures, force: bool, again: Commands) -> State[Any]:
    """Return a flow's state after all its tasks; publish failures."""
    bad = {node: future for node, future in futures.items() if not future.state.is_completed()}
    if not bad:
        reused = sum(future.state.name == "Cached" for future in futures.values())
        stopped = f". {stop_line(run)}" if run.stopped else ""
        return Completed(message=f"{len(futures)} stages, {reused} of them reused{stopped}")
    not_reached = [node for node, future in bad.items() if future.state.name == "NotReady"]
    failed = {node: future.state for node, future in bad.items() if node not in not_reached}
    with only_reported("the failure"):
        whole = again if len(futures) > 1 else None
        publish_stage_failures(run, {node: _reason(bad[node]) for node in failed}, not_reached, force, whole)
    reasons = [f"{node}: {state.message}" for node, state in failed.items()]
    return Failed(message=" | ".join(reasons) or f"not reached: {', '.join(map(str, bad))}")


def _reason(future: PrefectFuture[Any]) -> str:
    """Return why a task did not complete: the stage's error, if there is one."""
    error = future.result(raise_on_failure=False)
    return str(error) if isinstance(error, XdcError) else str(future.state.message)
