"""A corpus that grows: shards that exist are kept byte by byte, whatever is added, removed, changed, or killed."""

import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.corpus import stage
from shards.corpus.generation import as_read, earlier_generations, read_as, since_read
from shards.corpus.index import read_index, read_stored_index, read_whole_index, shard_names
from shards.corpus.known import known_sources
from shards.corpus.reader import ClipReader
from shards.corpus.recut import damaged_sources, recut
from shards.corpus.seen import corpus_fingerprint_now
from shards.corpus.stage import shard
from shards.errors import ConfigError, StageError
from shards.indexing.check import tar_faults
from shards.indexing.columns import KEPT, column_faults, columns_of, directories_of_generations
from shards.indexing.generation_view import corpus_at
from shards.settings import CorpusSettings
from shards.sources.look import UNREADABLE
from shards.sources.surveyed import survey_columns
from shards.store.build import Record
from shards.store.files import sha256_of
from shards.store.manifest import FileEntry, missing_files, read_manifest
from shards.store.manifest import write_manifest as write_manifest_of
from shards.store.parquet import read_parquet
from tests.commits import commit_as_it_is
from tests.faults.crash import ended, forked
from tests.shards.conftest import moving
from tests.shards.media_maker import tone, write_video
from tests.shards.trouble import obeying_modes
from tests.sharing import made_once

SETTINGS = CorpusSettings(
    label_from_folder=True,
    clip_seconds=1.0,
    min_seconds=0.5,
    short_side=32,
    fps=10,
    gop=5,
    sample_rate=8000,
    clips_per_shard=4,
    workers=1,
    append=True,
)
NAMES = ("cat/a", "cat/b", "dog/c", "dog/d", "dog/e", "cat/f")


def video(place: Path, name: str, seconds: float = 2.0, shade: int = 40) -> None:
    write_video(place / "videos" / f"{name}.mp4", moving(seconds, shade), tone(300, seconds))


