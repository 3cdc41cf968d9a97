"""What a run, its inspection and the next `xdc clean` make of a run that was cleaned."""

import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from flows.runners.do_node import do_node
from flows.runners.in_process import InProcess
from flows.runners.scheduler import Job, Scheduler
from flows.terminal import TerminalListener
from shards.errors import StageError
from shards.store import manifest
from shards.store.commit import partial_directory, stale_directory
from shards.store.files import part_path
from shards.store.manifest import read_manifest
from tests.faults.crash import ended, forked
from tests.faults.traces import contents, differences, left_over
from tests.runs import MakeRun, write_run
from tests.xdc_core.cleaned import AUDIO, CLUSTER, VIDEO, features, finish, removed, results, states
from xdc_core.cleaning.clean import clean
from xdc_core.cleaning.retain import retain
from xdc_core.config.load import FILE_NAME, parse_config
from xdc_core.documents.cleaned import FILE_NAME as MARK
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.rounds import next_round
from xdc_core.graph.run_stage import all_fresh, made_again, run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.inspection import directory_check
from xdc_core.inspection.difference import difference
from xdc_core.inspection.verification import verify_run
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def test_a_cleaned_run_is_finished_sound_and_compared_as_before(copy_run: MakeRun, worked_run: Run) -> None:
    run = copy_run()
    clean(run)
    assert Counter(states(run).values()) == Counter({"fresh": len(states(worked_run)) - 2, "cleaned": 2})
    assert states(run)[VIDEO] == "cleaned"
    assert all_fresh(run, all_nodes(run.config))
    assert next_round(run) == run.config.last_round
    assert verify_run(run) == []
    compared = difference(run, worked_run)
    assert [row["nmi"] for row in compared["clusters"]] == [1.0, 1.0]
    assert all(row["a"] == row["b"] for row in compared["results"])


def test_a_cleaned_label_is_still_verified_row_by_row(copy_run: MakeRun) -> None:
    run = copy_run()
    clean(run)
    labels = part_path(run.directory(Node("label", "video", 0)), "000000")
    shutil.copy(labels.with_name("000001.parquet"), labels)
    assert {finding.path for finding in verify_run(run) if finding.kind == "damaged"} == {str(labels)}


