"""report.json against the files that it tells of, and report.html as a page that trusts nobody."""

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from shards.corpus.generation import read_as
from shards.corpus.index import index_path, read_whole_index, shard_names
from shards.indexing.generation_view import corpus_at
from shards.progress import silent
from shards.store.files import part_path
from shards.store.manifest import read_manifest, write_manifest
from tests.commits import commit_as_it_is
from tests.runs import MakeRun
from tests.xdc_core.tasks import task_for
from tests.xdc_core.test_diagnostics import report as a_report
from xdc_core.config.load import load_config
from xdc_core.data.features import read_features
from xdc_core.data.labels import read_labels
from xdc_core.documents.metrics import read_metrics
from xdc_core.documents.report import EvaluationRow, read_report
from xdc_core.graph.run_stage import reuse, run_stage
from xdc_core.graph.stages import round_nodes, setup_nodes
from xdc_core.report.charts import LEGEND_ROW, SCORES, Line, lines_chart
from xdc_core.report.clips import write_examples
from xdc_core.report.gather import examples_of
from xdc_core.report.overview import write_overview
from xdc_core.report.page import history_charts
from xdc_core.report.tables import members, similar
from xdc_core.report.tables.rejects import rejects_by_kind
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.stages.report import report

ROUNDS = pytest.mark.parametrize("number", [0, 1])
SCRIPT = "<script>alert(1)</script>"


def report_of(run: Run, number: int) -> dict[str, Any]:
    path = run.directory(Node("report", None, number)) / "report.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def clusters_of(run: Run, source: str, number: int) -> np.ndarray:
    directory = run.directory(Node("label", source, number))
    return np.concatenate([read_labels(directory, shard)[1] for shard in shard_names(run.corpus)])


@ROUNDS
@pytest.mark.parametrize("source", ["video", "audio"])
def test_sizes_and_scores_are_those_of_the_labels_on_disk(worked_run: Run, source: str, number: int) -> None:
    found = report_of(worked_run, number)["sources"][source]
    clusters = clusters_of(worked_run, source, number)
    sizes = np.bincount(clusters, minlength=4)
    assert (found["k"], found["clips"], found["sample"]) == (4, 48, 48)
    assert found["sizes"] == sizes.tolist()
    assert (found["empty"], found["largest"]) == (int((sizes == 0).sum()), int(sizes.max()))
    assert found["largest_share"] == pytest.approx(sizes.max() / 48, abs=1e-6)
    names = report_of(worked_run, number)["label_columns"]
    assert list(found["agreement"]) == names
    index = read_whole_index(worked_run.corpus, names)
    for name in names:
        truth = index[name].to_pylist()
        scores = found["agreement"][name]
        assert scores["nmi"] == pytest.approx(normalized_mutual_info_score(truth, clusters), abs=1e-6)
        assert scores["ami"] == pytest.approx(adjusted_mutual_info_score(truth, clusters), abs=1e-6)
        pairs = Counter(zip(clusters.tolist(), truth, strict=True))
        best = sum(max(count for (c, _), count in pairs.items() if c == cluster) for cluster in set(clusters.tolist()))
        assert scores["purity"] == pytest.approx(best / 48, abs=1e-6)


@ROUNDS
@pytest.mark.parametrize("source", ["video", "audio"])
def test_clusters_are_those_of_the_labels_on_disk(worked_run: Run, source: str, number: int) -> None:
    truth = np.array(read_whole_index(worked_run.corpus, ["label"])["label"].to_pylist())
    clusters = clusters_of(worked_run, source, number)
    rows = report_of(worked_run, number)["sources"][source]["clusters"]
    assert [row["cluster"] for row in rows] == list(range(4))
    for row in rows:
        members = Counter(truth[clusters == row["cluster"]].tolist())
        assert row["size"] == members.total()
        if not members:
            assert (row["purity"], row["top"], row["distance"], row["examples"]) == (None, [], None, [])
            continue
        assert row["purity"] == row["top"][0]["share"] == pytest.approx(max(members.values()) / row["size"], abs=1e-4)
        assert len(row["top"]) == min(3, len(members))
        for top in row["top"]:
            assert top["share"] == pytest.approx(members[top["label"]] / row["size"], abs=1e-4)
        assert [count for _, count in members.most_common(3)] == [round(t["share"] * row["size"]) for t in row["top"]]


