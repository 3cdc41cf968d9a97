"""Stages in child processes: memory returns, CUDA never meets a fork of ours, and a cancel ends them all."""

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
    """Return the arguments of the fork server for stages that need a library: what it imports ahead of its children.

    Two servers, because faiss brings other CUDA libraries than torch: no process has both. After `--later` comes what a
    stage would else import on the way, again in every child: torch._dynamo at an optimiser's first step, pandas (where
    it is installed) at pyarrow's first conversion.
    """
    stages = [stage for stage in STAGES.values() if callable(stage.library) or stage.library == library]
    modules = list(dict.fromkeys([*(module for stage in stages for module in stage.modules), "pandas"]))
    first = [module for module in modules if module.split(".")[0] in OWN]
    return (*first, "--later", *(module for module in modules if module not in first))


TORCH, FAISS = _modules_of("torch"), _modules_of("faiss")


class Children:
    """A `StageRunner` with fork servers, which are started when they are first needed.

    As a context manager it is closed at the end of the block.
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
        """Return whether no stage is started any more."""
        return self._closed.is_set()

    def server(self, modules: tuple[str, ...]) -> ServerProcess:
        """Return the server that imports these modules; at once, its imports go on by themselves.

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
        """Do a stage in a child, with the configuration that `run` holds. Its prints go to the run's logs/.

        Raises:
            StageError, ConfigError, Busy: what the stage raised; StageError also where its process died.
        """
        request = {
            "run": str(run.root.resolve()),
            "config": run.config.model_dump(mode="json"),
            "stage": node.stage,
            "modality": node.modality,
            "round": node.round,
            "force": force,
            "corpus": corpus_fingerprint,
            "log": str(log_path(run, node)),
        }
        modules = TORCH if stage_of(node).library_of(run.config, node) == "torch" else FAISS
        answer = self.server(modules).run(request, progress)
        manifest = read_manifest(Path(answer["path"]))
        if manifest is None or manifest.fingerprint != answer["fingerprint"]:
            raise StageError(f"{node}: {answer['path']} was replaced by something else as soon as it was finished.")
        return record_of(Path(answer["path"]), manifest, answer["reused"])

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until this is closed."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """End all servers and their children, and start no more. Returns when they are gone."""
        with self._lock:
            self._closed.set()
            servers = list(self._servers.values())
            self._servers.clear()
        for server in servers:
            server.end()
        for server in servers:
            server.wait()


def log_path(run: Run, node: Node) -> Path:
    """Return the file into which a stage's prints and tracebacks go."""
    number = "" if node.round is None else f"{node.round:03d}-"
    return run.root.resolve() / "logs" / f"{number}{node.name}.log"


# Of the flows of this process: their tasks have no other way to share servers.
CHILDREN = Children()
