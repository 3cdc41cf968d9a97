"""The shard stage in units: planned in columns, surveyed and cut by workers, committed from receipts."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.corpus.cut import cut_shards
from shards.corpus.listing import list_columns, list_corpus
from shards.corpus.plan import corpus_fingerprint, make_plan
from shards.corpus.stage import shard
from shards.corpus.survey import _write_groups, read_survey, survey
from shards.corpus.write import SOURCES_SCHEMA, _sources_tables
from shards.errors import ConfigError, StageError
from shards.progress import silent
from shards.reject import Reject, reject_of
from shards.settings import CorpusSettings
from shards.sources.columns import source_columns
from shards.sources.source import Listing, Source
from shards.sources.surveyed import Surveyed, survey_columns
from shards.store import parquet
from shards.store.executor import IN_PROCESS, Advance, InProcess, Job, Unit
from shards.store.manifest import read_manifest
from shards.store.receipt import UNITS, Receipt, read_receipt
from shards.workers.job_file import write_job
from shards.workers.worker import do_units, noted_errors
from tests.places import ROOT
from tests.processes import wait_for
from tests.shards.reference_plan import reference_plan


class Subprocesses:
    """An executor with a process a unit, as Slurm or Ray would start it on another machine.

    environments: what further variables the worker of a unit gets, by its number.
    """

    def __init__(self, environments: dict[int, dict[str, str]] | None = None) -> None:
        self.jobs: list[str] = []
        self.codes: list[int] = []
        self._environments = environments or {}

    def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
        units = list(units)
        path = write_job(job, units)
        self.jobs.append(job.work)
        for unit in units:
            environment = os.environ | {"PYTHONPATH": str(ROOT)} | self._environments.get(unit.number, {})
            command = [sys.executable, "-m", "xdc_core", "unit", str(path), str(unit.number)]
            done = subprocess.run(command, env=environment, cwd="/", check=False, capture_output=True)
            self.codes.append(done.returncode)
            for error in noted_errors(Path(job.out)):
                raise error.raised(job.name)
            for name in unit.shards:
                if receipt := read_receipt(Path(job.out), name):
                    received(receipt)


def content(corpus: Path) -> dict[str, str]:
    """The sha256 of every file, as in the manifest."""
    manifest = read_manifest(corpus)
    assert manifest is not None
    return {name: entry.sha256 for name, entry in manifest.files.items() if name != "sources.parquet"}


def sources_of(corpus: Path) -> list[dict[str, Any]]:
    return pq.read_table(corpus / "sources.parquet").to_pylist()


def left_over(folder: Path) -> list[str]:
    """What lies beside a corpus, except the digest of its sources."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ("corpus", ".corpus.sources.json"))


