"""Stages in child processes: their memory is freed, CUDA is never forked, and a cancel ends all of them."""

import threading
from pathlib import Path

from flows.runners.server_process import ServerProcess
from shards.errors import StageError
from shards.progress import Progress, silent
from shards.store.build import Record, record_of
from shards.store.manifest import read_manifest
from shards.store.stage import Library
from xdc_core.graph.stages import STAGES, stage_of
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

OWN = ("xdc_core", "shards", "faiss")


def _modules_of(library: Library) -> tuple[str, ...]:
    """Return the arguments of the fork server for stages that need a library: the modules that it imports.

    There are two servers, because faiss brings other CUDA libraries than torch: no process has both. After `--later`
    are modules that every child would otherwise import itself: torch._dynamo at an optimiser's first step, pandas (if
    it is installed) at pyarrow's first conversion.
    """
    # The modules of a stage whose nodes differ are those of its nodes with faiss: the other server does without them.
    stages = [
        stage
        for stage in STAGES.values()
        if stage.library == library or (callable(stage.library) and library == "faiss")
    ]
    modules = list(dict.fromkeys([*(module for stage in stages for module in stage.modules), "pandas"]))
    first = [module for module in modules if module.split(".")[0] in OWN]
    later = [module for module in modules if module not in first]
    # Every child needs the registries of stages and executors, and they import neither library.
    return ("xdc_core.graph.run_stage", "flows.executors.registry", *first, "--later", *later)


TORCH, FAISS = _modules_of("torch"), _modules_of("faiss")


class Children:
    """A `StageRunner` with fork servers, which are started when they are first needed.

    It is closed at the end of a `with` block.
    """

    def __init__(self) -> None:
        self._servers: dict[tuple[str, ...], ServerProcess] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Return whether this is closed: no further stage is started."""
        return self._closed.is_set()

    def server(self, modules: tuple[str, ...]) -> ServerProcess:
        """Return the server that imports these modules, without waiting for the imports.

        Raises:
            StageError: this is closed.
        """
        with self._lock:
            if self._closed.is_set():
                raise StageError("not started: the run is being stopped.")
            if modules not in self._servers or not self._servers[modules].alive:
                self._servers[modules] = ServerProcess(modules)
            return self._servers[modules]

    def warm_up(self) -> None:
        """Start both servers, if they will be needed soon."""
        for modules in (TORCH, FAISS):
            self.server(modules)

    def run_stage(
        self,
        run: Run,
        node: Node,
        force: bool = False,
        progress: Progress = silent,
        corpus_read_as: str | None = None,
    ) -> Record:
        """Run a stage in a child, with the configuration of `run`. Its output goes to the run's logs/.

        Raises:
            StageError, ConfigError, Busy: what the stage raised; StageError also if its process died.
        """
        request = {
            "run": str(run.root.resolve()),
            "config": run.config.model_dump(mode="json"),
            "stage": node.stage,
            "modality": node.modality,
            "round": node.round,
            "force": force,
            "corpus": corpus_read_as,
            "log": str(log_path(run, node)),
        }
        modules = TORCH if stage_of(node).library_of(run.config, node) == "torch" else FAISS
        answer = self.server(modules).run(request, progress)
        manifest = read_manifest(Path(answer["path"]))
        if manifest is None or manifest.fingerprint != answer["fingerprint"]:
            raise StageError(
                f"{node}: {answer['path']} was replaced by another process as soon as it was finished. "
                "Nothing is lost: run this again."
            )
        return record_of(Path(answer["path"]), manifest, answer["reused"])

    def pause(self, seconds: float) -> None:
        """Wait, at most until this is closed."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """End all servers and their children, and start no more. Return when they have ended."""
        with self._lock:
            self._closed.set()
            servers = list(self._servers.values())
            self._servers.clear()
        for server in servers:
            server.end()
        for server in servers:
            server.wait()


def log_path(run: Run, node: Node) -> Path:
    """Return the file for a stage's output and tracebacks."""
    number = "" if node.round is None else f"{node.round:03d}-"
    return run.root.resolve() / "logs" / f"{number}{node.name}.log"


# For the flows of this process, whose tasks cannot share servers otherwise.
CHILDREN = Children()