@ROUNDS
@pytest.mark.parametrize("source", ["video", "audio"])
def test_examples_are_the_clips_nearest_to_the_centre(worked_run: Run, source: str, number: int) -> None:
    directory = worked_run.directory(Node("label", source, number))
    rows = pa.concat_tables(pq.read_table(path) for path in sorted(directory.glob("data/[0-9]*.parquet"))).to_pylist()
    for found in report_of(worked_run, number)["sources"][source]["clusters"]:
        members = sorted((row["distance"], row["key"]) for row in rows if row["cluster"] == found["cluster"])
        assert found["examples"] == [key for _, key in members[:6]]
        if members:
            assert found["distance"] == pytest.approx(np.mean([distance for distance, _ in members]), abs=1e-4)


@ROUNDS
def test_examples_can_be_seen_and_heard(worked_run: Run, number: int) -> None:
    found = report_of(worked_run, number)
    media = worked_run.directory(Node("report", None, number)) / "media"
    keys = {key for source in found["sources"].values() for row in source["clusters"] for key in row["examples"]}
    assert keys
    assert {path.name for path in media.iterdir()} == {f"{key}{suffix}" for key in keys for suffix in (".webp", ".ogg")}
    for key in sorted(keys)[:4]:
        with Image.open(media / f"{key}.webp") as strip:
            assert strip.size == (8 * 72, 72 + 40)
            assert np.asarray(strip)[:72].std() > 1
            assert np.asarray(strip)[72:].std() > 1
        with av.open(str(media / f"{key}.ogg")) as sound:
            samples = sum(frame.samples for frame in sound.decode(audio=0))
            # Opus counts at 48 kHz, and fills its last packet up.
            assert samples / 48000 == pytest.approx(1.125, abs=0.03)


def test_a_clip_that_was_an_example_before_is_not_made_again(worked_run: Run, tmp_path: Path) -> None:
    first, second = read_whole_index(worked_run.corpus, ["key"])["key"].to_pylist()[:2]
    (tmp_path / "before").mkdir()
    for suffix in (".ogg", ".webp"):
        (tmp_path / "before" / f"{first}{suffix}").write_bytes(b"made earlier")
    assert write_examples(worked_run.corpus, {first, second}, tmp_path / "now", tmp_path / "before", silent) == {}
    assert (tmp_path / "now" / f"{first}.webp").read_bytes() == b"made earlier"
    assert (tmp_path / "now" / f"{second}.webp").read_bytes().startswith(b"RIFF")
    assert len(list((tmp_path / "now").iterdir())) == 4


def test_many_clusters_get_fewer_examples_each_but_one(worked_run: Run, copy_run: MakeRun) -> None:
    assert [examples_of(worked_run.config.report, k) for k in (4, 166, 167, 500, 512, 5000)] == [6, 6, 5, 2, 1, 1]
    assert examples_of(copy_run(report={"examples": 0}).config.report, 4) == 0


def test_a_training_is_told_with_its_curve(worked_run: Run) -> None:
    assert report_of(worked_run, 0)["trained"] is True
    for modality in ("video", "audio"):
        found = report_of(worked_run, 0)["training"][modality]
        lines = read_metrics(worked_run.directory(Node("train", modality, 0)) / "metrics.jsonl")
        assert found["curve"] == lines
        assert found["first_loss"] == lines[0]["loss"]
        assert found["loss"] == pytest.approx(lines[-1]["loss"], abs=1e-4)
        assert (found["steps"], found["clips"]) == (8, 128)
    assert report_of(worked_run, 1)["trained"] is False
    assert report_of(worked_run, 1)["training"] == {}


