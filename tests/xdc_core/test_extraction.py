"""Features: a row a clip, the same however they are computed, and clips that do not decode cost themselves only."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from shards.corpus.index import GROUPS, index_name, index_path, read_index, read_whole_index, shard_names
from shards.errors import StageError
from shards.indexing.groups import index_groups
from shards.media.decode import group_mark
from shards.progress import silent
from shards.store.files import part_name, part_path
from shards.store.manifest import list_files, read_manifest
from shards.store.parquet import write_parquet
from shards.store.receipt import RECEIPTS, UNITS
from tests.commits import commit_anything, commit_as_it_is
from tests.runs import MakeRun
from tests.xdc_core.stage_process import start
from tests.xdc_core.tasks import targets_of, task_for
from xdc_core.config.views import views_of
from xdc_core.data.clips import ClipItem, ClipViews, ShardRows
from xdc_core.data.features import read_features
from xdc_core.data.labels import read_labels
from xdc_core.data.rows import corpus_rows
from xdc_core.encoders.file import load_encoder
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.modalities.registry import MODALITIES
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.stages.extract import extract, spaced_views

BOTH = pytest.mark.parametrize("modality", ["video", "audio"])


def features_in(directory: Path, run: Run) -> tuple[list[str], np.ndarray]:
    """Keys and features of all shards."""
    parts = [read_features(part_path(directory, shard)) for shard in shard_names(run.corpus)]
    return [key for keys, _ in parts for key in keys], np.concatenate([features for _, features in parts])


@BOTH
@pytest.mark.parametrize("number", [0, 1])
def test_there_is_one_feature_a_clip_in_the_order_of_the_index(worked_run: Run, modality: str, number: int) -> None:
    for shard in shard_names(worked_run.corpus):
        keys, features = read_features(part_path(worked_run.directory(Node("extract", modality, number)), shard))
        assert keys.tolist() == read_index(worked_run.corpus, shard, ["key"])["key"].to_pylist()
        assert features.shape == (16, 64)
        assert features.dtype == np.float32
        assert np.isfinite(features).all()


@BOTH
def test_a_feature_is_that_of_the_clip_encoded_alone(worked_run: Run, modality: str) -> None:
    # Through nothing of the stage but the views: each clip's bytes, by itself, in another order.
    config = worked_run.config
    encoder = load_encoder(
        worked_run.directory(Node("init", modality)) / "encoder.safetensors", getattr(config, modality).encoder
    ).eval()
    rows = corpus_rows(worked_run.corpus, MODALITIES[modality], worked_run.root)
    views = ClipViews(worked_run.corpus, rows, views_of(config, modality))
    keys, features = features_in(worked_run.directory(Node("extract", modality, 0)), worked_run)
    for number in (47, 0, 16, 31, 5, 22):
        _, view, _ = views[ClipItem(number)]
        assert view is not None
        with torch.inference_mode():
            alone = encoder(views_of(config, modality).normalise(view))[0].numpy()
        np.testing.assert_allclose(features[keys.index(rows.keys[number].as_py())], alone, atol=1e-5, rtol=1e-5)


@BOTH
@pytest.mark.parametrize("changes", [{"extract_batch": 5}, {"extract_workers": 2}])
def test_batches_and_workers_do_not_change_features(
    copy_run: MakeRun, worked_run: Run, modality: str, changes: dict[str, int]
) -> None:
    run, node = copy_run(**changes), Node("extract", modality, 0)
    out = run.root / "out"
    out.mkdir()
    outcome = extract(task_for(run, node, out, silent))
    assert (outcome.rows, outcome.rejects) == (48, 0)
    keys, features = features_in(worked_run.directory(node), worked_run)
    other_keys, others = features_in(out, run)
    assert other_keys == keys
    np.testing.assert_allclose(others, features, atol=1e-5, rtol=1e-5)


@BOTH
def test_the_layout_channels_last_changes_features_by_rounding_only(
    copy_run: MakeRun, worked_run: Run, modality: str
) -> None:
    run, node = copy_run(extract={"channels_last": True}), Node("extract", modality, 0)
    assert run_stage(run, node).reused is False
    _, features = features_in(worked_run.directory(node), worked_run)
    _, others = features_in(run.directory(node), run)
    np.testing.assert_allclose(others, features, atol=1e-4, rtol=1e-4)


@BOTH
@pytest.mark.parametrize("changes", [{}, {"workers": 2}])
def test_a_feature_of_several_views_is_the_mean_over_equally_spaced_starts(
    copy_run: MakeRun, worked_run: Run, modality: str, changes: dict[str, int]
) -> None:
    run, node = copy_run(extract={"views": 3, **changes}), Node("extract", modality, 0)
    seen: list[tuple[int, int]] = []
    run_stage(run, node, progress=lambda done, total, note="": seen.append((done, total)))
    assert seen[-1] == (48, 48)
    config = worked_run.config
    encoder = load_encoder(
        worked_run.directory(Node("init", modality)) / "encoder.safetensors", getattr(config, modality).encoder
    ).eval()
    rows = corpus_rows(worked_run.corpus, MODALITIES[modality], worked_run.root)
    views = ClipViews(worked_run.corpus, rows, views_of(config, modality))
    keys, features = features_in(run.directory(node), run)
    assert keys == features_in(worked_run.directory(node), worked_run)[0]
    for number in (47, 0, 31):
        room = rows.column("frames")[number] - config.video.frames
        assert room > 1
        _, tensors, _ = views[ClipItem(number, (0, round(room / 2), room))]
        assert tensors is not None
        with torch.inference_mode():
            expected = encoder(views_of(config, modality).normalise(tensors)).numpy().mean(axis=0)
        np.testing.assert_allclose(features[keys.index(rows.keys[number].as_py())], expected, atol=1e-5, rtol=1e-4)
    manifest = read_manifest(run.directory(node))
    assert manifest is not None
    assert (manifest.summary["views"], manifest.settings["views"]) == (3, 3)


def test_views_that_would_start_at_the_same_frame_count_once(tmp_path: Path) -> None:
    schema = pa.schema([("key", pa.string()), ("frames", pa.int64())])
    for shard, lengths in (("000000", [16, 8, 5]), ("000001", [9, 26])):
        rows = [{"key": f"{shard}-{frames}", "frames": frames} for frames in lengths]
        write_parquet(tmp_path / index_name(shard), pa.Table.from_pylist(rows, schema))
    commit_anything(tmp_path)
    assert spaced_views(tmp_path, 8, 4, "000000") == [(0, 3, 5, 8), (0,), (0,)]
    assert spaced_views(tmp_path, 8, 4, "000001") == [(0, 1), (0, 6, 12, 18)]
    assert spaced_views(tmp_path, 8, 2, "000001") == [(0, 1), (0, 18)]


@BOTH
def test_one_view_is_the_centre_as_before_and_changes_no_fingerprint(
    copy_run: MakeRun, worked_run: Run, modality: str
) -> None:
    node = Node("extract", modality, 0)
    one, two = copy_run(extract={"views": 1}), copy_run(extract={"views": 2})
    of = [Fingerprints(run).of(node) for run in (worked_run, one, two)]
    assert of[0] == of[1] != of[2]
    assert run_stage(one, node, force=True).reused is False
    for shard in shard_names(one.corpus):
        new, old = (part_path(run.directory(node), shard).read_bytes() for run in (one, worked_run))
        assert new == old


def test_an_extraction_of_views_that_was_killed_goes_on_with_the_next_shard(copy_run: MakeRun) -> None:
    whole, run = copy_run(extract={"views": 2}), copy_run(extract={"views": 2})
    node = Node("extract", "audio", 0)
    run_stage(whole, node)
    process = start(run, node, os.environ | {"XDC_FAULT": "kill:1:after receipt 000001"})
    said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, said
    seen: list[int] = []
    run_stage(run, node, progress=lambda done, total, note="": seen.append(done))
    assert seen[0] == 32
    assert list_files(run.directory(node)) == list_files(whole.directory(node))


def test_rows_of_shards_are_those_of_all_shards_at_once_whoever_is_asked_first(tmp_path: Path) -> None:
    corpus, sizes = tmp_path / "corpus", {"000000": 5, "000001": 0, "000002": 1, "000003": 7}
    texts, numbers = ("key", "split", "mp4_sha256"), (*MODALITIES["video"].columns, "mp4_offset", "mp4_size")
    schema = pa.schema([*((name, pa.string()) for name in texts), *((name, pa.int64()) for name in numbers)])
    for shard, size in sizes.items():
        rows = [dict.fromkeys(texts, f"{shard}-{n}") | dict.fromkeys(numbers, n) for n in range(size)]
        write_parquet(index_path(corpus, shard), pa.Table.from_pylist(rows, schema))
    commit_anything(corpus)
    whole, apart = corpus_rows(corpus, MODALITIES["video"], tmp_path), ShardRows(corpus, sizes, MODALITIES["video"])
    assert len(apart) == len(whole) == 13
    for number in [*range(13), *reversed(range(13)), 12, 0, 5, 6, 4]:
        assert apart[number] == whole[number]
    assert dict(whole.by_shard()) == {
        "000000": slice(0, 5),
        "000001": slice(5, 5),
        "000002": slice(5, 6),
        "000003": slice(6, 13),
    }


def test_clips_have_different_features(worked_run: Run) -> None:
    _, features = features_in(worked_run.directory(Node("extract", "video", 0)), worked_run)
    assert len(np.unique(features, axis=0)) == 48


def test_training_changes_features(worked_run: Run) -> None:
    before, after = (features_in(worked_run.directory(Node("extract", "audio", n)), worked_run)[1] for n in (0, 1))
    assert np.abs(after - before).max() > 0.01


def test_shards_that_are_there_are_kept_and_progress_counts_them(copy_run: MakeRun, worked_run: Run) -> None:
    run, node = copy_run(), Node("extract", "audio", 0)
    out = run.root / "begun"
    out.mkdir()
    extract(task_for(run, node, out))
    for shard in ("000000", "000002"):
        (out / UNITS / RECEIPTS / f"{shard}.json").unlink()
    kept = out / "data" / "000001.parquet"
    before = kept.stat().st_mtime_ns
    seen: list[tuple[int, int]] = []
    extract(task_for(run, node, out, lambda done, total, note="": seen.append((done, total))))
    assert seen == [(16, 48), (32, 48), (48, 48)]
    assert kept.stat().st_mtime_ns == before
    for shard in ("000000", "000002"):
        made = out / part_name(shard)
        assert made.read_bytes() == part_path(worked_run.directory(node), shard).read_bytes()


@pytest.mark.parametrize("stage", ["extract", "label"])
def test_a_shard_that_is_gone_before_the_commit_is_not_counted_as_rejected(copy_run: MakeRun, stage: str) -> None:
    run, node = copy_run(), Node(stage, "audio", 0)
    directory = run.directory(node)

    def remove(done: int, total: int, note: str = "") -> None:
        if done == total:
            for partial in directory.parent.glob(".audio.*.partial"):
                (partial / "data" / "000000.parquet").unlink(missing_ok=True)

    before = list_files(directory)
    with pytest.raises(StageError, match=r"files of shard 000000 are missing"):
        run_stage(run, node, force=True, progress=remove)
    assert list_files(directory) == before
    run_stage(run, node, force=True)
    assert list_files(directory) == before


def test_an_extraction_that_another_process_overtakes_ends_with_an_error_and_that_ones_features_are_all_there(
    copy_run: MakeRun, worked_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, node = copy_run(), Node("extract", "audio", 0)
    for module in ("shards.store.build", "shards.store.commit"):
        monkeypatch.setattr(f"{module}.exclusive", lambda target, patience=None: contextlib.nullcontext())
    shutil.rmtree(run.directory(node))
    records = []

    def overtake(done: int, total: int, note: str = "") -> None:
        if done == 16 and not records:  # After the first shard of three; nothing keeps the other one out.
            records.append(run_stage(run, node))

    with pytest.raises(StageError, match="another process has continued, committed or deleted it"):
        run_stage(run, node, progress=overtake)
    assert [(record.rows, record.rejects) for record in records] == [(48, 0)]
    assert run_stage(run, node).reused
    for shard in shard_names(run.corpus):
        one, other = (part_path(each.directory(node), shard) for each in (run, worked_run))
        assert one.read_bytes() == other.read_bytes()


def test_rejects_that_a_killed_call_left_of_a_shard_do_not_outlive_its_features(copy_run: MakeRun) -> None:
    run, node = copy_run(), Node("extract", "audio", 0)
    out = run.root / "begun"
    out.mkdir()
    (out / "000001.rejects.json").write_text(json.dumps([{"key": "x"}]))
    outcome = extract(task_for(run, node, out, silent))
    assert (outcome.rows, outcome.rejects) == (48, 0)
    assert not (out / "000001.rejects.json").exists()
    assert outcome.files == tuple(map(part_name, shard_names(run.corpus)))


def test_an_encoder_that_diverged_is_told_with_the_clip(copy_run: MakeRun) -> None:
    run = copy_run()
    path = run.directory(Node("init", "audio")) / "encoder.safetensors"
    tensors = load_file(path)
    name = next(key for key, value in tensors.items() if value.is_floating_point() and value.ndim > 1)
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, path, metadata={"encoder": run.config.audio.encoder})
    commit_as_it_is(path.parent)
    first = read_whole_index(run.corpus, ["key"])["key"][0].as_py()
    with pytest.raises(StageError) as caught:
        run_stage(run, Node("extract", "audio", 0), force=True)
    assert f"extract.audio of round 0: the feature of clip {first} is not finite" in str(caught.value)
    assert "lower train.lr" in str(caught.value)


def test_another_encoder_than_the_configured_one_is_refused(copy_run: MakeRun) -> None:
    run = copy_run()
    path = run.directory(Node("init", "audio")) / "encoder.safetensors"
    shutil.copy(run.directory(Node("init", "video")) / "encoder.safetensors", path)
    commit_as_it_is(path.parent)
    (run.root / "out").mkdir()
    with pytest.raises(StageError, match="holds the encoder 'r2plus1d_tiny', but the configuration says 'audio_resnet"):
        extract(task_for(run, Node("extract", "audio", 0), run.root / "out", silent))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        StageError, match=r"encoder\.safetensors cannot be read .damaged.*xdc stage init RUN --modality audio"
    ):
        extract(task_for(run, Node("extract", "audio", 0), run.root / "out", silent))
    commit_as_it_is(path.parent)
    with pytest.raises(StageError, match="cannot be read as an encoder"):
        extract(task_for(run, Node("extract", "audio", 0), run.root / "out", silent))


def test_a_tar_that_was_cut_is_no_reject_but_an_error_with_a_remedy(copy_run: MakeRun, tiny_corpus: Path) -> None:
    run = copy_run(corpus={"path": "corpus"})
    shutil.copytree(tiny_corpus, run.corpus)
    tar = run.corpus / "000002.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    out = run.root / "out"
    out.mkdir()
    with pytest.raises(StageError, match=r"000002\.tar ends before the mp4 of clip .*Rebuild it: xdc stage shard"):
        extract(task_for(run, Node("extract", "video", 0), out, silent))
    assert sorted(path.name for path in out.glob("data/0*")) == ["000000.parquet", "000001.parquet"]


def overwrite(corpus: Path, shard: str, row: int, member: str) -> str:
    """Zero the bytes of a clip's member, as if it had been stored so; returns the clip's key."""
    rows = read_index(corpus, shard)
    index = rows.slice(row, 1).to_pylist()[0]
    with (corpus / f"{shard}.tar").open("r+b") as file:
        file.seek(index[f"{member}_offset"])
        file.write(bytes(index[f"{member}_size"]))
    digests: dict[str, object] = {f"{member}_sha256": hashlib.sha256(bytes(index[f"{member}_size"])).hexdigest()}
    if member == "mp4":
        digests["mp4_group_sha256"] = [
            hashlib.sha256(group_mark(index["mp4_header"], frame) + bytes(end - begin)).digest()
            for frame, (begin, end) in zip(index["mp4_group_frame"], pairwise(index["mp4_group_offset"]), strict=True)
        ]
    for name, digest in digests.items():
        column = rows[name].to_pylist()
        column[row] = digest
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(column, rows[name].type))
    write_parquet(index_path(corpus, shard), rows)
    commit_as_it_is(corpus)
    key: str = index["key"]
    return key


def test_a_clip_whose_bytes_changed_since_is_no_reject_but_an_error(copy_run: MakeRun, tiny_corpus: Path) -> None:
    run = copy_run(corpus={"path": "corpus"}, extract={"workers": 1})
    shutil.copytree(tiny_corpus, run.corpus)
    index = read_index(run.corpus, "000001").to_pylist()[5]
    data = bytearray((run.corpus / "000001.tar").read_bytes())
    data[index["mp4_offset"] + index["mp4_size"] // 2] ^= 1
    (run.corpus / "000001.tar").write_bytes(data)
    with pytest.raises(StageError) as caught:
        run_stage(run, Node("extract", "video", 0), force=True)
    said = str(caught.value)
    where = f"{run.corpus}/000001.tar is damaged: the mp4 of clip {index['key']} is not what was stored."
    assert said.startswith(where)
    assert "\n" not in said, "a worker's traceback is not for people"
    run_stage(run, Node("extract", "audio", 0), force=True)  # Its sound is.


@pytest.fixture
def damaged(make_run: MakeRun, tiny_corpus: Path) -> tuple[Run, set[str], str]:
    """A run on a copy of the corpus: one picture and all pictures of the last shard do not decode, nor one sound."""
    run = make_run(corpus={"path": "corpus"})
    shutil.copytree(tiny_corpus, run.corpus)
    pictures = {overwrite(run.corpus, "000000", 3, "mp4")}
    pictures |= {overwrite(run.corpus, "000002", row, "mp4") for row in range(16)}
    return run, pictures, overwrite(run.corpus, "000001", 5, "flac")


@pytest.mark.slow
def test_clips_that_do_not_decode_are_rejects_and_all_later_stages_go_on(damaged: tuple[Run, set[str], str]) -> None:
    run, pictures, sound = damaged
    told: dict[str, list[str]] = defaultdict(list)
    records = {}
    for node in all_nodes(run.config):
        listen = told[str(node)].append
        records[str(node)] = run_stage(run, node, progress=lambda done, total, note="", tell=listen: tell(note))
    # Rejects so far, while it is at work.
    assert told["extract.video of round 0"][0] == "clips"
    assert "clips, 1 rejected" in told["extract.video of round 0"]
    assert told["extract.video of round 0"][-1] == "clips, 17 rejected"
    assert (records["extract.video of round 0"].rows, records["extract.video of round 0"].rejects) == (31, 17)
    assert (records["extract.audio of round 1"].rows, records["extract.audio of round 1"].rejects) == (47, 1)

    keys, features = features_in(run.directory(Node("extract", "video", 0)), run)
    everything = read_whole_index(run.corpus, ["key"])["key"].to_pylist()
    assert keys == [key for key in everything if key not in pictures]
    assert np.isfinite(features).all()
    (reject,) = json.loads((run.directory(Node("extract", "video", 0)) / "000000.rejects.json").read_text())
    assert reject["key"] in pictures
    assert reject["step"] == "extract.video"
    assert "the stored picture does not decode" in reject["reason"]
    (reject,) = json.loads((run.directory(Node("extract", "audio", 0)) / "000001.rejects.json").read_text())
    assert reject["key"] == sound
    assert reject["reason"].startswith("the stored sound ")

    labelled = [
        key
        for shard in shard_names(run.corpus)
        for key in read_labels(run.directory(Node("label", "video", 0)), shard)[0]
    ]
    assert labelled == keys
    # A clip without a picture has a label from its sound, and yet video cannot learn from it; nor the other way round.
    for modality in ("video", "audio"):
        task = targets_of(run, Node("train", modality, 0))
        drawn = {everything[row] for row in task.draws}
        assert drawn <= set(everything) - pictures - {sound}
        assert len(drawn) == 30


def test_joint_clusters_leave_out_what_either_modality_lacks(damaged: tuple[Run, set[str], str]) -> None:
    run, pictures, sound = damaged
    config = run.config.model_copy(update={"method": "cdc"})
    run = Run(run.root, config)
    for node in [node for node in all_nodes(config) if node.round in (None, 0) and node.stage != "report"]:
        run_stage(run, node)
    labels = [read_labels(run.directory(Node("label", "joint", 0)), shard) for shard in shard_names(run.corpus)]
    keys = [key for part, _ in labels for key in part]
    everything = read_whole_index(run.corpus, ["key"])["key"].to_pylist()
    assert keys == [key for key in everything if key not in pictures | {sound}]
    assert [len(part) for part, _ in labels] == [15, 15, 0]


def test_a_stage_goes_on_while_the_index_of_its_corpus_gets_columns(
    copy_run: MakeRun, worked_run: Run, tiny_corpus: Path, tmp_path: Path
) -> None:
    """`xdc index` beside a running stage: the clips are the same."""
    corpus = Path(shutil.copytree(tiny_corpus, tmp_path / "corpora" / "older"))
    for name in shard_names(corpus):
        write_parquet(index_path(corpus, name), read_index(corpus, name).drop_columns(GROUPS.names))
    commit_as_it_is(corpus)
    run, node = copy_run(corpus={"path": str(corpus)}), Node("extract", "audio", 0)
    indexed = list[bool]()

    def index(*_: object) -> None:
        if not indexed:
            indexed.append(not index_groups(corpus).reused)

    run_stage(run, node, force=True, progress=index)
    assert indexed == [True]
    keys, features = features_in(run.directory(node), run)
    others, theirs = features_in(worked_run.directory(node), worked_run)
    assert keys == others
    assert (features == theirs).all()


def test_a_stage_ends_if_other_clips_replace_those_that_it_reads(
    copy_run: MakeRun, tiny_corpus: Path, tmp_path: Path
) -> None:
    corpus = Path(shutil.copytree(tiny_corpus, tmp_path / "corpora" / "own"))
    run, node = copy_run(corpus={"path": str(corpus)}), Node("extract", "audio", 0)

    def replace(*_: object) -> None:
        with (corpus / "000000.tar").open("ab") as tar:
            tar.write(bytes(512))
        commit_as_it_is(corpus)

    with pytest.raises(StageError, match=r"shard was replaced while extract.* read it\. Nothing is lost"):
        run_stage(run, node, force=True, progress=replace)
