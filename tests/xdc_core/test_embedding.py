"""Evaluation on data sets of their own: stored once, embedded view by view, tested on their official splits."""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.corpus.index import read_whole_index
from shards.corpus.reader import ClipReader
from shards.errors import ConfigError, StageError
from shards.store.commit import partial_directory
from shards.store.manifest import list_files
from tests.runs import MakeRun
from tests.shards.grid_maker import put_align, put_recordings, sentences
from tests.xdc_core.tasks import BACKWARDS, evaluation_task
from xdc_core.config.load import parse_config
from xdc_core.config.views import views_of
from xdc_core.data.features import read_features
from xdc_core.encoders.file import load_encoder
from xdc_core.evaluation.recordings import read_recordings
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes, evaluation_nodes
from xdc_core.graph.state import node_state
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

DATA = Node("data", "set")
EMBED = Node("embed", "set", 1)
EVAL = Node("eval", "probe", 1)


@pytest.fixture
def manifest(digits: Path, tmp_path: Path) -> Path:
    """A labelled data set with two splits: the digits' videos, spoken or shown, by whether the speaker is loud."""
    with digits.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    path = tmp_path / "set.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split_1", "split_2"])
        for number, row in enumerate(rows):
            where = (digits.parent / row["path"]).resolve()
            label = "loud" if row["label_loudness"] == "loud" else "other"
            writer.writerow([where, label, *(("test" if number % 4 == k else "train") for k in (0, 1))])
    return path


def evaluated(copy: MakeRun, manifest: Path, modality: str, protocol: str = "fc", **data: Any) -> Run:
    entry = {"layout": "manifest", "root": str(manifest), "modality": modality, "views": 3} | data
    return copy(datasets={"set": entry}, evaluate={"probe": {"data": "set", "protocol": protocol}})


def do(run: Run) -> dict[str, Any]:
    for node in (DATA, *evaluation_nodes(run.config, ["probe"], 1)):
        run_stage(run, node)
    found: dict[str, Any] = json.loads((run.directory(EVAL) / "results.json").read_text())
    return found


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_every_recording_has_its_views_and_features_are_those_of_the_encoder(
    copy_run: MakeRun, manifest: Path, modality: str
) -> None:
    run = evaluated(copy_run, manifest, modality)
    facts = do(run)
    index = read_whole_index(run.directory(DATA)).to_pylist()
    assert len(index) == 48
    other = "flac" if modality == "video" else "mp4"
    assert all(row[f"{other}_size"] == 0 for row in index)
    paths = sorted(run.directory(EMBED).glob("data/[0-9]*.parquet"))
    rows = [row for path in paths for row in pq.read_table(path, columns=["key", "frame"]).to_pylist()]
    assert len(rows) == 48 * 3
    assert [row["frame"] for row in rows if row["key"] == index[0]["key"]] == [0, 2, 3]
    name = getattr(run.config, modality).encoder
    encoder = load_encoder(run.directory(Node("train", modality, 0)) / "encoder.safetensors", name).eval()
    views = views_of(run.config, modality)
    data = ClipReader(run.directory(DATA)).read(index[0]["shard"], index[0], views.modality.member)
    view = views.normalise(views.view(data, index[0], 2)[None])
    keys, features = read_features(paths[0])
    assert keys[1] == index[0]["key"]
    np.testing.assert_allclose(features[1], encoder(view).detach().numpy()[0], rtol=1e-3, atol=1e-4)
    assert [trial["split"] for trial in facts["trials"]] == ["1", "2"]
    assert all((trial["train"], trial["test"]) == (36, 12) for trial in facts["trials"])
    assert facts["metrics"]["accuracy"]["n"] == 2
    assert (facts["modality"], facts["layout"]) == (modality, "manifest")
    assert Fingerprints(run).outside(EMBED) == {}
    assert set(Fingerprints(run).outside(EVAL)) == {"splits"}


