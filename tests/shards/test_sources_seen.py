"""Whether sources still look as they were last seen, found without holding or reading them."""

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest

from shards.corpus.listing import list_corpus
from shards.corpus.plan import STAGE_VERSION, corpus_fingerprint
from shards.corpus.seen import corpus_fingerprint_now, digest_of_sources, seen_file, sources_root
from shards.corpus.write import SOURCES_SCHEMA
from shards.errors import ConfigError
from shards.settings import CorpusSettings, stored_part
from shards.sources.source import list_folder
from shards.sources.surveyed import Survey, Surveyed, survey_columns
from shards.sources.walk import OPEN_FOLDERS
from shards.store.build import Identity, Outcome, build
from shards.store.parquet import write_parquet

SETTINGS = CorpusSettings()
CHANGED = (None, "sources have changed since they were last compared")


def surveyed_from(videos: Path, settings: CorpusSettings) -> Survey:
    """What a survey of the files would find, if all were videos; the content follows from the name."""
    listing, found = list_corpus(videos, settings.label_from_folder, settings.layout), {}
    for number, source in enumerate(listing.sources, start=1):
        state = (listing.root / source.path).stat()
        found[source.path] = Surveyed(source.path, state.st_size, state.st_mtime_ns, f"{number:064x}", probe_version=2)
    return survey_columns(found.values())


def commit(corpus: Path, videos: Path, settings: CorpusSettings = SETTINGS) -> str:
    """Commit a corpus without clips of these sources. Return its fingerprint."""
    surveyed = surveyed_from(videos, settings)
    listing = list_corpus(videos, settings.label_from_folder, settings.layout)
    found = corpus_fingerprint(settings, listing, surveyed)

    def work(out: Path) -> Outcome:
        rows = [asdict(entry) | {"asked_s": []} for entry in surveyed.files()]
        write_parquet(out / "sources.parquet", pa.Table.from_pylist(rows, SOURCES_SCHEMA))
        return Outcome(0)

    return build(corpus, Identity("shard", STAGE_VERSION, found, settings=stored_part(settings)), work).fingerprint


def make_videos(folder: Path, count: int) -> Path:
    """Empty files in folders of a hundred."""
    for number in range(count):
        file = folder / f"{number // 100:04d}" / f"{number:06d}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def write_table(videos: Path) -> Path:
    rows = (f"{path.relative_to(videos)},train,{path.parent.name}\n" for path in sorted(videos.rglob("*.mp4")))
    (videos / "list.csv").write_text("path,split,label\n" + "".join(rows))
    return videos / "list.csv"


