"""What is checked of a run's executor before work starts."""

import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from flows.executors.registry import EXECUTORS, check_executor
from shards.errors import ConfigError
from shards.store.lock_check import check_locks
from xdc_core.config.schema import RunsOn
from xdc_core.graph.run_stage import all_fresh
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def check_run(run: Run) -> None:
    """Check that the executor of a run can be used here, and warn if its disk may have no locks between machines.

    That is a warning and no error: a lock file also names its holder, who renews it, and that holds without locks
    (shards/store/lock.py). Two processes that build one directory at once nevertheless, end with a right directory or
    with an error. Workers need no locks.

    A run is checked once in a process.

    Raises:
        ConfigError: the executor is unknown, has no such setting, or what it needs is not there; or the run's disk does
            not answer when a file is locked.
    """
    _check(run.root.resolve(), run.corpus.absolute(), run.config.runs_on.model_dump_json())


def check_run_for(run: Run, nodes: Iterable[Node]) -> None:
    """Check the executor of a run as `check_run` does, unless all of these nodes are fresh and need none.

    Raises:
        ConfigError: as `check_run`.
    """
    if not all_fresh(run, nodes):
        check_run(run)


@cache
def _check(root: Path, corpus: Path, settings: str) -> None:
    runs_on = RunsOn.model_validate_json(settings)
    check_executor(runs_on)
    if not EXECUTORS.find(runs_on.executor).several_machines and runs_on.nodes == 1:
        return
    folders = dict.fromkeys(next(path for path in (each, *each.parents) if path.is_dir()) for each in (root, corpus))
    for folder in folders:
        try:
            check = check_locks(folder)
        except PermissionError:
            continue  # A corpus of someone else's, which is only read.
        except subprocess.TimeoutExpired as error:
            raise ConfigError(
                f"{folder}: locking a file has no answer within {error.timeout:.0f} s. Have the disk's lock service "
                "(such as rpc.statd of NFS) started, or mount it with local locks."
            ) from error
        if not check.sure:
            print(f"warning: {folder}: {check.text}", file=sys.stderr, flush=True)