@ROUNDS
def test_every_stage_is_told_with_what_its_manifest_says(worked_run: Run, number: int) -> None:
    nodes = [*setup_nodes(worked_run.config), *round_nodes(worked_run.config, number)[:-1]]
    rows = report_of(worked_run, number)["nodes"]
    assert [row["node"] for row in rows] == [node.name for node in nodes]
    for row, node in zip(rows, nodes, strict=True):
        manifest = read_manifest(worked_run.directory(node))
        assert manifest is not None
        assert (row["rows"], row["rejects"], row["seconds"]) == (manifest.rows, manifest.rejects, manifest.seconds)
        assert manifest.fingerprint.startswith(row["fingerprint"])


def test_the_history_grows_by_a_row_a_source_and_keeps_what_was(worked_run: Run) -> None:
    first, second = (report_of(worked_run, number)["history"] for number in (0, 1))
    assert [(row["round"], row["source"]) for row in second] == [(0, "video"), (0, "audio"), (1, "video"), (1, "audio")]
    assert second[:2] == first
    for row in second:
        found = report_of(worked_run, row["round"])["sources"][row["source"]]
        assert row["nmi:label"] == found["agreement"]["label"]["nmi"]
        assert row["purity:label_speaker"] == found["agreement"]["label_speaker"]["purity"]
        assert row["nmi_previous"] == found["nmi_previous"]
    assert [row["nmi_previous"] is None for row in second] == [True, True, False, False]
    assert [row["loss"] for row in second[:2]] == [
        report_of(worked_run, 0)["training"][modality]["loss"] for modality in ("video", "audio")
    ]
    assert [row["loss"] for row in second[2:]] == [None, None]


def test_the_report_says_of_what_it_is(worked_run: Run) -> None:
    found = report_of(worked_run, 1)
    assert (found["run"], found["round"], found["method"]) == ("run", 1, "xdc")
    assert found["corpus"]["clips"] == 48


@ROUNDS
def test_the_configuration_of_the_round_is_kept_beside_the_report(worked_run: Run, number: int) -> None:
    kept = worked_run.directory(Node("report", None, number)) / "xdc.yaml"
    assert load_config(kept) == worked_run.config
    assert f"with which round {number} was done" in kept.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags that are open, names of all tags, values of all attributes, and all text."""

    VOID = frozenset({"meta", "!doctype", "br", "input", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


def html_of(run: Run, number: int) -> str:
    return (run.directory(Node("report", None, number)) / "report.html").read_text(encoding="utf-8")


@ROUNDS
@pytest.mark.parametrize("name", ["report.html", "overview.html"])
def test_a_page_is_whole_and_asks_nobody_for_anything(worked_run: Run, number: int, name: str) -> None:
    text = html_of(worked_run, number) if name == "report.html" else (worked_run.root / name).read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert not {"link", "iframe", "object", "embed"} & set(page.tags)
    for attribute, value in page.attributes:
        assert not attribute.startswith("on")
        if attribute in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:image/png;base64,", "../", "rounds/", "xdc.yaml")), value
    # The names of SVG's own namespaces are all that looks like an address.
    assert set(re.findall(r"https?://[a-z0-9.]+", text)) <= {"http://www.w3.org"}


@ROUNDS
def test_the_page_shows_the_numbers_of_the_report(worked_run: Run, number: int) -> None:
    found, text = report_of(worked_run, number), html_of(worked_run, number)
    page = Page(text)
    for source in found["sources"].values():
        assert f"{source['agreement']['label']['nmi']:.3f}" in page.text
        assert f"objective {source['objective'][0]:.1f}" in page.text
    for _, sign in found["signs"]:
        assert sign in page.text
    assert ("Training" in page.text) == (number == 0)
    for node in found["nodes"]:
        assert node["node"] in page.text
        assert node["fingerprint"] in page.text
    gallery = gallery_of(text)
    assert {name: source["clusters"] for name, source in found["sources"].items()} == gallery["sources"]
    assert gallery["clips"]["all"] is True
    assert len(gallery["clips"]["rows"]) == 48
    index = {row["key"]: row for row in read_whole_index(worked_run.corpus).to_pylist()}
    for key, (place, start, duration, label, *clusters) in gallery["clips"]["rows"].items():
        assert (gallery["clips"]["files"][place], start) == (index[key]["source"], index[key]["start_s"])
        assert (duration, label) == (pytest.approx(index[key]["duration_s"], abs=0.01), index[key]["label"])
        assert len(clusters) == 2


def listed_of(run: Run, source: str, number: int, cluster: int) -> dict[str, Any]:
    """The list of a cluster's clips that the page loads."""
    text = (run.directory(Node("report", None, number)) / "clusters" / f"{source}-{cluster}.js").read_text("utf-8")
    found: list[Any] = json.loads(f"[{text.removeprefix('clusterClips(').removesuffix(');' + chr(10))}]")
    assert found[:2] == [source, cluster]
    listed: dict[str, Any] = found[2]
    return listed


