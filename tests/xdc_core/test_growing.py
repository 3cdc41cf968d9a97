"""A run whose corpus grows: finished rounds stay, features by the same encoder are kept, and the report says so."""

import shutil
from pathlib import Path

import pytest

from flows.cli.inspecting.status import print_status, read_status
from shards.corpus.generation import read_as
from shards.corpus.index import read_index, read_whole_index, shard_names
from shards.store.files import part_path
from shards.store.manifest import read_manifest
from shards.store.parquet import read_parquet
from tests.faults.traces import differences
from tests.runs import changed, write_run
from tests.sharing import made_once
from tests.xdc_core.cleaned import finish, removed, results, states
from xdc_core.cleaning.clean import clean
from xdc_core.config.load import parse_config
from xdc_core.config.schema import Config
from xdc_core.data.features import read_features
from xdc_core.documents.report import read_report
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.graph.state import node_state
from xdc_core.inspection.verification import verify_run
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run

EXTRACT = Node("extract", "audio", 1)  # Of the last round.


def list_videos(place: Path, digits: Path, first: int, last: int) -> None:
    """Write the manifest of the rows `first` to `last` of the digits' one."""
    header, *rows = digits.read_text(encoding="utf-8").splitlines()
    rows = [row.replace("videos/", f"{digits.parent}/videos/", 1) for row in rows[first:last]]
    (place / "videos.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def work_off(run: Run) -> dict[Node, bool]:
    """Run all nodes. Returns which were reused."""
    return {node: run_stage(run, node).reused for node in all_nodes(run.config)}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config, digits: Path) -> Path:
    """The folder of a run that is worked off, with 40 videos in shards of 16. For reading only."""

    def make(root: Path) -> None:
        list_videos(root, digits, 0, 40)
        corpus = {"path": "../corpus", "videos": "../videos.csv", "append": True, "learn_splits": None}
        work_off(write_run(root / "run", parse_config(changed(tiny_config.model_dump(), {"corpus": corpus}), "a test")))

    return made_once(tmp_path_factory, "before-growth", make)


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory, before: Path, digits: Path) -> tuple[Path, dict[Node, bool]]:
    """The same after the first video was removed, one was added, and the run went on; and what was reused of it."""
    place = tmp_path_factory.mktemp("after-growth") / "place"
    shutil.copytree(before, place)
    list_videos(place, digits, 1, 41)
    return place, work_off(open_run(place / "run"))


@pytest.mark.slow
def test_a_finished_round_stays_and_the_last_one_takes_the_new_clips(after: tuple[Path, dict[Node, bool]]) -> None:
    place, reused = after
    run = open_run(place / "run")
    assert {node for node, was in reused.items() if was} == {
        node for node in reused if node.round == 0 or node.stage == "init"
    }
    fingerprints = Fingerprints(run)
    assert {node_state(run, node, fingerprints) for node in all_nodes(run.config)} == {("fresh", "")}
    assert {node.round for node in fingerprints.kept} == {None, 0}
    assert verify_run(run) == []
    assert all(work_off(run).values())


@pytest.mark.slow
def test_one_shard_is_extracted_and_features_of_the_others_are_kept(
    before: Path, after: tuple[Path, dict[Node, bool]]
) -> None:
    place, _ = after
    run, old = open_run(place / "run"), open_run(before / "run")
    for modality in ("video", "audio"):
        node = Node("extract", modality, 1)
        manifest = read_manifest(run.directory(node))
        assert manifest is not None
        assert (manifest.rows, manifest.summary["kept_shards"]) == (40, 3)
        masked = 0
        for shard in shard_names(run.corpus):
            keys, features = read_features(part_path(run.directory(node), shard))
            assert keys.tolist() == read_index(run.corpus, shard, ["key"])["key"].to_pylist()
            if shard != "000003":
                were, old_features = read_features(part_path(old.directory(node), shard))
                rows = [row for row, key in enumerate(were.tolist()) if key in keys]
                masked += len(were) - len(rows)
                assert (features == old_features[rows]).all()
        assert masked == 1


@pytest.mark.slow
def test_labels_and_report_leave_out_masked_clips_and_say_that_the_corpus_grew(
    after: tuple[Path, dict[Node, bool]],
) -> None:
    place, _ = after
    run = open_run(place / "run")
    keys = set(read_whole_index(run.corpus, ["key"])["key"].to_pylist())
    labels = run.directory(Node("label", "audio", 1))
    labelled = [
        key
        for shard in shard_names(run.corpus)
        for key in read_parquet(part_path(labels, shard), "label", ["key"])["key"].to_pylist()
    ]
    assert (len(labelled), set(labelled)) == (40, keys)
    report = read_report(run.directory(Node("report", None, 1)))
    assert report.clips_by_round == [40, 40]
    assert report.growth == (
        "The corpus was appended to once; masked clips of removed or changed videos: 1. Clips by round: round 0: 40, "
        "round 1: 40."
    )
    page = (run.directory(Node("report", None, 1)) / "report.html").read_text(encoding="utf-8")
    assert report.growth in page
    assert '"root":"../../../../"' in page  # The folder of videos.csv: the page plays its files.


