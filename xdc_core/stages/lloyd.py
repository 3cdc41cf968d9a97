"""Lloyd's iterations over all clips to learn from, in units: a part of the cluster stage.

Each iteration has a folder `lloyd/<number>` in the partial directory, with the centroids at its start, the state of the
fit, and the receipts of its groups of shards. The next one's state is written before it is removed, so that a call that
was killed goes on in the middle of an iteration. With several clusterings the folder of the second is `lloyd-1`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from shards.store.checked_read import read_stored_json
from shards.store.executor import Advance, run_units
from shards.store.files import write_json
from shards.store.receipt import Receipt, new_shard, receipts_of
from shards.store.stage import Task
from xdc_core.clustering.clusterer import Model
from xdc_core.clustering.lloyd import Sums, moved, no_sums
from xdc_core.clustering.model import read_model, write_model
from xdc_core.clustering.preprocess import load_preprocess
from xdc_core.clustering.registry import KMEANS
from xdc_core.compute.seed import derive_seed
from xdc_core.compute.threads import limit_faiss
from xdc_core.config.schema import RunsOn
from xdc_core.stages.sample import Learnable, job_in, learnable_of, remove_folder

STATE = "state.json"
# A group of shards has at least so many clips per cluster. Its sums, 8 bytes a value, then are at most an eighth of the
# features that it reads, 4 bytes a value, however many clusters there are.
CLIPS_PER_CLUSTER = 16


def lloyd_folder(out: Path, head: int) -> Path:
    """Return the folder of the iterations of the clustering `head` in the partial directory."""
    return out / (f"lloyd-{head}" if head else "lloyd")


def begin_lloyd(out: Path, head: int, centroids: np.ndarray, details: dict[str, Any]) -> None:
    """Store the result of the fit to the sample, from which the iterations start: float32 [k, d], and its details."""
    _write_state(lloyd_folder(out, head), 0, centroids, {"fit": details, "objective": [], "splits": 0})


def lloyd_begun(out: Path, head: int) -> bool:
    """Return whether iterations of the clustering `head` have begun: the fit to the sample is then not done again."""
    return any(lloyd_folder(out, head).glob(f"[0-9][0-9][0-9][0-9]/{STATE}"))


def lloyd(
    task: Task[Any], learnable: Learnable, iterations: int, runs_on: RunsOn, head: int, heads: int
) -> tuple[Model, dict[str, Any]]:
    """Iterate over all clips from the stored state of the clustering `head`, one of `heads`. Return its model, with
    centroids float32 [k, d], and details for kmeans.json.

    Clips are transformed by preprocess.npz in `task.out`. Sums are added shard by shard in groups, and the groups in
    order, so that the centroids do not depend on who does the units. A last pass counts the sizes of the clusters.

    Details are those of the fit to the sample with the objective per iteration, `sizes` and `empty` of all clips
    instead; `sample_objective` is that of the sample.
    """
    place = lloyd_folder(task.out, head)
    number = max(int(path.parent.name) for path in place.glob(f"[0-9][0-9][0-9][0-9]/{STATE}"))
    k, width = read_model(place / f"{number:04d}", KMEANS)["centroids"].shape
    groups = learnable.groups(CLIPS_PER_CLUSTER * k)
    shards = {name: len(group) for name, group in groups.items()}
    passes, whole = iterations + 1, sum(shards.values())
    while True:
        folder, last = place / f"{number:04d}", number == iterations
        state = read_stored_json(folder / STATE, "cluster")
        centroids = read_model(folder, KMEANS)["centroids"]

        def progress(done: int, total: int, note: str = "", before: int = (head * passes + number) * whole) -> None:
            task.progress(before + done, heads * passes * whole, note)

        job = job_in(
            folder,
            task,
            "xdc_core.stages.lloyd:sum_groups",
            learnable,
            groups=groups,
            preprocess=str((task.out / "preprocess.npz").resolve()),
            runs_on=runs_on.model_dump(mode="json"),
            sizes_only=last,
        )
        run_units(task.executor, replace(job, more=not last or head + 1 < heads), shards, 1, progress, "shards read")
        sums = no_sums(k, 0 if last else width)
        for receipt in receipts_of(folder, groups):
            vectors, sizes = (np.load(folder / f"{receipt.shard}.{name}.npy") for name in ("vectors", "sizes"))
            sums.add(Sums(vectors, sizes, receipt.notes["objective"]))
        if last:
            return {"centroids": centroids}, _details(state, sums)
        centroids, splits = moved(sums, derive_seed(state["fit"]["seed"], "lloyd", number))
        state["objective"].append(sums.objective)
        state["splits"] += splits
        number += 1
        _write_state(place, number, centroids, state)
        remove_folder(folder)


def _details(state: dict[str, Any], sums: Sums) -> dict[str, Any]:
    fit = state["fit"]
    return {
        **fit,
        "objective": state["objective"],
        "sample_objective": fit["objective"],
        "splits": fit["splits"] + state["splits"],
        "sizes": sums.sizes.tolist(),
        "empty": int((sums.sizes == 0).sum()),
        "iterations_over_all": len(state["objective"]),
    }


def _write_state(place: Path, number: int, centroids: np.ndarray, state: dict[str, Any]) -> None:
    folder = place / f"{number:04d}"
    write_model(folder, {"centroids": centroids})
    write_json(folder / STATE, state)


def sum_groups(arguments: dict[str, Any], names: list[str], advance: Advance) -> Iterator[Receipt]:
    """Store the sums of the clips of some groups of shards: the work of a unit.

    <group>.vectors.npy: float64 [k, d], or [k, 0] where only the sizes are needed. <group>.sizes.npy: int64 [k]. The
    receipt's notes have the objective.
    """
    out, learnable = Path(arguments["out"]), learnable_of(arguments["learnable"])
    limit_faiss(RunsOn.model_validate(arguments["runs_on"]))
    centroids, preprocess = read_model(out, KMEANS)["centroids"], load_preprocess(Path(arguments["preprocess"]))
    k, width = centroids.shape
    for name in names:
        sums = no_sums(k, 0 if arguments["sizes_only"] else width)
        for shard, _, _ in arguments["groups"][name]:
            sums.add_points(preprocess(learnable.read(shard)), centroids)
            advance(1, 0)
        with new_shard(out, name) as new:
            np.save(new.folder / f"{name}.vectors.npy", sums.vectors)
            np.save(new.folder / f"{name}.sizes.npy", sums.sizes)
            new.rows, new.notes = int(sums.sizes.sum()), {"objective": sums.objective}
        yield new.stored