@ROUNDS
def test_every_clip_of_a_cluster_is_listed_with_its_clusters_elsewhere_and_before(worked_run: Run, number: int) -> None:
    index = {row["key"]: row for row in read_whole_index(worked_run.corpus).to_pylist()}
    keys = [key for shard in shard_names(worked_run.corpus) for key in read_labels(
        worked_run.directory(Node("label", "video", number)), shard)[0].tolist()]  # fmt: skip
    video, audio = (dict(zip(keys, clusters_of(worked_run, name, number), strict=True)) for name in ("video", "audio"))
    before = dict(zip(keys, clusters_of(worked_run, "video", 0), strict=True)) if number else {}
    for cluster in range(4):
        listed = listed_of(worked_run, "video", number, cluster)
        assert {row[0] for row in listed["rows"]} == {key for key in keys if video[key] == cluster}
        distances = [row[4] for row in listed["rows"]]
        assert distances == sorted(distances)
        for key, file, start, _, _, label, was, other in listed["rows"]:
            assert (listed["files"][file], start) == (index[key]["source"], index[key]["start_s"])
            assert (label, was, other) == (index[key]["label"], before.get(key), audio[key])


def test_a_large_corpus_lists_the_clips_nearest_to_each_centre(
    worked_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "LISTED", 8)
    monkeypatch.setattr(members, "LEAST", 1)
    labels = worked_run.directory(Node("label", "video", 1))
    members.write_members(worked_run.corpus, {"video": members.Labelled(labels, None, 4)}, tmp_path)
    for cluster in range(4):
        every = [row[0] for row in listed_of(worked_run, "video", 1, cluster)["rows"]]
        text = (tmp_path / "clusters" / f"video-{cluster}.js").read_text("utf-8")
        assert [key for key in every if key in text] == every[:2]


def test_a_corpus_that_is_not_too_large_lists_every_clip_of_a_large_cluster(
    worked_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "LISTED", 48)
    monkeypatch.setattr(members, "LEAST", 1)
    labels = worked_run.directory(Node("label", "video", 1))
    sizes = np.bincount(clusters_of(worked_run, "video", 1), minlength=4)
    assert sizes.max() > 48 // 4
    members.write_members(worked_run.corpus, {"video": members.Labelled(labels, None, 4)}, tmp_path)
    texts = [(tmp_path / "clusters" / f"video-{cluster}.js").read_text("utf-8") for cluster in range(4)]
    assert [text.count('["') - text.count('"files":["') for text in texts] == sizes.tolist()


