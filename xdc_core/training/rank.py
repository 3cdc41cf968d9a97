"""What one training process does: all of the steps, on its share of every batch."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shards.command import stage_command
from shards.errors import StageError
from shards.store.stage import Task
from xdc_core.compute.device import choose_device
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import thread_count
from xdc_core.config.schema import TrainSettings
from xdc_core.data.clips import ClipItem, ClipViews
from xdc_core.data.loader import load_views
from xdc_core.data.sampling import batch_positions
from xdc_core.documents.metrics import append_metrics, rewind_metrics
from xdc_core.encoders.file import FILE_NAME, load_encoder, save_encoder
from xdc_core.runs.node import SHARD, encoder_node
from xdc_core.training.checkpoint import load_checkpoint, save_checkpoint
from xdc_core.training.heads import EncoderWithHeads
from xdc_core.training.learner import head_weights, make_learner, step_settings
from xdc_core.training.optimiser import learning_rate, make_optimizer
from xdc_core.training.process_rank import ProcessRank, any_rank, join_ranks, leave_ranks, mean_over_ranks
from xdc_core.training.settings import Training
from xdc_core.training.targets import TrainingTargets, read_targets

METRICS = "metrics.jsonl"
# Called with {"device": ...} at the start, then at each logged step with the line that goes into metrics.jsonl.
Listener = Callable[[dict[str, Any]], None]


class Interrupted(StageError):
    """SIGTERM came; a checkpoint was written."""


def train_rank(task: Task[Training], process: ProcessRank, listen: Listener) -> None:
    """Train, and write checkpoints, metrics.jsonl and at the end encoder.safetensors (rank 0 writes).

    Continues from a checkpoint that is there. Batches, and the order of clips in them, do not depend on the number
    of ranks or on restarts. Every rank takes every step, and all of them stop after the same one.

    Raises:
        Interrupted: SIGTERM came, to whichever rank.
        StageError: the loss is not finite, or a stored clip does not decode.
        ConfigError: there is no compiler, or there are not as many GPUs, as the settings ask for.
    """
    given, out, modality = task.settings, task.out, task.about
    settings, views_of = given.train, given.views
    torch.set_num_threads(thread_count(given.runs_on, sharers=2 * process.world_size))
    chosen = choose_device(given.runs_on)
    device = chosen.device
    if process.rank == 0:
        listen({"device": str(chosen)})
    join_ranks(process, device)
    name = views_of.settings.encoder
    # What is learnt, and the model: the same in every rank.
    encoder = load_encoder(task.directory(encoder_node(modality, task.round)) / FILE_NAME, name)
    learnt = read_targets(task)
    seed = derive_seed(given.seed, task.round, "train", modality)
    model = EncoderWithHeads(encoder, learnt.classes, settings.head_std, seed)
    weights = head_weights(tuple(model.heads), modality, settings.own_head_weight)

    def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
        return make_optimizer(model, settings)

    learner = make_learner(model, views_of.modality, step_settings(settings), device, process, weights, optimizer_of)
    # Go on where an earlier call was stopped. Lines of steps after the checkpoint are written again.
    first = 0
    if checkpoint := load_checkpoint(out):
        learner.restore(checkpoint)
        first = int(checkpoint["step"])
    if process.rank == 0:
        rewind_metrics(out / METRICS, first)

    targets = {source: torch.from_numpy(learnt.targets[source]).long() for source in learnt.sources}
    clock, since = time.monotonic(), first  # Of the last logged step.
    with _sigterm_noted() as came:
        batches = _batches(task, learnt, process, seed, first, device)
        for step, (rows, views) in enumerate(batches, start=first):
            rate = learning_rate(step, learnt.steps, settings)
            wanted = {source: targets[source][rows].to(device) for source in learnt.sources}
            measured = learner.step(views_of.normalise(views.to(device, non_blocking=True)), wanted, rate)
            if step % settings.log_every == 0 or step == learnt.steps - 1:
                means = mean_over_ranks({key: value.item() for key, value in measured.items()}, process)
                line = _line(step, learnt.steps, rate, means, settings)
                line["clips_per_s"] = round(
                    (step + 1 - since) * settings.batch / max(time.monotonic() - clock, 1e-9), 1
                )
                clock, since = time.monotonic(), step + 1
                if process.rank == 0:
                    append_metrics(out / METRICS, line)
                    listen(line)
            # A signal may reach one rank alone: all of them must stop after the same step.
            stop = any_rank(came(), process)
            last = step + 1 == learnt.steps
            if process.rank == 0 and (stop or ((step + 1) % settings.checkpoint_every == 0 and not last)):
                save_checkpoint(out, step + 1, learner.state())
            if stop:
                raise Interrupted(
                    f"SIGTERM at step {step} of {learnt.steps}. The checkpoint of step {step + 1} is kept."
                )
    if process.rank == 0:
        save_encoder(out / FILE_NAME, model.encoder, name)
    leave_ranks(process)


def _batches(
    task: Task[Training],
    learnt: TrainingTargets,
    process: ProcessRank,
    seed: int,
    first: int,
    device: torch.device,
) -> Iterator[tuple[list[int], Tensor]]:
    """From step `first` on: the row numbers of this rank's share of a batch, and its views, made for `device`."""
    settings, corpus = task.settings.train, task.directory(SHARD)

    def items() -> Iterator[list[ClipItem]]:
        for step in range(first, learnt.steps):
            positions = batch_positions(step, settings.batch, process.rank, process.world_size)
            # A seed a position: what a view looks like does not depend on who makes it.
            yield [ClipItem(int(learnt.draws[n]), seed=derive_seed(seed, n)) for n in positions]

    views = ClipViews(corpus, learnt.rows, task.settings.views)
    for batch in load_views(views, items(), settings.workers, device):
        for number, reason in batch.rejects:
            raise StageError(
                f"{corpus}: clip {learnt.rows.keys[number].as_py()} had a pseudo-label, but does not decode any "
                f"more ({reason}). The corpus was damaged since; rebuild it: "
                f"{stage_command('shard', task.root, force=True)}"
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
