"""Fine-tuning in several processes, of which each is

python -m xdc_core.probes.finetuning_rank RUN NAME ROUND SPLIT NUMBER SEED OUT
"""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np

from shards.progress import Progress
from shards.store.files import new_file, write_json
from xdc_core.evaluation.predictions import Predictions
from xdc_core.evaluation.trial import Trial
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.training.ranks import run_ranks, work_as_rank

LOG, TRIAL, ARRAYS = "finetune.log", "trial.json", "predictions.npz"  # In the folder of the checkpoints.


def finetune_in_ranks(
    run: Run, node: Node, split: str, number: int, seed: int, out: Path, progress: Progress
) -> tuple[Trial, Predictions]:
    """Fine-tune as `finetune` does, in as many processes as the settings say. Returns and raises what that does."""
    folder = out / f"{split}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [str(node.modality), str(node.round), split, str(number), str(seed), str(out)]
    processes = run.config.evaluate[str(node.modality)].finetune.processes
    module = "xdc_core.probes.finetuning_rank"
    run_ranks(module, run, node, arguments, processes, folder / LOG, lambda sent: progress(*sent))
    trial = Trial.model_validate_json((folder / TRIAL).read_bytes())
    with np.load(folder / ARRAYS) as arrays:
        return trial, Predictions(**arrays, chosen=trial.chosen, warnings=trial.warnings)


def work(run: Run, arguments: list[str], send: Callable[[object], None]) -> None:
    """Fine-tune as one of several ranks; rank 0 sends its progress, and writes the outcome for the stage."""
    from xdc_core.evaluation.recordings import read_recordings
    from xdc_core.probes.finetuning import finetune
    from xdc_core.training.process_rank import leave_ranks, rank_from_environment

    name, round_number, split, number, seed, out = arguments
    node, process = Node("eval", name, int(round_number)), rank_from_environment()
    recordings = read_recordings(run, run.config.evaluate[name], int(round_number))

    def progress(done: int, total: int, note: str = "") -> None:
        send([done, total, note])

    trial, verdict = finetune(run, node, recordings, split, int(number), int(seed), Path(out), progress, process)
    if process.rank == 0:
        folder = Path(out) / f"{split}-{number}"
        arrays = {field.name: getattr(verdict, field.name) for field in fields(verdict)}
        arrays = {name: value for name, value in arrays.items() if isinstance(value, np.ndarray)}
        with new_file(folder / ARRAYS) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
        write_json(folder / TRIAL, trial.model_dump(mode="json"))
    leave_ranks(process)


if __name__ == "__main__":
    work_as_rank(work)