def test_workers_in_other_processes_give_the_same_corpus(
    raw_videos: Path, corpus_settings: CorpusSettings, built_corpus: Path, tmp_path: Path
) -> None:
    executor = Subprocesses()
    record = shard(tmp_path / "corpus", raw_videos, corpus_settings, executor=executor)
    assert executor.jobs == ["shards.corpus.survey:survey_groups", "shards.corpus.cut:cut_shards"]
    assert executor.codes == [0] * 4
    assert content(tmp_path / "corpus") == content(built_corpus)
    assert sources_of(tmp_path / "corpus") == sources_of(built_corpus)
    built = read_manifest(built_corpus)
    assert built is not None
    assert (record.fingerprint, record.summary) == (built.fingerprint, built.summary)
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_a_killed_worker_costs_its_shard_and_a_second_call_goes_on(
    raw_videos: Path, corpus_settings: CorpusSettings, built_corpus: Path, tmp_path: Path
) -> None:
    executor = Subprocesses({1: {"XDC_FAULT": "kill:1:before receipt 000001"}})
    with pytest.raises(StageError, match="1 of 3 shards are not stored"):
        shard(tmp_path / "corpus", raw_videos, corpus_settings, executor=executor)
    assert -signal.SIGKILL in executor.codes
    (partial,) = tmp_path.glob(".corpus.*.partial")
    kept = {path.name: path.stat().st_ino for path in partial.glob("0*.tar")}
    assert sorted(kept) == ["000000.tar", "000002.tar"]
    executor = Subprocesses()
    shard(tmp_path / "corpus", raw_videos, corpus_settings, executor=executor)
    assert executor.codes == [0]
    assert content(tmp_path / "corpus") == content(built_corpus)
    assert {name: (tmp_path / "corpus" / name).stat().st_ino for name in kept} == kept
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("modalities", [("video", "audio"), ("audio",)])
def test_what_workers_surveyed_before_a_kill_is_not_read_again(
    raw_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modalities: tuple[Any, ...]
) -> None:
    monkeypatch.setattr("shards.corpus.survey.GROUP_FILES", 3)
    settings = CorpusSettings(workers=2, modalities=modalities)
    listing, corpus = list_corpus(raw_videos), tmp_path / "a.corpus"
    notes = tmp_path / (".a.corpus.survey.jsonl" if len(modalities) == 2 else ".a.corpus.audio.survey.jsonl")

    class Dies:
        """The stage's process is killed after two groups: the folder stays."""

        def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
            for _ in do_units(job, list(units)[:2]):
                pass
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey(listing, (), notes, settings, silent, Dies())
    (left,) = tmp_path.glob(f".{corpus.name}.survey*.partial")
    assert left.name.count(".") == 4
    probed: list[int] = []
    found = survey(listing, (), notes, settings, lambda done, total, note="": probed.append(total))
    assert set(probed) == {8 - 6}
    assert len(found) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == [notes.name]
    assert {entry.path for entry in read_survey(notes)} == set(found)
    plain = survey(listing, (), tmp_path / "other", settings, silent)
    assert list(plain.files()) == list(found.files())


