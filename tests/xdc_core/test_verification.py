"""Bit rot: whatever byte of whatever stored file changes, `xdc verify` names it, and no stage computes with it."""

import io
import json
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.corpus.index import index_path, read_index
from shards.errors import StageError
from shards.indexing.check import key_faults, tar_faults
from shards.indexing.columns import columns_of
from shards.store.commit import partial_directory, set_aside
from shards.store.files import CARD, part_path
from shards.store.lock import exclusive, lock_of
from shards.store.manifest import MANIFEST, list_files, read_manifest
from shards.store.parquet import write_parquet
from tests.commits import commit_as_it_is
from tests.places import ROOT
from tests.runs import MakeRun
from tests.xdc_core.test_growing import list_videos
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes, inputs
from xdc_core.graph.state import node_state
from xdc_core.inspection.directory_check import file_faults
from xdc_core.inspection.verification import commands, verify_run
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run


@pytest.fixture
def run(copy_run: MakeRun, tiny_corpus: Path, tmp_path: Path) -> Run:
    """A run that is worked off, with a corpus of its own."""
    corpus = Path(shutil.copytree(tiny_corpus, tmp_path / "own" / "corpus"))
    return copy_run(corpus={"path": str(corpus)})


def flip(path: Path, share: float = 0.5, bit: int = 0) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[min(int(share * len(data)), len(data) - 1)] ^= 1 << bit
    path.write_bytes(data)


def stored_files(run: Run) -> Iterator[tuple[Node, Path]]:
    """Every file of every committed directory that holds anything, but the card, which can be edited."""
    for node in all_nodes(run.config):
        for path in sorted(run.directory(node).rglob("*")):
            if path.is_file() and path.stat().st_size and path.name != CARD:
                yield node, path


def damaged(run: Run) -> list[str]:
    return [finding.path for finding in verify_run(run) if finding.kind == "damaged"]


def test_a_run_that_is_as_it_was_committed_has_no_findings(run: Run) -> None:
    assert verify_run(run) == []


@pytest.mark.slow
def test_every_file_that_is_changed_cut_or_gone_is_found_with_the_command_that_makes_it_anew(run: Run) -> None:
    ends = ("flipped", "cut", "gone")
    for count, (node, path) in enumerate(stored_files(run)):
        before, end = path.read_bytes(), ends[count % 3]
        match end:
            case "flipped":
                flip(path, 0.7)
            case "cut":
                path.write_bytes(before[:-1])
            case "gone":
                path.unlink()
        if path.name == MANIFEST and end == "cut":
            path.write_bytes(before[: len(before) // 2])  # The last byte is a line's end.
        findings = [finding for finding in verify_run(run) if finding.kind == "damaged"]
        where = str(path.parent) if path.name == MANIFEST else str(path)
        assert where in [finding.path for finding in findings], (end, path)
        assert all(f"xdc stage {node.stage} {run.root}" in finding.remedy for finding in findings), (end, path)
        path.write_bytes(before)
    assert damaged(run) == []


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 0.999999), bit=st.integers(0, 7), choice=st.integers(0, 10**6))
def test_any_bit_of_any_listed_file_is_noticed(worked_run: Run, share: float, bit: int, choice: int) -> None:
    files = [path for _, path in stored_files(worked_run) if path.name != MANIFEST]
    path = files[choice % len(files)]
    directory = next(folder for folder in path.parents if (folder / MANIFEST).exists())
    manifest = read_manifest(directory)
    assert manifest is not None
    name = str(path.relative_to(directory))
    only = manifest.model_copy(update={"files": {name: manifest.files[name]}})
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        assert list(file_faults(Path(folder), only)) == []
        flip(copy, share, bit)
        ((where, what),) = file_faults(Path(folder), only)
        assert (where, "sha256" in what) == (copy, True)


def test_any_byte_of_a_manifest_that_changes_makes_it_no_manifest_or_the_same(worked_run: Run, tmp_path: Path) -> None:
    original = worked_run.directory(Node("label", "audio", 1))
    data, sound = (original / MANIFEST).read_bytes(), read_manifest(original)
    assert sound is not None
    for place in range(len(data)):
        (tmp_path / MANIFEST).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert read_manifest(tmp_path) in (None, sound), place
        (tmp_path / MANIFEST).write_bytes(data[:place])
        assert read_manifest(tmp_path) in (None, sound), place


