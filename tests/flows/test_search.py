"""`xdc search` from the command line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from shards.corpus.index import read_whole_index
from tests.flows.test_cli import xdc
from tests.shards.media_maker import plain, tone, write_video
from tests.sharing import made_once
from xdc_core.graph.run_stage import run_stage
from xdc_core.new_clips.embedding import make_embedding, setup_of
from xdc_core.new_clips.encoders import encoders_of_run
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run
from xdc_core.search.index_stage import index_node, spaces_of
from xdc_core.search.maps_stage import maps_node


@pytest.fixture(scope="module")
def run(worked_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run in which all that searches of round 1 need is made. For reading only."""

    def make(root: Path) -> None:
        shutil.copytree(worked_run.root, root / "run")
        copy = open_run(root / "run")
        for node in (maps_node(1), *(index_node(space, 1) for space in spaces_of(copy.config.modalities))):
            run_stage(copy, node)

    return open_run(made_once(tmp_path_factory, "searched", make) / "run")


@pytest.fixture(scope="module")
def clip(run: Run) -> dict[str, Any]:
    """A clip of the corpus: key, source, split, label."""
    row: dict[str, Any] = read_whole_index(run.corpus, ["key", "source", "split", "label"]).to_pylist()[5]
    return row


def found(*arguments: object) -> dict[str, Any]:
    code, output = xdc("search", *arguments, "--json")
    assert code == 0, output
    values: dict[str, Any] = json.loads(output)
    return values


def refused(*arguments: object) -> str:
    code, output = xdc("search", *arguments)
    assert code == 2, output
    return " ".join(output.split())


def test_a_clip_finds_others_by_the_same_modality_and_across(run: Run, clip: dict[str, Any]) -> None:
    alike = found(run.root, clip["key"], "-k", 5)
    assert (alike["by"], alike["in"], alike["round"], alike["index"], alike["clips"]) == (
        "video",
        "video",
        1,
        "flat",
        48,
    )
    assert alike["query"]["labels"]["label"] == clip["label"]
    assert [row["rank"] for row in alike["results"]] == [1, 2, 3, 4, 5]
    assert clip["key"] not in [row["key"] for row in alike["results"]]
    across = found(run.root, clip["key"], "--by", "sound", "--in", "picture", "-k", 5)
    assert (across["by"], across["in"]) == ("audio", "video")
    assert across["map"]["pairs"] == 48
    assert found(run.root, clip["key"], "--by", "audio", "--in", "video", "-k", 5) == across
    assert found(run.root, clip["key"], "--in", "sound", "-k", 5)["by"] == "audio"


def test_the_table_shows_where_the_clips_are(run: Run, clip: dict[str, Any]) -> None:
    code, output = xdc("search", run.root, clip["key"], "-k", 3, "--split", "train")
    assert code == 0, output
    head, *rows = output.splitlines()
    assert head.split() == [
        *("rank", "similarity", "key", "source", "start_s", "split"),
        *(name for name in head.split() if name.startswith("label")),
        "path",
    ]
    assert [row.split()[0] for row in rows[:3]] == ["1", "2", "3"]
    assert all(Path(row.split()[-1]).is_file() for row in rows[:3])
    assert rows[3].startswith("video compared with video, round 1, 48 clips, all compared")


def test_recall_is_measured_on_the_clips_of_a_split_beside_chance(run: Run) -> None:
    measured = found(run.root, "--measure", "test", "--by", "sound", "--in", "picture")["measured"]
    assert (measured["queries"], measured["among"]) == (8, 8)
    assert set(measured["label"]["recall"]) == {"1", "10"}
    assert measured["own clip"]["chance"] == {"1": 1 / 8, "10": 1.0}
    code, output = xdc("search", run.root, "--measure", "test")
    assert code == 0
    assert re.search(r"label: recall at 1 0\.\d{4}, chance 0\.\d{4}", output)
    assert "own clip" not in output