def test_fine_tuning_on_a_data_set_averages_over_its_views(copy_run: MakeRun, manifest: Path) -> None:
    run = evaluated(copy_run, manifest, "audio", "all")
    settings = run.config.model_dump()
    settings["evaluate"]["probe"] |= {"splits": ["2"], "finetune": {"epochs": 1, "batch": 12}}
    run = Run(run.root, parse_config(settings, "a test"))
    facts = do(run)
    assert [trial["split"] for trial in facts["trials"]] == ["2"]
    assert facts["trials"][0]["chosen"]["held_out"] > 0
    assert not run.directory(EMBED).exists()


@pytest.mark.parametrize(("labels", "marked"), [(("a", "a", "b"), False), (("a", "b", "b"), True)])
def test_only_parts_of_a_file_with_different_labels_make_earlier_features_stale(
    copy_run: MakeRun, digits: Path, tmp_path: Path, labels: tuple[str, ...], marked: bool
) -> None:
    first, second = sorted(digits.parent.rglob("*.mp4"))[:2]
    spans = ((first, 0.0, 0.5), (first, 0.5, 1.0), (second, 0.0, 0.5))
    rows = [f"{path},{start},{end},{label}" for (path, start, end), label in zip(spans, labels, strict=True)]
    listing = tmp_path / "parts.csv"
    listing.write_text("\n".join(["path,start_s,end_s,label", *rows]) + "\n")
    for protocol in ("fc", "all"):
        run = evaluated(copy_run, listing, "audio", protocol)
        run_stage(run, DATA)
        own = Fingerprints(run).outside(EMBED if protocol == "fc" else EVAL)
        assert ("parts" in own) == marked


def test_other_frames_a_view_take_other_views(copy_run: MakeRun, manifest: Path) -> None:
    run = evaluated(copy_run, manifest, "video", frames=9, views=2)
    do(run)
    table = pq.read_table(sorted(run.directory(EMBED).glob("data/[0-9]*.parquet"))[0], columns=["frame"])
    assert set(table["frame"].to_pylist()) == {0}  # A view is all there is.


def test_a_changed_split_makes_the_evaluation_stale_and_nothing_else(copy_run: MakeRun, manifest: Path) -> None:
    run = evaluated(copy_run, manifest, "audio")
    do(run)
    assert node_state(run, EVAL, Fingerprints(run))[0] == "fresh"
    lines = manifest.read_text().splitlines()
    first = lines[1].rsplit(",", 2)
    manifest.write_text("\n".join([lines[0], f"{first[0]},train,{first[2]}", *lines[2:]]) + "\n")
    assert node_state(run, EVAL, Fingerprints(run)) == ("stale", "splits changed")
    assert node_state(run, EMBED, Fingerprints(run))[0] == "fresh"
    before = json.loads((run.directory(EVAL) / "results.json").read_text())
    after = do(run)
    assert (before["trials"][0]["test"], after["trials"][0]["test"]) == (12, 11)


def test_every_part_of_a_recording_with_a_label_of_its_own_has_its_views(copy_run: MakeRun, tmp_path: Path) -> None:
    names = sentences(24)
    put_recordings(tmp_path / "grid", *(f"s1/{name}.mpg" for name in names))
    for name in names:
        put_align(tmp_path / "grid", f"alignments/s1/{name}.align")
    put_recordings(tmp_path / "grid", "s1/bbaf2n.mpg")
    crop = {"x": 20, "y": 20, "square": 32}
    run = evaluated(
        copy_run, tmp_path / "grid", "video", "knn", layout="grid", segment_seconds=0.64, views=1, crop=crop
    )
    facts = do(run)
    index = read_whole_index(run.directory(DATA)).to_pylist()
    assert len(index) == 24 * 6
    assert [row["duration_s"] for row in index] == pytest.approx([0.64] * len(index), abs=0.1)
    assert {(row["width"], row["height"]) for row in index} == {(run.config.corpus.short_side,) * 2}
    keys = [key for path in sorted(run.directory(EMBED).glob("data/[0-9]*.parquet")) for key in read_features(path)[0]]
    assert sorted(keys) == sorted(row["key"] for row in index)
    (trial,) = facts["trials"]
    parts = Counter(row["split"] for row in index)
    assert (trial["split"], trial["train"], trial["test"]) == ("recordings", parts["train"], parts["test"])
    assert min(parts.values()) >= 6
    assert "1 recordings: without an align file, so that the times of its words are not known" in facts["warnings"]
    assert Fingerprints(run).outside(EMBED) == {"parts": "with views of their own"}
    assert node_state(run, EMBED, Fingerprints(run))[0] == "fresh"


