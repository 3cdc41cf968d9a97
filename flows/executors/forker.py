"""A process that forks the workers of a stage.

A stage's process may have threads, and may have started OpenMP or CUDA, which do not work in a fork of it. So it forks
this one before its work begins. It does nothing but fork children when it is asked to, and tell how they ended.
"""

import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NoReturn

from shards.errors import StageError
from xdc_core.compute.parent_death import die_with_parent


@dataclass(frozen=True, eq=False)
class Forked:
    """A process that the forker has forked, and the connection to it."""

    process: int
    channel: Connection


class Forker:
    """The forker, as its parent sees it. It and its children end with the parent, however that ends, or with `close`.

    process: its process id. control: has something to read if a child has ended, or the forker.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        self.process = os.fork()
        if self.process == 0:
            ours.close()
            _serve(Connection(theirs.detach()), parent)
        theirs.close()
        self.control = Connection(ours.detach())
        self._living: set[int] = set()
        self._ended: list[tuple[int, int]] = []

    def start(self, function: Callable[..., int], *arguments: Any) -> Forked:
        """Have `function(channel, *arguments)` called in a new process, which exits with its result.

        function: of a module, because it is sent by name.

        Raises:
            StageError: the forker has died.
        """
        ours, theirs = socket.socketpair()
        try:
            self.control.send((function, arguments))
            send_handle(self.control, theirs.fileno(), self.process)
            while (answer := self.control.recv())[0] == "ended":
                self._ended.append(answer[1:])
        except (EOFError, OSError) as error:
            ours.close()
            raise self._died() from error
        finally:
            theirs.close()
        self._living.add(answer[1])
        return Forked(answer[1], Connection(ours.detach()))

    def ended(self) -> Iterator[tuple[int, int]]:
        """Yield process ids and exit codes (negative: the signal) of children that have ended. Does not wait.

        Raises:
            StageError: the forker has died, and its children with it.
        """
        try:
            while self.control.poll():
                self._ended.append(self.control.recv()[1:])
        except (EOFError, OSError) as error:
            raise self._died() from error
        while self._ended:
            process, code = self._ended.pop(0)
            self._living.discard(process)
            yield process, code

    def kill(self) -> None:
        """End all children at once (SIGKILL), and return when they are gone."""
        try:
            for process in self._living:
                self.control.send(process)
            while self._living:
                wait([self.control])
                for _ in self.ended():
                    continue
        except (StageError, OSError):
            return  # The forker is gone; the kernel ends its children.

    def close(self) -> None:
        """End the forker and its children."""
        self.control.close()
        os.waitpid(self.process, 0)

    def _died(self) -> StageError:
        return StageError(
            "the process that starts workers has died (killed by a user, or by the system because memory ran out). "
            "What is finished is kept: run this again."
        )


def _serve(control: Connection, parent: int) -> NoReturn:
    """Fork children, and send how they ended, until `control` is closed."""
    code = 1
    try:
        gc.freeze()  # See flows/runners/fork_server.py.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides.
        die_with_parent(signal.SIGKILL, parent)
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)  # The end of a child interrupts the wait.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        children: set[int] = set()
        while True:
            for ready in wait([control, woken]):
                if ready == woken:
                    os.read(woken, 4096)
                    for process, status in _reaped():
                        children.discard(process)
                        control.send(("ended", process, os.waitstatus_to_exitcode(status)))
                elif isinstance(request := control.recv(), int):
                    if request in children:
                        os.kill(request, signal.SIGKILL)
                else:
                    process = _fork(control, *request)
                    children.add(process)
                    control.send(("started", process))
    except (EOFError, ConnectionError):
        code = 0
    except BaseException:  # noqa: BLE001 - outermost level of the process: the traceback goes to the stage's log
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _reaped() -> Iterator[tuple[int, int]]:
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended
    except ChildProcessError:
        return


def _fork(control: Connection, function: Callable[..., int], arguments: tuple[Any, ...]) -> int:
    channel, forker = recv_handle(control), os.getpid()
    process = os.fork()
    if process:
        os.close(channel)
        return process
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent(signal.SIGKILL, forker)
        control.close()
        code = function(Connection(channel), *arguments)
    except BaseException:  # noqa: BLE001 - outermost level of the process: the traceback goes to its log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
