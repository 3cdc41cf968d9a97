"""A training step against a bare PyTorch loop over a batch in memory, and against waiting for decoded clips.

    PYTHONPATH=. python benchmarks/small_run.py RUN
    PYTHONPATH=. python benchmarks/train.py RUN [--steps 60] [--workers 0 1] [--threads 1]

The bare loop has the same model, optimiser, batch and layout and does nothing but forward, loss, backward and step.
"xdc, views in memory" is our loop with the decoding taken out: what it costs beside the step. The others are our loop
as it is, with so many decoding processes. Everyone is timed from the first logged step on.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from side_by_side import Contest, Pace, contest, parser, record, show
from torch.nn.functional import cross_entropy

from xdc_core.compute.device import choose_device
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import thread_count
from xdc_core.config.views import views_of
from xdc_core.encoders.build import build_encoder
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run
from xdc_core.runs.task import task_of
from xdc_core.stages.train import TRAIN
from xdc_core.training import rank
from xdc_core.training.heads import EncoderWithHeads
from xdc_core.training.learner import head_weights, make_learner, step_settings, weights_of_heads
from xdc_core.training.optimiser import make_optimizer
from xdc_core.training.process_rank import ProcessRank
from xdc_core.training.targets import open_targets, write_targets

LOOP = "xdc, views in memory"
BARE = "bare loop, views in memory"


def main() -> None:
    """Print a table a modality."""
    arguments = parser(__doc__)
    arguments.add_argument("run", type=Path)
    arguments.add_argument("--steps", type=int, default=61)
    arguments.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    arguments.add_argument("--threads", type=int, default=1)
    given = arguments.parse_args()
    source = open_run(given.run)
    contests = []
    for modality in ("video", "audio"):
        found = training(source, modality, given.steps, given.workers, given.threads, given.turns)
        show(found, LOOP)
        contests.append(found)
    record(given.out, contests=contests, steps=given.steps, threads=given.threads)


def training(source: Run, name: str, steps: int, workers: list[int], threads: int, turns: int) -> Contest:
    """The contest of one modality."""
    batch = source.config.train.batch
    train = source.config.train.model_copy(update={"clips": steps * batch, "checkpoint_every": steps, "processes": 1})
    here = source.config.runs_on.model_copy(update={"threads": threads})
    run = Run(source.root, source.config.model_copy(update={"train": train, "runs_on": here}))
    config, node = run.config, Node("train", name, 0)
    wanted_views, device = views_of(config, name), choose_device(config.runs_on).device
    torch.set_num_threads(thread_count(config.runs_on))
    with tempfile.TemporaryDirectory() as out:  # What is mapped stays when the files are gone.
        given = task_of(TRAIN, run, node, Path(out))
        write_targets(given)
        task = open_targets(given)
    seed = derive_seed(config.seed, 0, "train", name)
    numbers, views = next(rank._batches(given, task, ProcessRank(0, 1), seed, 0, device))

    def ours(decoding: int | None) -> float:
        settings = train.model_copy(update={"workers": decoding or 0})
        asked = Run(run.root, config.model_copy(update={"train": settings}))
        pace = Pace()

        def in_memory(*_: Any, **__: Any) -> Iterator[Any]:
            return iter([(numbers, views)] * steps)

        def listen(line: dict[str, Any]) -> None:
            if "step" in line:
                pace.note(line["step"] + 1)

        made = in_memory if decoding is None else rank._batches
        with tempfile.TemporaryDirectory() as out, patch.object(rank, "_batches", made):
            task_of_loop = task_of(TRAIN, asked, node, Path(out))
            write_targets(task_of_loop)
            rank.train_rank(task_of_loop, ProcessRank(0, 1), listen)
        return pace.seconds(steps)

    def bare() -> float:
        encoder = build_encoder(getattr(config, name).encoder, 0)
        model = EncoderWithHeads(encoder, task.classes, train.head_std, seed)
        weights = weights_of_heads(head_weights(tuple(task.heads), name, train.own_head_weight), task.heads)
        # For the layout, and what it must avoid.
        learner = make_learner(
            model,
            wanted_views.modality,
            step_settings(train),
            device,
            ProcessRank(0, 1),
            weights,
            lambda model: make_optimizer(model, train),
        )
        batch = wanted_views.normalise(views.to(device)).contiguous(memory_format=learner.memory_format)
        wanted = {key: torch.from_numpy(value[numbers]).long().to(device) for key, value in task.targets.items()}
        pace = Pace()
        for step in range(steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=train.precision == "bfloat16"):
                logits = learner.forward(batch)
            loss = torch.stack([cross_entropy(logits[key].float(), wanted[key]) for key in wanted]).sum()
            learner.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            learner.optimizer.step()
            if step in (0, steps - 1):
                loss.item()
                pace.note(step + 1)
        return pace.seconds(steps)

    contestants = {LOOP: lambda: ours(None), BARE: bare}
    contestants |= {f"xdc, {count} decoding processes": lambda count=count: ours(count) for count in workers}
    shape = "x".join(map(str, views.shape))
    title = f"train.{name} ({getattr(config, name).encoder}, batch of {shape}, {threads} threads)"
    return contest(title, "steps", steps, contestants, turns)


if __name__ == "__main__":
    main()
