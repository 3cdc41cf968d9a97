"""Fine-tuning in several processes."""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np

from shards.store.files import new_file, write_json
from shards.store.stage import Task
from xdc_core.evaluation.predictions import Predictions
from xdc_core.evaluation.settings import Evaluation
from xdc_core.evaluation.trial import Trial
from xdc_core.ranks.run import run_ranks

LOG, TRIAL, ARRAYS = "finetune.log", "trial.json", "predictions.npz"  # In the folder of the checkpoints.


def finetune_in_ranks(
    task: Task[Evaluation], work: str, split: str, number: int, seed: int
) -> tuple[Trial, Predictions]:
    """Fine-tune in the number of processes of the settings. Returns and raises the same as `finetune`.

    work: "module:function" that calls `finetune_as_rank`.
    """
    folder = task.out / f"{split}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [split, str(number), str(seed)]
    processes = task.settings.evaluation.finetune.processes
    run_ranks(task, work, arguments, processes, folder / LOG, lambda sent: task.progress(*sent))
    trial = Trial.model_validate_json((folder / TRIAL).read_bytes())
    with np.load(folder / ARRAYS) as arrays:
        return trial, Predictions(**arrays, chosen=trial.chosen, warnings=trial.warnings)


def finetune_as_rank(task: Task[Evaluation], arguments: list[str], send: Callable[[object], None]) -> None:
    """Fine-tune as one of several ranks; rank 0 sends its progress, and writes the result for the stage."""
    from xdc_core.evaluation.recordings import read_recordings
    from xdc_core.probes.finetuning import finetune
    from xdc_core.training.process_rank import leave_ranks, rank_from_environment

    split, number, seed = arguments
    process = rank_from_environment()

    def progress(done: int, total: int, note: str = "") -> None:
        send([done, total, note])

    task = replace(task, progress=progress)
    trial, predictions = finetune(task, read_recordings(task), split, int(number), int(seed), process)
    if process.rank == 0:
        folder = task.out / f"{split}-{number}"
        arrays = {field.name: getattr(predictions, field.name) for field in fields(predictions)}
        arrays = {name: value for name, value in arrays.items() if isinstance(value, np.ndarray)}
        with new_file(folder / ARRAYS) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
        write_json(folder / TRIAL, trial.model_dump(mode="json"))
    leave_ranks(process)
