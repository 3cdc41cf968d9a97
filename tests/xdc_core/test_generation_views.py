"""What reads a view of a corpus that grows is made of one generation, also if it was killed in the middle."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from shards.corpus.generation import read_as
from shards.corpus.stage import shard
from shards.errors import StageError
from shards.store.manifest import read_manifest
from tests.runs import MakeRun, changed, write_run
from tests.xdc_core.stage_process import start
from xdc_core.cleaning.retain import retain
from xdc_core.config.load import parse_config
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import all_fresh, run_stage
from xdc_core.graph.stages import all_nodes, round_nodes
from xdc_core.graph.state import node_state
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run

EXTRACT, TRAIN = Node("extract", "audio", 0), Node("train", "audio", 0)
FAULTS = [(EXTRACT, "kill:1:after receipt 000001"), (TRAIN, "kill:1:after rename checkpoint-*")]


@pytest.fixture
def growing(tmp_path: Path, copy_run: MakeRun, tiny_corpus: Path, digits: Path) -> Run:
    """A finished run with a private copy of the corpus, to which clips may be appended."""
    place = tmp_path / "place"
    shutil.copytree(tiny_corpus, place / "corpus")
    (place / "digits").mkdir()
    (place / "digits" / "videos").symlink_to(digits.parent / "videos")
    shutil.copyfile(digits, place / "digits" / "manifest.csv")
    corpus = {"path": str(place / "corpus"), "videos": str(place / "digits" / "manifest.csv"), "append": True}
    return copy_run(corpus=corpus)


def list_without_the_first(videos: Path) -> None:
    """Remove the first row of a manifest of videos."""
    header, _, *rows = videos.read_text(encoding="utf-8").splitlines()
    videos.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def remove_a_video(run: Run) -> None:
    """Leave the first video out of the corpus: a new generation, for which nothing is cut."""
    assert run.videos is not None
    list_without_the_first(run.videos)
    assert not run_stage(run, SHARD).reused


def content(run: Run, node: Node) -> dict[str, str]:
    """The fingerprint of a node's directory, and the sha256 of its files, but of logs, which have times."""
    manifest = read_manifest(run.directory(node))
    assert manifest is not None
    files = {name: entry.sha256 for name, entry in manifest.files.items() if not name.endswith((".jsonl", ".log"))}
    return files | {"of": manifest.fingerprint}


@pytest.mark.parametrize(("node", "fault"), FAULTS, ids=["extract", "train"])
@pytest.mark.parametrize("grown", [False, True], ids=["the setting is switched off", "in a grown run"])
def test_a_stage_that_was_killed_with_a_view_open_ends_as_if_it_had_not_been(
    growing: Run, node: Node, fault: str, grown: bool
) -> None:
    run, wanted = growing, content(growing, node)
    if grown:
        remove_a_video(run)
    shutil.rmtree(run.directory(node))
    process = start(run, node, os.environ | {"XDC_FAULT": fault})
    said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, said
    assert [path.name for path in run.root.rglob(".corpus")] == [".corpus"]
    if not grown:
        run = write_run(run.root, parse_config(changed(run.config.model_dump(), {"append": False}), "a test"))
    assert not run_stage(run, node).reused
    assert content(run, node) == wanted
    assert list(run.root.rglob(".corpus")) == []
    remove_a_video(growing)
    assert node_state(growing, node, Fingerprints(growing)) == ("fresh", "")


def test_a_training_that_ends_while_the_corpus_is_away_goes_on_when_it_is_back(growing: Run) -> None:
    wanted, aside = content(growing, TRAIN), growing.corpus.with_name("aside")
    shutil.rmtree(growing.directory(TRAIN))

    def take_away(done: int, total: int, note: str = "") -> None:
        if done == total and not aside.exists():
            growing.corpus.rename(aside)

    with pytest.raises(StageError, match=r"shard was not at its place .* Nothing is lost"):
        run_stage(growing, TRAIN, progress=take_away)
    aside.rename(growing.corpus)
    notes: list[int] = []
    assert not run_stage(growing, TRAIN, progress=lambda done, total, note="": notes.append(done)).reused
    assert content(growing, TRAIN) == wanted
    assert notes == [], "no step is done once more"


def test_what_was_made_of_another_corpus_is_not_kept(growing: Run) -> None:
    shutil.rmtree(growing.directory(EXTRACT))

    def put_another(done: int, total: int, note: str = "") -> None:
        if done == total:
            assert growing.videos is not None
            values = growing.config.corpus.model_copy(update={"shuffle_seed": 5})
            shard(growing.corpus, growing.videos, values)

    with pytest.raises(StageError, match=r"shard was replaced while extract\.audio of round 0 read it"):
        run_stage(growing, EXTRACT, progress=put_another)
    assert list(growing.directory(EXTRACT).parent.glob(".audio*.partial")) == []


def test_a_round_goes_on_with_the_clips_with_which_it_began(growing: Run) -> None:
    nodes = [node for node in round_nodes(growing.config, 1) if node.stage in ("extract", "cluster", "label")]
    wanted = {node: content(growing, node) for node in nodes}
    for node in nodes:
        shutil.rmtree(growing.directory(node))
    corpus = read_manifest(growing.corpus)
    assert corpus is not None
    begun = read_as(corpus)
    first, *others = nodes
    run_stage(growing, first, corpus_read_as=begun)
    remove_a_video(growing)
    assert growing.videos is not None
    list_without_the_first(growing.videos)  # One more, for which no append was made yet.
    for node in others:
        assert not run_stage(growing, node, corpus_read_as=begun).reused
    assert {node: content(growing, node) for node in nodes} == wanted
    stopped = Fingerprints(growing, begun).after_stop(replace(growing, stopped=True))
    assert [stopped.of(node) for node in nodes] == [wanted[node]["of"] for node in nodes]
    # The next call takes the clips that are there.
    assert {node_state(growing, node, Fingerprints(growing))[0] for node in nodes} == {"stale"}


def test_features_of_a_kept_round_are_removed_after_the_round_that_takes_the_new_clips(growing: Run) -> None:
    values = growing.config.model_dump() | {"retain": {"rounds": 1, "stale": True}}
    run = write_run(growing.root, parse_config(values, "a test"))
    features = {number: run.directory(Node("extract", "audio", number)) for number in (0, 1)}
    assert run.videos is not None
    list_without_the_first(run.videos)
    # While an append is to be made, round 0 is the newest that is finished.
    assert "freed" not in retain(run)
    assert all(list(found.glob("data/*.parquet")) for found in features.values())
    for node in all_nodes(run.config):
        run_stage(run, node)
    assert retain(run).startswith("retain: freed ")
    assert list((run.corpus.parent / ".stale").iterdir()), "generations of the corpus are not the run's to remove"
    assert [bool(list(found.glob("data/*.parquet"))) for found in features.values()] == [False, True]
    assert all_fresh(run, all_nodes(run.config))
    assert not run_stage(run, EXTRACT).reused
    assert len(list(features[0].glob("data/*.parquet"))) == 3
    assert "it was made again after all that reads it" in retain(run)


def test_a_round_does_not_go_on_with_another_corpus(growing: Run) -> None:
    corpus = read_manifest(growing.corpus)
    assert corpus is not None
    assert growing.videos is not None
    values = growing.config.corpus.model_copy(update={"shuffle_seed": 5})
    shard(growing.corpus, growing.videos, values)
    with pytest.raises(StageError, match="needs shard, which is missing or stale"):
        run_stage(growing, EXTRACT, corpus_read_as=read_as(corpus))