READERS = [
    Node("init", "video"),
    Node("extract", "video", 0),
    Node("extract", "audio", 1),
    Node("cluster", "audio", 0),
    Node("label", "video", 1),
    Node("train", "audio", 0),
    Node("report", None, 1),
]


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=str)
def test_no_stage_computes_with_a_changed_file_but_names_it_and_what_makes_it_anew(run: Run, reader: Node) -> None:
    def outcome() -> dict[str, str]:
        return {name: entry.sha256 for name, entry in list_files(run.directory(reader)).items() if "." not in name[:1]}

    for _ in range(2):  # With this configuration: the report has a copy of it, and then one of its own before it.
        run_stage(run, reader, force=True)
    before, refused = outcome(), []
    for node in inputs(run.config, reader):
        for path in sorted(run.directory(node).rglob("*")):
            if not path.is_file() or not path.stat().st_size or path.name == MANIFEST:
                continue
            data = path.read_bytes()
            flip(path, 0.4)
            for columns in run.directory(node).parent.glob(".*.columns"):
                shutil.rmtree(columns)  # Where they are, the index of the corpus is not read.
            try:
                run_stage(run, reader, force=True)
            except StageError as error:
                said = str(error)
                assert str(path) in said or "sources.parquet" in str(path), said
                assert "xdc stage" in said, said
                assert "\n" not in said
                refused.append(path.name)
                assert outcome() == before
            else:
                changed = {name for name, digest in outcome().items() if before[name] != digest}
                assert changed <= {"train.log", "metrics.jsonl"}, path
                before = outcome()
            path.write_bytes(data)
    assert refused, "it reads nothing?"
    run_stage(run, reader)
    assert damaged(run) == []


def test_of_a_corpus_that_has_grown_verify_says_what_cutting_all_again_costs(
    make_run: MakeRun, digits: Path, tmp_path: Path
) -> None:
    corpus = {"path": "../corpus", "videos": "../videos.csv", "append": True, "learn_splits": None}
    grown = make_run(corpus=corpus)
    for last in (4, 6):
        list_videos(tmp_path, digits, 0, last)
        run_stage(grown, SHARD)
    flip(grown.corpus / "000001.tar")
    (command,) = commands(verify_run(grown))
    assert command.startswith(f"xdc stage shard {grown.root} --force  # only if there is no copy of what is damaged: ")
    assert "it cuts all clips again, the corpus loses its earlier generations (1), and what was made" in command


def test_a_damaged_file_is_mended_by_the_commands_that_verify_prints(run: Run) -> None:
    flip(part_path(run.directory(Node("extract", "video", 0)), "000001"))
    flip(run.directory(Node("label", "audio", 0)) / "scores.json")
    wanted = commands(verify_run(run))
    assert wanted == [
        f"xdc stage extract {run.root} --modality video --round 0 --force",
        f"xdc stage label {run.root} --modality audio --round 0 --force",
    ]
    run_stage(run, Node("extract", "video", 0), force=True)
    run_stage(run, Node("label", "audio", 0), force=True)
    assert {finding.kind for finding in verify_run(run)} == {"set aside"}
    assert damaged(run) == []


def rewritten(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if info.isfile() else None)


@pytest.fixture
def shard_copy(tiny_corpus: Path, tmp_path: Path) -> tuple[Path, list[tuple[tarfile.TarInfo, bytes]]]:
    """A corpus of one shard without manifest, and the members of its tar."""
    (tmp_path / "index").mkdir()
    for path in (tiny_corpus / "000000.tar", index_path(tiny_corpus, "000000")):
        shutil.copy(path, tmp_path / path.relative_to(tiny_corpus))
    with tarfile.open(tmp_path / "000000.tar") as archive:
        members = [(info, getattr(archive.extractfile(info), "read", bytes)()) for info in archive]
    assert list(tar_faults(tmp_path, "000000")) == []
    return tmp_path, members


