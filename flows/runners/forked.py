"""Stages in child processes: memory returns, CUDA never meets a fork of ours, and a cancel ends them all."""

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from flows.runners.process_output import how_ended, last_error, last_line, written
from shards.errors import Busy, ConfigError, StageError, XdcError
from shards.progress import Progress, silent
from shards.store.build import Record, record_of
from shards.store.manifest import read_manifest
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

# Two servers, because faiss brings other CUDA libraries than torch: no process has both. What comes later is what a
# stage would else import on the way, anew in every child: torch._dynamo at an optimiser's first step, pandas (where it
# is installed) at pyarrow's first conversion. Nothing can be asked of a server while it imports one of these, so what
# takes seconds is imported in pieces: sympy to fsdp are most of torch._dynamo.
TORCH = (
    "xdc_core.stages.init",
    "xdc_core.encoders.r2plus1d",
    "xdc_core.encoders.audio_resnet",
    "xdc_core.stages.extract",
    "xdc_core.training.rank",
    "xdc_core.stages.report",
    "shards.corpus.stage",
    "--later",
    "webdataset.writer",
    "sympy",
    "torch.fx.experimental.symbolic_shapes",
    "torch.distributed.fsdp",
    "torch._dynamo.utils",
    "torch._dynamo",
    "pandas",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
)
FAISS = (
    "faiss",
    "xdc_core.stages.cluster",
    "xdc_core.stages.label",
    "--later",
    "sklearn.metrics.cluster",
    "sklearn.linear_model",
    "pandas",
)
ON_TORCH = ("shard", "data", "init", "extract", "train", "embed", "report")
ERRORS: dict[str, type[XdcError]] = {"ConfigError": ConfigError, "Busy": Busy}


class Server:
    """One fork server and the threads that wait for its children."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        # Errors of the server itself, as of its imports. A stage's go to its log.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - as long as this object
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.runners.fork_server", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            bufsize=1,
            # A library that asks whether there is a GPU must not start CUDA in a process that will be forked. Whether
            # a GPU works is found out in each child (xdc_core/compute/device.py, which unsets this).
            env=os.environ | {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
        )
        # Tracebacks of packages that the server could not import ahead: no cause of its end.
        self.not_imported: list[str] = []
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            self.not_imported += message.get("not imported", [])
            if waiting := self._waiting.get(message.get("id", 0)):
                waiting.put(message)
        for waiting in list(self._waiting.values()):
            waiting.put(None)

    def _send(self, message: dict[str, Any]) -> bool:
        """Whether it could be sent: not to a server that is dead or being closed."""
        assert self._process.stdin is not None
        with self._lock:
            try:
                self._process.stdin.write(json.dumps(message) + "\n")
            except (OSError, ValueError):
                return False
        return True

    @property
    def process_id(self) -> int:
        """Of the server itself; its children are below it."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can take requests."""
        return self._process.poll() is None

    def run(self, request: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """Have a child do a stage; returns its record (without the summary) when it is done.

        Raises:
            StageError, ConfigError, Busy: what the stage raised, or that its process died.
            Whatever `progress` raises; the child is then told to stop.
        """
        number = next(self._numbers)
        answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._waiting[number] = answers
        log = Path(request["log"])
        before = (log.stat().st_size if log.exists() else 0, os.fstat(self._stderr.fileno()).st_size)
        error: XdcError | None = None
        record: dict[str, Any] = {}
        ended = False
        try:
            if not self._send(request | {"id": number}):
                raise self._died(log)
            while True:
                match answers.get():
                    case None:
                        raise self._died(log)
                    case {"progress": [done, total, note]}:
                        progress(done, total, note)
                    case {"record": found}:
                        record = found
                    case {"error": ["defect", text]}:
                        error = StageError(f"{text}. This is a defect of xdc; the traceback is in {log}")
                    case {"error": [kind, text]}:
                        error = ERRORS.get(kind, StageError)(text)
                    case {"exit": 0}:
                        return record
                    case {"exit": code}:
                        ended = True
                        raise error or self._child_died(how_ended(code), log, before)
        except BaseException:
            if not ended:
                self._send({"cancel": number})
            raise
        finally:
            del self._waiting[number]

    def _died(self, log: Path) -> StageError:
        """This server's end as an error. What it has written goes to the log of the stage that was not done."""
        code: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(5)
        said = written(self._stderr.fileno())
        if code is None:
            what = "the process that starts the stages does not answer any more, and is being stopped"
        else:
            # One that a signal has ended may have gone on after an error that it wrote earlier.
            last = last_line(said) if code < 0 else last_error(said)
            what = f"the process that starts the stages died: it {how_ended(code)}{_last(last)}"
        _append(log, f"{''.join(self.not_imported)}{said}{what}.\n")
        return StageError(f"{what}; see {log}, and run again.")

    def _child_died(self, how: str, log: Path, before: tuple[int, int]) -> StageError:
        """A child's end without an answer as an error. `before`: bytes of its log and of our stderr when it began."""
        said = ""
        with contextlib.suppress(OSError), log.open("rb") as file:
            said = written(file.fileno(), before[0])
        if not said:  # It could not open its log.
            said = written(self._stderr.fileno(), before[1])
        _append(log, f"The stage's process {how}.\n")
        return StageError(f"the stage's process {how}{_last(last_error(said))}; see {log}, and run again.")

    def end(self) -> None:
        """Tell it to end its children and itself."""
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self) -> None:
        """Until it and its children are gone."""
        self._process.wait()