@pytest.mark.parametrize("read", ["bytes", "mark", "rows"])
def test_a_directory_that_is_cleaned_while_it_is_verified_is_sound(
    copy_run: MakeRun, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    run, functions = copy_run(), {"bytes": (manifest, "sha256_of"), "mark": (directory_check, "read_cleaned")}
    module, name = functions.get(read, (directory_check, "read_column"))
    before = getattr(module, name)

    def cleaned_first(path: Path, *more: object) -> object:
        if path.is_relative_to(run.directory(AUDIO)):
            clean(run)
        return before(path, *more)

    monkeypatch.setattr(module, name, cleaned_first)
    assert verify_run(run) == []
    assert states(run)[AUDIO] == "cleaned"


def test_a_run_goes_on_after_cleaning_and_ends_with_the_same_bytes(copy_run: MakeRun) -> None:
    plain, run = copy_run(rounds=2), copy_run(rounds=2)
    clean(run)
    assert VIDEO not in (done := finish(run))
    assert done == finish(plain)
    assert removed(clean(run)) == {run.directory(Node("extract", name, 1)) for name in ("video", "audio")}
    assert all_fresh(run, all_nodes(run.config))
    assert not [name for name in differences(results(run), results(plain)) if "report" not in name]
    assert [node for node, state in states(run).items() if state == "cleaned"] == [
        Node("extract", name, number) for number in (0, 1) for name in ("video", "audio")
    ]


def test_a_stage_that_needs_cleaned_features_says_how_to_make_them_again(copy_run: MakeRun) -> None:
    run = copy_run()
    clean(run)
    shutil.rmtree(run.directory(CLUSTER))
    assert [(node, reader) for node, reader, _ in made_again(run, list(all_nodes(run.config)), Fingerprints(run))] == [
        (VIDEO, CLUSTER)
    ]
    with pytest.raises(StageError, match="whose files `xdc clean` has removed") as error:
        run_stage(run, CLUSTER)
    assert run.command(VIDEO) in str(error.value)


def test_a_run_makes_cleaned_features_again_if_and_only_if_a_node_needs_them(
    copy_run: MakeRun, worked_run: Run
) -> None:
    run = copy_run()
    clean(run)
    shutil.rmtree(run.directory(CLUSTER))
    jobs = [Job(run, node) for node in all_nodes(run.config)]
    scheduler = Scheduler(InProcess(), lambda run: TerminalListener())
    scheduler.run(jobs, max_parallel=1)
    assert scheduler.failed == {}
    assert {node for (_, node), record in scheduler.done.items() if not record.reused} == {VIDEO, CLUSTER}
    assert states(run)[VIDEO] == "fresh"
    assert states(run)[AUDIO] == "cleaned"
    for node in (VIDEO, CLUSTER):
        assert differences(contents(run.directory(node)), contents(worked_run.directory(node))) == []


def test_a_single_stage_makes_its_cleaned_directory_again(copy_run: MakeRun) -> None:
    run = copy_run(retain={"rounds": 1})
    clean(run)
    assert do_node(run, VIDEO, InProcess(), readers=[CLUSTER]).reused
    assert not do_node(run, VIDEO, InProcess()).reused
    assert states(run)[VIDEO] == "fresh"
    assert not (run.directory(VIDEO) / MARK).exists()
    # What was made again after all that reads it is wanted by somebody: only the command removes it.
    assert "only `xdc clean` removes it" in retain(run)
    assert removed(clean(run)) == {run.directory(VIDEO)}


@pytest.mark.slow
def test_killed_at_every_point_it_leaves_directories_whole_or_cleaned_and_the_next_call_ends_it(
    copy_run: MakeRun, tmp_path: Path
) -> None:
    def prepared() -> Run:
        run = copy_run()
        other = run.directory(CLUSTER)
        shutil.copytree(other, stale_directory(other, "c" * 64))
        shutil.copytree(other, partial_directory(other, "b" * 64))
        return run

    whole, log, trace = prepared(), tmp_path / "log", tmp_path / "points"
    assert ended(forked(lambda: clean(whole, stale=True), log, f"trace:{trace}")) == 0, log.read_text()
    wanted, points = results(whole), Counter(trace.read_text().splitlines())
    assert {"before clean video", "in clean data/000001.parquet", "after rename cleaned.json"} <= points.keys()
    tried = [(point, number) for point, count in points.items() for number in sorted({1, count})]
    assert len(tried) > 20, tried
    for point, number in tried:
        run = prepared()
        killed = ended(forked(lambda run=run: clean(run, stale=True), log, f"kill:{number}:{point}"))  # type: ignore[misc]
        assert killed == -signal.SIGKILL, (point, log.read_text())
        assert {states(run)[node] for node in (VIDEO, AUDIO)} <= {"fresh", "cleaned"}, point
        assert not [finding for finding in verify_run(run) if finding.kind == "damaged"], point
        assert all_fresh(run, all_nodes(run.config)), point
        clean(run, stale=True)
        assert left_over(run.root) == [], point
        assert [features(run, node) for node in (VIDEO, AUDIO)] == [[], []], point
        assert not list(run.root.rglob(".stale/*"))
        assert differences(results(run), wanted) == [], point
        assert verify_run(run) == [], point
        shutil.rmtree(run.root)


def test_retain_is_off_by_default_and_does_after_a_round_what_the_command_does(copy_run: MakeRun) -> None:
    run = copy_run()
    assert retain(run) == ""
    assert states(run)[VIDEO] == "fresh"
    set_to_one = copy_run(retain={"rounds": 1})
    assert retain(set_to_one).startswith("retain: freed ")
    assert states(set_to_one)[VIDEO] == "cleaned"
    assert retain(set_to_one) == ""


def test_retain_can_be_changed_while_a_round_is_in_progress(copy_run: MakeRun) -> None:
    begun = copy_run()
    now = write_run(begun.root, parse_config(begun.config.model_dump() | {"retain": {"rounds": 1}}, "a test"))
    assert retain(begun).startswith("retain: freed ")
    write_run(begun.root, begun.config)
    assert retain(now) == ""


def test_retain_says_why_it_removes_nothing(copy_run: MakeRun) -> None:
    run = copy_run(retain={"rounds": 1})
    shutil.rmtree(run.directory(Node("report", None, 0)))
    line = retain(run)
    assert line.startswith("retain: nothing is removed. 2 directories stay, the first is ")
    assert "report of round 0 reads it and is not finished" in line
    assert "\n" not in line


def test_retain_removes_nothing_once_the_configuration_was_edited(copy_run: MakeRun) -> None:
    run = copy_run(retain={"rounds": 1})
    (run.root / FILE_NAME).write_text((run.root / FILE_NAME).read_text().replace("seed: 0", "seed: 1"))
    assert "xdc.yaml has changed" in retain(run)
    (run.root / FILE_NAME).write_text("rouns: 1\n")
    assert "not everything could be removed" in retain(run)
    committed = read_manifest(run.directory(VIDEO))
    assert committed is not None
    assert {f"data/{name}" for name in features(run, VIDEO)} <= committed.files.keys()
    assert len(features(run, VIDEO)) == 3