def test_a_tar_that_was_cut_at_a_member_boundary_is_found(
    shard_copy: tuple[Path, list[tuple[tarfile.TarInfo, bytes]]],
) -> None:
    corpus, members = shard_copy
    data = (corpus / "000000.tar").read_bytes()
    for place in {members[-1][0].offset, members[3][0].offset, members[0][0].offset}:
        (corpus / "000000.tar").write_bytes(data[:place])
        found = list(tar_faults(corpus, "000000"))
        assert any("members are not those of the index" in what or "not a tar" in what for what in found), found
    end = members[-1][0].offset_data + (members[-1][0].size + 511) // 512 * 512
    (corpus / "000000.tar").write_bytes(data[:end])
    assert [what for what in tar_faults(corpus, "000000") if "its end is missing" in what]


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("../evil.mp4", tarfile.REGTYPE, "points out of the archive"),
        ("/etc/passwd", tarfile.REGTYPE, "points out of the archive"),
        ("link.mp4", tarfile.SYMTYPE, "a link, a folder or a device"),
        ("hard.mp4", tarfile.LNKTYPE, "a link, a folder or a device"),
        ("folder", tarfile.DIRTYPE, "a link, a folder or a device"),
    ],
)
def test_a_member_that_could_do_harm_is_found(
    shard_copy: tuple[Path, list[tuple[tarfile.TarInfo, bytes]]], name: str, kind: bytes, words: str
) -> None:
    corpus, members = shard_copy
    strange = tarfile.TarInfo(name)
    strange.type, strange.linkname = kind, "/etc/passwd"
    rewritten(corpus / "000000.tar", [*members, (strange, b"")])
    found = list(tar_faults(corpus, "000000"))
    assert any(words in what for what in found), found
    assert any(f"1 do not belong there ({name!r} first)" in what for what in found), found


def test_members_that_were_lost_swapped_or_doubled_are_found(
    shard_copy: tuple[Path, list[tuple[tarfile.TarInfo, bytes]]],
) -> None:
    corpus, members = shard_copy
    for others, words in (
        (members[1:], "1 are missing"),
        ([*members, members[0]], "1 are there twice"),
        ([members[1], members[0], *members[2:]], "in its order"),
    ):
        rewritten(corpus / "000000.tar", others)
        assert any(words in what for what in tar_faults(corpus, "000000")), words


def test_a_tar_and_its_index_exchanged_together_with_their_hashes_are_found(run: Run) -> None:
    # Somebody who mends the hashes does not mend the sha256 of the clips.
    row = read_index(run.corpus, "000001").to_pylist()[2]
    data = bytearray((run.corpus / "000001.tar").read_bytes())
    data[row["mp4_offset"] + 40] ^= 1
    (run.corpus / "000001.tar").write_bytes(data)
    commit_as_it_is(run.corpus)
    found = [finding for finding in verify_run(run) if finding.kind == "damaged"]
    assert [finding.what for finding in found] == [f"the mp4 of clip {row['key']} is not what was stored (sha256)"]


@pytest.mark.parametrize(
    ("column", "what"),
    [
        ("flac_sha256", "the flac of clip {key} is not what was stored (sha256)"),
        ("sha256", "clip {key} is what was stored, but its sha256 in the index is another"),
    ],
)
def test_a_wrong_sha256_in_the_index_is_found(run: Run, column: str, what: str) -> None:
    index = read_index(run.corpus, "000001")
    digests = ["0" * 64, *index[column].to_pylist()[1:]]
    changed = index.set_column(index.column_names.index(column), column, pa.array(digests))
    write_parquet(index_path(run.corpus, "000001"), changed)
    commit_as_it_is(run.corpus)
    assert what.format(key=index["key"][0].as_py()) in list(tar_faults(run.corpus, "000001"))


