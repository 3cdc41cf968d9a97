"""Stages in child processes: memory returns, CUDA never meets a fork of ours, and a cancel ends them all."""

import threading
from pathlib import Path

from flows.runners.server_process import ServerProcess
from shards.errors import StageError
from shards.progress import Progress, silent
from shards.store.build import Record, record_of
from shards.store.manifest import read_manifest
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

# Two servers, because faiss brings other CUDA libraries than torch: no process has both. What comes later is what a
# stage would else import on the way, in every child again: torch._dynamo at an optimiser's first step, pandas (where it
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
        answer = self.server(_server_of(run, node)).run(request, progress)
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


def _server_of(run: Run, node: Node) -> tuple[str, ...]:
    tunes = node.stage == "eval" and run.config.evaluate[str(node.modality)].protocol == "all"
    return TORCH if tunes or node.stage in ON_TORCH else FAISS


def log_path(run: Run, node: Node) -> Path:
    """Return the file into which a stage's prints and tracebacks go."""
    number = "" if node.round is None else f"{node.round:03d}-"
    return run.root.resolve() / "logs" / f"{number}{node.name}.log"


# Of the flows of this process: their tasks have no other way to share servers.
CHILDREN = Children()