def _last(line: str) -> str:
    return f". The last that it wrote: {line}" if line else ""


def _append(log: Path, text: str) -> None:
    """Where the log cannot be written the message must do."""
    with contextlib.suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(text)


class Children:
    """The fork servers of this process, started when they are first needed."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str, ...], Server] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def server(self, modules: tuple[str, ...]) -> Server:
        """The server that has imported these modules. Returns at once; its imports go on by themselves."""
        with self._lock:
            if self._closed.is_set():
                raise StageError("not started: the run is being stopped.")
            if modules not in self._servers or not self._servers[modules].alive:
                self._servers[modules] = Server(modules)
            return self._servers[modules]

    def warm_up(self) -> None:
        """Start both servers now, because they will be needed soon."""
        for modules in (TORCH, FAISS):
            self.server(modules)

    def run_stage(
        self,
        run: Run,
        node: Node,
        force: bool = False,
        progress: Progress = silent,
        corpus_fingerprint: str | None = None,
    ) -> Record:
        """`xdc_core.graph.run_stage.run_stage` in a child. Prints of the stage go to the run's logs/."""
        request = {
            "run": str(run.root.resolve()),
            "stage": node.stage,
            "modality": node.modality,
            "round": node.round,
            "force": force,
            "corpus": corpus_fingerprint,
            "log": str(log_path(run, node)),
        }
        found = self.server(_server_of(run, node)).run(request, progress)
        manifest = read_manifest(Path(found["path"]))
        if manifest is None or manifest.fingerprint != found["fingerprint"]:
            raise StageError(f"{node}: {found['path']} was replaced by something else as soon as it was finished.")
        return record_of(Path(found["path"]), manifest, found["reused"])

    def pause(self, seconds: float) -> None:
        """Sleep, but not on when all is being closed."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """End all servers and their children, and start no more; waits until they are gone."""
        with self._lock:
            self._closed.set()
            servers = list(self._servers.values())
            self._servers.clear()
        for server in servers:
            server.end()
        for server in servers:
            server.wait()


def _server_of(run: Run, node: Node) -> tuple[str, ...]:
    tunes = node.stage == "eval" and run.config.evaluate[str(node.modality)].protocol == "all"
    return TORCH if tunes or node.stage in ON_TORCH else FAISS


def log_path(run: Run, node: Node) -> Path:
    """Where a stage's prints and tracebacks go."""
    number = "" if node.round is None else f"{node.round:03d}-"
    return run.root.resolve() / "logs" / f"{number}{node.name}.log"


CHILDREN = Children()
