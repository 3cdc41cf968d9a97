"""What one training process does: all of the steps, on its share of every batch."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from shards.errors import StageError
from xdc_core.clips import ClipViews, collate
from xdc_core.config import Config
from xdc_core.device import choose_device
from xdc_core.encoder_file import FILE_NAME, load_encoder, save_encoder
from xdc_core.graph import encoder_node
from xdc_core.modality import MODALITIES, Modality
from xdc_core.run import Node, Run
from xdc_core.sampling import batch_positions
from xdc_core.seed import derive_seed
from xdc_core.threads import thread_count
from xdc_core.training.assignment import Assignment, read_assignment
from xdc_core.training.checkpoint import load_checkpoint, save_checkpoint
from xdc_core.training.heads import EncoderWithHeads
from xdc_core.training.metrics import append_metrics, rewind_metrics
from xdc_core.training.optimiser import learning_rate, make_optimizer

METRICS = "metrics.jsonl"
# Told once a logged step: the line that goes into metrics.jsonl.
Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Place:
    """Which of how many processes this is."""

    rank: int
    ranks: int


class Interrupted(StageError):
    """SIGTERM came; a checkpoint was written."""


def place_from_environment() -> Place:
    """Of a process that torchrun started; (0, 1) without torchrun."""
    return Place(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def train_rank(run: Run, node: Node, out: Path, place: Place, listen: Listener) -> None:
    """Train, and write checkpoints, metrics.jsonl and at the end encoder.safetensors into `out` (rank 0 writes).

    Continues from a checkpoint that is there. Batches, and the order of clips in them, do not depend on the number
    of ranks or on restarts.

    Raises:
        Interrupted: SIGTERM came.
        StageError: the loss is not finite, or a stored clip does not decode.
    """
    config, modality = run.config, MODALITIES[str(node.modality)]
    assert node.round is not None
    torch.set_num_threads(thread_count(config, sharers=2 * place.ranks))
    device = choose_device(config)
    if place.ranks > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    name = getattr(config, modality.name).encoder
    encoder = load_encoder(run.directory(encoder_node(modality.name, node.round)) / FILE_NAME, name)
    task = read_assignment(run, node)
    seed = derive_seed(config.seed, node.round, "train", modality.name)
    model = EncoderWithHeads(encoder, task.classes, config.train.head_std, seed).to(device).train()
    optimizer = make_optimizer(model.parameters(), config.train)
    first = 0
    if checkpoint := load_checkpoint(out):
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        first = int(checkpoint["step"])
    if place.rank == 0:
        rewind_metrics(out / METRICS, first)

    def save(step: int) -> None:
        if place.rank == 0:
            save_checkpoint(out, step, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})

    parallel = DistributedDataParallel(model) if place.ranks > 1 else model
    batches = _batches(run, task, modality, place, seed, first)
    with _sigterm_noted(place) as stopping:
        _steps(
            parallel, optimizer, batches, task, config, modality, device, (first, out, place), save, stopping, listen
        )
    if place.rank == 0:
        save_encoder(out / FILE_NAME, model.encoder, name)
    if place.ranks > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _batches(
    run: Run, task: Assignment, modality: Modality, place: Place, seed: int, first: int
) -> Iterator[tuple[list[int], Tensor]]:
    """From step `first` on: the row numbers of this rank's share of a batch, and its views."""
    settings = run.config.train

    def items() -> Iterator[list[tuple[int, int]]]:
        for step in range(first, task.steps):
            positions = batch_positions(step, settings.batch, place.rank, place.ranks)
            # A seed a position: what a view looks like does not depend on who makes it.
            yield [(int(task.draws[n]), derive_seed(seed, n)) for n in positions]

    loader = DataLoader(
        ClipViews(run.corpus, task.rows, modality, run.config),
        batch_sampler=items(),
        num_workers=settings.workers,
        collate_fn=collate,
    )
    for batch in loader:
        for number, view, reason in batch:
            if view is None:
                raise StageError(
                    f"{run.corpus}: clip {task.rows.keys[number].as_py()} had a pseudo-label, but does not decode any "
                    f"more ({reason}). The corpus was damaged since; build it anew: xdc stage shard --force"
                )
        yield [number for number, _, _ in batch], torch.stack([view for _, view, _ in batch if view is not None])


def _steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[list[int], Tensor]],
    task: Assignment,
    config: Config,
    modality: Modality,
    device: torch.device,
    at: tuple[int, Path, Place],
    save: Callable[[int], None],
    stopping: Callable[[], bool],
    listen: Listener,
) -> None:
    first, out, place = at
    targets = {source: torch.from_numpy(task.targets[source]).long() for source in task.sources}
    clock, since = time.monotonic(), first
    for step, (rows, views) in enumerate(batches, start=first):
        rate = learning_rate(step, task.steps, config.train)
        for group in optimizer.param_groups:
            group["lr"] = rate
        logits = model(modality.normalise(views.to(device), config))
        wanted = {source: targets[source][rows].to(device) for source in task.sources}
        losses = [cross_entropy(logits[source].float(), wanted[source]) for source in task.sources]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == task.steps - 1:
            if not torch.isfinite(loss):
                raise StageError(f"step {step}: the loss is {loss.item()}. Lower train.lr (now {config.train.lr:g}).")
            done = (step + 1 - since) * config.train.batch
            line = {
                "step": step,
                "steps": task.steps,
                "loss": round(loss.item(), 6),
                "lr": rate,
                "clips_per_s": round(done / max(time.monotonic() - clock, 1e-9), 1),
            }
            for source in task.sources:
                hits = logits[source].argmax(1) == wanted[source]
                line[f"accuracy_{source}"] = round(hits.float().mean().item(), 4)
            clock, since = time.monotonic(), step + 1
            if place.rank == 0:
                append_metrics(out / METRICS, line)
                listen(line)
        if stopping():
            save(step + 1)
            raise Interrupted(f"SIGTERM at step {step} of {task.steps}. The checkpoint of step {step + 1} is kept.")
        if (step + 1) % config.train.checkpoint_every == 0 and step + 1 < task.steps:
            save(step + 1)


@contextmanager
def _sigterm_noted(place: Place) -> Iterator[Callable[[], bool]]:
    """While active, SIGTERM is noted instead of obeyed; yields whether to stop for it after the present step.

    Only rank 0 stops: the others wait for the end that torchrun gives them, or all-reduce would hang. Outside the
    main thread nothing is noted: whoever runs us there handles signals.
    """
    came = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set()) if main else None
    try:
        yield lambda: came.is_set() and place.rank == 0
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
