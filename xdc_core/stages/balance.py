"""The iterations that balance the clusters over all clips to learn from, in units: a part of the label stage.

The first pass measures the mean squared distance between two clips, on which the temperature depends. Each pass has a
folder `balance/<number>` in the partial directory, with the potentials at its start, the state, and the receipts of its
groups of shards. The next one's state is written before it is removed, so that a call that was killed goes on in the
middle of an iteration. All clusterings of a label source are balanced in the same passes.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from shards.store.checked_read import read_stored_json
from shards.store.executor import Advance, run_units
from shards.store.files import write_json
from shards.store.receipt import Receipt, new_shard
from shards.store.stage import Task
from xdc_core.clustering.model import read_array, read_model, write_model
from xdc_core.clustering.preprocess import load_preprocess
from xdc_core.clustering.registry import KMEANS
from xdc_core.clustering.sinkhorn import balanced, log_masses, mean_squared_distance, moments
from xdc_core.compute.threads import limit_faiss
from xdc_core.config.clustering import LabelSettings
from xdc_core.config.schema import RunsOn
from xdc_core.documents.scores import Balance
from xdc_core.stages.sample import Learnable, job_in, learnable_of, remove_folder

BALANCE = "balance"  # The folder of the iterations in the partial directory.
STATE = "state.json"


def balance(
    task: Task[Any], learnable: Learnable, clusters: Path, shape: tuple[int, int], given: LabelSettings, runs_on: RunsOn
) -> list[Balance]:
    """Find the potentials with which the clusters of the clips to learn from have equal mass. Write potentials.npy,
    float64 [k], in units of squared distances, and potentials-1.npy and so on of further clusterings.

    clusters: the directory of the cluster stage. shape: number of clusterings, and k. Continues where an earlier call
    stopped. Masses are added shard by shard in groups, and the groups in order, so that the potentials do not depend on
    who does the units. Returns what was done, for each clustering. The folder of the iterations stays until the caller
    removes it.
    """
    place, groups = task.out / BALANCE, learnable.groups()
    shards = {name: len(group) for name, group in groups.items()}
    whole, clips = sum(shards.values()), learnable.total
    begun = [int(path.parent.name) for path in place.glob(f"[0-9][0-9][0-9][0-9]/{STATE}")]
    if not begun:
        _write_state(place, 0, np.zeros(shape), {"squared_distance": None, "uneven": []})
    number = max(begun, default=0)
    while True:
        folder = place / f"{number:04d}"
        state, potentials = read_stored_json(folder / STATE, "label"), read_array(folder / "potentials.npy", "label")
        if number > given.iterations:
            break

        def progress(done: int, total: int, note: str = "", before: int = number * whole) -> None:
            task.progress(before + done, balancing_passes(given) * whole, note)

        temperature = state["squared_distance"] and given.temperature * state["squared_distance"]
        job = job_in(
            folder,
            task,
            "xdc_core.stages.balance:weigh_groups",
            learnable,
            groups=groups,
            clusters=str(clusters.resolve()),
            temperature=temperature,
            runs_on=runs_on.model_dump(mode="json"),
        )
        run_units(task.executor, replace(job, more=True), shards, 1, progress, "shards balanced")
        parts = [np.load(folder / f"{name}.sums.npy") for name in groups]
        if temperature is None:
            state["squared_distance"] = mean_squared_distance(np.sum(parts, axis=0), clips)
        else:
            masses, uneven = np.logaddexp.reduce(parts), []
            for head, own in enumerate(masses):
                potentials[head], share = balanced(potentials[head], own, clips, temperature)
                uneven.append(share)
            state["uneven"].append(uneven)
        number += 1
        _write_state(place, number, potentials, state)
        remove_folder(folder)
    for head, own in enumerate(potentials):
        write_model(task.out, {"potentials": own}, head)
    return [
        Balance(iterations=given.iterations, squared_distance=state["squared_distance"], uneven=list(uneven))
        for uneven in zip(*state["uneven"], strict=True)
    ]


def balancing_passes(given: LabelSettings) -> int:
    """Return how often all features are read, the assignment of the labels included."""
    return given.iterations + 2


def _write_state(place: Path, number: int, potentials: np.ndarray, state: dict[str, Any]) -> None:
    folder = place / f"{number:04d}"
    write_model(folder, {"potentials": potentials})
    write_json(folder / STATE, state)


def weigh_groups(arguments: dict[str, Any], names: list[str], advance: Advance) -> Iterator[Receipt]:
    """Store the masses of the clusters over the clips of some groups of shards: the work of a unit.

    <group>.sums.npy: logarithms of the masses, float64 [clusterings, k]; without a temperature the moments of the
    points, float64 [1 + d].
    """
    out, learnable = Path(arguments["out"]), learnable_of(arguments["learnable"])
    limit_faiss(RunsOn.model_validate(arguments["runs_on"]))
    clusters, temperature = Path(arguments["clusters"]), arguments["temperature"]
    preprocess, potentials = load_preprocess(clusters / "preprocess.npz"), read_array(out / "potentials.npy", "label")
    centroids = [read_model(clusters, KMEANS, head)["centroids"] for head in range(len(potentials))]
    for name in names:
        sums, masses = np.zeros(1 + centroids[0].shape[1]), np.full(potentials.shape, -np.inf)
        for shard, _, _ in arguments["groups"][name]:
            points = preprocess(learnable.read(shard))
            if temperature is None:
                sums += moments(points)
            else:
                own = [log_masses(points, *pair, temperature) for pair in zip(centroids, potentials, strict=True)]
                masses = np.logaddexp(masses, own)
            advance(1, 0)
        with new_shard(out, name) as new:
            np.save(new.folder / f"{name}.sums.npy", sums if temperature is None else masses)
            new.rows = sum(count for _, _, count in arguments["groups"][name])
        yield new.stored
