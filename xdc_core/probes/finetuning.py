"""The protocol `all`: fine-tuning of the whole encoder on labels."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softmax

from shards.errors import ConfigError, StageError
from shards.progress import Progress
from shards.store.stage import Task
from xdc_core.compute.device import choose_device
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import thread_count
from xdc_core.config.finetune import FinetuneSettings
from xdc_core.data.clips import ClipBatch, ClipItem
from xdc_core.data.loader import load_views
from xdc_core.encoders.file import FILE_NAME, load_encoder
from xdc_core.evaluation.examples import Examples, check_split, listed
from xdc_core.evaluation.held_out import hold_out
from xdc_core.evaluation.predictions import Predictions, accuracy, predict_recordings
from xdc_core.evaluation.recordings import Recordings
from xdc_core.evaluation.settings import Evaluation
from xdc_core.evaluation.trial import Trial, trial_of
from xdc_core.probes.evaluation_clips import (
    EvaluationClips,
    epoch_groups,
    epoch_items,
    items_to_test,
    read_evaluation_clips,
)
from xdc_core.probes.finetuning_model import LABEL, Classifier, make_optimizer, rate_share
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
from xdc_core.training.settings import few_clips

ALONE = ProcessRank(0, 1)


def finetune(
    task: Task[Evaluation],
    recordings: Recordings,
    split: str,
    number: int,
    seed: int,
    process: ProcessRank = ALONE,
) -> tuple[Trial, Predictions]:
    """Train on a split's training recordings except held-out ones, choose the epoch on these, and test it.

    The weights of the best epoch are tested without training on the held-out part; if nothing is held out, those of the
    last epoch. After each epoch a checkpoint is written into the folder `<split>-<number>`, so that a killed training
    continues; the caller removes the folder when the trial is written. Views that do not decode are left out, as are
    recordings without a view; a warning counts these recordings. All processes return the same result.

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
    if few := few_clips(settings.batch // process.world_size, "finetune.batch", "Raise finetune.batch"):
        warnings.append(few)
    train_part, held_out, notes = _held_out(recordings, train, evaluation.held_out, seed)
    warnings += notes
    least = 2 * process.world_size
    if len(train_part) < least:
        raise ConfigError(f"{split}: {len(train_part)} recordings remain for training. At least {least} are needed.")

    # The model: the encoder at the start of the round, and a random head.
    path = task.directory(encoder_node(views.modality.name, task.round)) / FILE_NAME
    encoder = load_encoder(path, views.settings.encoder, views)
    torch.manual_seed(seed)
    model = Classifier(encoder, len(recordings.classes), settings.dropout)
    learner = make_learner(
        model,
        views.modality,
        StepSettings(settings.precision, settings.channels_last),
        chosen.device,
        process,
        {LABEL: 1.0},
        lambda model: make_optimizer(model, settings, head_alone=settings.head_epochs > 0),
    )

    work = Work(learner, clips, recordings, settings, chosen.device, process)
    history, best = _train(work, train_part, held_out, task.out / f"{split}-{number}", seed, task.progress)
    model.load_state_dict(best)
    predictions = _predict(work, test)
    if unreadable := len(test) - len(predictions.groups):
        warnings.append(f"{unreadable} test recordings could not be read, and are not counted")
    trial = trial_of(predictions, recordings.classes, split, number, len(train))
    best_epoch = max(history, key=lambda row: row.get("accuracy", -1.0)) if len(held_out) else history[-1]
    trial = trial.model_copy(
        update={
            "chosen": {"epoch": best_epoch["epoch"], "held_out": len(held_out), "tried": history},
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
    """Divide training recordings into those for training and those for choosing the epoch, and return warnings.

    With a share of 0 all are for training.
    """
    if share == 0:
        return train, train[:0], []
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


def _train(
    work: Work, train_part: np.ndarray, held_out: np.ndarray, folder: Path, seed: int, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Train the head alone, then encoder and head. Return a row per epoch, and the weights to test.

    Epochs of the head alone are not checked on held-out recordings. folder: of the checkpoints.
    """
    settings, learner, process = work.settings, work.learner, work.process
    model = learner.model
    assert isinstance(model, Classifier)
    epoch, history = 0, []
    best: dict[str, Tensor] = {}
    if checkpoint := load_checkpoint(folder):  # Continue after the last epoch that an earlier call finished.
        if checkpoint["step"] > settings.head_epochs > 0:
            learner = replace(learner, optimizer=make_optimizer(model, settings))
        learner.restore(checkpoint)
        epoch, history, best = checkpoint["step"], checkpoint["history"], checkpoint["best"]
    while epoch < settings.all_epochs:
        head_alone = epoch < settings.head_epochs
        # In several processes, torch expects a gradient of every parameter.
        model.detached = head_alone and process.world_size == 1
        if epoch == settings.head_epochs > 0:
            learner = replace(learner, optimizer=make_optimizer(model, settings))
        loss = _train_epoch(replace(work, learner=learner), train_part, epoch, seed)
        share_buffers(model, process)
        epoch += 1
        row: dict[str, Any] = {"epoch": epoch, "loss": round(loss, 6)}
        row |= {"head_alone": True} if head_alone else {}
        last = epoch == settings.all_epochs
        if len(held_out) and not head_alone and (last or (epoch - settings.head_epochs) % settings.check_every == 0):
            row["accuracy"] = round(accuracy(_predict(work, held_out)), 6)
        # Of equally good epochs keep the first.
        before = max((old["accuracy"] for old in history if "accuracy" in old), default=-1.0)
        if (row["accuracy"] > before) if "accuracy" in row else last:
            best = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
        history.append(row)
        if process.rank == 0:
            save_checkpoint(folder, epoch, learner.state() | {"history": history, "best": best})
            progress(epoch, settings.all_epochs, f"epochs of {folder.name.rpartition('-')[0]}, {row}")
    return history, best


def _train_epoch(work: Work, train_part: np.ndarray, epoch: int, seed: int) -> float:
    """Train for one epoch on random views of (nearly) every recording. Return the mean loss over all processes."""
    settings, process, labels = work.settings, work.process, work.recordings.labels
    work.learner.model.train()
    # The seed of dropout: a resumed epoch draws the same.
    own = (process.rank,) if process.rank else ()
    torch.manual_seed(derive_seed(seed, epoch, "dropout", *own))
    seed = derive_seed(seed, epoch)
    rng = np.random.default_rng(seed)
    groups = epoch_groups(train_part, settings, rng)
    one_generator = None if settings.seed_per_view else rng
    items = epoch_items(work.clips, groups, seed, one_generator, (process.rank, process.world_size))
    losses: list[float] = []
    for batch in work.load(items):
        # Batch norm needs two clips. If fewer decode in any process, all processes skip the step.
        if any_rank(len(batch.rows) < 2, process):
            continue
        assert batch.views is not None
        classes = torch.from_numpy(labels[[work.clips.recording_of[row] for row in batch.rows]]).to(work.device)
        rate = rate_share(settings, epoch, len(losses), len(groups))
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