@pytest.mark.parametrize("place", ["shards.corpus.survey._write_groups", "shards.store.executor.begin_units"])
def test_a_survey_that_was_killed_before_its_workers_began_is_begun_again(
    raw_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    notes, settings = tmp_path / ".corpus.survey.jsonl", CorpusSettings(workers=2)
    with monkeypatch.context() as patched:
        patched.setattr(place, killed)
        with pytest.raises(KeyboardInterrupt):
            survey(list_corpus(raw_videos), (), notes, settings, silent, Subprocesses())
    assert len([*tmp_path.glob(".corpus.survey-*.partial")]) == 1
    assert len(survey(list_corpus(raw_videos), (), notes, settings, silent)) == 8
    assert left_over(tmp_path) == [notes.name]


@pytest.mark.parametrize(("most", "length"), [(1 << 30, 3), (2500, 2), (1, 1)])
def test_groups_of_files_for_workers_are_shorter_where_files_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, length: int
) -> None:
    for number in range(7):
        (tmp_path / f"{number}").write_bytes(bytes(1000 + number))
    monkeypatch.setattr("shards.corpus.survey.GROUP_FILES", 3)
    monkeypatch.setattr("shards.corpus.survey.GROUP_BYTES", most)
    monkeypatch.setattr("shards.corpus.survey.ESTIMATED_FROM", 2)
    names = pa.array([str(number) for number in range(7)])
    sizes = _write_groups(tmp_path / "groups", tmp_path, names)
    assert list(sizes.values()) == [length] * (7 // length) + [7 % length] * (7 % length > 0)
    with pa.ipc.open_file(tmp_path / "groups") as file:
        assert [file.get_batch(number).num_rows for number in range(len(sizes))] == list(sizes.values())
        assert file.read_all()["path"].to_pylist() == names.to_pylist()


def test_an_executor_that_works_in_this_process_surveys_without_files_for_workers(
    raw_videos: Path, tmp_path: Path
) -> None:
    class Here(InProcess):
        """As `InProcess`, but another class, as the local executor on a machine with several GPUs."""

        def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
            raise AssertionError(job.name)

    notes = tmp_path / ".corpus.survey.jsonl"
    assert len(survey(list_corpus(raw_videos), (), notes, CorpusSettings(workers=2), silent, Here())) == 8


@dataclass
class Terminated:
    """An executor whose worker, with all of its children, gets SIGTERM as soon as the first clip of a shard is cut."""

    settings: CorpusSettings
    codes: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
        self.names.append(job.name)
        if job.work != "shards.corpus.cut:cut_shards":
            IN_PROCESS.run(job, units, received, advance)
            return
        path = write_job(job, units)
        command = [sys.executable, "-m", "xdc_core", "unit", str(path)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        worker = subprocess.Popen(command, env=environment, cwd="/", start_new_session=True, stdout=subprocess.DEVNULL)
        written = f"{UNITS}/attempts/*/.*.tar*"
        wait_for(
            "a clip",
            lambda: worker.poll() is not None or any(tar.stat().st_size for tar in Path(job.out).glob(written)),
            every=0.001,
        )
        os.killpg(worker.pid, signal.SIGTERM)
        self.codes.append(worker.wait())


def test_a_worker_that_is_asked_to_end_finishes_its_shard_and_rejects_no_clip_for_it(
    raw_videos: Path, corpus_settings: CorpusSettings, tmp_path: Path
) -> None:
    settings = corpus_settings.model_copy(update={"clip_seconds": 0.2, "min_seconds": 0.1, "clips_per_shard": 50})
    executor = Terminated(settings)
    with pytest.raises(StageError, match=r"data\.pets: 1 of 2 shards are not stored"):
        shard(tmp_path / "corpus", raw_videos, settings, executor=executor, name="data.pets")
    assert executor.codes == [128 + signal.SIGTERM]
    assert executor.names == ["the survey of data.pets", "data.pets"]
    shard(tmp_path / "corpus", raw_videos, settings)
    shard(tmp_path / "other" / "corpus", raw_videos, settings)
    assert content(tmp_path / "corpus") == content(tmp_path / "other" / "corpus")


def test_a_worker_of_an_earlier_survey_writes_nothing_into_a_later_one(raw_videos: Path, tmp_path: Path) -> None:
    jobs: list[Job] = []

    class Kept:
        def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
            jobs.append(job)
            for _ in do_units(job, units):
                pass

    settings, notes = CorpusSettings(workers=2), tmp_path / ".corpus.survey.jsonl"
    survey(list_corpus(raw_videos), (), notes, settings, silent, Kept())
    with pytest.raises(StageError, match="does not see"):
        list(do_units(jobs[0], [Unit(0, ("000000",))]))
    assert left_over(tmp_path) == [notes.name]


class Watched:
    """The executor of this process that looks on after the last receipt: which files are opened from then on."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self._watching = False

    def __enter__(self) -> "Watched":
        sys.addaudithook(self._hear)  # It cannot be removed.
        return self

    def __exit__(self, *error: object) -> None:
        self._watching = False

    def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
        IN_PROCESS.run(job, units, received, advance)
        if job.work == "shards.corpus.cut:cut_shards":
            self._watching = True

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._watching and event == "open" and isinstance(arguments[0], str | os.PathLike):
            self.opened.append(os.fspath(arguments[0]))


def test_a_corpus_is_committed_without_opening_a_stored_shard(
    raw_videos: Path, corpus_settings: CorpusSettings, tmp_path: Path
) -> None:
    with Watched() as executor:
        shard(tmp_path / "corpus", raw_videos, corpus_settings, executor=executor)
    opened = [Path(name).name for name in executor.opened if ".corpus." in name]
    assert "000001.json" in opened
    assert "rejects.parquet" in " ".join(opened)
    assert not [name for name in opened if name.startswith("00000") and not name.endswith(".json")]
    assert not [name for name in opened if name.endswith((".tar", ".rejects.json"))]


def _cut_in(partial: str, arguments: dict[str, Any]) -> None:
    list(cut_shards(arguments, ["000000", "000001"], lambda good, rejected: None))


@pytest.mark.slow
def test_two_workers_at_the_same_shards_store_each_once(
    raw_videos: Path, corpus_settings: CorpusSettings, built_corpus: Path, tmp_path: Path
) -> None:
    class Twice:
        def run(self, job: Job, units: Iterable[Unit], received: Callable[[Receipt], None], advance: Advance) -> None:
            if job.work == "shards.corpus.cut:cut_shards":
                context = multiprocessing.get_context("spawn")
                workers = [context.Process(target=_cut_in, args=(job.out, job.arguments)) for _ in range(2)]
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
                assert [worker.exitcode for worker in workers] == [0, 0]
                attempts = list((Path(job.out) / UNITS / "attempts").iterdir())
                assert attempts == []
            for _ in do_units(job, units):
                pass

    shard(tmp_path / "corpus", raw_videos, corpus_settings, executor=Twice())
    assert content(tmp_path / "corpus") == content(built_corpus)


def test_a_source_that_vanishes_is_an_error_with_the_workers_machine(
    raw_videos: Path, corpus_settings: CorpusSettings, tmp_path: Path
) -> None:
    videos = Path(shutil.copytree(raw_videos, tmp_path / "videos"))
    executor = Subprocesses()
    run = executor.run

    def run_without(job: Job, units: Iterable[Unit], *rest: Any) -> None:
        if job.work == "shards.corpus.cut:cut_shards":
            (videos / "dog" / "bark.mp4").unlink()
        run(job, units, *rest)

    executor.run = run_without  # type: ignore[method-assign]
    with pytest.raises(StageError, match=r"bark\.mp4 was there when it was surveyed.*\(worker on .*; its output is"):
        shard(tmp_path / "corpus", videos, corpus_settings, executor=executor)
    assert not (tmp_path / "corpus").exists()


def random_listing(seed: int) -> tuple[CorpusSettings, Listing, list[Surveyed]]:
    """Sources as they come: with spans that overlap, files of no use, sound longer than the picture, old probes."""
    dice = random.Random(seed)
    files = [f"{dice.choice('ab')}/{dice.choice(['x', 'y z', 'é'])}{n}.mp4" for n in range(dice.randint(0, 12))]
    sources = []
    for _ in range(dice.randint(0, 30)):
        if files:
            start = dice.choice([None, 0.0, 1.0, 2.5, 10.0])
            end = dice.choice([None, None, 4.0, 11.0, 30.0])
            labels = {name: dice.choice("uv") for name in ("label", "label_b") if dice.random() < 0.6}
            sources.append(Source(dice.choice(files), start, end, dice.choice(["", "train", "test"]), labels))
    surveyed = []
    for path in files:
        length = dice.choice([0.0, 0.4, 5.0, 9.999, 20.3])
        entry = Surveyed(
            path, 5, 6, path, length, 64, 48, 25.0, "h264", "aac", 48000, probe_version=dice.choice([1, 2])
        )
        entry = replace(
            entry, sound_duration_s=length + dice.choice([0, 0.05, 3.0]), last_packet_s=dice.choice([0, 25.0])
        )
        if dice.random() < 0.2:
            entry = replace(entry, reason="it is broken", kind=dice.choice([None, "damaged"]), duration_s=0.0)
        if dice.random() < 0.1:
            entry = replace(entry, width=99999, height=99999)
        surveyed.append(entry)
    rejects = tuple(Reject(f"r{n}", "list", "not_media", "no") for n in range(dice.randint(0, 3)))
    settings = CorpusSettings(
        clip_seconds=dice.choice([1.0, 5.0]),
        min_seconds=0.5,
        clips_per_shard=dice.choice([1, 3, 1000]),
        shuffle_seed=seed,
    )
    return settings, Listing(Path("v"), tuple(sources), rejects), surveyed


@pytest.mark.parametrize("seed", range(60))
def test_the_columns_of_a_plan_are_what_objects_would_be(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("shards.sources.columns", "shards.sources.surveyed", "shards.corpus.write"):
        monkeypatch.setattr(f"{module}.BATCH", 4)
    settings, listing, entries = random_listing(seed)
    surveyed = survey_columns(entries)
    assert list(surveyed) == sorted(entry.path for entry in entries)
    clips, rejects, asked = reference_plan(settings, listing, {entry.path: entry for entry in entries})
    plan = make_plan(settings, listing, surveyed)
    assert list(plan.clips()) == clips
    assert [reject_of(row) for row in plan.rejects.to_pylist()] == rejects
    assert [clip.shard for clip in clips] == plan.shard.tolist()
    assert plan.shards == 1 + max((clip.shard for clip in clips), default=-1)
    table = pa.concat_tables([SOURCES_SCHEMA.empty_table(), *_cast(_sources_tables(plan, surveyed))])
    assert {row["path"]: row["asked_s"] for row in table.to_pylist() if row["asked_s"]} == asked
    assert [row["sha256"] for row in table.to_pylist()] == [entry.sha256 for entry in surveyed.files()]
    assert list(source_columns(iter(listing.sources))) == list(listing.sources)
    columns = replace(listing, sources=source_columns(listing.sources))
    assert corpus_fingerprint(settings, columns, surveyed) == corpus_fingerprint(settings, listing, surveyed)


def _cast(tables: Iterable[pa.Table]) -> Iterable[pa.Table]:
    return (table.select(SOURCES_SCHEMA.names).cast(SOURCES_SCHEMA) for table in tables)


def test_the_random_listings_have_every_case() -> None:
    cases = [random_listing(seed) for seed in range(60)]
    plans = [make_plan(settings, listing, survey_columns(entries)) for settings, listing, entries in cases]
    kinds = set(chain.from_iterable(plan.rejects["kind"].to_pylist() for plan in plans))
    assert kinds == {"not_media", "damaged", "too_large", "outside", "no_picture", "too_short", "duplicate"}
    assert any(plan.shards > 3 for plan in plans)
    assert any(not listing.sources for _, listing, _ in cases)


@pytest.mark.parametrize("kind", ["folder", "manifest", "row twice"])
def test_a_listing_in_columns_is_the_same(raw_videos: Path, tmp_path: Path, kind: str) -> None:
    videos, settings = raw_videos, CorpusSettings(label_from_folder=kind == "folder")
    if kind != "folder":
        rows = [f"{raw_videos}/dog/bark.mp4,,dog", "gone.mp4,1,", f"{raw_videos}/cat/mute.mp4,x,cat", "../x.mp4,2,cat"]
        videos = tmp_path / "list.csv"
        rows += rows[:1] if kind == "row twice" else []
        videos.write_text("\n".join(["path,start_s,label", *rows]), encoding="utf-8")
    plain, columns = list_corpus(videos, settings.label_from_folder), list_columns(videos, settings)
    assert list(columns.sources) == list(plain.sources)
    assert (columns.root, columns.rejects, columns.label_names) == (plain.root, plain.rejects, plain.label_names)
    assert plain.rejects
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no video"):
        list_columns(tmp_path / "empty", settings)


def test_of_two_results_for_a_file_the_later_one_counts() -> None:
    entries = [Surveyed("b", 1, 1, "old"), Surveyed("a", 2, 2, "x"), Surveyed("b", 3, 3, "new", kind="damaged")]
    found = survey_columns(iter(entries))
    assert list(found.files()) == [entries[1], entries[2]]
    assert found["b"] == entries[2]
    assert "c" not in found
    assert list(found.select(pa.array(["b"], pa.large_string()))) == ["b"]
    with pytest.raises(KeyError, match="c"):
        found.numbers(pa.array(["a", "c"], pa.large_string()))


@pytest.mark.parametrize("rows", [0, 1, 999, 1000, 1001, 2000, 3456])
def test_tables_one_after_the_other_give_the_bytes_of_one(
    tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP", 1000)
    dice = np.random.default_rng(rows)
    names = pa.array([f"name {number % 37}" for number in range(rows)], pa.string())
    table = pa.table({"name": names, "at": dice.random(rows)}).replace_schema_metadata({"version": "2"})
    pq.write_table(table, tmp_path / "whole", compression="zstd", row_group_size=1000)
    cuts = sorted({0, rows, *dice.integers(0, rows + 1, 9).tolist()})
    parts = (table.slice(first, last - first) for first, last in pairwise(cuts))
    parquet.write_row_groups(tmp_path / "parts", table.schema, parts)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
