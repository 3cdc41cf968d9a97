"""The protocol `all`: the whole encoder learns the labels, from the weights it was given."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softmax

from shards.corpus.index import shard_names
from shards.corpus.reader import ClipReader
from shards.errors import ConfigError, MediaError, StageError
from shards.progress import Progress
from xdc_core.compute.device import choose_device
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import thread_count
from xdc_core.config.evaluation import CORPUS, FinetuneSettings
from xdc_core.config.schema import Config, evaluated_modality
from xdc_core.config.views import with_frames
from xdc_core.data.clips import ClipRows
from xdc_core.data.placing import PLACED, views_by_row
from xdc_core.encoders.file import FILE_NAME, load_encoder
from xdc_core.evaluation.examples import Examples, check_split, listed
from xdc_core.evaluation.held_out import hold_out
from xdc_core.evaluation.predictions import Predictions, accuracy, judge
from xdc_core.evaluation.recordings import Recordings
from xdc_core.evaluation.trial import Trial, trial_of
from xdc_core.modalities.modality import Modality, Where
from xdc_core.modalities.registry import MODALITIES
from xdc_core.runs.node import Node, encoder_node
from xdc_core.runs.run import Run
from xdc_core.training.checkpoint import load_checkpoint, save_checkpoint


@dataclass(frozen=True)
class Shown:
    """The clips of an evaluation: `clips` [recordings] are their row numbers, `places` the views to test on.

    `places[row]`: first frames, or None for the middle.
    """

    corpus: Path
    rows: ClipRows
    clips: list[list[int]]
    places: dict[int, list[int | None]]
    modality: Modality
    config: Config

    def view(self, reader: ClipReader, row: int, where: Where) -> Tensor:
        """One view of a clip. Raises MediaError where it does not decode."""
        shard, found = self.rows[row]
        return self.modality.view(reader.read(shard, found, self.modality.member), found, self.config, where)


class Classifier(nn.Module):
    """An encoder, dropout, and a linear head: views -> logits [B, classes]."""

    def __init__(self, encoder: nn.Module, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(int(encoder.width), classes)  # type: ignore[arg-type]

    def forward(self, views: Tensor) -> Tensor:
        """Logits, float32."""
        return self.head(self.dropout(self.encoder(views))).float()


def finetune(
    run: Run,
    node: Node,
    recordings: Recordings,
    split: str,
    number: int,
    seed: int,
    out: Path,
    progress: Progress,
) -> tuple[Trial, Predictions]:
    """Train on a split's training recordings but those held out, keep the epoch that is best on these, test.

    The best epoch's weights are tested as they are; nothing is trained on the held-out part afterwards. An epoch that
    is finished is kept across a kill, in the folder `<split>-<number>` of `out`, which the caller removes once the
    trial is written. A view that does not decode is left out; so is a recording without any, and a warning counts
    those.

    Raises:
        ConfigError: a single class to learn, or too few recordings.
        StageError: the loss is not finite.
    """
    config = run.config
    evaluation, name = config.evaluate[str(node.modality)], str(evaluated_modality(config, str(node.modality)))
    settings = evaluation.finetune
    assert node.round is not None
    torch.set_num_threads(thread_count(config))
    on = choose_device(config)
    device = on.device
    shown = _shown(run, node, recordings, name)
    train, test = recordings.part(split, "train"), recordings.part(split, "test")
    labels = recordings.labels
    # Instead of features, which there are none of: numbers that differ.
    numbers = np.arange(len(labels), dtype=np.float32)[:, None]
    both = [Examples(numbers[part], labels[part], part) for part in (train, test)]
    warnings = list(check_split(both[0], both[1], len(recordings.classes)))
    if on.why:
        warnings.append(f"computed on {on}")
    originals = None if recordings.originals is None else recordings.originals[train]
    held, kept = hold_out(labels[train], train, evaluation.held_out, seed, originals)
    if len(kept):
        what = "a single training recording" if originals is None else "no original could be held out"
        warnings.append(f"{what} of {listed(kept)}: has no part in the choice of the epoch")
    learnt, watched = train[~held], train[held]
    if len(watched) == 0:
        warnings.append("no training recording could be held out: the last epoch is taken, unseen")
    encoder = load_encoder(run.directory(encoder_node(name, node.round)) / FILE_NAME, getattr(config, name).encoder)
    torch.manual_seed(seed)
    model = Classifier(encoder, len(recordings.classes), settings.dropout).to(device)
    steps = max(1, len(learnt) // settings.batch)
    if len(learnt) < 2:
        raise ConfigError(f"{split}: {len(learnt)} recordings are left to learn from. Two are the least.")
    optimizer = _optimizer(model, settings)
    place = out / f"{split}-{number}"
    epoch, history = 0, []
    best: dict[str, Tensor] = {}
    if checkpoint := load_checkpoint(place):
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        epoch, history, best = checkpoint["step"], checkpoint["history"], checkpoint["best"]
    reader = ClipReader(shown.corpus)
    while epoch < settings.epochs:
        order = _epoch(shown, reader, learnt, settings.batch, steps, derive_seed(seed, epoch))
        # Dropout draws from this; a resumed epoch draws the same.
        torch.manual_seed(derive_seed(seed, epoch, "dropout"))
        loss = _train(model, optimizer, order, labels, settings, (epoch, steps), shown, device)
        row: dict[str, Any] = {"epoch": epoch + 1, "loss": round(loss, 6)}
        if len(watched):
            row["accuracy"] = round(accuracy(_judge(model, shown, reader, watched, recordings, device)), 6)
        history.append(row)
        if not len(watched) or row["accuracy"] > max((old["accuracy"] for old in history[:-1]), default=-1.0):
            best = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
        epoch += 1
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history, "best": best}
        save_checkpoint(place, epoch, state)
        progress(epoch, settings.epochs, f"epochs of {split}, {row}")
    model.load_state_dict(best)
    verdict = _judge(model, shown, reader, test, recordings, device)
    reader.close()
    if lost := len(test) - len(verdict.groups):
        warnings.append(f"{lost} test recordings could not be read, and are not counted")
    trial = trial_of(verdict, recordings.classes, split, number, len(train))
    chosen = max(history, key=lambda row: row["accuracy"])["epoch"] if len(watched) else settings.epochs
    trial = trial.model_copy(
        update={
            "chosen": {"epoch": chosen, "held_out": len(watched), "tried": history},
            "warnings": (*warnings, *trial.warnings),
        }
    )
    return trial, verdict


def _shown(run: Run, node: Node, recordings: Recordings, modality: str) -> Shown:
    evaluation = run.config.evaluate[str(node.modality)]
    if evaluation.data == CORPUS:
        corpus, config = run.corpus, run.config
        rows = ClipRows(corpus, shard_names(corpus), MODALITIES[modality].member)
        placed: list[list[int]] | None = None
    else:
        dataset = run.config.datasets[evaluation.data]
        corpus, config = run.directory(Node("data", evaluation.data)), with_frames(run.config, dataset.frames)
        rows = ClipRows(corpus, shard_names(corpus), MODALITIES[modality].member, PLACED)
        placed = views_by_row(rows, config.video.frames, dataset.views)
    clips: list[list[int]] = [[] for _ in recordings.names]
    places: dict[int, list[int | None]] = {}
    for row, key in enumerate(rows.keys.to_pylist()):
        if key in recordings.of_clip:
            clips[recordings.of_clip[key]].append(row)
            places[row] = [None] if placed is None else [*placed[row]]
    return Shown(corpus, rows, clips, places, MODALITIES[modality], config)


def _optimizer(model: Classifier, settings: FinetuneSettings) -> torch.optim.Optimizer:
    """Two groups: the encoder and the head, each with the peak of its learning rate."""
    groups = [
        {"params": list(model.encoder.parameters()), "lr": settings.body_lr, "peak": settings.body_lr},
        {"params": list(model.head.parameters()), "lr": settings.head_lr, "peak": settings.head_lr},
    ]
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, weight_decay=settings.weight_decay)
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=settings.weight_decay)


def rate_share(epoch: float, settings: FinetuneSettings) -> float:
    """By what the peak learning rates are multiplied at a (fractional) epoch: a linear rise, then steps down."""
    rise = min(1.0, epoch / settings.warmup) if settings.warmup else 1.0
    return rise * settings.factor ** sum(epoch >= milestone for milestone in settings.milestones)


def _epoch(
    shown: Shown, reader: ClipReader, learnt: np.ndarray, batch: int, steps: int, seed: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Batches of (recordings, views): every recording at most once, a random view of a random clip of it."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(learnt)
    for group in np.array_split(order[: max(steps * batch, 2)], steps):
        owners, views = [], []
        for owner in group.tolist():
            clips = [row for row in shown.clips[owner] if shown.places[row]] or shown.clips[owner]
            try:
                views.append(shown.view(reader, int(rng.choice(clips)), rng))
                owners.append(owner)
            except MediaError:
                continue  # It was a reject of the embed or extract stage already.
        if len(owners) > 1:
            yield owners, torch.stack(views)


def _train(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[list[int], Tensor]],
    labels: np.ndarray,
    settings: FinetuneSettings,
    at: tuple[int, int],
    shown: Shown,
    device: torch.device,
) -> float:
    """One epoch. Returns the mean loss."""
    model.train()
    losses = []
    epoch, steps = at
    for step, (owners, views) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate_share(epoch + (step + 1) / steps, settings)
        logits = model(shown.modality.normalise(views.to(device), shown.config))
        loss = cross_entropy(logits, torch.from_numpy(labels[owners]).to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise StageError(f"fine-tuning, epoch {epoch + 1}: the loss is {losses[-1]}. Lower the learning rates.")
    if not losses:
        raise StageError("fine-tuning: no training clip decodes.")
    return float(np.mean(losses))


@torch.inference_mode()
def _judge(
    model: Classifier,
    shown: Shown,
    reader: ClipReader,
    chosen: Sequence[int] | np.ndarray,
    recordings: Recordings,
    device: torch.device,
) -> Predictions:
    """Softmax averaged over the views of every recording that has one."""
    model.eval()
    scores: list[np.ndarray] = []
    owners: list[int] = []
    for owner in map(int, chosen):
        views = []
        for row in shown.clips[owner]:
            for where in shown.places[row]:
                try:
                    views.append(shown.view(reader, row, where))
                except MediaError:
                    break
        if views:
            batch = shown.modality.normalise(torch.stack(views).to(device), shown.config)
            scores.append(softmax(model(batch), 1).cpu().numpy())
            owners += [owner] * len(views)
    if not scores:
        raise StageError("fine-tuning: no recording that was held out or is to be tested on decodes.")
    groups = np.array(owners, np.int64)
    told = np.concatenate(scores)
    return judge(Examples(told, recordings.labels[groups], groups), told)