def test_rows_that_are_lost_doubled_strange_or_in_another_order_are_found() -> None:
    wanted = ["a", "b", "c", "d"]
    assert list(key_faults(["a", "c", "d"], ["b"], wanted, "rows")) == []
    assert list(key_faults(["a", "c", "d"], [], wanted, "rows")) == ["1 rows are missing ('b' first)"]
    assert list(key_faults(["a", "b", "b", "c", "d"], [], wanted, "rows")) == ["1 rows are there twice"]
    assert list(key_faults(["a", "c", "b", "d"], [], wanted, "rows")) == [
        "the rows are not in the order of the corpus's index"
    ]
    (more,) = key_faults([*wanted, "e"], [], wanted, "rows")
    assert "1 rows are of clips that are not in the corpus's index ('e' first)" in more


def test_a_features_file_of_other_rows_is_found_though_its_hash_is_right(run: Run) -> None:
    directory = run.directory(Node("extract", "audio", 1))
    table = pq.read_table(part_path(directory, "000002"))
    pq.write_table(table.slice(1), part_path(directory, "000002"))
    commit_as_it_is(directory)
    whats = [finding.what for finding in verify_run(run) if finding.kind == "damaged"]
    assert any("1 rows are missing" in what for what in whats)
    assert any("47 rows, but its manifest says 48" in what for what in whats)


def test_features_that_were_committed_without_a_shard_are_found_whatever_their_manifest_says(run: Run) -> None:
    directory = run.directory(Node("extract", "audio", 1))
    for shard in ("000001", "000002"):
        (part_path(directory, shard)).unlink()
    commit_as_it_is(directory)
    facts = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps(facts | {"rows": 16, "rejects": 32}))
    assert node_state(run, Node("extract", "audio", 1), Fingerprints(run))[0] == "fresh"
    found = [(Path(finding.path).name, finding.what) for finding in verify_run(run) if finding.kind == "damaged"]
    lost = "it was never committed: its 16 clips are neither rows nor rejects"
    assert found[:3] == [
        ("000001.parquet", lost),
        ("000002.parquet", lost),
        ("audio", "it has 0 rejects, but its manifest says 32"),
    ]


def test_a_directory_at_the_place_of_another_is_found(run: Run) -> None:
    one, other = (run.directory(Node("cluster", "audio", number)) for number in (0, 1))
    shutil.rmtree(one)
    shutil.copytree(other, one)
    (finding, *_) = [finding for finding in verify_run(run) if finding.kind == "damaged"]
    assert finding.what == "it is the directory of cluster.audio of round 1, but stored as cluster.audio of round 0"


def test_what_lies_beside_is_told_of_and_is_no_damage(run: Run) -> None:
    labels = run.directory(Node("label", "audio", 1))
    partial = partial_directory(labels, "f" * 64)
    partial.mkdir()
    (run.root / f".xdc.yaml.{2**22 + 1}@here.tmp").write_text("half")
    set_aside(labels)
    flip(next((labels.parent / ".stale").glob("*/data/000000.parquet")))
    found = {Path(finding.path).name: finding for finding in verify_run(run)}
    assert found[partial.name].kind == "left over"
    assert found[partial.name].remedy == f"rm -r {partial}"
    assert found[f".xdc.yaml.{2**22 + 1}@here.tmp"].kind == "left over"
    assert [name for name in found if found[name].kind == "set aside"] == [
        path.name for path in (labels.parent / ".stale").iterdir()
    ]
    assert damaged(run) == []


@pytest.mark.parametrize("node", [Node("init", "video"), Node("label", "video", 1), Node("eval", "asked", 0)], ids=str)
def test_what_another_process_is_at_work_on_is_not_to_be_deleted(copy_run: MakeRun, node: Node) -> None:
    asked = {"protocol": "knn", "modality": "audio", "label": "label_speaker", "when": "asked"}
    run = copy_run(evaluate={"asked": asked})
    target = run.directory(node)
    with exclusive(target):
        partial_directory(target, "f" * 64).mkdir()
        found = {Path(finding.path).name: finding for finding in verify_run(run)}
    for path in (lock_of(target), partial_directory(target, "f" * 64)):
        finding = found[path.name]
        assert (finding.path, finding.kind, finding.remedy) == (str(path), "unfinished", "wait until it has finished")