def cut(place: Path, **changes: object) -> Record:
    return shard(place / "corpus", place / "videos", SETTINGS.model_copy(update=changes))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with `corpus`, of 6 clips in 2 shards, and `videos`. For reading only."""

    def make(root: Path) -> None:
        for number, name in enumerate(NAMES[:3]):
            video(root, name, shade=40 * number)
        cut(root)

    return made_once(tmp_path_factory, "growing", make)


@pytest.fixture
def place(first: Path, tmp_path: Path) -> Path:
    """A private copy of `first`."""
    return Path(shutil.copytree(first, tmp_path / "place"))


def clips(place: Path) -> Counter[tuple[str, float]]:
    table = read_whole_index(place / "corpus", ["source", "start_s"])
    return Counter(zip(table["source"].to_pylist(), table["start_s"].to_pylist(), strict=True))


def files(place: Path, shards: list[str]) -> dict[str, bytes]:
    corpus = place / "corpus"
    return {path.name: path.read_bytes() for path in sorted(corpus.iterdir()) if path.name.split(".")[0] in shards}


def check_whole(place: Path) -> None:
    """Nothing is missing, nothing differs from the index, and every clip can be read."""
    corpus = place / "corpus"
    manifest = read_manifest(corpus)
    assert manifest is not None
    assert missing_files(corpus, manifest) == []
    rows = read_whole_index(corpus).to_pylist()
    assert (len(rows), len({row["key"] for row in rows})) == (manifest.rows, manifest.rows)
    assert read_parquet(corpus / "plan.parquet", "shard")["key"].to_pylist() == [row["key"] for row in rows]
    assert [fault for shard in shard_names(corpus) for fault in tar_faults(corpus, shard)] == []
    with ClipReader(corpus) as reader:
        for row in rows:
            assert reader.read(row["shard"], row, "mp4")
    assert corpus_fingerprint_now(corpus, place / "videos", SETTINGS) == (manifest.fingerprint, "")


def test_an_added_video_makes_one_shard_and_leaves_the_others_as_they_are(place: Path) -> None:
    before = files(place, ["000000", "000001"])
    video(place, "dog/d")
    inode = (place / "corpus" / "000000.tar").stat().st_ino
    record = cut(place)
    assert shard_names(place / "corpus") == ["000000", "000001", "000002"]
    assert files(place, ["000000", "000001"]) == before
    assert (place / "corpus" / "000000.tar").stat().st_ino == inode
    assert clips(place) == {(f"{name}.mp4", at): 1 for name in NAMES[:4] for at in (0.0, 1.0)}
    assert [generation["clips"] for generation in record.summary["generations"]] == [6]
    check_whole(place)
    assert cut(place).reused
    # The setting decides how a corpus grows, not what is fresh.
    assert cut(place, append=False).reused


def test_without_the_setting_all_clips_are_cut_again(place: Path) -> None:
    video(place, "dog/d")
    record = cut(place, append=False)
    assert "generations" not in record.summary
    fresh = place.parent / "fresh"
    shutil.copytree(place / "videos", fresh / "videos")
    cut(fresh)
    assert files(place, ["000000", "000001"]) == files(fresh, ["000000", "000001"])


def test_the_same_clips_in_other_shards_are_another_input(place: Path) -> None:
    video(place, "dog/d")
    appended = cut(place)
    whole = shard(place / "corpus", place / "videos", SETTINGS, force=True)
    assert whole.fingerprint == appended.fingerprint
    assert whole.summary["accepted"] != appended.summary["accepted"]
    assert "generations" not in whole.summary


def test_a_removed_video_is_masked_and_its_bytes_stay(place: Path) -> None:
    before = files(place, ["000000", "000001"])
    (place / "videos" / "cat" / "b.mp4").unlink()
    record = cut(place)
    assert (record.rows, record.summary["masked"]) == (4, 2)
    after = files(place, ["000000", "000001"])
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) <= {"000000.masked.json", "000001.masked.json"}
    assert clips(place) == {(f"{name}.mp4", at): 1 for name in ("cat/a", "dog/c") for at in (0.0, 1.0)}
    stored = [read_stored_index(place / "corpus", name).num_rows for name in ("000000", "000001")]
    assert sum(stored) == 6
    check_whole(place)


def test_a_removed_video_that_comes_back_is_not_masked_any_more(place: Path) -> None:
    first, before = read_manifest(place / "corpus"), files(place, ["000000", "000001"])
    order = read_whole_index(place / "corpus", ["key"])
    for _ in range(2):
        (place / "videos" / "cat" / "b.mp4").rename(place / "b.mp4")
        assert cut(place).summary["masked"] == 2
        (place / "b.mp4").rename(place / "videos" / "cat" / "b.mp4")
        record = cut(place)
    # The same sources as at first; but what was done with the generations between is not lost.
    assert first is not None
    assert record.fingerprint == first.fingerprint
    assert len(record.summary["generations"]) == 4
    assert "masked" not in record.summary
    after = files(place, ["000000", "000001"])
    assert {name: after[name] for name in before} == before
    assert read_whole_index(place / "corpus", ["key"]) == order
    check_whole(place)
    assert cut(place).reused


def test_a_video_that_comes_back_with_another_label_is_appended_once_more(place: Path) -> None:
    settings = SETTINGS.model_copy(update={"label_from_folder": False})
    corpus, rows = place / "listed", [f"videos/{name}.mp4,train,x" for name in NAMES[:3]]
    shard(corpus, write_manifest(place, rows), settings)
    shard(corpus, write_manifest(place, rows[:2]), settings)
    record = shard(corpus, write_manifest(place, [*rows[:2], rows[2].replace(",x", ",y")]), settings)
    assert (record.rows, record.summary["masked"]) == (6, 2)
    assert read_index(corpus, "000002", ["label"])["label"].to_pylist() == ["y", "y"]


def test_a_folder_that_is_away_is_not_masked_without_a_question(place: Path) -> None:
    (place / "videos" / "cat").rename(place / "cat")
    before = (place / "corpus" / "manifest.json").read_bytes()
    with pytest.raises(StageError, match=r"4 of the 6 clips .*max_masked_share \(0.5\).*cat/"):
        cut(place)
    assert (place / "corpus" / "manifest.json").read_bytes() == before
    assert cut(place, max_masked_share=0.7).rows == 2
    (place / "cat").rename(place / "videos" / "cat")
    assert (cut(place).rows, shard_names(place / "corpus")) == (6, ["000000", "000001"])
    check_whole(place)


def test_clips_of_a_file_that_cannot_be_read_for_a_moment_stay(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first = read_manifest(place / "corpus")
    assert first is not None
    known = [*known_sources(place / "corpus", SETTINGS.modalities)]
    lost = replace(known[0], sha256="", reason=f"{UNREADABLE}Input/output error", kind="damaged", unreadable_at=7)
    monkeypatch.setattr(stage, "_surveyed", lambda *_: survey_columns([lost, *known[1:]]))
    assert cut(place).fingerprint == first.fingerprint
    assert f"cannot be read now ({lost.path})" in capfd.readouterr().err
    assert read_manifest(place / "corpus") == first


def test_a_replaced_video_that_cannot_be_read_for_a_moment_is_cut_when_it_can_be(place: Path) -> None:
    video(place, "cat/a", shade=200)
    with obeying_modes():
        (place / "videos" / "cat" / "a.mp4").chmod(0)
        assert cut(place).reused
        (place / "videos" / "cat" / "a.mp4").chmod(0o644)
    found = corpus_fingerprint_now(place / "corpus", place / "videos", SETTINGS)
    assert found == (None, "new or changed source cat/a.mp4")
    assert (cut(place).rows, cut(place).summary["masked"]) == (6, 2)
    check_whole(place)


def test_clips_that_an_earlier_version_damaged_are_cut_again(place: Path) -> None:
    corpus = place / "corpus"
    path, manifest = corpus / "sources.parquet", read_manifest(corpus)
    assert manifest is not None
    table = read_parquet(path, "shard")
    versions, codecs = ([1 if name == "cat/a.mp4" else 2 for name in table["path"].to_pylist()], ["amr_nb"] * 3)
    for name, values in (("probe_version", pa.array(versions, pa.int32())), ("audio_codec", pa.array(codecs))):
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, path)
    entry = FileEntry(size=path.stat().st_size, sha256=sha256_of(path))
    write_manifest_of(corpus, manifest.model_copy(update={"files": manifest.files | {path.name: entry}}))
    assert [*damaged_sources(corpus)] == ["cat/a.mp4"]
    video(place, "dog/d")
    record = cut(place)
    assert (record.rows, record.summary["masked"]) == (8, 2)
    assert {*read_index(corpus, "000002")["source"].to_pylist()} == {"cat/a.mp4", "dog/d.mp4"}
    assert damaged_sources(corpus) == {}
    check_whole(place)


def test_a_shard_of_which_all_clips_are_masked_keeps_its_number(place: Path) -> None:
    (place / "videos" / "dog" / "c.mp4").unlink()
    for name in ("cat/a", "cat/b"):
        video(place, name, shade=200)
    cut(place, max_masked_share=1.0)
    assert shard_names(place / "corpus") == ["000000", "000001", "000002"]
    assert [read_index(place / "corpus", name).num_rows for name in ("000000", "000001", "000002")] == [0, 0, 4]
    check_whole(place)


def test_a_changed_video_is_removed_and_added(place: Path) -> None:
    video(place, "cat/a", 3.0, shade=200)
    record = cut(place)
    assert (record.rows, record.summary["masked"]) == (7, 2)
    table = read_index(place / "corpus", "000002")
    assert table["source"].to_pylist() == ["cat/a.mp4"] * 3
    check_whole(place)


def test_a_rejected_clip_of_a_removed_video_is_no_reject_any_more(place: Path) -> None:
    write_video(place / "videos" / "mute.mp4", moving(1.0, 9), None)
    video(place, "dog/d")
    assert cut(place).rejects == 1
    (place / "videos" / "mute.mp4").unlink()
    assert cut(place).rejects == 0
    check_whole(place)


def test_new_clips_are_shuffled_by_the_number_of_the_append(place: Path) -> None:
    for name in NAMES[3:]:
        video(place, name, 3.0)
    cut(place)
    keys = read_whole_index(place / "corpus", ["key"])["key"].to_pylist()[6:]
    assert len(keys) == 9
    assert keys != sorted(keys)


def write_manifest(place: Path, rows: list[str], header: str = "path,split,label") -> Path:
    path = place / "videos.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_changed_labels_of_clips_are_refused_and_named(place: Path) -> None:
    rows = [f"videos/{name}.mp4,train,x" for name in NAMES[:3]]
    settings = SETTINGS.model_copy(update={"label_from_folder": False})
    corpus, videos = place / "listed", write_manifest(place, rows)
    shard(corpus, videos, settings)
    video(place, "dog/d")
    added = "videos/dog/d.mp4,train,y"
    write_manifest(place, [rows[0].replace(",x", ",z"), rows[1].replace("train", "test"), rows[2], added])
    before = (corpus / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match=r"label 'x' -> 'z'.*--force") as error:
        shard(corpus, videos, settings)
    assert "split 'train' -> 'test'" in str(error.value)
    write_manifest(place, [*(f"{row},w" for row in rows), f"{added},w"], "path,split,label,label_more")
    with pytest.raises(ConfigError, match="label_more"):
        shard(corpus, videos, settings)
    assert (corpus / "manifest.json").read_bytes() == before
    write_manifest(place, [*(row.replace("train", " Train") for row in rows), added])  # The same split.
    assert shard(corpus, videos, settings).rows == 8


def test_a_label_that_only_removed_videos_had_stays_a_column(place: Path) -> None:
    settings = SETTINGS.model_copy(update={"label_from_folder": False})
    videos = write_manifest(place, ["videos/cat/a.mp4,,x", "videos/cat/b.mp4,,"])
    corpus = place / "listed"
    shard(corpus, videos, settings)
    write_manifest(place, ["videos/cat/b.mp4,,", "videos/dog/c.mp4,,"])
    shard(corpus, videos, settings)
    assert read_whole_index(corpus, ["label"])["label"].to_pylist() == [None] * 4


def test_other_settings_cut_all_clips_again(place: Path) -> None:
    video(place, "dog/d")
    assert "generations" not in cut(place, crf=30).summary


def test_a_corpus_with_missing_files_is_not_appended_to(place: Path) -> None:
    video(place, "dog/d")
    (place / "corpus" / "000000.tar").unlink()
    with pytest.raises(StageError, match=r"000000\.tar missing.*--force"):
        cut(place)
    assert shard(place / "corpus", place / "videos", SETTINGS, force=True).rows == 8


def test_single_shards_of_a_corpus_that_was_appended_to_are_not_cut_again(place: Path) -> None:
    video(place, "dog/d")
    cut(place)
    with pytest.raises(ConfigError, match="was appended to"):
        recut(place / "corpus", place / "videos", SETTINGS, ["dog/d.mp4"])


def append_three_times(place: Path, after: Callable[[], None]) -> None:
    """Add a video, add one and remove one, add one and change one."""
    video(place, "dog/d", shade=60)
    after()
    video(place, "dog/e", 3.0, shade=80)
    (place / "videos" / "cat" / "b.mp4").unlink()
    after()
    video(place, "cat/f", shade=100)
    video(place, "dog/c", 3.0, shade=200)
    after()


POINTS = (
    "after begin",
    "before receipt 000000",
    "after receipt 000001",
    "before receipt 00000[2-9]",
    "before commit",
    "after set_aside",
    "after commit",
    "before forget_notes",
)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_in_each_of_three_appends_it_ends_as_without_kills(place: Path, point: str, tmp_path: Path) -> None:
    undisturbed = Path(shutil.copytree(place, tmp_path / "undisturbed"))
    # The videos have the same times: else their files would be surveyed again.
    append_three_times(undisturbed, lambda: assert_all(cut(undisturbed)))
    old = files(place, ["000000", "000001"])

    def killed() -> None:
        code = ended(forked(lambda: cut(place), tmp_path / "log.txt", f"kill:1:{point}"))
        assert code == -signal.SIGKILL, (tmp_path / "log.txt").read_text()
        # Until the append is complete, the corpus is as before or there is none.
        manifest = read_manifest(place / "corpus")
        assert manifest is None or missing_files(place / "corpus", manifest) == []
        cut(place)
        check_whole(place)

    append_three_times(place, killed)
    every = [*shard_names(undisturbed / "corpus"), "plan", "shards", "rejects"]
    assert files(place, every) == files(undisturbed, every)
    after = files(place, ["000000", "000001"])
    assert {name: after[name] for name in old} == old
    assert clips(place) == Counter(
        {
            **{(f"{name}.mp4", at): 1 for name in ("cat/a", "dog/d", "cat/f") for at in (0.0, 1.0)},
            **{(f"{name}.mp4", at): 1 for name in ("dog/e", "dog/c") for at in (0.0, 1.0, 2.0)},
        }
    )
    ours, theirs = (read_manifest(root / "corpus") for root in (place, undisturbed))
    assert ours is not None
    assert theirs is not None
    assert ours.summary == theirs.summary
    assert len(earlier_generations(ours)) == 3


def assert_all(record: Record) -> None:
    assert not record.reused


def test_a_view_of_an_earlier_generation_has_its_clips_and_no_others(place: Path) -> None:
    corpus, rows = place / "corpus", read_whole_index(place / "corpus").to_pylist()
    first = read_manifest(corpus)
    assert first is not None
    video(place, "dog/d")
    (place / "videos" / "cat" / "b.mp4").unlink()
    cut(place)
    second = read_manifest(corpus)
    assert second is not None
    video(place, "dog/e")
    now = {entry["key"] for entry in read_whole_index(corpus).to_pylist()}
    cut(place)
    with corpus_at(corpus, read_as(first), place) as view:
        manifest = read_manifest(view)
        assert manifest is not None
        assert (manifest.rows, read_as(manifest), earlier_generations(manifest)) == (6, read_as(first), [])
        assert missing_files(view, manifest) == []
        assert read_whole_index(view).to_pylist() == rows
        with ClipReader(view) as reader:
            assert all(reader.read(row["shard"], row, "mp4") for row in rows)
    with corpus_at(corpus, read_as(second), place) as view:
        manifest = read_manifest(view)
        assert manifest is not None
        assert (manifest.rows, read_as(manifest), len(earlier_generations(manifest))) == (6, read_as(second), 1)
        assert {entry["key"] for entry in read_whole_index(view).to_pylist()} == now
    with pytest.raises(StageError, match="was replaced by another process"), corpus_at(corpus, "0" * 64, place):
        pass
    assert not (place / ".corpus").exists()


def test_a_view_on_the_disk_of_the_corpus_stays_as_it_is_whatever_becomes_of_the_corpus(place: Path) -> None:
    corpus, rows = place / "corpus", read_whole_index(place / "corpus").to_pylist()
    manifest = read_manifest(corpus)
    assert manifest is not None
    with corpus_at(corpus, read_as(manifest), place) as view:
        corpus.rename(place / "aside")  # As between the renames of a commit.
        assert read_whole_index(view).to_pylist() == rows
        with ClipReader(view) as reader:
            assert all(reader.read(row["shard"], row, "mp4") for row in rows)
        (place / "aside").rename(corpus)
        for path in corpus.glob("index/[0-9]*.parquet"):  # As `xdc index` replaces them.
            table = pq.read_table(path)
            path.unlink()
            pq.write_table(table.drop_columns(["mp4_group_frame"]), path)
        commit_as_it_is(corpus)
        assert read_whole_index(view).to_pylist() == rows


def test_mapped_columns_of_generations_do_not_take_each_others_place(place: Path) -> None:
    corpus, places, marks = place / "corpus", list[Path](), list[str]()

    def columns_at(mark: str) -> Path:
        with corpus_at(corpus, mark, place) as view:
            found = columns_of(view, place)
            assert list(column_faults(view, found)) == []
            return found

    for name in ("dog/d", "dog/e", "cat/f", "cat/g"):
        manifest = read_manifest(corpus)
        assert manifest is not None
        marks.append(read_as(manifest))
        places.append(columns_of(corpus, place))
        assert columns_at(marks[-1]) == places[-1]
        inodes = [(found / "rows.arrow").stat().st_ino for found in places[-KEPT:]]
        assert [columns_at(mark) for mark in marks[-KEPT:]] == places[-KEPT:]
        assert [(found / "rows.arrow").stat().st_ino for found in places[-KEPT:]] == inodes, (
            "they are not written again"
        )
        video(place, name)
        cut(place)
    there = {columns_of(corpus, place), *places[-KEPT:]}
    assert {*place.glob(".corpus.*.columns")} == there
    assert {path for path, _ in directories_of_generations(corpus, place)} == {*places, *there}


def test_what_has_become_of_a_corpus_is_seen_by_its_clips(place: Path) -> None:
    corpus = place / "corpus"
    first = as_read(corpus)
    assert since_read(corpus, first) == "same"
    video(place, "dog/d")
    cut(place)
    assert since_read(corpus, first) == "grown"
    corpus.rename(place / "aside")
    assert since_read(corpus, first) == "away"
    (place / "aside").rename(corpus)
    shard(corpus, place / "videos", SETTINGS, force=True)
    assert since_read(corpus, first) == "replaced"


def test_two_processes_that_append_at_once_make_one_corpus(place: Path, tmp_path: Path) -> None:
    video(place, "dog/d")
    processes = [forked(lambda: cut(place), tmp_path / f"{number}.txt") for number in range(2)]
    codes = sorted(map(ended, processes))
    assert codes[0] == 0, [(tmp_path / f"{number}.txt").read_text() for number in range(2)]
    for number, code in enumerate(codes):
        log = tmp_path / f"{number}.txt"
        assert code == 0 or "is being built by another process" in "".join(
            path.read_text() for path in tmp_path.glob("*.txt")
        ), log.read_text()
    assert cut(place).reused
    check_whole(place)


def test_killed_in_the_commit_it_goes_on_with_another_video_too(place: Path, tmp_path: Path) -> None:
    before = files(place, ["000000", "000001"])
    video(place, "dog/d")
    assert ended(forked(lambda: cut(place), tmp_path / "log.txt", "kill:1:before commit")) == -signal.SIGKILL
    assert not (place / "corpus").exists()
    video(place, "dog/e")
    assert ended(forked(lambda: cut(place), tmp_path / "log.txt", "kill:1:before bring_back")) == -signal.SIGKILL
    record = cut(place)
    assert [generation["clips"] for generation in record.summary["generations"]] == [6]
    assert files(place, ["000000", "000001"]) == before
    check_whole(place)


def test_without_a_readable_manifest_nothing_is_cut_again(place: Path) -> None:
    path = place / "corpus" / "manifest.json"
    path.write_bytes(path.read_bytes()[:-20])
    video(place, "dog/d")
    with pytest.raises(StageError, match=r"manifest\.json is missing or damaged.*--force"):
        cut(place)
    assert shard(place / "corpus", place / "videos", SETTINGS, force=True).rows == 8


def test_an_append_that_was_begun_is_not_continued_by_a_whole_cut(place: Path, tmp_path: Path) -> None:
    video(place, "dog/d")
    assert ended(forked(lambda: cut(place), tmp_path / "log.txt", "kill:1:before commit")) == -signal.SIGKILL
    whole = cut(place, append=False)
    assert "generations" not in whole.summary
    assert len(shard_names(place / "corpus")) == 2
    check_whole(place)
