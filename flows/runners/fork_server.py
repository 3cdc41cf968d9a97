"""A process that has imported the heavy packages once and forks a child for every stage.

    python -m flows.runners.fork_server MODULE ... [--later MODULE ...]

imports the modules, then takes requests from stdin, one per line. While there are none it imports those for later.

Importing torch takes seconds, and a round starts a dozen children. This process never touches CUDA and starts no
threads, so a fork of it is clean. (The standard library's fork server imports the parent's main module in
every child, which under Prefect means Prefect itself, again and again.)

A request is {"id", "run", "config", "stage", "modality", "round", "force", "corpus", "log"}, or {"cancel": id}. The
configuration is part of it because xdc.yaml may have changed since. Answers go to stdout as lines of JSON:
{"id", "progress": [done, total, note]}, {"id", "error": [kind, text]} or {"id", "record"}, and finally
{"id", "exit": code} (negative: the signal). When stdin ends, because the parent ended, or SIGTERM arrives, the children
get SIGTERM, and after GRACE_S seconds SIGKILL; when this process is killed, the kernel kills them.
"""

import gc
import importlib
import importlib.util
import json
import logging
import os
import selectors
import signal
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from shards.log_level import follow_log_level
from xdc_core.compute.parent_death import die_with_parent

GRACE_S = 15.0
# Writes to a pipe of at most this many bytes are not mixed (PIPE_BUF).
LINE_BYTES = 4096


def main(modules: list[str]) -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides.
    gc.disable()  # See `serve`.
    answers = os.dup(1)
    os.dup2(2, 1)  # Output of libraries must not be mixed with the answers.
    follow_log_level()  # The children write to the logs of their stages.
    later = modules[modules.index("--later") + 1 :] if "--later" in modules else []
    for module in modules[: len(modules) - len(later) - bool(later)]:
        importlib.import_module(module)
    # From here on the end of a child interrupts the wait, through a pipe.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    terminations: list[int] = []  # After SIGTERM to the whole group the children need time for a checkpoint.
    signal.signal(signal.SIGTERM, lambda number, _: terminations.append(number))
    children: dict[int, int] = {}  # Process id -> request id.
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    pending = b""
    while True:
        events = selector.select(0 if later else None)
        if not events:
            import_if_there(later.pop(0), answers)
        for key, _ in events:
            data = os.read(key.fd, 65536)
            if key.fd == woken:
                reap(children, answers)
                if terminations:
                    end(children, answers)
                    return
            elif not data:
                end(children, answers)
                return
            else:
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    serve(json.loads(line), children, answers)


def import_if_there(module: str, answers: int) -> None:
    """Import a module. If an optional package is absent or broken, the stage that needs it reports this.

    The traceback goes to the parent as a message, because it does not explain the end of this process.
    """
    try:
        if importlib.util.find_spec(module.split(".")[0]):
            importlib.import_module(module)
    except Exception:  # noqa: BLE001 - a broken package must not end the stages in progress
        text = traceback.format_exc().encode("ascii", "replace").decode()
        send(answers, {"not imported": [text[-LINE_BYTES // 2 :]]})


def serve(request: dict[str, Any], children: dict[int, int], answers: int) -> None:
    """Fork a child for a request, or cancel one."""
    if "cancel" in request:
        for process, number in children.items():
            if number == request["cancel"]:
                os.kill(process, signal.SIGTERM)
        return
    server = os.getpid()
    # A child's garbage collector leaves alone what is there now. Else it would look through all imported modules at
    # some instant, and have the pages of their memory copied: up to half a second for a stage that may take less.
    gc.freeze()
    process = os.fork()
    if process == 0:
        gc.enable()
        be_child(request, answers, server)
    children[process] = request["id"]


def be_child(request: dict[str, Any], answers: int, server: int) -> NoReturn:
    """Run the stage in the forked child, and exit without the server's exit handlers."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        # Errors from here on are in the log.
        log = Path(request["log"])
        log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (descriptor, 1), (descriptor, 2)):
            os.dup2(source, target)
        os.setpgid(0, 0)  # The parent handles Ctrl-C and then cancels this process.
        die_with_parent(signal.SIGKILL, server)
        code = work(request, answers)
    except BaseException:  # noqa: BLE001 - outermost level of the process: only the log can show it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def work(request: dict[str, Any], answers: int) -> int:
    """Run the stage. Progress and errors go to the parent, tracebacks also to the log."""
    from flows.executors.registry import executor_of
    from shards.errors import XdcError
    from xdc_core.config.load import parse_config
    from xdc_core.graph.run_stage import run_stage
    from xdc_core.runs.node import Node
    from xdc_core.runs.run import Run

    number, sent = request["id"], 0.0

    def progress(done: int, total: int, note: str = "") -> None:
        nonlocal sent
        if done >= total or time.monotonic() - sent > 0.2:
            sent = time.monotonic()
            send(answers, {"id": number, "progress": [done, total, note[:500]]})

    node, log = Node(request["stage"], request["modality"], request["round"]), logging.getLogger("xdc.stage")
    log.info("%s of %s begins, pid %d", node, request["run"], os.getpid())
    try:
        run = Run(Path(request["run"]), parse_config(request["config"], f"the configuration of {request['run']}"))
        executor = executor_of(run.config.runs_on)
        record = run_stage(run, node, request["force"], progress, request["corpus"], executor)
        log.info("%s: %s rows, %s rejects, %.1f s: %s", node, record.rows, record.rejects, record.seconds, record.path)
    except XdcError as error:
        print(f"{node}: {error}", file=sys.stderr)
        send(answers, {"id": number, "error": [type(error).__name__, str(error)]})
        return 1
    except Exception as error:  # noqa: BLE001 - outermost level of the process: the text goes to the parent, the traceback to the log
        traceback.print_exc()
        send(answers, {"id": number, "error": ["defect", f"{type(error).__name__}: {error}"]})
        return 1
    # The summary may be longer than a line. The parent reads it from the manifest.
    send(answers, {"id": number, "record": asdict(record) | {"summary": {}}})
    return 0


def reap(children: dict[int, int], answers: int) -> None:
    """Send an answer for every child that has ended."""
    while children:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if process == 0:
            return
        if process in children:
            send(answers, {"id": children.pop(process), "exit": os.waitstatus_to_exitcode(status)})


def end(children: dict[int, int], answers: int) -> None:
    """End all children: with SIGTERM, and after GRACE_S seconds with SIGKILL."""
    deadline = time.monotonic() + GRACE_S
    for process in children:
        os.kill(process, signal.SIGTERM)
    while children and time.monotonic() < deadline:
        time.sleep(0.05)
        reap(children, answers)
    for process in children:
        os.kill(process, signal.SIGKILL)


def send(answers: int, message: dict[str, Any]) -> None:
    """Send one line in one write. It is dropped if the parent does not read any more."""
    line = json.dumps(message)
    if len(line) >= LINE_BYTES and "error" in message:
        kind, text = message["error"]
        line = json.dumps(message | {"error": [kind, text.encode("ascii", "replace").decode()[: LINE_BYTES // 2]]})
    try:
        os.write(answers, line.encode() + b"\n")
    except BrokenPipeError:
        return


if __name__ == "__main__":
    main(sys.argv[1:])