def test_the_lock_of_another_machine_is_named_for_who_knows_that_its_holder_is_dead(run: Run) -> None:
    lock = lock_of(run.directory(Node("init", "video")))
    lock.write_text(json.dumps({"host": "x", "pid": 1, "started": "2026", "machine": "restarted since", "born": "1"}))
    (found,) = verify_run(run)
    assert found.kind == "unfinished"
    assert found.remedy == f"wait until it has finished, or, if it is known to be dead: rm {shlex.quote(str(lock))}"


def test_a_corpus_of_others_that_is_named_alike_is_not_told_of(run: Run) -> None:
    neighbour = run.corpus.with_name(f"{run.corpus.name}.v2")
    partial_directory(neighbour, "f" * 64).mkdir()
    lock_of(neighbour).touch()
    neighbour.with_name(f".{neighbour.name}.{'f' * 12}.columns").mkdir()
    assert verify_run(run) == []


def test_mapped_columns_are_no_finding_unless_they_are_changed_or_of_an_earlier_corpus(run: Run) -> None:
    places = [columns_of(run.corpus, run.root), run.root / columns_of(run.corpus, run.root).name]
    shutil.copytree(*places)  # In the run, as where nothing can be written beside the corpus.
    assert verify_run(run) == []
    for place in places:
        rows = place / "rows.arrow"
        key = read_index(run.corpus, "000001", ["key"])["key"][0].as_py().encode()
        rows.write_bytes(rows.read_bytes().replace(key, key[:-1] + b"x"))
    outdated = places[0].with_name(f".{run.corpus.name}.{'f' * 12}.columns")
    outdated.mkdir()
    found = {finding.path: finding for finding in verify_run(run)}
    assert {path: finding.kind for path, finding in found.items()} == {
        str(places[0]): "damaged",
        str(places[1]): "damaged",
        str(outdated): "left over",
    }
    assert found[str(places[0])].what == "its rows of shard 000001 are not those of the index"
    assert commands(list(found.values())) == [f"rm -r {shlex.quote(str(place))}" for place in sorted(places)]


def test_a_directory_that_is_lost_is_told_of_where_something_was_made_from_it(run: Run) -> None:
    for node in (Node("extract", "video", 0), Node("cluster", "video", 0), Node("report", None, 1)):
        shutil.rmtree(run.directory(node))
    lost = {finding.path: finding for finding in verify_run(run)}
    # Nothing was made from the last report.
    assert set(lost) == {str(run.directory(Node(stage, "video", 0))) for stage in ("extract", "cluster")}
    finding = lost[str(run.directory(Node("extract", "video", 0)))]
    assert (finding.kind, finding.what.split(", although")[0]) == ("unfinished", "it is missing")
    assert finding.remedy == f"xdc stage extract {run.root} --modality video --round 0"


def test_a_corpus_whose_videos_are_gone_must_come_back_from_a_copy(run: Run) -> None:
    gone = replace(
        run, config=run.config.model_copy(update={"corpus": run.config.corpus.model_copy(update={"videos": None})})
    )
    flip(run.corpus / "000002.tar")
    (command,) = commands(verify_run(gone))
    assert command == f"# restore {run.corpus} from a copy: its videos do not exist, so it cannot be rebuilt"
    assert SHARD in inputs(run.config, Node("extract", "video", 0))


def test_the_command_says_what_is_damaged_and_ends_with_1(run: Run) -> None:
    def verify(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", "verify", str(run.root), *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    sound = verify()
    assert (sound.returncode, "all committed files are unchanged" in sound.stdout) == (0, True), sound.stderr
    flip(run.corpus / "000001.tar")
    told = verify("--json")
    assert told.returncode == 1
    verdict = json.loads(told.stdout)
    assert verdict["sound"] is False
    assert verdict["commands"] == [f"xdc stage shard {run.root} --force"]
    assert str(run.corpus / "000001.tar") in {finding["path"] for finding in verdict["findings"]}
    assert (
        subprocess.run([sys.executable, "-m", "flows.cli", "verify", str(run.root / "none")], cwd=ROOT).returncode == 2
    )