@pytest.mark.slow
def test_more_rounds_go_on_with_all_clips(after: tuple[Path, dict[Node, bool]], tmp_path: Path) -> None:
    place = Path(shutil.copytree(after[0], tmp_path / "place"))
    run = open_run(place / "run")
    run = write_run(run.root, parse_config(run.config.model_dump() | {"rounds": 2}, "a test"))
    reused = work_off(run)
    assert all(was for node, was in reused.items() if node.round in (None, 0))
    assert reused[EXTRACT]
    assert not reused[Node("train", "audio", 1)]
    assert not reused[Node("extract", "audio", 2)]
    assert read_report(run.directory(Node("report", None, 2))).clips_by_round == [40, 40, 40]
    assert verify_run(run) == []


def content(directory: Path) -> dict[str, str]:
    """The fingerprint of a directory, and the sha256 of its files, but of logs, which have times."""
    manifest = read_manifest(directory)
    assert manifest is not None
    files = {name: entry.sha256 for name, entry in manifest.files.items() if not name.endswith((".jsonl", ".log"))}
    return files | {"of": manifest.fingerprint}


def differing(run: Run, node: Node, force: bool = False) -> set[str]:
    """The names of files, or `of` for the fingerprint, that differ after a node was made again."""
    before = content(run.directory(node))
    assert not run_stage(run, node, force).reused
    return {name for name, _ in content(run.directory(node)).items() ^ before.items()}


@pytest.mark.slow
def test_a_cleaned_round_stays_finished_when_the_corpus_grows(
    before: Path, after: tuple[Path, dict[Node, bool]], digits: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(before, tmp_path / "place"))
    features = {Node("extract", name, 0) for name in ("video", "audio")}
    run, kept = open_run(place / "run"), open_run(after[0] / "run")
    assert removed(clean(run)) == {run.directory(node) for node in features}
    list_videos(place, digits, 1, 41)
    assert set(finish(run)) == {node for node, was in after[1].items() if not was}
    assert {node for node, state in states(run).items() if state != "fresh"} == features
    assert clean(run).removed == ()
    # A clean after the append removes the same.
    grown = open_run(Path(shutil.copytree(kept.root.parent, tmp_path / "grown")) / "run")
    assert removed(clean(grown)) == {grown.directory(node) for node in features}
    assert states(grown) == states(run)
    assert not [name for name in differences(results(grown), results(run)) if "report" not in name]


@pytest.mark.slow
def test_what_is_lost_of_a_finished_round_is_made_again_of_the_clips_that_it_had(
    after: tuple[Path, dict[Node, bool]], tmp_path: Path
) -> None:
    place = Path(shutil.copytree(after[0], tmp_path / "place"))
    run = open_run(place / "run")
    label, features = Node("label", "audio", 0), Node("extract", "audio", 0)
    (part_path(run.directory(label), "000001")).unlink()
    assert differing(run, label) == set()
    (run.directory(label) / "manifest.json").unlink()
    assert not run_stage(run, label).reused
    assert differing(run, features, force=True) == set()
    assert differing(run, Node("train", "audio", 0), force=True) == set()
    assert "features/audio" in " ".join(entry.path for entry in clean(run).removed)
    assert {finding.kind for finding in verify_run(run)} == {"set aside"}  # What the test has damaged.
    assert differing(run, features) == set()
    fingerprints = Fingerprints(run)
    states = {node: node_state(run, node, fingerprints)[0] for node in all_nodes(run.config)}
    assert {node for node, state in states.items() if state not in ("fresh", "cleaned")} == set()
    assert {finding.kind for finding in verify_run(run)} == {"set aside"}  # What the test has damaged.
    assert list(run.root.rglob(".corpus*")) == []


