"""What one training process does: all of the steps, on its share of every batch."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shards.errors import StageError
from xdc_core.compute.device import choose_device
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import thread_count
from xdc_core.config.schema import TrainSettings
from xdc_core.data.clips import ClipItem, ClipViews
from xdc_core.data.loader import load_views
from xdc_core.data.sampling import batch_positions
from xdc_core.encoders.file import FILE_NAME, load_encoder, save_encoder
from xdc_core.modalities.modality import Modality
from xdc_core.modalities.registry import MODALITIES
from xdc_core.runs.node import SHARD, Node, encoder_node
from xdc_core.runs.run import Run
from xdc_core.training.checkpoint import load_checkpoint, save_checkpoint
from xdc_core.training.heads import EncoderWithHeads
from xdc_core.training.learner import head_weights, make_learner, step_settings
from xdc_core.training.metrics import append_metrics, rewind_metrics
from xdc_core.training.optimiser import learning_rate, make_optimizer
from xdc_core.training.process_rank import ProcessRank, any_rank, join_ranks, leave_ranks, mean_over_ranks
from xdc_core.training.targets import TrainingTargets, read_targets

METRICS = "metrics.jsonl"
# Called with {"device": ...} at the start, then at each logged step with the line that goes into metrics.jsonl.
Listener = Callable[[dict[str, Any]], None]


class Interrupted(StageError):
    """SIGTERM came; a checkpoint was written."""


def train_rank(run: Run, node: Node, out: Path, process: ProcessRank, listen: Listener) -> None:
    """Train, and write checkpoints, metrics.jsonl and at the end encoder.safetensors into `out` (rank 0 writes).

    Continues from a checkpoint that is there. Batches, and the order of clips in them, do not depend on the number
    of ranks or on restarts. Every rank takes every step, and all of them stop after the same one.

    Raises:
        Interrupted: SIGTERM came, to whichever rank.
        StageError: the loss is not finite, or a stored clip does not decode.
        ConfigError: there is no compiler, or there are not as many GPUs, as the settings ask for.
    """
    config, modality = run.config, MODALITIES[str(node.modality)]
    settings = config.train
    assert node.round is not None
    torch.set_num_threads(thread_count(config, sharers=2 * process.world_size))
    chosen = choose_device(config)
    device = chosen.device
    if process.rank == 0:
        listen({"device": str(chosen)})
    join_ranks(process, device)
    name = getattr(config, modality.name).encoder
    # What is learnt, and the model: the same in every rank.
    encoder = load_encoder(run.directory(encoder_node(modality.name, node.round)) / FILE_NAME, name)
    task = read_targets(run, node)
    seed = derive_seed(config.seed, node.round, "train", modality.name)
    model = EncoderWithHeads(encoder, task.classes, settings.head_std, seed)
    weights = head_weights(tuple(model.heads), modality.name, settings.own_head_weight)

    def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
        return make_optimizer(model, settings)

    learner = make_learner(model, modality, step_settings(settings), device, process, weights, optimizer_of)
    # Go on where an earlier call was stopped. Lines of steps after the checkpoint are written again.
    first = 0
    if checkpoint := load_checkpoint(out):
        learner.restore(checkpoint)
        first = int(checkpoint["step"])
    if process.rank == 0:
        rewind_metrics(out / METRICS, first)

    targets = {source: torch.from_numpy(task.targets[source]).long() for source in task.sources}
    clock, since = time.monotonic(), first  # Of the last logged step.
    with _sigterm_noted() as came:
        batches = _batches(run, task, modality, process, seed, first, device)
        for step, (rows, views) in enumerate(batches, start=first):
            rate = learning_rate(step, task.steps, settings)
            wanted = {source: targets[source][rows].to(device) for source in task.sources}
            measured = learner.step(modality.normalise(views.to(device, non_blocking=True), config), wanted, rate)
            if step % settings.log_every == 0 or step == task.steps - 1:
                means = mean_over_ranks({key: value.item() for key, value in measured.items()}, process)
                line = _line(step, task.steps, rate, means, settings)
                line["clips_per_s"] = round(
                    (step + 1 - since) * settings.batch / max(time.monotonic() - clock, 1e-9), 1
                )
                clock, since = time.monotonic(), step + 1
                if process.rank == 0:
                    append_metrics(out / METRICS, line)
                    listen(line)
            # A signal may reach one rank alone: all of them must stop after the same step.
            stop = any_rank(came(), process)
            last = step + 1 == task.steps
            if process.rank == 0 and (stop or ((step + 1) % settings.checkpoint_every == 0 and not last)):
                save_checkpoint(out, step + 1, learner.state())
            if stop:
                raise Interrupted(f"SIGTERM at step {step} of {task.steps}. The checkpoint of step {step + 1} is kept.")
    if process.rank == 0:
        save_encoder(out / FILE_NAME, model.encoder, name)
    leave_ranks(process)


def _batches(
    run: Run,
    task: TrainingTargets,
    modality: Modality,
    process: ProcessRank,
    seed: int,
    first: int,
    device: torch.device,
) -> Iterator[tuple[list[int], Tensor]]:
    """From step `first` on: the row numbers of this rank's share of a batch, and its views, made for `device`."""
    settings = run.config.train

    def items() -> Iterator[list[ClipItem]]:
        for step in range(first, task.steps):
            positions = batch_positions(step, settings.batch, process.rank, process.world_size)
            # A seed a position: what a view looks like does not depend on who makes it.
            yield [ClipItem(int(task.draws[n]), seed=derive_seed(seed, n)) for n in positions]

    views = ClipViews(run.corpus, task.rows, modality, run.config)
    for batch in load_views(views, items(), settings.workers, device):
        for number, reason in batch.rejects:
            raise StageError(
                f"{run.corpus}: clip {task.rows.keys[number].as_py()} had a pseudo-label, but does not decode any "
                f"more ({reason}). The corpus was damaged since; build it anew: {run.command(SHARD, force=True)}"
            )
        assert batch.views is not None
        yield batch.rows, batch.views


def _line(step: int, steps: int, rate: float, means: dict[str, float], settings: TrainSettings) -> dict[str, Any]:
    """A line of metrics.jsonl. The same in all ranks, so that all of them fail together."""
    if not math.isfinite(means["loss"]):
        raise StageError(f"step {step}: the loss is {means['loss']}. Lower train.lr (now {settings.lr:g}).")
    line = {"step": step, "steps": steps, "loss": round(means["loss"], 6), "lr": rate}
    return line | {key: round(value, 4) for key, value in means.items() if key != "loss"}


@contextmanager
def _sigterm_noted() -> Iterator[Callable[[], bool]]:
    """While active, SIGTERM is noted instead of obeyed; yields whether it came.

    Outside the main thread nothing is noted: whoever runs us there handles signals.
    """
    came = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set()) if main else None
    try:
        yield came.is_set
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
