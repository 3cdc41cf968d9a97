"""The targets of a round: written once, the same as if all rows were in memory, and held by no process."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.corpus.index import read_index, read_whole_index, shard_names
from shards.errors import StageError
from shards.reject import Reject
from shards.store.files import part_path, write_json
from tests.commits import commit_as_it_is
from tests.places import ROOT
from tests.runs import MakeRun
from tests.xdc_core.synthetic import training_task, write_rows
from tests.xdc_core.tasks import targets_of, task_for
from xdc_core.compute.seed import derive_seed
from xdc_core.data.features import source_keys, source_part
from xdc_core.data.labels import read_labels
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.training.targets import open_targets, write_targets

AUDIO = Node("train", "audio", 0)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of a hundred rows, of which every tenth is in the split `test`."""
    root = tmp_path_factory.mktemp("rows")
    write_rows(root, 100, 30, 4)
    return root


def drawn_in_memory(clusters: np.ndarray, draws: int, uniform: bool, seed: int) -> np.ndarray:
    """The draws as they were defined first, with everything in memory."""
    rng = np.random.default_rng(seed)

    def cycle(rows: np.ndarray, count: int) -> np.ndarray:
        return np.concatenate([rng.permutation(rows) for _ in range(-(-count // len(rows)))] or [rows[:0]])[:count]

    if not uniform:
        return cycle(np.arange(len(clusters)), draws)
    groups = [np.flatnonzero(clusters == cluster) for cluster in np.unique(clusters)]
    quota = np.full(len(groups), draws // len(groups))
    quota[rng.permutation(len(groups))[: draws % len(groups)]] += 1
    return rng.permutation(np.concatenate([cycle(*pair) for pair in zip(groups, quota.tolist(), strict=True)]))


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("draws", [96, 100, 250])
def test_targets_and_draws_are_those_of_all_rows_in_memory(
    rows: Path, tmp_path: Path, uniform: bool, draws: int
) -> None:
    task = training_task(rows, draws, uniform)
    write_targets(task)
    found = open_targets(task)
    labels = [read_labels(rows / "labels", shard) for shard in shard_names(rows / "corpus")]
    cluster_of = dict(zip(*(np.concatenate(column).tolist() for column in zip(*labels, strict=True)), strict=True))
    index = read_whole_index(rows / "corpus", ["key", "split"]).to_pydict()
    target = np.array([cluster_of[key] for key in index["key"]])
    assert found.targets["audio"].tolist() == target.tolist()
    usable = np.flatnonzero(np.array(index["split"]) == "train")
    seed, wanted = derive_seed(0, 0, "train", "video"), found.steps * task.settings.train.batch
    expected = usable[drawn_in_memory(target[usable], wanted, uniform, seed)]
    assert found.draws.tolist() == expected.tolist()
    assert (found.draws.dtype, found.targets["audio"].dtype) == (np.uint32, np.int32)
    assert found.classes == {"audio": 4}


def test_they_are_written_once_for_all_calls_of_a_stage(rows: Path) -> None:
    task = training_task(rows, 100)
    write_targets(task)
    files = {path.name: path.stat().st_ino for path in (task.out / "targets").iterdir()}
    assert files.keys() == {"audio.npy", "draws.npy", "targets.json"}
    write_targets(task)
    assert {path.name: path.stat().st_ino for path in (task.out / "targets").iterdir()} == files
    (task.out / "targets" / "targets.json").unlink()  # A kill before the end.
    (task.out / "targets" / "draws.npy").write_bytes(b"half")
    write_targets(task)
    assert len(open_targets(task).draws) == 96
    # Other settings, as of an earlier version of the package, are other targets.
    write_targets(training_task(rows, 200))
    assert len(open_targets(task).draws) == 192


def test_other_labels_under_the_same_fingerprint_are_other_targets(copy_run: MakeRun) -> None:
    # As of a label stage with --force, on a GPU, between a kill of the training and its next call.
    run = copy_run()
    out = run.root / "out"
    out.mkdir()
    task = task_for(run, AUDIO, out)
    write_targets(task)
    before = np.array(open_targets(task).targets["video"])
    labels = run.directory(Node("label", "video", 0))
    for path in labels.glob("data/[0-9]*.parquet"):
        table = pq.read_table(path)
        turned = pa.array((table["cluster"].to_numpy() + 1) % 4, pa.int32())
        pq.write_table(table.set_column(table.column_names.index("cluster"), "cluster", turned), path)
    commit_as_it_is(labels)
    write_targets(task)
    assert open_targets(task).targets["video"].tolist() == ((before + 1) % 4).tolist()


def test_no_byte_of_the_features_is_read(copy_run: MakeRun) -> None:
    run = copy_run()
    before = targets_of(run, AUDIO).draws
    for path in run.directory(Node("extract", "audio", 0)).glob("data/[0-9]*.parquet"):
        path.write_bytes(bytes(path.stat().st_size))
    assert targets_of(run, AUDIO).draws.tolist() == before.tolist()


def test_a_clip_that_does_not_decode_in_the_modality_is_not_drawn(tmp_path: Path) -> None:
    rows = tmp_path
    write_rows(rows, 100, 30, 4)
    key = read_index(rows / "corpus", "000001", ["key"])["key"][5].as_py()
    write_json(rows / "features" / "000001.rejects.json", [vars(Reject("corpus", "extract", "damaged", "broken", key))])
    commit_as_it_is(rows / "features")
    task = training_task(rows, 1000, uniform=False)
    write_targets(task)
    found = open_targets(task)
    assert found.targets["audio"][35] >= 0
    drawn = set(found.draws.tolist())
    assert drawn == {n for n in range(100) if n % 30 % 10} - {35}


def test_a_pseudo_label_of_an_unknown_clip_is_named(copy_run: MakeRun) -> None:
    run = copy_run()
    labels = run.directory(Node("label", "video", 0))
    path = part_path(labels, "000001")
    table = pq.read_table(path)
    keys = pa.array(["of-another-corpus", *table["key"].to_pylist()[1:]])
    pq.write_table(table.set_column(0, "key", keys), path)
    commit_as_it_is(labels)
    with pytest.raises(StageError, match=f"{path}: the clip of-another-corpus is not in the corpus's index"):
        targets_of(run, AUDIO)


def test_ranks_do_not_begin_without_targets(worked_run: Run, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"targets\.json cannot be read"):
        open_targets(task_for(worked_run, AUDIO, tmp_path))


def test_what_goes_to_a_worker_does_not_grow_with_the_corpus(rows: Path) -> None:
    task = training_task(rows, 100)
    write_targets(task)
    found = open_targets(task).rows
    sent = pickle.dumps(found)
    assert len(sent) < 2000
    again = pickle.loads(sent)
    assert [again[n] for n in (0, 29, 30, 99)] == [found[n] for n in (0, 29, 30, 99)]
    assert [again[n][0] for n in (0, 29, 30, 99)] == ["000000", "000000", "000001", "000003"]


MEASURE = """
import json, sys
from pathlib import Path
import numpy as np
from tests.xdc_core.synthetic import training_task
from xdc_core.training.targets import open_targets

def anonymous():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

def use(root, clips):
    targets = open_targets(training_task(root, clips))
    for number in np.resize(targets.draws[:: -(-len(targets.draws) // 3000)], 3000):
        assert targets.targets["audio"][number] >= 0
        assert targets.rows[int(number)][1]["mp4_size"] == 1
    return targets

use(Path(sys.argv[1]), 100)
before = anonymous()
used = use(Path(sys.argv[2]), int(sys.argv[3]))
print(json.dumps({"rows": len(used.rows), "bytes": anonymous() - before}))
"""


def test_a_rank_holds_less_than_ten_bytes_per_clip(rows: Path, tmp_path: Path) -> None:
    clips = 500_000
    write_rows(tmp_path, clips, 50_000, 4)
    write_targets(training_task(rows, 100))
    write_targets(training_task(tmp_path, clips))
    words = [sys.executable, "-c", MEASURE, str(rows), str(tmp_path), str(clips)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    shown = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    found = json.loads(shown)
    assert found["rows"] == clips
    assert found["bytes"] < 10 * clips


def test_keys_alone_are_those_that_are_read_with_their_features(worked_run: Run, tmp_path: Path) -> None:
    first, second = (worked_run.directory(Node("extract", name, 0)) for name in ("video", "audio"))
    short = tmp_path / "short"
    short.mkdir()
    table = pq.read_table(part_path(second, "000001"))
    pq.write_table(table.take([0, 3, 4, 9]), part_path(short, "000001"))
    for features in ([first], [first, second], [first, short], [short, first]):
        assert source_keys(features, "000001") == source_part(features, "000001")[0].tolist()
    with pytest.raises(StageError, match=r"000009\.parquet cannot be read"):
        source_keys([first], "000009")
