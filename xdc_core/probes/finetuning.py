"""The protocol `all`: fine-tuning of the whole encoder on labels."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from shards.errors import ConfigError, StageError
from shards.store.stage import Task
from xdc_core.compute.device import choose_device
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import thread_count
from xdc_core.config.evaluation import FinetuneSettings
from xdc_core.data.clips import ClipBatch, ClipItem
from xdc_core.data.loader import load_views
from xdc_core.encoders.file import FILE_NAME, load_encoder
from xdc_core.evaluation.examples import Examples, check_split, listed
from xdc_core.evaluation.held_out import hold_out
from xdc_core.evaluation.predictions import Predictions, accuracy, predict_recordings
from xdc_core.evaluation.recordings import Recordings
from xdc_core.evaluation.settings import Evaluation
from xdc_core.evaluation.trial import Trial, trial_of
from xdc_core.probes.evaluation_clips import EvaluationClips, epoch_items, items_to_test, read_evaluation_clips
from xdc_core.runs.node import encoder_node
from xdc_core.training.checkpoint import load_checkpoint, save_checkpoint
from xdc_core.training.learner import Learner, StepSettings, make_learner
from xdc_core.training.process_rank import (
    ProcessRank,
    any_rank,
    concatenate_over_ranks,
    join_ranks,
    mean_over_ranks,
    share_buffers,
)

LABEL = "label"  # The name of the only target.
ALONE = ProcessRank(0, 1)


class Classifier(nn.Module):
    """An encoder, dropout, and a linear head: views -> logits [B, classes], by the name of the target."""

    def __init__(self, encoder: nn.Module, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(int(encoder.width), classes)  # type: ignore[arg-type]

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """Return the logits of a batch of views."""
        return {LABEL: self.head(self.dropout(self.encoder(views)))}


def finetune(
    task: Task[Evaluation],
    recordings: Recordings,
    split: str,
    number: int,
    seed: int,
    process: ProcessRank = ALONE,
) -> tuple[Trial, Predictions]:
    """Train on a split's training recordings except held-out ones, choose the epoch on these, and test it.

    The weights of the best epoch are tested without training on the held-out part. After each epoch a checkpoint is
    written into the folder `<split>-<number>`, so that a killed training continues; the caller removes the folder when
    the trial is written. Views that do not decode are left out, as are recordings without a view; a warning counts
    these recordings. All processes return the same result.

    Raises:
        ConfigError: a single class, too few recordings, or too few GPUs.
        StageError: the loss is not finite.
    """
    given, evaluation = task.settings, task.settings.evaluation
    settings, views = evaluation.finetune, task.settings.views
    assert views is not None
    torch.set_num_threads(thread_count(given.runs_on, sharers=2 * process.on_machine))
    chosen = choose_device(given.runs_on, f"evaluate.{task.about}.finetune.processes")
    join_ranks(process, chosen.device, given.runs_on.ranks_timeout)

    # Divide the recordings, and check the division before the training starts.
    clips = read_evaluation_clips(task, recordings)
    train, test = recordings.part(split, "train"), recordings.part(split, "test")
    warnings = list(_check(recordings, train, test))
    if chosen.why:
        warnings.append(f"computed on {chosen}")
    train_part, held_out, notes = _held_out(recordings, train, evaluation.held_out, seed)
    warnings += notes
    least = 2 * process.world_size
    if len(train_part) < least:
        raise ConfigError(f"{split}: {len(train_part)} recordings remain for training. At least {least} are needed.")

    # The model: the encoder at the start of the round, and a random head.
    encoder = load_encoder(
        task.directory(encoder_node(views.modality.name, task.round)) / FILE_NAME, views.settings.encoder
    )
    torch.manual_seed(seed)
    model = Classifier(encoder, len(recordings.classes), settings.dropout)
    learner = make_learner(
        model,
        views.modality,
        StepSettings(settings.precision, settings.channels_last),
        chosen.device,
        process,
        {LABEL: 1.0},
        lambda model: _optimizer(model, settings),
    )

    # Continue after the last epoch that an earlier call finished.
    folder = task.out / f"{split}-{number}"
    epoch, history = 0, []
    best: dict[str, Tensor] = {}
    if checkpoint := load_checkpoint(folder):
        learner.restore(checkpoint)
        epoch, history, best = checkpoint["step"], checkpoint["history"], checkpoint["best"]

    work = Work(learner, clips, recordings, settings, chosen.device, process)
    while epoch < settings.epochs:
        loss = _train_epoch(work, train_part, epoch, seed)
        row: dict[str, Any] = {"epoch": epoch + 1, "loss": round(loss, 6)}
        share_buffers(model, process)
        if len(held_out):
            row["accuracy"] = round(accuracy(_predict(work, held_out)), 6)
        history.append(row)
        # Of equally good epochs keep the first.
        if not len(held_out) or row["accuracy"] > max((old["accuracy"] for old in history[:-1]), default=-1.0):
            best = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
        epoch += 1
        if process.rank == 0:
            save_checkpoint(folder, epoch, learner.state() | {"history": history, "best": best})
            task.progress(epoch, settings.epochs, f"epochs of {split}, {row}")

    model.load_state_dict(best)
    predictions = _predict(work, test)
    if unreadable := len(test) - len(predictions.groups):
        warnings.append(f"{unreadable} test recordings could not be read, and are not counted")
    trial = trial_of(predictions, recordings.classes, split, number, len(train))
    best_epoch = max(history, key=lambda row: row["accuracy"])["epoch"] if len(held_out) else settings.epochs
    trial = trial.model_copy(
        update={
            "chosen": {"epoch": best_epoch, "held_out": len(held_out), "tried": history},
            "warnings": (*warnings, *trial.warnings),
        }
    )
    return trial, predictions


def _check(recordings: Recordings, train: np.ndarray, test: np.ndarray) -> tuple[str, ...]:
    """Return warnings of a split. Raises ConfigError as `check_split` does."""
    # `check_split` needs features; fine-tuning has none, so it gets different numbers.
    numbers = np.arange(len(recordings.labels), dtype=np.float32)[:, None]
    train_part, tested = (Examples(numbers[part], recordings.labels[part], part) for part in (train, test))
    return check_split(train_part, tested, len(recordings.classes))


def _held_out(
    recordings: Recordings, train: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Divide training recordings into those for training and those for choosing the epoch, and return warnings."""
    originals = None if recordings.originals is None else recordings.originals[train]
    held, kept = hold_out(recordings.labels[train], train, share, seed, originals)
    warnings = []
    if len(kept):
        what = "a single training recording" if originals is None else "no original could be held out"
        warnings.append(f"{what} of {listed(kept)}: not used in the choice of the epoch")
    if not held.any():
        warnings.append("no training recording could be held out: the last epoch is used")
    return train[~held], train[held], warnings


