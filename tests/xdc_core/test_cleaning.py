"""What `xdc clean` removes, what it keeps, and why."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.cli.app import app
from shards.store.commit import partial_directory, stale_directory
from shards.store.lock import exclusive, lock_of
from shards.store.manifest import MANIFEST
from tests.faults.crash import ended, forked
from tests.faults.traces import contents
from tests.runs import MakeRun
from tests.xdc_core.cleaned import AUDIO, CLUSTER, VIDEO, features, kept, removed, states
from tests.xdc_core.stage_process import start
from xdc_core.cleaning.asked import kept_for
from xdc_core.cleaning.clean import clean
from xdc_core.cleaning.usage import usage
from xdc_core.documents.cleaned import FILE_NAME as MARK
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import evaluation_nodes
from xdc_core.runs.node import Node

PROBE = {"protocol": "fc", "modality": "audio", "label": "label_speaker", "seeds": 1}


def test_only_the_features_of_earlier_rounds_go_and_a_look_removes_nothing(copy_run: MakeRun) -> None:
    run = copy_run()
    before = contents(run.root)
    look = clean(run, dry_run=True)
    assert contents(run.root) == before
    done = clean(run)
    assert (look.removed, look.usage) == (done.removed, done.usage)
    assert removed(done) == {run.directory(VIDEO), run.directory(AUDIO)}
    gone = before.keys() - contents(run.root).keys()
    assert gone == {f"rounds/000/features/{m}/data/00000{n}.parquet" for m in ("video", "audio") for n in range(3)}
    assert contents(run.root).keys() - before.keys() == {f"rounds/000/features/{n}/{MARK}" for n in ("video", "audio")}
    sizes = {row.kind: row.bytes for row in done.usage}
    assert sizes["features"] - {row.kind: row.bytes for row in usage(run)}["features"] < done.freed
    assert done.freed == sum(removal.bytes for removal in done.removed) > 0
    assert clean(run).removed == ()


@pytest.mark.slow
def test_as_many_rounds_stay_as_asked_for(copy_run: MakeRun) -> None:
    run = copy_run()
    assert clean(run, keep_rounds=2).removed == ()
    assert len(clean(run, keep_rounds=1).removed) == 2


@pytest.mark.slow
def test_features_stay_while_a_node_that_reads_them_is_not_finished_or_is_stopped_in_the_middle(
    copy_run: MakeRun,
) -> None:
    run = copy_run()
    shutil.rmtree(run.directory(CLUSTER))
    process = start(run, CLUSTER, os.environ | {"XDC_FAULT": "stop:1:after begin"})
    begun = partial_directory(run.directory(CLUSTER), str(Fingerprints(run).of(CLUSTER)))
    deadline = time.monotonic() + 120
    while not begun.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    found = clean(run, stale=True)
    assert removed(found) == {run.directory(AUDIO)}
    assert kept(found)[run.directory(VIDEO)] == f"{CLUSTER} reads it and is not finished"
    assert kept(found)[begun] == "the next call continues it"
    process.send_signal(signal.SIGCONT)
    said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert removed(clean(run)) == {run.directory(VIDEO)}


def test_features_stay_while_a_finished_node_that_reads_them_is_built_again(copy_run: MakeRun) -> None:
    run = copy_run()
    with exclusive(run.directory(Node("report", None, 0))):
        found = clean(run)
    assert found.removed == ()
    assert "is being built by another process (pid" in kept(found)[run.directory(VIDEO)]
    assert features(run, VIDEO) == ["000000.parquet", "000001.parquet", "000002.parquet"]


def test_an_evaluation_that_somebody_has_begun_keeps_its_features(copy_run: MakeRun) -> None:
    run = copy_run(evaluate={"probe": PROBE | {"when": "asked"}})
    (node,) = evaluation_nodes(run.config, ["probe"], 0)
    begun = partial_directory(run.directory(node), str(Fingerprints(run).of(node)))
    begun.mkdir(parents=True)
    found = clean(run)
    assert removed(found) == {run.directory(VIDEO)}
    assert kept(found)[run.directory(AUDIO)] == f"{node} reads it and is begun"


@pytest.mark.slow
def test_features_of_a_data_set_stay_after_a_round_until_the_evaluation_that_was_asked_for_is_finished(
    copy_run: MakeRun, digits: Path, tmp_path: Path
) -> None:
    (tmp_path / "set").mkdir()
    for number, line in enumerate(digits.read_text().splitlines()[1:9]):
        folder = tmp_path / "set" / ("train" if number < 4 else "test") / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.mp4").symlink_to((digits.parent / line.split(",")[0]).resolve())
    data = {"layout": "folder", "root": str(tmp_path / "set"), "modality": "video", "views": 1}
    run = copy_run(datasets={"set": data}, evaluate={"probe": {"protocol": "knn", "data": "set", "when": "asked"}})
    embed, probe = evaluation_nodes(run.config, ["probe"], 0)
    for node in (Node("data", "set"), embed):
        run_stage(run, node)
    found = clean(run, automatic=True)
    assert removed(found) == {run.directory(VIDEO), run.directory(AUDIO)}
    assert kept(found)[run.directory(embed)] == f"it was made for {probe}, which is not finished"
    run_stage(run, probe)
    assert removed(clean(run, automatic=True)) == {run.directory(embed)}


def test_features_stay_while_an_evaluation_that_reads_them_is_prepared(copy_run: MakeRun) -> None:
    run = copy_run(evaluate={"probe": PROBE | {"when": "asked"}})
    with kept_for(run, evaluation_nodes(run.config, ["probe"], 0), force=False):
        found = clean(run)
    assert removed(found) == {run.directory(VIDEO)}
    assert "another process" in kept(found)[run.directory(AUDIO)]
    assert removed(clean(run)) == {run.directory(AUDIO)}


def test_rounds_are_counted_from_the_newest_that_is_finished_with_the_present_settings(copy_run: MakeRun) -> None:
    run = copy_run()
    shutil.rmtree(run.root / "rounds" / "001")
    assert clean(run).removed == ()
    other = run.root / "rounds" / "001" / "labels"
    for name in ("video", ".video.0123456789ab.partial", ".stale/video-0123456789ab"):
        shutil.copytree(run.directory(CLUSTER), other / name)
        assert clean(run).removed == (), name


def test_stale_and_damaged_features_are_left_to_the_run(copy_run: MakeRun) -> None:
    run = copy_run()
    (run.directory(VIDEO) / "data" / "000001.parquet").unlink()
    found = clean(run)
    assert removed(found) == {run.directory(AUDIO)}
    assert "stale or damaged" in kept(found)[run.directory(VIDEO)]
    assert states(run)[VIDEO] == "stale"


@pytest.mark.slow
def test_what_other_settings_have_left_goes_only_if_asked_for(copy_run: MakeRun) -> None:
    run = copy_run(rounds=0)
    target, wanted = run.directory(CLUSTER), str(Fingerprints(run).of(CLUSTER))
    replaced, other = stale_directory(target, "c" * 64), partial_directory(target, "b" * 64)
    shutil.copytree(target, replaced)
    other.mkdir()
    target.rename(partial_directory(target, wanted))
    assert clean(run).removed == ()
    found = clean(run, stale=True)
    last = [Node(stage, name, 1) for stage in ("extract", "cluster", "label") for name in ("video", "audio")]
    assert removed(found) == {replaced, other, *map(run.directory, last)}
    assert kept(found)[partial_directory(target, wanted)] == "the next call continues it"
    assert not any(path.exists() for path in removed(found))
    # Encoders, measurements and reports are results: they stay even if their node is not in the configuration.
    for node in (Node("train", "video", 0), Node("report", None, 1), Node("init", "video")):
        assert (run.directory(node) / MANIFEST).exists()
    assert clean(run, stale=True).removed == ()


def test_a_killed_removal_of_what_is_not_in_the_configuration_leaves_no_lock_for_good(
    copy_run: MakeRun, tmp_path: Path
) -> None:
    run = copy_run(rounds=0)
    point = "kill:1:before clean video"
    killed = ended(forked(lambda: clean(run, stale=True), tmp_path / "log", point))
    assert killed == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert len(list(run.root.rglob(".*.lock"))) == 1
    with exclusive(held := run.directory(Node("train", "video", 0))):
        clean(run)
        assert list(run.root.rglob(".*.lock")) == [lock_of(held)]


def test_an_earlier_generation_that_the_next_call_restores_stays(copy_run: MakeRun) -> None:
    run = copy_run()
    (given := run.directory(CLUSTER)).rename(given.with_name("away"))
    replaced = stale_directory(given, str(Fingerprints(run).of(CLUSTER)))
    replaced.parent.mkdir()
    given.with_name("away").rename(replaced)
    found = clean(run, stale=True)
    assert replaced not in removed(found)
    assert "the next call restores it" in kept(found)[replaced]
    assert run_stage(run, CLUSTER).reused
    shutil.copytree(given, replaced)
    assert replaced in removed(clean(run, stale=True))


def test_clips_are_never_touched_even_in_the_directory_of_the_run(copy_run: MakeRun) -> None:
    run = copy_run(corpus={"path": "corpus"})
    for name in ("corpus/000000.tar", ".corpus.0123456789ab.partial/000000.tar", ".stale/corpus-0123456789ab/a.tar"):
        (run.root / name).parent.mkdir(parents=True)
        (run.root / name).write_bytes(bytes(1000))
    found = clean(run, stale=True)
    assert found.removed == ()
    assert {why for path, why in kept(found).items() if path in (run.directory(VIDEO), run.directory(AUDIO))} == {
        "the corpus must be built first: what is fresh is not known"
    }
    sizes = {row.kind: row.bytes for row in found.usage}
    assert (sizes["clips"], sizes["partial directories"], sizes["earlier generations"]) == (1000, 1000, 1000)


def test_bytes_with_another_name_are_counted_once_and_said_to_stay(copy_run: MakeRun, tmp_path: Path) -> None:
    run = copy_run()
    first, second, third = (run.directory(VIDEO) / "data" / f"00000{number}.parquet" for number in range(3))
    os.link(first, tmp_path / "elsewhere.parquet")
    size = first.stat().st_size
    before = {row.kind: row for row in usage(run)}["features"]
    os.link(second, run.root / "another name")
    now = {row.kind: row for row in usage(run)}["features"]
    assert (now.bytes, now.linked) == (before.bytes, size)
    (removal,) = (found for found in clean(run).removed if Path(found.path) == run.directory(VIDEO))
    assert removal.linked == size + (run.root / "another name").stat().st_size
    assert removal.bytes > removal.linked
    assert not third.exists()


def test_the_command_shows_bytes_by_kind_and_as_json_what_it_does(copy_run: MakeRun) -> None:
    run = copy_run()

    def call(*options: str) -> Result:
        return CliRunner().invoke(app, ["clean", str(run.root), *options])

    look = json.loads(call("--dry-run", "--json").stdout)
    assert features(run, VIDEO)
    assert (look["dry_run"], [Path(row["path"]) for row in look["removed"]]) == (
        True,
        [run.directory(VIDEO), run.directory(AUDIO)],
    )
    kinds = [row["kind"] for row in look["usage"]]
    assert kinds == ["features", "clusters", "labels", "encoders", "reports", "other"]
    told = call()
    assert told.exit_code == 0
    assert "all that reads extract.video of round 0 is finished" in told.stdout.replace("\n", " ")
    assert f"{run.root}: freed " in told.stdout
    assert not features(run, VIDEO)
    assert call("--keep-rounds", "0").exit_code == 2
    assert call("--json").exit_code == 0
    nowhere = CliRunner().invoke(app, ["clean", str(run.root / "nowhere")])
    assert (nowhere.exit_code, "xdc init" in nowhere.output) == (2, True)
