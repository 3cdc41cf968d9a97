"""The train stage: train in this process, or in several processes with torchrun, on one machine or on several."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from shards.errors import ConfigError
from shards.store.build import Outcome
from shards.store.fault import fault_point
from shards.store.stage import Stage, Task
from xdc_core.config.methods import heads
from xdc_core.config.schema import Config
from xdc_core.config.training import TrainSettings
from xdc_core.config.views import views_of
from xdc_core.documents.metrics import read_metrics
from xdc_core.modalities.registry import VIEW_MODULES
from xdc_core.runs.node import SHARD, Node, encoder_node
from xdc_core.runs.run import Run
from xdc_core.runs.task import task_of_document
from xdc_core.training.settings import Training, few_clips

LOG = "train.log"


def train(task: Task[Training]) -> Outcome:
    """Train one modality's encoder for a round.

    Writes encoder.safetensors, metrics.jsonl and train.log. With `train.processes` of 1 this process trains; with more,
    torchrun starts that many processes on `runs_on.nodes` machines.

    Raises:
        StageError: a process failed (with its error, or the end of train.log), or SIGTERM came; the checkpoint is kept.
        ConfigError: the batch cannot be divided equally, or the settings require a compiler or GPU that is missing.
    """
    from xdc_core.encoders.file import FILE_NAME  # Imports torch.
    from xdc_core.training.targets import remove_targets, write_targets

    out, settings = task.out, task.settings.train
    if settings.batch % settings.processes:
        raise ConfigError(
            f"train.batch ({settings.batch}) is not a multiple of train.processes ({settings.processes}): every "
            "process must get the same number of clips. Change one of them."
        )
    log = out / LOG
    notes = _notes(log)  # The device, and warnings; also of earlier attempts: one may have completed the encoder.

    def listen(line: dict[str, Any]) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if "step" not in line:
            notes.update(line)
            return
        accuracy = ", ".join(f"{name} {value:.2f}" for name, value in line.items() if name.startswith("accuracy"))
        task.progress(line["step"] + 1, line["steps"], f"steps, loss {line['loss']:.3f}, {accuracy}")

    if warning := small_batch(settings):
        listen({"warning": warning})
    if (out / FILE_NAME).exists():
        pass  # The stage was killed between the end of the training and the commit: the encoder is complete.
    elif settings.processes == 1:
        from xdc_core.training.process_rank import ProcessRank
        from xdc_core.training.rank import train_rank

        write_targets(task)
        train_rank(task, ProcessRank(0, 1), listen)
    else:
        from xdc_core.ranks.run import run_ranks

        write_targets(task)
        run_ranks(task, "xdc_core.stages.train:train_as_rank", [], settings.processes, log, listen)
    remove_targets(out)
    for checkpoint in out.glob("checkpoint-*.pt"):
        fault_point("before removal", "checkpoint")
        checkpoint.unlink()  # The encoder is complete, and the optimiser's state is not used in the next round.
    lines = read_metrics(out / "metrics.jsonl")
    last = lines[-1]
    tail = lines[-max(1, len(lines) // 10) :]
    summary = {"steps": last["steps"], "clips": last["steps"] * settings.batch, "first_loss": lines[0]["loss"]}
    for name in ("loss", *(name for name in last if name.startswith("accuracy")), "clips_per_s"):
        summary[name] = round(sum(line[name] for line in tail) / len(tail), 4)
    return Outcome(last["steps"] * settings.batch, 0, summary | notes)


def train_as_rank(document: Mapping[str, Any], arguments: list[str], send: Callable[[object], None]) -> None:
    """Train as one of several ranks; rank 0 sends the device, then the lines of metrics.jsonl."""
    from xdc_core.training.process_rank import rank_from_environment
    from xdc_core.training.rank import train_rank

    train_rank(task_of_document(TRAIN, document), rank_from_environment(), send)


def _notes(log: Path) -> dict[str, Any]:
    """Return what the trainings that wrote this log said beside their steps; the ranks' own output is skipped."""
    notes: dict[str, Any] = {}
    for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []:
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and "step" not in line:
                notes |= line
    return notes


def small_batch(settings: TrainSettings) -> str:
    """Return a warning if batch norm sees few clips; else ""."""
    seen = settings.batch if settings.sync_batch_norm else settings.batch // settings.processes
    remedy = "Raise train.batch" if seen == settings.batch else "Set train.sync_batch_norm, or raise train.batch"
    return few_clips(seen, "train.batch", remedy)


def _nodes(config: Config, number: int | None) -> list[Node]:
    if number is None or number >= config.last_round:  # After the last training there is a round without one.
        return []
    return [Node("train", modality, number) for modality in config.modalities]


def _inputs(config: Config, node: Node) -> list[Node]:
    assert node.round is not None
    modality = str(node.modality)
    labels = [Node("label", source, node.round) for source in heads(config.method, config.modalities)[modality]]
    if config.protects:
        labels = list(dict.fromkeys([*labels, Node("label", modality, node.round), Node("teachers", None, node.round)]))
    # The training after the last of `rounds` starts from the first encoder (`last_training`).
    encoder = encoder_node(modality, node.round if node.round < config.rounds else 0)
    # The features of the modality show which clips with a pseudo-label decode in it.
    return [SHARD, encoder, Node("extract", modality, node.round), *labels]


def _settings(config: Config, node: Node) -> Training:
    modality = str(node.modality)
    return Training(
        seed=config.seed,
        learn_splits=config.corpus.learn_splits,
        sources=heads(config.method, config.modalities)[modality],
        views=views_of(config, modality),
        train=config.train if config.protects else config.train.model_copy(update={"protect": 0.0}),
        runs_on=config.runs_on,
        select=config.select,
    )


TRAIN: Stage[Config, Run, Training] = Stage(
    name="train",
    version=2,
    summary="Train one modality's encoder on its pseudo-labels.",
    unit="sample",
    folder="train",
    of="modality",
    each_round=True,
    library="torch",
    # An optimiser's first step imports torch._dynamo. It is listed in parts, because a process cannot answer requests
    # during an import.
    modules=(
        "xdc_core.training.rank",
        *VIEW_MODULES,
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
