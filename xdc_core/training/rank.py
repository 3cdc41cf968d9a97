"""The work of one training process: all steps, on its share of every batch."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from shards.command import stage_command
from shards.errors import StageError
from shards.store.stage import Task
from xdc_core.compute.device import choose_device
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.sigterm import sigterm_recorded
from xdc_core.compute.threads import thread_count
from xdc_core.config.training import TrainSettings
from xdc_core.data.clips import ClipItem, ClipViews
from xdc_core.data.loader import load_views
from xdc_core.data.sampling import batch_positions
from xdc_core.documents.metrics import append_metrics, rewind_metrics
from xdc_core.encoders.file import FILE_NAME, load_encoder, save_encoder
from xdc_core.encoders.header import header_of
from xdc_core.runs.corpora import clips_of
from xdc_core.runs.node import SHARD
from xdc_core.training.checkpoint import load_checkpoint, save_checkpoint
from xdc_core.training.heads import EncoderWithHeads
from xdc_core.training.learner import head_weights, make_learner, step_settings, weights_of_heads
from xdc_core.training.optimiser import learning_rate, make_optimizer
from xdc_core.training.process_rank import ProcessRank, any_rank, join_ranks, leave_ranks, mean_over_ranks
from xdc_core.training.settings import Training
from xdc_core.training.targets import TrainingTargets, open_targets

METRICS = "metrics.jsonl"
# Called with {"device": ...} at the start, then with each line of metrics.jsonl.
Listener = Callable[[dict[str, Any]], None]


class Interrupted(StageError):
    """The error after SIGTERM; a checkpoint was written."""


def train_rank(task: Task[Training], process: ProcessRank, listen: Listener) -> None:
    """Train; rank 0 writes checkpoints, metrics.jsonl and at the end encoder.safetensors.

    Continues from the checkpoint in the directory, if there is one. Batches, and the order of clips in them, do not
    depend on the number of ranks or on restarts. Every rank takes every step, and all ranks stop after the same step.

    Raises:
        Interrupted: a rank received SIGTERM.
        StageError: the loss is not finite, or a stored clip does not decode.
        ConfigError: the settings require a compiler or a number of GPUs that the machine does not have.
    """
    given, out, modality = task.settings, task.out, task.about
    settings, views_of = given.train, given.views
    torch.set_num_threads(thread_count(given.runs_on, sharers=2 * process.on_machine))
    chosen = choose_device(given.runs_on)
    device = chosen.device
    if process.rank == 0:
        listen({"device": str(chosen)})
    join_ranks(process, device, given.runs_on.ranks_timeout)
    name = views_of.settings.encoder
    # The targets and the model are the same in every rank.
    (start,) = (*task.directories("init"), *task.directories("train"))
    clips = clips_of(task.directory(SHARD))
    encoder = load_encoder(start / FILE_NAME, name, views_of, clips)
    round_targets = open_targets(task)
    seed = derive_seed(given.seed, task.round, "train", modality)
    model = EncoderWithHeads(encoder, round_targets.classes, settings.head_std, seed)
    of_sources = head_weights(tuple(round_targets.heads), modality, settings.own_head_weight)
    weights = weights_of_heads(of_sources, round_targets.heads)

    def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
        return make_optimizer(model, settings)

    learner = make_learner(model, views_of.modality, step_settings(settings), device, process, weights, optimizer_of)
    # Continue where an earlier call stopped. Lines of steps after the checkpoint are written again.
    first = 0
    if checkpoint := load_checkpoint(out):
        learner.restore(checkpoint)
        first = int(checkpoint["step"])
    if process.rank == 0:
        rewind_metrics(out / METRICS, first)

    labels = round_targets.targets
    clock, since = time.monotonic(), first  # Time and number of the last logged step.
    with sigterm_recorded() as sigterm_came:
        batches = _batches(task, round_targets, process, seed, first, device)
        for step, (rows, views) in enumerate(batches, start=first):
            rate = learning_rate(step, round_targets.steps, settings)
            targets = {name: torch.from_numpy(target[rows]).long().to(device) for name, target in labels.items()}
            # An encoder may draw numbers, as for dropout: of a step, whether or not the training was interrupted.
            torch.manual_seed(derive_seed(seed, step, "encoder", process.rank))
            measured = learner.step(views_of.normalise(views.to(device, non_blocking=True)), targets, rate)
            if step % settings.log_every == 0 or step == round_targets.steps - 1:
                means = mean_over_ranks({key: value.item() for key, value in measured.items()}, process)
                line = _line(step, round_targets.steps, rate, means, settings)
                line["clips_per_s"] = round(
                    (step + 1 - since) * settings.batch / max(time.monotonic() - clock, 1e-9), 1
                )
                clock, since = time.monotonic(), step + 1
                if process.rank == 0:
                    append_metrics(out / METRICS, line)
                    listen(line)
            # The signal may reach only one rank, but all ranks must stop after the same step.
            stop = any_rank(sigterm_came(), process)
            last = step + 1 == round_targets.steps
            if process.rank == 0 and (stop or ((step + 1) % settings.checkpoint_every == 0 and not last)):
                save_checkpoint(out, step + 1, learner.state())
            if stop:
                raise Interrupted(
                    f"SIGTERM at step {step} of {round_targets.steps}. The checkpoint of step {step + 1} is kept."
                )
    if process.rank == 0:
        width = int(encoder.width)  # type: ignore[arg-type]
        save_encoder(out / FILE_NAME, model.encoder, header_of(views_of, width, clips, training=True))
    leave_ranks(process)


def _batches(
    task: Task[Training],
    round_targets: TrainingTargets,
    process: ProcessRank,
    seed: int,
    first: int,
    device: torch.device,
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the row numbers and views of this rank's share of each batch, from step `first` on."""
    settings, corpus = task.settings.train, task.directory(SHARD)

    def items() -> Iterator[list[ClipItem]]:
        for step in range(first, round_targets.steps):
            positions = batch_positions(step, settings.batch, process.rank, process.world_size)
            # One seed per position: a view does not depend on the process that makes it.
            yield [ClipItem(int(round_targets.draws[n]), seed=derive_seed(seed, n)) for n in positions]

    views = ClipViews(corpus, round_targets.rows, task.settings.views, task.settings.runs_on.clip_cache)
    for batch in load_views(views, items(), settings.workers, device):
        for number, reason in batch.rejects:
            raise StageError(
                f"{corpus}: clip {round_targets.rows.keys[number].as_py()} has a pseudo-label, but does not decode "
                f"any longer ({reason}). The corpus has been damaged; rebuild it: "
                f"{stage_command('shard', task.root, force=True)}"
            )
        assert batch.views is not None
        yield batch.rows, batch.views


def _line(step: int, steps: int, rate: float, means: dict[str, float], settings: TrainSettings) -> dict[str, Any]:
    """Return a line of metrics.jsonl. It is the same in all ranks, so that all of them fail together."""
    if not math.isfinite(means["loss"]):
        raise StageError(f"step {step}: the loss is {means['loss']}. Lower train.lr (now {settings.lr:g}).")
    line = {"step": step, "steps": steps, "loss": round(means["loss"], 6), "lr": rate}
    return line | {key: round(value, 4) for key, value in means.items() if key != "loss"}
