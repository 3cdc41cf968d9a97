"""report.json against the files that it tells of, and report.html as a page that trusts nobody."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commits import commit_as_it_is
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from shards.commit import read_manifest
from shards.index import read_whole_index, shard_names
from shards.progress import silent
from xdc_core.config import load_config
from xdc_core.graph import round_nodes, setup_nodes
from xdc_core.labels import read_labels
from xdc_core.report.stage import report
from xdc_core.run import Node, Run
from xdc_core.training.metrics import read_metrics

MakeRun = Callable[..., Run]
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
def test_purest_clusters_are_those_of_the_labels_on_disk(worked_run: Run, source: str, number: int) -> None:
    truth = np.array(read_whole_index(worked_run.corpus, ["label"])["label"].to_pylist())
    clusters = clusters_of(worked_run, source, number)
    rows = report_of(worked_run, number)["sources"][source]["purest"]
    assert {row["cluster"] for row in rows} == set(clusters.tolist())
    assert [row["purity"] for row in rows] == sorted((row["purity"] for row in rows), reverse=True)
    for row in rows:
        members = Counter(truth[clusters == row["cluster"]].tolist())
        assert row["size"] == members.total()
        assert row["purity"] == row["top"][0]["share"] == pytest.approx(max(members.values()) / row["size"], abs=1e-4)
        assert len(row["top"]) == min(3, len(members))
        for top in row["top"]:
            assert top["share"] == pytest.approx(members[top["label"]] / row["size"], abs=1e-4)
        assert [count for _, count in members.most_common(3)] == [round(t["share"] * row["size"]) for t in row["top"]]


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

    VOID = frozenset({"meta", "!doctype", "br"})

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
        if self.open[-1:] != ["style"]:
            self.text += data


def html_of(run: Run, number: int) -> str:
    return (run.directory(Node("report", None, number)) / "report.html").read_text(encoding="utf-8")


@ROUNDS
def test_the_page_is_whole_and_asks_nobody_for_anything(worked_run: Run, number: int) -> None:
    text = html_of(worked_run, number)
    assert not re.search(r"https?:|//|url\(|@import", text)
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert not [name for name, _ in page.attributes if name.startswith("on")]


@ROUNDS
def test_the_page_shows_the_numbers_of_the_report(worked_run: Run, number: int) -> None:
    found, page = report_of(worked_run, number), Page(html_of(worked_run, number))
    for source in found["sources"].values():
        assert f"{source['agreement']['label']['nmi']:.3f}" in page.text
        assert f"objective {source['objective'][0]:.1f}" in page.text
    bars = [value for name, value in page.attributes if name == "title"]
    assert sorted(bars) == sorted(f"{size} clips" for s in found["sources"].values() for size in s["sizes"])
    assert ("Training" in page.text) == (number == 0)
    for node in found["nodes"]:
        assert node["node"] in page.text
        assert node["fingerprint"] in page.text


@pytest.fixture
def hostile(copy_run: MakeRun, tiny_corpus: Path) -> Run:
    """A run with a name and with labels that would be markup if they were believed."""
    run = copy_run(corpus={"path": "corpus"})
    shutil.copytree(tiny_corpus, run.corpus)
    for shard in shard_names(run.corpus):
        path = run.corpus / f"{shard}.parquet"
        table = pq.read_table(path)
        place = table.column_names.index("label")
        pq.write_table(table.set_column(place, "label", pa.array([SCRIPT] * len(table))), path)
    commit_as_it_is(run.corpus)
    moved = run.root.with_name("<b>&run")
    shutil.move(run.root, moved)
    return Run(moved, run.config)


def test_labels_and_names_are_text_and_never_markup(hostile: Run) -> None:
    out = hostile.root / "out"
    report(hostile, Node("report", None, 0), out, silent)
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags["script"] == page.tags["b"] == 0
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert SCRIPT in page.text
    assert "<b>&run: round 0" in page.text
    assert json.loads((out / "report.json").read_text())["sources"]["video"]["purest"][0]["top"][0]["label"] == SCRIPT