@pytest.mark.slow
def test_another_report_or_evaluation_leaves_a_finished_round_as_it_is(
    after: tuple[Path, dict[Node, bool]], digits: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(after[0], tmp_path / "place"))
    run = open_run(place / "run")
    find = {"protocol": "retrieval", "seeds": 1}
    values = changed(run.config.model_dump(), {"report": {"examples": 5}, "evaluate": {"find": find}})
    run = write_run(run.root, parse_config(values, "a test"))
    fingerprints = Fingerprints(run)
    stale = {node for node in all_nodes(run.config) if node_state(run, node, fingerprints)[0] != "fresh"}
    assert stale == {Node("report", None, 0), Node("report", None, 1)}
    for node in (Node("eval", "find", 0), Node("report", None, 0)):
        assert not run_stage(run, node).reused
        fingerprints = Fingerprints(run)
        assert node_state(run, node, fingerprints) == ("fresh", "")
        assert node in fingerprints.kept
    assert read_report(run.directory(Node("report", None, 0))).corpus["clips"] == 40
    assert [finding.kind for finding in verify_run(run)] == ["unfinished"]  # The report of round 1.
    # It stays when the corpus grows once more.
    list_videos(place, digits, 1, 42)
    run_stage(run, SHARD)
    assert run_stage(run, Node("eval", "find", 0)).reused


@pytest.mark.slow
def test_a_training_goes_on_while_clips_are_appended(before: Path, digits: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(before, tmp_path / "place"))
    run = open_run(place / "run")
    trainings = [Node("train", modality, 0) for modality in ("audio", "video")]
    for node in trainings:
        shutil.rmtree(run.directory(node))
    corpus = read_manifest(run.corpus)
    assert corpus is not None

    def append(*_: object) -> None:
        if read_manifest(run.corpus) == corpus:
            list_videos(place, digits, 1, 41)
            run_stage(run, SHARD)

    assert not run_stage(run, trainings[0], progress=append).reused
    assert read_manifest(run.corpus) != corpus
    # The other encoder of the round is trained on the same clips, although it is given the fingerprint of before.
    assert not run_stage(run, trainings[1], corpus_read_as=read_as(corpus)).reused
    fingerprints = Fingerprints(run)
    states = {node: node_state(run, node, fingerprints)[0] for node in all_nodes(run.config)}
    assert {node.round for node, state in states.items() if state == "fresh"} == {None, 0}
    assert {state for node, state in states.items() if node.round == 0} == {"fresh"}


@pytest.mark.slow
def test_features_of_clips_that_come_back_are_computed(
    after: tuple[Path, dict[Node, bool]], digits: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(after[0], tmp_path / "place"))
    run = open_run(place / "run")
    list_videos(place, digits, 0, 41)
    assert run_stage(run, SHARD).rows == 41
    record = run_stage(run, EXTRACT)
    assert (record.rows, record.summary["kept_shards"], len(shard_names(run.corpus))) == (41, 3, 4)
    for shard in shard_names(run.corpus):
        keys, _ = read_features(part_path(run.directory(EXTRACT), shard))
        assert keys.tolist() == read_index(run.corpus, shard, ["key"])["key"].to_pylist()


@pytest.mark.slow
def test_without_the_setting_a_grown_corpus_makes_everything_stale(before: Path, digits: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(before, tmp_path / "place"))
    run = open_run(place / "run")
    values = changed(run.config.model_dump(), {"corpus": {"append": False}})
    run = write_run(run.root, parse_config(values, "a test"))
    list_videos(place, digits, 1, 41)
    run_stage(run, SHARD)
    fingerprints = Fingerprints(run)
    states = {node: node_state(run, node, fingerprints)[0] for node in all_nodes(run.config)}
    assert {node for node, state in states.items() if state == "fresh"} == {SHARD}


@pytest.mark.slow
def test_the_state_of_a_run_tells_what_is_masked_and_what_rounds_keep(
    after: tuple[Path, dict[Node, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    root = after[0] / "run"
    rows = read_status(root)
    assert [(row["generations"], row["masked"]) for row in rows if "generations" in row] == [(1, 1)]
    assert {row["round"]: row["kept_clips"] for row in rows if "kept_clips" in row} == {None: 40, 0: 40}
    print_status(root, rows)
    shown = capsys.readouterr().out
    assert "the corpus was appended to once; masked clips of removed or changed sources: 1" in shown
    assert "finished rounds keep the clips that the corpus had then: 0 (40)" in shown


@pytest.mark.slow
def test_before_an_append_is_made_finished_rounds_are_fresh(before: Path, digits: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(before, tmp_path / "place"))
    list_videos(place, digits, 1, 41)
    run = open_run(place / "run")
    fingerprints = Fingerprints(run)
    states = {node: node_state(run, node, fingerprints)[0] for node in all_nodes(run.config)}
    assert states[SHARD] == "stale"
    assert {node.round for node, state in states.items() if state == "fresh"} == {None, 0}
    assert {state for node, state in states.items() if node.round == 1} == {"stale"}
    assert run_stage(run, SHARD).rows == 40