def test_clips_that_changed_cluster_are_counted_against_where_most_went(worked_run: Run) -> None:
    before, now = (clusters_of(worked_run, "video", number) for number in (0, 1))
    stayed = sum(Counter(now[before == cluster].tolist()).most_common(1)[0][1] for cluster in {*before.tolist()})
    found = report_of(worked_run, 1)["sources"]["video"]["changed"]
    assert (found["clips"], found["moved"]) == (48, 48 - stayed)
    assert found["ami"] == pytest.approx(adjusted_mutual_info_score(before, now), abs=1e-6)
    assert "changed" not in report_of(worked_run, 0)["sources"]["video"]
    usual = gallery_of(html_of(worked_run, 1))["usual"]["video"]
    moved = sum(int(usual[was] != cluster) for was, cluster in zip(before.tolist(), now.tolist(), strict=True))
    assert moved == found["moved"]


def test_similar_clips_are_those_with_the_largest_cosine_of_centred_features(worked_run: Run) -> None:
    directory = worked_run.directory(Node("extract", "audio", 1))
    parts = [read_features(part_path(directory, shard)) for shard in shard_names(worked_run.corpus)]
    keys = [key for own, _ in parts for key in own.tolist()]
    features = np.concatenate([part for _, part in parts])
    points = features - features.mean(axis=0)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    found = gallery_of(html_of(worked_run, 1))["similar"]["audio"]
    assert found
    for key, near in found.items():
        cosines = points @ points[keys.index(key)]
        best = sorted(
            (float(cosine) for other, cosine in zip(keys, cosines, strict=True) if other != key), reverse=True
        )
        assert key not in [other for other, _ in near]
        assert [cosine for _, cosine in near] == pytest.approx(best[:5], abs=2e-4)