@dataclass(frozen=True)
class Work:
    """The arguments of every epoch of a fine-tuning."""

    learner: Learner
    clips: EvaluationClips
    recordings: Recordings
    settings: FinetuneSettings
    device: torch.device
    process: ProcessRank

    def load(self, batches: Iterable[Iterable[ClipItem]]) -> Iterator[ClipBatch]:
        """Yield batches of views."""
        return load_views(self.clips.views, batches, self.settings.workers, self.device)

    def normalised(self, views: Tensor) -> Tensor:
        """Move views to the device, and normalise them."""
        return self.clips.views.views.normalise(views.to(self.device, non_blocking=True))


def _optimizer(model: nn.Module, settings: FinetuneSettings) -> torch.optim.Optimizer:
    """Make an optimiser with two parameter groups, the encoder and the head, each with its peak learning rate."""
    assert isinstance(model, Classifier)
    groups = [
        {"params": list(model.encoder.parameters()), "lr": settings.body_lr, "peak": settings.body_lr},
        {"params": list(model.head.parameters()), "lr": settings.head_lr, "peak": settings.head_lr},
    ]
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, weight_decay=settings.weight_decay)
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=settings.weight_decay)


def rate_share(epoch: float, settings: FinetuneSettings) -> float:
    """Return the factor of the peak learning rates at a (fractional) epoch: a linear rise, then steps down."""
    rise = min(1.0, epoch / settings.warmup) if settings.warmup else 1.0
    return rise * settings.factor ** sum(epoch >= milestone for milestone in settings.milestones)


def _train_epoch(work: Work, train_part: np.ndarray, epoch: int, seed: int) -> float:
    """Train for one epoch on a random view of (nearly) every recording. Return the mean loss over all processes."""
    settings, process, labels = work.settings, work.process, work.recordings.labels
    work.learner.model.train()
    # The seed of dropout: a resumed epoch draws the same.
    own = (process.rank,) if process.rank else ()
    torch.manual_seed(derive_seed(seed, epoch, "dropout", *own))
    steps = max(1, len(train_part) // settings.batch)
    seed = derive_seed(seed, epoch)
    rng = np.random.default_rng(seed)
    order = rng.permutation(train_part)
    groups = np.array_split(order[: max(steps * settings.batch, 2)], steps)
    one_generator = None if settings.seed_per_view else rng
    items = epoch_items(work.clips, groups, seed, one_generator, (process.rank, process.world_size))
    losses: list[float] = []
    for batch in work.load(items):
        # Batch norm needs two clips. If fewer decode in any process, all processes skip the step.
        if any_rank(len(batch.rows) < 2, process):
            continue
        assert batch.views is not None
        classes = torch.from_numpy(labels[[work.clips.recording_of[row] for row in batch.rows]]).to(work.device)
        rate = rate_share(epoch + (len(losses) + 1) / steps, settings)
        measured = work.learner.step(work.normalised(batch.views), {LABEL: classes}, rate)
        losses.append(measured["loss"].item())
        if not math.isfinite(losses[-1]):
            raise StageError(f"fine-tuning, epoch {epoch + 1}: the loss is {losses[-1]}. Lower the learning rates.")
    if not losses:
        raise StageError("fine-tuning: no training clip decodes.")
    return mean_over_ranks({"loss": float(np.mean(losses))}, process)["loss"]


@torch.inference_mode()
def _predict(work: Work, chosen: np.ndarray) -> Predictions:
    """Predict recordings from the softmax averaged over their views. The recordings are divided among the processes."""
    learner, process = work.learner, work.process
    learner.model.eval()
    scores = [np.empty((0, len(work.recordings.classes)), np.float32)]
    owners: list[int] = []
    # A batch holds all views of one recording.
    share = map(int, chosen[process.rank :: process.world_size])
    own = [recording for recording in share if items_to_test(work.clips, recording)]
    loaded = work.load(items_to_test(work.clips, recording) for recording in own)
    for recording, batch in zip(own, loaded, strict=True):
        if batch.views is not None:
            logits = learner.predict(work.normalised(batch.views))[LABEL]
            scores.append(softmax(logits, 1).cpu().numpy())
            owners += [recording] * len(batch.views)
    groups, view_scores = concatenate_over_ranks([np.array(owners, np.int64), np.concatenate(scores)], process)
    if not len(groups):
        raise StageError("fine-tuning: none of the recordings to predict decodes.")
    return predict_recordings(Examples(view_scores, work.recordings.labels[groups], groups), view_scores)