def test_two_runs_share_the_clips_of_a_data_set(copy_run: MakeRun, manifest: Path) -> None:
    first, second = (evaluated(copy_run, manifest, "audio") for _ in range(2))
    assert first.directory(DATA) == second.directory(DATA)
    assert run_stage(first, DATA).path == run_stage(second, DATA).path
    assert run_stage(second, DATA).reused
    assert evaluated(copy_run, manifest, "video").directory(DATA) != first.directory(DATA)


def test_embedding_goes_on_shard_by_shard(copy_run: MakeRun, manifest: Path) -> None:
    run = evaluated(copy_run, manifest, "audio")
    run_stage(run, DATA)

    class Stop(Exception):
        """Stands for a kill in the second shard."""

    def stop(done: int, total: int, note: str = "") -> None:
        assert (total, note) == (48 * 3, "views")
        if done > 16 * 3:
            raise Stop

    with pytest.raises(Stop):
        run_stage(run, EMBED, progress=stop)
    wanted = Fingerprints(run).of(EMBED)
    assert wanted is not None
    partial = partial_directory(run.directory(EMBED), wanted)
    assert [path.name for path in partial.glob("data/*.parquet")] == ["000000.parquet"]
    kept = (partial / "data" / "000000.parquet").stat().st_mtime_ns
    record = run_stage(run, EMBED)
    assert record.rows == 48 * 3
    assert (run.directory(EMBED) / "data" / "000000.parquet").stat().st_mtime_ns == kept


def test_workers_write_the_same_views_of_recordings_whose_clips_are_in_several_shards(
    copy_run: MakeRun, manifest: Path
) -> None:
    run = evaluated(copy_run, manifest, "video", views=4, clip_seconds=0.3)
    run_stage(run, DATA)
    index = read_whole_index(run.directory(DATA), ["source"]).to_pylist()
    homes: dict[str, set[str]] = defaultdict(set)
    for row in index:
        homes[row["source"]].add(row["shard"])
    assert any(len(shards) > 1 for shards in homes.values())
    record = run_stage(run, EMBED)
    assert (record.rows, record.rejects) == (len(homes) * 4, 0)
    plain = list_files(run.directory(EMBED))
    run_stage(run, EMBED, force=True, executor=BACKWARDS)
    assert list_files(run.directory(EMBED)) == plain


def test_recordings_that_could_not_be_stored_are_counted_and_told(copy_run: MakeRun, manifest: Path) -> None:
    broken = manifest.with_name("broken.mp4")
    broken.write_bytes(b"no video")
    with manifest.open("a", encoding="utf-8") as file:
        file.write(f"{broken},loud,test,test\n")
    facts = do(evaluated(copy_run, manifest, "audio"))
    assert facts["warnings"][-1] == "1 recordings: rejected when its clips were made"


def test_evaluations_of_a_data_set_in_rounds_bring_their_data_along(copy_run: MakeRun, manifest: Path) -> None:
    entry = {"layout": "manifest", "root": str(manifest), "modality": "audio"}
    probe = {"data": "set", "protocol": "knn", "when": "rounds"}
    run = copy_run(datasets={"set": entry}, evaluate={"probe": probe, "tuned": probe | {"protocol": "all"}})
    nodes = list(all_nodes(run.config))
    assert nodes.count(DATA) == 1
    assert [node for node in nodes if node.stage == "embed"] == [Node("embed", "set", 0), EMBED]
    assert nodes.index(DATA) < nodes.index(Node("embed", "set", 0)) < nodes.index(Node("eval", "probe", 0))