@pytest.fixture(params=["folder", "table"])
def videos(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of 250 files, or a manifest of them."""
    folder = make_videos(tmp_path / "videos", 250)
    return folder if request.param == "folder" else write_table(folder)


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_unchanged_sources_take_less_than_100_bytes_each(kind: str, tmp_path: Path) -> None:
    count = 10_000
    folder = make_videos(tmp_path / "videos", count)
    videos = folder if kind == "folder" else write_table(folder)
    known = commit(tmp_path / "corpus", videos)
    # The first comparison stores the digest. The second one imports nothing.
    assert corpus_fingerprint_now(tmp_path / "corpus", videos, SETTINGS) == (known, "")
    tracemalloc.start()
    try:
        assert corpus_fingerprint_now(tmp_path / "corpus", videos, SETTINGS, compare=False) == (known, "")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * count


def test_the_stored_digest_is_enough_to_know_unchanged_sources(videos: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    known = commit(corpus, videos)
    assert corpus_fingerprint_now(corpus, videos, SETTINGS) == (known, "")
    (corpus / "sources.parquet").unlink()
    assert corpus_fingerprint_now(corpus, videos, SETTINGS) == (known, "")
    seen_file(corpus).unlink()
    assert corpus_fingerprint_now(corpus, videos, SETTINGS) == (
        None,
        "new or changed source 0000/000000.mp4 and 249 more",
    )


@pytest.mark.parametrize("content", [b"", b"{}", b"no JSON"])
def test_a_damaged_digest_is_written_again(videos: Path, tmp_path: Path, content: bytes) -> None:
    corpus = tmp_path / "corpus"
    known = commit(corpus, videos)
    assert corpus_fingerprint_now(corpus, videos, SETTINGS) == (known, "")
    whole = seen_file(corpus).read_bytes()
    seen_file(corpus).write_bytes(content)
    assert corpus_fingerprint_now(corpus, videos, SETTINGS, compare=False) == (known, "")
    assert seen_file(corpus).read_bytes() == whole


def folder_of(videos: Path) -> Path:
    return videos if videos.is_dir() else videos.parent


def touch(videos: Path) -> None:
    os.utime(folder_of(videos) / "0001/000150.mp4", ns=(1, 10**18))


def grow(videos: Path) -> None:
    path = folder_of(videos) / "0001/000150.mp4"
    before = path.stat()
    path.write_bytes(b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename(videos: Path) -> None:
    (folder_of(videos) / "0001/000150.mp4").rename(folder_of(videos) / "0001/other.mp4")


def swap(videos: Path) -> None:
    """Two files change their places; sizes and names are the same, times differ."""
    one, two = (folder_of(videos) / f"0001/00015{number}.mp4" for number in (0, 1))
    os.utime(one, ns=(1, 10**18))
    one.rename(one.with_suffix(".kept"))
    two.rename(one)
    one.with_suffix(".kept").rename(two)


@pytest.mark.parametrize("change", [touch, grow, rename, swap])
def test_a_changed_file_is_noticed(videos: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    corpus = tmp_path / "corpus"
    known = commit(corpus, videos)
    assert corpus_fingerprint_now(corpus, videos, SETTINGS) == (known, "")
    change(videos)
    assert corpus_fingerprint_now(corpus, videos, SETTINGS, compare=False) == CHANGED
    found, reason = corpus_fingerprint_now(corpus, videos, SETTINGS)
    assert (found, reason.startswith("new or changed source 0001/")) == (None, True)


def test_files_that_come_and_go_are_noticed(tmp_path: Path) -> None:
    videos, corpus = make_videos(tmp_path / "videos", 250), tmp_path / "corpus"
    known = commit(corpus, videos)
    assert corpus_fingerprint_now(corpus, videos, SETTINGS) == (known, "")
    (videos / "new").mkdir()
    (videos / "new" / "z.mp4").touch()
    assert corpus_fingerprint_now(corpus, videos, SETTINGS, compare=False) == CHANGED
    assert corpus_fingerprint_now(corpus, videos, SETTINGS) == (None, "new or changed source new/z.mp4")
    shutil.rmtree(videos / "new")
    (videos / "notes.txt").touch()  # Not a source.
    assert corpus_fingerprint_now(corpus, videos, SETTINGS, compare=False) == (known, "")
    kept = (videos / "0001/000150.mp4").rename(tmp_path / "kept.mp4")
    assert corpus_fingerprint_now(corpus, videos, SETTINGS, compare=False) == CHANGED
    fewer, reason = corpus_fingerprint_now(corpus, videos, SETTINGS)
    assert (fewer not in (None, known), reason) == (True, "")
    kept.rename(videos / "0001/000150.mp4")
    assert corpus_fingerprint_now(corpus, videos, SETTINGS) == (known, "")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("0001/000150.mp4,train,0001", "0001/000150.mp4,train,other"),
        ("0001/000150.mp4,train,0001", "0001/000150.mp4,test,0001"),
        ("0001/000150.mp4,train,0001\n", ""),
        (
            "0001/000150.mp4,train,0001\n0001/000151.mp4,train,0001\n",
            "0001/000151.mp4,train,0001\n0001/000150.mp4,train,0001\n",
        ),
    ],
    ids=["label", "split", "row gone", "order"],
)
def test_another_row_of_a_manifest_gives_the_fingerprint_of_the_new_listing(
    tmp_path: Path, before: str, after: str
) -> None:
    table, corpus = write_table(make_videos(tmp_path / "videos", 250)), tmp_path / "corpus"
    known, surveyed = commit(corpus, table), surveyed_from(table, SETTINGS)
    assert corpus_fingerprint_now(corpus, table, SETTINGS) == (known, "")
    text = table.read_text()
    assert before in text
    table.write_text(text.replace(before, after))
    assert corpus_fingerprint_now(corpus, table, SETTINGS, compare=False) == CHANGED
    wanted = corpus_fingerprint(SETTINGS, list_corpus(table), surveyed)
    assert wanted != known
    assert corpus_fingerprint_now(corpus, table, SETTINGS) == (wanted, "")
    table.write_text(text)
    assert corpus_fingerprint_now(corpus, table, SETTINGS) == (known, "")


def test_a_manifest_with_a_row_twice_has_the_fingerprint_of_its_listing(tmp_path: Path) -> None:
    table, corpus = write_table(make_videos(tmp_path / "videos", 20)), tmp_path / "corpus"
    table.write_text(table.read_text() + "./0000/000003.mp4,train,0000\n")
    known = commit(corpus, table)
    for compare in (True, False):
        assert corpus_fingerprint_now(corpus, table, SETTINGS, compare) == (known, "")
    table.write_text(table.read_text().replace("./0000/000003.mp4,train,0000", "./0000/000003.mp4,test,0000"))
    with pytest.raises(ConfigError, match=r"row 4 and row 21 are both 0000/000003\.mp4, but split is"):
        corpus_fingerprint_now(corpus, table, SETTINGS)


@pytest.mark.parametrize("change", [{"label_from_folder": True}, {"crf": 30}])
def test_other_settings_have_another_digest(tmp_path: Path, change: dict[str, object]) -> None:
    videos, corpus = make_videos(tmp_path / "videos", 20), tmp_path / "corpus"
    known = commit(corpus, videos)
    assert corpus_fingerprint_now(corpus, videos, SETTINGS) == (known, "")
    other = SETTINGS.model_copy(update=change)
    assert corpus_fingerprint_now(corpus, videos, other, compare=False) == CHANGED
    wanted = corpus_fingerprint(other, list_corpus(videos, other.label_from_folder), surveyed_from(videos, SETTINGS))
    assert corpus_fingerprint_now(corpus, videos, other) == (wanted, "")


def test_a_layout_is_seen_by_every_file_in_its_folder(tmp_path: Path) -> None:
    videos, corpus = make_videos(tmp_path / "videos", 250), tmp_path / "corpus"
    settings = CorpusSettings(layout="folder")
    known = commit(corpus, videos, settings)
    for compare in (True, False):
        assert corpus_fingerprint_now(corpus, videos, settings, compare) == (known, "")
    (videos / "list.txt").touch()
    assert corpus_fingerprint_now(corpus, videos, settings, compare=False) == CHANGED
    assert corpus_fingerprint_now(corpus, videos, settings) == (known, "")
    touch(videos)
    assert corpus_fingerprint_now(corpus, videos, settings, compare=False) == CHANGED
    assert corpus_fingerprint_now(corpus, videos, settings) == (None, "new or changed source 0001/000150.mp4")


@pytest.mark.parametrize("place", ["corpus", "made/corpus"])
def test_a_corpus_in_the_folder_of_a_layout_is_not_taken_for_its_sources(tmp_path: Path, place: str) -> None:
    videos = make_videos(tmp_path / "videos", 20)
    corpus, settings = videos / place, CorpusSettings(layout="folder")
    known = commit(corpus, videos, settings)
    for name in (f".{corpus.name}.lock", ".stale/corpus.0123/x", f"{corpus.name}/x"):
        (corpus.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (corpus.parent / name).touch()
        assert corpus_fingerprint_now(corpus, videos, settings) == (known, "")
        assert corpus_fingerprint_now(corpus, videos, settings, compare=False) == (known, "")
    (videos / f"{corpus.name}2").touch()
    assert corpus_fingerprint_now(corpus, videos, settings, compare=False) == CHANGED


def test_a_layout_with_a_link_to_a_folder_is_always_listed(tmp_path: Path) -> None:
    videos, corpus = make_videos(tmp_path / "videos", 20), tmp_path / "corpus"
    (tmp_path / "lists").mkdir()
    (videos / "lists").symlink_to(tmp_path / "lists")
    settings = CorpusSettings(layout="folder")
    assert digest_of_sources(corpus, videos, settings) is None
    known = commit(corpus, videos, settings)
    assert corpus_fingerprint_now(corpus, videos, settings) == (known, "")
    assert not seen_file(corpus).exists()


def test_before_the_first_corpus_nothing_is_compared_and_wrong_sources_are_an_error(
    videos: Path, tmp_path: Path
) -> None:
    assert corpus_fingerprint_now(tmp_path / "corpus", videos, SETTINGS, compare=False) == (None, "it was not made yet")
    assert not seen_file(tmp_path / "corpus").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no video"):
        corpus_fingerprint_now(tmp_path / "corpus", tmp_path / "empty", SETTINGS, compare=False)


def test_a_deep_tree_is_listed_in_the_order_of_its_paths(tmp_path: Path) -> None:
    deep = tmp_path.joinpath("videos", *["f"] * (OPEN_FOLDERS + 20))
    deep.mkdir(parents=True)
    for folder in (deep, deep.parents[OPEN_FOLDERS], tmp_path / "videos"):
        for name in ("f-.mp4", "e.mp4", "g.mp4"):
            (folder / name).touch()
    (tmp_path / "videos" / ".hidden.mp4").touch()
    found = [source.path for source in list_folder(tmp_path / "videos", label_from_folder=False).sources]
    there = sorted(path for path in (tmp_path / "videos").rglob("[!.]*.mp4"))
    assert found == [path.relative_to(tmp_path / "videos").as_posix() for path in there]
    assert len(found) == 9


def test_where_sources_are_is_known_without_a_digest_but_not_in_a_layout(tmp_path: Path) -> None:
    (tmp_path / "videos.csv").write_text("path\n", encoding="utf-8")
    (tmp_path / "videos").mkdir()
    corpus = tmp_path / "corpus"
    assert sources_root(corpus, tmp_path / "videos", None) == tmp_path / "videos"
    assert sources_root(corpus, tmp_path / "videos.csv", None) == tmp_path
    assert sources_root(corpus, tmp_path / "videos", "a_layout") is None
    assert sources_root(corpus, tmp_path / "gone", None) is None
    digest = {"digest": "d", "fingerprint": "f", "root": "clips"}
    seen_file(corpus).write_text(json.dumps(digest), encoding="utf-8")
    assert sources_root(corpus, tmp_path / "videos", "a_layout") == tmp_path / "videos" / "clips"