def test_examples_of_all_shards_are_compared_with_the_first_clips(
    worked_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = {"audio": worked_run.directory(Node("extract", "audio", 1))}
    keys = [key for shard in shard_names(worked_run.corpus) for key in read_features(
        part_path(features["audio"], shard))[0].tolist()]  # fmt: skip
    wanted = {keys[0], keys[-1]}
    everything = similar.similar_clips(worked_run.corpus, features, wanted)
    monkeypatch.setattr(similar, "BLOCK", 5)
    # Products of other sizes may differ in their last digit.
    for key, near in similar.similar_clips(worked_run.corpus, features, wanted)["audio"].items():
        assert [cosine for _, cosine in near] == pytest.approx(
            [cosine for _, cosine in everything["audio"][key]], abs=2e-4
        )
    monkeypatch.setattr(similar, "COMPARED", 10)
    found = similar.similar_clips(worked_run.corpus, features, wanted)["audio"]
    assert {*found} == wanted
    assert {other for near in found.values() for other, _ in near} <= {*keys[:10]}


def test_of_equally_similar_clips_those_with_the_first_keys_are_kept() -> None:
    cosines = np.array([[0.5, 0.9, *[0.5] * 8], [0.0] * 10], np.float32)
    assert list(similar._nearest(cosines)) == [[1, 0, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]


@ROUNDS
def test_the_page_tells_nothing_of_where_it_was_made(worked_run: Run, number: int) -> None:
    text = html_of(worked_run, number)
    assert str(worked_run.root.resolve()) not in text
    assert "file:" not in json.dumps(gallery_of(text))
    place, root = worked_run.directory(Node("report", None, number)), gallery_of(text)["root"]
    assert not root.startswith("/")
    files = [place.resolve() / unquote(root) / file for file in gallery_of(text)["clips"]["files"]]
    assert files
    assert all(file.exists() for file in files)


def test_the_cross_table_leads_from_numbers_to_cards(worked_run: Run) -> None:
    page = Page(html_of(worked_run, 1))
    links = {value for name, value in page.attributes if name == "href" and value.startswith("#")}
    assert {f"#video-{cluster}" for cluster in set(clusters_of(worked_run, "video", 1).tolist())} <= links
    assert {link.split("-")[0] for link in links} >= {"#video", "#audio"}


def test_the_overview_counts_rejects_by_kind_with_an_example(worked_run: Run, tmp_path: Path) -> None:
    rows = [("a.mp4", "cut", "silent"), ("b.mp4", "cut", "silent"), ("<c>.mp4", "probe", "not_media")]
    columns = dict(zip(("source", "step", "kind"), map(list, zip(*rows, strict=True)), strict=True))
    table = pa.table({**columns, "reason": [f"why {row[0]}" for row in rows]})
    (tmp_path / "corpus").mkdir()
    pq.write_table(table, tmp_path / "corpus" / "rejects.parquet")
    found = rejects_by_kind(tmp_path / "corpus")
    assert found is not None
    assert [(each.kind, each.step, each.count, each.source) for each in found] == [
        ("silent", "cut", 2, "a.mp4"), ("not_media", "probe", 1, "<c>.mp4")
    ]  # fmt: skip
    newest = read_report(worked_run.directory(Node("report", None, 0)))
    page = Page(write_overview(tmp_path, [], newest, rejects=found).read_text("utf-8"))
    assert "<c>.mp4: why <c>.mp4" in page.text
    pq.write_table(table.drop_columns("kind"), tmp_path / "corpus" / "rejects.parquet")  # As version 0.1.0 did.
    assert [(each.kind, each.step, each.count) for each in rejects_by_kind(tmp_path / "corpus") or ()] == [
        ("", "cut", 2), ("", "probe", 1)
    ]  # fmt: skip


def test_the_rejects_of_a_corpus_that_grows_are_read_from_it_until_it_has_grown(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    manifest = read_manifest(corpus)
    assert manifest is not None
    with corpus_at(corpus, read_as(manifest), tmp_path / "partial") as view:
        assert not (view / "rejects.parquet").exists()
        assert rejects_by_kind(view) == rejects_by_kind(corpus) is not None
        write_manifest(corpus, manifest.model_copy(update={"rows": manifest.rows + 1}))
        assert rejects_by_kind(view) is None


@pytest.mark.parametrize(("rounds", "shown"), [([0], ["0"]), ([0, 1], ["0", "1"]), ([1, 2, 3], ["1", "2", "3"])])
def test_axes_of_rounds_have_whole_numbers(rounds: list[int], shown: list[str]) -> None:
    text = lines_chart([Line("a", rounds, [0.02] * len(rounds), "#000000")], "round", "AMI", "by round", least=SCORES)
    ticks = re.findall(r'<g id="xtick_\d+">.*?<text[^>]*>(.*?)</text>', text, re.DOTALL)
    assert ticks == shown
    scores = [float(tick) for tick in re.findall(r'<g id="ytick_\d+">.*?<text[^>]*>(.*?)</text>', text, re.DOTALL)]
    assert (min(scores), max(scores)) == (0.0, pytest.approx(0.1))


def test_a_curve_of_small_values_fills_its_axis() -> None:
    text = lines_chart([Line("a", [0, 1, 2], [0, 0.005, 0.01], "#000000")], "step", "learning rate", "rate")
    ticks = [float(tick) for tick in re.findall(r'<g id="ytick_\d+">.*?<text[^>]*>(.*?)</text>', text, re.DOTALL)]
    assert max(ticks) == pytest.approx(0.01)


def test_lines_of_many_evaluations_differ_and_are_named_below_the_axis() -> None:
    names = [f"probe-{number}" for number in range(9)]
    lines = [Line(name, [0, 1], [0.1, 0.2], "#000000") for name in names]
    few, many = (lines_chart(lines[:number], "round", "score", "by round") for number in (4, 9))
    heights = [float(re.search(r'height="([\d.]+)pt"', text)[1]) for text in (few, many)]  # type: ignore[index]
    assert heights[1] - heights[0] == pytest.approx(72 * 5 * LEGEND_ROW)
    assert all(f">{name}<" in many for name in names)
    rows = [
        EvaluationRow(round=number, evaluation=name, metric="accuracy", mean=0.5) for name in names for number in (0, 1)
    ]
    drawn = history_charts(a_report({}).model_copy(update={"evaluation_history": rows}))["Evaluations of the encoders"]
    styles = re.findall(r'<path d="[^"]*" clip-path="[^"]*" style="([^"]*stroke-width: 1.5[^"]*)"', drawn)
    assert len(set(styles)) == len(styles) == len(names)


def gallery_of(text: str) -> dict[str, Any]:
    """The JSON that a page's script reads."""
    (data,) = re.findall(r'<script type="application/json" id="gallery-data">(.+?)</script>', text, re.DOTALL)
    found: dict[str, Any] = json.loads(data)
    return found


def test_the_overview_has_a_line_a_round_with_a_link_to_its_page(worked_run: Run) -> None:
    page = Page((worked_run.root / "overview.html").read_text(encoding="utf-8"))
    links = [value for name, value in page.attributes if name == "href"]
    for number in (0, 1):
        assert f"rounds/00{number}/report/report.html" in links
        loss = report_of(worked_run, 0)["training"]["video"]["loss"]
        assert f"{loss:.3f}" in page.text
    assert all((worked_run.root / link).exists() for link in links if not link.startswith("#"))


@pytest.fixture
def hostile(copy_run: MakeRun, tiny_corpus: Path) -> Run:
    """A run with a name and with labels that would be markup if they were believed."""
    run = copy_run(corpus={"path": "corpus"})
    shutil.copytree(tiny_corpus, run.corpus)
    for shard in shard_names(run.corpus):
        path = index_path(run.corpus, shard)
        table = pq.read_table(path)
        place = table.column_names.index("label")
        pq.write_table(table.set_column(place, "label", pa.array([SCRIPT] * len(table))), path)
    commit_as_it_is(run.corpus)
    moved = run.root.with_name("<b>&run")
    shutil.move(run.root, moved)
    return Run(moved, run.config)


def test_labels_and_names_are_text_and_never_markup(hostile: Run) -> None:
    out = hostile.root / "out"
    out.mkdir()
    report(task_for(hostile, Node("report", None, 0), out))
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert (page.tags["script"], page.tags["b"]) == (2, 0)  # The data and the one script that comes with us.
    assert SCRIPT not in text
    assert gallery_of(text)["sources"]["video"][0]["top"][0]["label"] == SCRIPT
    assert "<b>&run: round 0" in page.text
    assert json.loads((out / "report.json").read_text())["sources"]["video"]["clusters"][0]["top"][0]["label"] == SCRIPT


def test_a_round_that_was_done_again_in_part_says_what_was_reused(worked_run: Run, copy_run: MakeRun) -> None:
    run = copy_run(train={"lr": 0.003})
    again = [node for node in (*setup_nodes(run.config), *round_nodes(run.config, 0)) if reuse(run, node) is None]
    for node in again:
        run_stage(run, node)
    stages = (run.directory(again[-1]) / "report.html").read_text().split("<h2>Stages</h2>")[1]
    rows = {
        found[1]: found[0].endswith(">reused</td></tr>")
        for found in re.finditer(r"<tr><td>([\w.]+)</td>.*?</tr>", stages, re.DOTALL)
    }
    assert rows == {
        "shard": True, "init.video": True, "init.audio": True, "extract.video": True, "extract.audio": True,
        "cluster.video": True, "cluster.audio": True, "label.video": True, "label.audio": True,
        "train.video": False, "train.audio": False,
    }  # fmt: skip
    first = (worked_run.directory(again[-1]) / "report.html").read_text()
    assert ">reused</td>" not in first