def test_what_is_missing_is_told_with_the_command_that_makes_it(copy_run: MakeRun, manifest: Path) -> None:
    # A name of its own, because runs share the clips of data sets, and the tests do too.
    entry = {"layout": "manifest", "root": str(manifest), "modality": "audio"}
    run = copy_run(datasets={"lonely": entry}, evaluate={"probe": {"data": "lonely", "protocol": "fc"}})
    with pytest.raises(StageError, match=r"embed\.lonely of round 1 needs data\.lonely.*xdc stage data .* lonely"):
        run_stage(run, Node("embed", "lonely", 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "esc51"}, r"layout .esc51. is unknown\. Did you mean .esc50."),
        ({"modality": "joint"}, "the modality 'joint' is unknown"),
        ({"views": 0}, "views"),
    ],
)
def test_a_wrong_data_set_is_refused(change: dict[str, Any], message: str) -> None:
    entry = {"layout": "esc50", "root": "x", "modality": "audio"} | change
    with pytest.raises(ConfigError, match=message):
        parse_config({"datasets": {"set": entry}}, "a test")


def test_a_split_that_is_not_there_is_told_with_those_that_are(copy_run: MakeRun, manifest: Path) -> None:
    run = evaluated(copy_run, manifest, "audio")
    run_stage(run, DATA)
    evaluation = run.config.evaluate["probe"].model_copy(update={"splits": ("3",)})
    with pytest.raises(ConfigError, match=r"set has no split '3'\. There are: 1, 2"):
        read_recordings(evaluation_task(run, evaluation, 1))


def with_columns(manifest: Path, header: str, rows: Callable[[int, str, str], list[str]]) -> None:
    """Write the table anew: `rows` gets number, path and label, and gives the cells."""
    with manifest.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows(number, row["path"], row["label"]) for number, row in enumerate(found))


def test_what_lists_name_and_cannot_be_used_is_counted_in_a_warning(copy_run: MakeRun, manifest: Path) -> None:
    with_columns(
        manifest,
        "path,label,split",
        lambda n, path, label: [path, label if n else "", "test" if n % 4 == 1 else "train"],
    )
    with manifest.open("a", encoding="utf-8") as file:
        file.write("nowhere.wav,loud,test\nnor-here.wav,other,train\n")
    warnings = do(evaluated(copy_run, manifest, "audio", "knn"))["warnings"]
    assert "2 recordings: named by the lists, but there is no such file" in warnings
    assert "1 recordings: named by the lists, but without a label" in warnings


def test_a_data_set_that_has_no_splits_is_divided_at_random_and_says_so(copy_run: MakeRun, manifest: Path) -> None:
    with_columns(manifest, "path,label", lambda n, path, label: [path, label])
    facts = do(evaluated(copy_run, manifest, "audio", "knn"))
    (trial,) = facts["trials"]
    assert (trial["split"], trial["train"] + trial["test"]) == ("all", 48)
    assert 8 <= trial["test"] <= 11
    held_out = f"{trial['test']} of 48 recordings were held out at random, stratified by class"
    assert f"No test split is given: {held_out}." in facts["warnings"]


def test_a_validation_part_stands_for_a_test_part_that_is_not_there(copy_run: MakeRun, manifest: Path) -> None:
    with_columns(manifest, "path,label,split", lambda n, path, label: [path, label, "val" if n % 4 == 1 else "train"])
    facts = do(evaluated(copy_run, manifest, "audio", "knn"))
    assert (facts["trials"][0]["train"], facts["trials"][0]["test"]) == (36, 12)
    assert "split 1 has no test part: its validation part is used for testing" in facts["warnings"]


def test_data_sets_in_two_places_are_two(copy_run: MakeRun, manifest: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text(manifest.read_text())
    first, second = (evaluated(copy_run, path, "audio") for path in (manifest, other))
    assert first.directory(DATA) != second.directory(DATA)