def test_a_media_file_finds_its_own_clip_and_the_page_shows_both(
    run: Run, clip: dict[str, Any], tmp_path: Path
) -> None:
    assert run.videos is not None
    page = tmp_path / "found.html"
    file = run.videos.parent / clip["source"]
    results = found(run.root, file, "--by", "sound", "-k", 3, "--html", page)
    assert results["results"][0]["key"] == clip["key"]
    assert results["results"][0]["similarity"] == pytest.approx(1, abs=1e-4)
    html = page.read_text()
    assert f"<h1>Clips like {results['query']['key']} by sound</h1>" in html
    assert "<script" not in html
    media = re.findall(r'src="([^"]+)"', html)
    assert len(media) == 8
    assert all((tmp_path / name).is_file() for name in media)
    for row in results["results"]:
        assert row["key"] in html
    # Another search may replace these media, but not other people's.
    (tmp_path / "found-media" / "mine.txt").write_text("notes")
    assert re.search(r"holds 1 files .* mine\.txt first", refused(run.root, clip["key"], "--html", page))
    (tmp_path / "found-media" / "mine.txt").unlink()
    found(run.root, clip["key"], "-k", 1, "--html", page)
    kept = {str(path.relative_to(tmp_path)) for path in (tmp_path / "found-media").rglob("*.webp")}
    assert kept == {name for name in re.findall(r'src="([^"]+)"', page.read_text()) if name.endswith("webp")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found-media", "found.html"]
    # Of the same clip the sound also finds pictures.
    across = found(run.root, file, "--by", "sound", "--in", "picture", "-k", 1)
    assert across["results"][0]["rank"] == 1


def test_clips_of_another_directory_are_searched_if_the_encoders_are_the_same(
    run: Run, clip: dict[str, Any], digits: Path, tmp_path: Path
) -> None:
    other = make_embedding(tmp_path / "new", encoders_of_run(run, 1, run.config.modalities), digits, None)
    for node in (*setup_of(other.config), Node("extract", "audio", 0), Node("extract", "video", 0)):
        run_stage(other, node)
    for ways in ((), ("--by", "sound", "--in", "picture")):
        there = found(run.root, clip["key"], "--among", other.root, "-k", 4, *ways)
        here = found(run.root, clip["key"], "-k", 4, *ways)
        assert there["among"] == str(other.root)
        others = [row["key"] for row in there["results"] if row["key"] != clip["key"]]
        assert others == [row["key"] for row in here["results"]][: len(others)]
    # There the clip with the query's key is another one.
    first = found(run.root, clip["key"], "--among", other.root, "-k", 4)["results"][0]
    assert (first["key"], first["similarity"]) == (clip["key"], pytest.approx(1, abs=1e-4))
    text = refused(run.root, clip["key"], "--among", other.root, "--round", 0)
    assert f"has no features of video by the encoders at the start of round 0 of {run.root}" in text
    assert "Compute them with xdc embed." in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nothing-like-it"], r"nothing-like-it is neither a media file nor the key of one of the 48 clips"),
        (["KEY", "--by", "smell"], r"has no modality 'smell'. Choose one of: video, audio, picture, sound\."),
        (["KEY", "--split", "tset"], r"no clip of .* is of the split 'tset'\. There are: test, train\."),
        (["KEY", "--round", "9"], r"round 9: .* has rounds 0 to 1"),
        (["KEY", "--at", "1"], r"--at is for media files"),
        (["KEY", "--measure", "test"], r"leave out QUERY and --among"),
        (["--measure", "test", "--html", "page.html"], r"--html is for one QUERY"),
        (["--measure", "test", "--at", "1"], r"--at is for one QUERY"),
        ([], r"give a QUERY"),
    ],
)
def test_a_wrong_query_is_an_error_in_words(run: Run, clip: dict[str, Any], arguments: list[str], text: str) -> None:
    given = [clip["key"] if word == "KEY" else word for word in arguments]
    assert re.search(text, refused(run.root, *given))


def test_a_file_that_lacks_what_is_compared_or_is_shorter_than_a_view_is_an_error(run: Run, tmp_path: Path) -> None:
    red = plain((200, 20, 20))
    silent = write_video(tmp_path / "silent.mp4", [red] * 50, None)
    short = write_video(tmp_path / "short.mp4", [red] * 8, tone(440, 0.3))
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    unusable = r"cannot be used as a query: "
    assert re.search(
        rf"silent\.mp4 {unusable}.*no sound.*--by sound needs it", refused(run.root, silent, "--by", "sound")
    )
    assert re.search(rf"text\.mp4 {unusable}", refused(run.root, text))
    assert re.search(r"--at 5: .* is 2\.00 s long", refused(run.root, silent, "--at", "5"))
    assert re.search(rf"short\.mp4 {unusable}its clip is 0\.3\d s long, and a view has", refused(run.root, short))
