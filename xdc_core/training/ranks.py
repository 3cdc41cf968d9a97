"""The processes of one training on this machine: torchrun starts them, and they report to the stage."""

import base64
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from shards.errors import ConfigError, StageError, XdcError
from shards.progress import silent
from shards.store.stage import Task
from xdc_core.compute.parent_death import die_with_parent
from xdc_core.training.agent import AGENT

# Prefixes of the lines that ranks write for the stage: a message, and the error that ended the rank.
MESSAGE_PREFIX, ERROR_PREFIX = "metrics ", "error "
TASK = "XDC_RANK_TASK"  # In the environment of the ranks: their task.


def run_ranks(
    module: str, task: Task[Any], arguments: list[str], processes: int, log: Path, listen: Callable[[Any], None]
) -> None:
    """Run `python -m MODULE ARGUMENTS` as the ranks of one training, and wait until all of them have ended.

    The module calls `work_as_rank`. listen: is called with each value that a rank sends; all other output of the ranks
    is written to `log`. SIGTERM is forwarded to the ranks.

    Raises:
        ConfigError, StageError: a rank failed (with its error, or the end of `log`), or SIGTERM ended the ranks.
    """
    command = [sys.executable, "-m", "xdc_core.training.agent", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", module, *arguments]
    stage = os.getpid()
    errors: list[tuple[str, str]] = []
    # As it is, because xdc.yaml may have been edited since this stage began; and nothing is left if this is killed.
    pickled = base64.b64encode(pickle.dumps(replace(task, progress=silent))).decode()
    with log.open("a", encoding="utf-8") as written:
        agent = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", TASK: pickled},
            # The ranks die with the agent, and the agent with this process: a survivor would write into a directory
            # that is no longer locked.
            preexec_fn=lambda: die_with_parent(signal.SIGKILL, stage),
            process_group=0,  # This process forwards a signal to its group.
        )
        assert agent.stdout is not None
        try:
            with _sigterm_forwarded(agent) as sigterm_came:
                for text in agent.stdout:
                    if text.startswith(MESSAGE_PREFIX):
                        listen(json.loads(text.removeprefix(MESSAGE_PREFIX)))
                        continue
                    if text.startswith(ERROR_PREFIX):
                        errors.append(json.loads(text.removeprefix(ERROR_PREFIX)))
                    written.write(text)
                    written.flush()
                code = agent.wait()
        except BaseException:
            agent.terminate()
            try:
                agent.wait(15)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()
            raise
    if code and errors:  # The first rank that failed; the others failed because of it.
        kind, message = errors[0]
        raise (ConfigError if kind == "ConfigError" else StageError)(message)
    if code and sigterm_came():
        raise StageError(
            f"SIGTERM ended the processes of {task.node}. Run it again: it continues from its last checkpoint."
        )
    if code:
        tail = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-15:])
        raise StageError(f"{task.node}: torchrun ended with exit code {code}. The end of {log}:\n{tail}")


@contextmanager
def _sigterm_forwarded(agent: "subprocess.Popen[str]") -> Iterator[Callable[[], bool]]:
    """Forward SIGTERM to torchrun, which sends it to the ranks, while active.

    Yields a function that returns whether SIGTERM came. The directory stays locked until the ranks have written their
    checkpoint. Only the first SIGTERM is forwarded: a second one would interrupt torchrun while it waits for the
    ranks. Outside the main thread nothing is forwarded.
    """
    received: list[int] = []

    def forward(number: int, _: object) -> None:
        if not received:
            agent.terminate()
        received.append(number)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, forward) if main else None
    try:
        yield lambda: bool(received)
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def work_as_rank(work: Callable[[Task[Any], list[str], Callable[[object], None]], None]) -> NoReturn:
    """Do the work of this rank, which `run_ranks` started, and end the process.

    work: gets the stage's task, the ARGUMENTS, and a function that sends a value to the stage.
    """
    code = 1
    try:
        # The agent may already have died; then nothing else would end this process.
        die_with_parent(signal.SIGKILL, int(os.environ.get(AGENT) or os.getppid()))
        task: Task[Any] = pickle.loads(base64.b64decode(os.environ[TASK]))
        work(task, sys.argv[1:], lambda value: _send(MESSAGE_PREFIX, value))
        code = 0
    except XdcError as error:
        _send(ERROR_PREFIX, [type(error).__name__, str(error)[:2000]])
    except Exception:  # noqa: BLE001 - the boundary of the process: the traceback goes to the log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # See `leave_ranks`: destructors may hang.


def _send(prefix: str, value: object) -> None:
    """Write one line with a single call: all ranks share one pipe, and their lines must not mix."""
    os.write(1, f"{prefix}{json.dumps(value)}\n".encode())
