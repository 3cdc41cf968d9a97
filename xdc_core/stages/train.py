"""The train stage: one process here, or several under torchrun."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shards.errors import ConfigError, StageError
from shards.progress import Progress
from shards.section import hashed_settings
from shards.store.build import Outcome
from shards.store.fault import fault_point
from shards.store.stage import Stage
from xdc_core.compute.parent_death import die_with_parent
from xdc_core.config.methods import heads
from xdc_core.config.schema import Config, TrainSettings
from xdc_core.config.views import view_settings
from xdc_core.runs.node import SHARD, Node, encoder_node
from xdc_core.runs.run import Run
from xdc_core.training.metrics import read_metrics

LOG = "train.log"
# The run's configuration for the ranks, while they train: xdc.yaml may say something else by now.
CONFIG = "config.json"
# How a rank tells the stage of a logged step, and of the error that ended it.
METRICS_PREFIX, ERROR_PREFIX = "metrics ", "error "
FEW = 16  # Clips over which batch norm is noisy.


def train(run: Run, node: Node, out: Path, progress: Progress) -> Outcome:
    """Train one modality's encoder for a round.

    Leaves encoder.safetensors, metrics.jsonl and train.log. With `train.processes` of 1 the work is done in this
    process (whoever wants it in another starts one); with more, torchrun starts that many on this machine.

    Raises:
        StageError: a process failed (with what it said, or the end of train.log), or SIGTERM came; the checkpoint is
            kept.
        ConfigError: the batch cannot be shared out, or there is no compiler or GPU that the settings ask for.
    """
    from xdc_core.encoders.file import FILE_NAME  # Imports torch.

    settings = run.config.train
    if settings.batch % settings.processes:
        raise ConfigError(
            f"train.batch ({settings.batch}) is no multiple of train.processes ({settings.processes}): every process "
            "must get equal work. Change one of them."
        )
    log = out / LOG
    facts: dict[str, Any] = {}  # The device, and warnings.

    def listen(line: dict[str, Any]) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if "step" not in line:
            facts.update(line)
            return
        accuracy = ", ".join(f"{name} {value:.2f}" for name, value in line.items() if name.startswith("accuracy"))
        progress(line["step"] + 1, line["steps"], f"steps, loss {line['loss']:.3f}, {accuracy}")

    if warning := small_batch(settings):
        listen({"warning": warning})
    if (out / FILE_NAME).exists():
        pass  # Killed between the end of the training and the commit: all is there.
    elif settings.processes == 1:
        from xdc_core.training.process_rank import Place
        from xdc_core.training.rank import train_rank

        train_rank(run, node, out, Place(0, 1), listen)
    else:
        _torchrun(run, node, out, settings.processes, listen)
    (out / CONFIG).unlink(missing_ok=True)
    for checkpoint in out.glob("checkpoint-*.pt"):
        fault_point("before removal", "checkpoint")
        checkpoint.unlink()  # The encoder is there; the optimiser's state is not carried over.
    lines = read_metrics(out / "metrics.jsonl")
    last = lines[-1]
    tail = lines[-max(1, len(lines) // 10) :]
    summary = {"steps": last["steps"], "clips": last["steps"] * settings.batch, "first_loss": lines[0]["loss"]}
    for name in ("loss", *(name for name in last if name.startswith("accuracy")), "clips_per_s"):
        summary[name] = round(sum(line[name] for line in tail) / len(tail), 4)
    return Outcome(last["steps"] * settings.batch, 0, summary | facts)


def small_batch(settings: TrainSettings) -> str:
    """What is to be said where batch norm sees few clips ("": nothing)."""
    seen = settings.batch if settings.sync_batch_norm else settings.batch // settings.processes
    if seen >= FEW:
        return ""
    remedy = "Raise train.batch" if seen == settings.batch else "Set train.sync_batch_norm, or raise train.batch"
    return f"batch norm sees {seen} clips at a time (train.batch counts all processes): noisy below {FEW}. {remedy}."


def _torchrun(run: Run, node: Node, out: Path, processes: int, listen: Any) -> None:
    command = [sys.executable, "-m", "xdc_core.training.agent", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "xdc_core.training", str(run.root), str(node.modality), str(node.round), str(out)]
    (out / CONFIG).write_text(run.config.model_dump_json(), encoding="utf-8")
    environment, stage = os.environ | {"OMP_NUM_THREADS": "1"}, os.getpid()
    agent = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        # The ranks die with the agent, and it with us: whoever outlived us would write into a directory that is no
        # longer locked.
        preexec_fn=lambda: die_with_parent(signal.SIGKILL, stage),
        process_group=0,  # A signal to our group is for us to pass on.
    )
    assert agent.stdout is not None
    errors: list[tuple[str, str]] = []
    try:
        with (out / LOG).open("a", encoding="utf-8") as log, _sigterm_passed_on(agent) as came:
            for text in agent.stdout:
                if text.startswith(METRICS_PREFIX):
                    listen(json.loads(text.removeprefix(METRICS_PREFIX)))
                    continue
                if text.startswith(ERROR_PREFIX):
                    errors.append(json.loads(text.removeprefix(ERROR_PREFIX)))
                log.write(text)
                log.flush()
            code = agent.wait()
    except BaseException:
        agent.terminate()
        try:
            agent.wait(15)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()
        raise
    if code and errors:  # The first rank that failed; the others only missed it.
        kind, said = errors[0]
        raise (ConfigError if kind == "ConfigError" else StageError)(said)
    if code and came():
        raise StageError(f"SIGTERM before the first step of this call. {node} goes on where it was.")
    if code:
        tail = "".join((out / LOG).read_text(encoding="utf-8").splitlines(keepends=True)[-15:])
        raise StageError(f"{node}: torchrun ended with exit code {code}. The end of {out / LOG}:\n{tail}")


@contextmanager
def _sigterm_passed_on(agent: "subprocess.Popen[str]") -> Iterator[Callable[[], bool]]:
    """While active, SIGTERM goes to torchrun, which tells the ranks; yields whether it came.

    The directory stays locked until they have written their checkpoint. Only once: a second SIGTERM would break into
    torchrun's waiting for them. Outside the main thread nothing is passed on.
    """
    came: list[int] = []

    def pass_on(number: int, _: object) -> None:
        if not came:
            agent.terminate()
        came.append(number)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, pass_on) if main else None
    try:
        yield lambda: bool(came)
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _nodes(config: Config, number: int | None) -> list[Node]:
    if number is None or number >= config.rounds:  # The last round trains nothing.
        return []
    return [Node("train", modality, number) for modality in config.modalities]


def _inputs(config: Config, node: Node) -> list[Node]:
    assert node.round is not None
    modality = str(node.modality)
    labels = [Node("label", source, node.round) for source in heads(config.method, config.modalities)[modality]]
    # Its own features tell which of the clips with a pseudo-label decode in this modality.
    return [SHARD, encoder_node(modality, node.round), Node("extract", modality, node.round), *labels]


def _settings(config: Config, node: Node) -> dict[str, Any]:
    modality = str(node.modality)
    sources = list(heads(config.method, config.modalities)[modality])
    return {
        "seed": config.seed,
        "learn_splits": config.corpus.learn_splits,
        "sources": sources,
        "view": view_settings(config, modality, training=True),
        **hashed_settings(config.train, {"own_head_weight"} if len(sources) == 1 else ()),
    }


TRAIN: Stage[Config, Run] = Stage(
    name="train",
    version=2,
    summary="Train one modality's encoder on its pseudo-labels.",
    folder="train",
    of="modality",
    each_round=True,
    library="torch",
    # torch._dynamo is imported by an optimiser's first step. It is imported in pieces, for nothing can be asked of a
    # process while it imports.
    modules=(
        "xdc_core.training.rank",
        "sympy",
        "torch.fx.experimental.symbolic_shapes",
        "torch.distributed.fsdp",
        "torch._dynamo.utils",
        "torch._dynamo",
    ),
    nodes=_nodes,
    inputs=_inputs,
    settings=_settings,
    work=train,
)
