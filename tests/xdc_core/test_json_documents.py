"""The JSON documents of a run: read as types, written as they were, of this version and of others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shards.errors import StageError
from tests.commits import commit_as_it_is
from xdc_core.documents.document import Document, write_document
from xdc_core.documents.kmeans import Kmeans, preprocessing_of, read_kmeans
from xdc_core.documents.report import Report, read_report
from xdc_core.documents.results import Results, Trial, read_results
from xdc_core.documents.scores import Scores, read_scores
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.stages.report import REPORT

# Of round 1 of a run of 0.1.0: 48 digits, k = 4, a probe in every round.
STORED = Path(__file__).parent / "documents_of_0_1_0"
Read = Callable[[Path], Document]
KINDS: list[tuple[str, Read]] = [
    ("kmeans.json", read_kmeans),
    ("scores.json", read_scores),
    ("results.json", read_results),
    ("report.json", read_report),
]
of_every_kind = pytest.mark.parametrize(("name", "read"), KINDS)


def changed(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A folder with a stored document that was changed."""
    values = json.loads((STORED / name).read_text(encoding="utf-8"))
    change(values)
    (folder / name).write_text(json.dumps(values), encoding="utf-8")
    return folder


@of_every_kind
def test_a_document_of_0_1_0_is_read_and_written_with_the_same_bytes(tmp_path: Path, name: str, read: Read) -> None:
    write_document(tmp_path / name, read(STORED))
    assert (tmp_path / name).read_bytes() == (STORED / name).read_bytes()


@of_every_kind
def test_keys_of_a_later_version_are_kept(tmp_path: Path, name: str, read: Read) -> None:
    document = read(changed(tmp_path, name, lambda values: values.update(later={"a": [1]})))
    assert document.content()["later"] == {"a": [1]}


@of_every_kind
def test_a_document_that_lacks_a_key_is_an_error_with_a_remedy(tmp_path: Path, name: str, read: Read) -> None:
    lacking = "round" if name in ("results.json", "report.json") else "k"
    with pytest.raises(StageError, match=rf"{name} cannot be read \({lacking}: Field required\).*--force"):
        read(changed(tmp_path, name, lambda values: values.pop(lacking)))


@of_every_kind
def test_a_missing_or_damaged_document_is_an_error_with_a_remedy(tmp_path: Path, name: str, read: Read) -> None:
    with pytest.raises(StageError, match=r"No such file.*--force"):
        read(tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(StageError, match=rf"{name} cannot be read \(Expecting.*--force"):
        read(tmp_path)


def test_a_document_that_is_not_what_was_committed_is_an_error(copy_run: Callable[..., Run]) -> None:
    directory = copy_run().directory(Node("label", "video", 0))
    path = directory / "scores.json"
    path.write_bytes(path.read_bytes().replace(b'"k": 4', b'"k": 5'))
    with pytest.raises(StageError, match=r"damaged.*xdc stage label .*--modality video --round 0 --force"):
        read_scores(directory)
    commit_as_it_is(directory)
    assert read_scores(directory).k == 5


def test_an_older_document_may_lack_what_was_measured_later(tmp_path: Path) -> None:
    def older(values: dict[str, Any]) -> None:
        for name in ("signs", "evaluations", "evaluation_history"):
            del values[name]
        for node in values["nodes"]:
            del node["stage"], node["round"]
        for source in values["sources"].values():
            del source["clusters"]
            for scores in source["agreement"].values():
                del scores["entropy"], scores["accuracy"]

    report = read_report(changed(tmp_path, "report.json", older))
    assert (report.diagnostics, report.evaluations, report.sources["video"].clusters) == ([], {}, [])
    assert report.sources["video"].agreement["label"].accuracy is None
    assert "signs" not in report.content()


def test_a_trial_has_the_same_bytes_whether_it_was_measured_now_or_before(tmp_path: Path) -> None:
    trial = Trial(split="all", seed=0, train=40, test=8, metrics={"accuracy": 0.5})
    again = Trial.model_validate_json(trial.model_dump_json())
    results = read_results(STORED)
    now, before = (Results.model_validate(results.content() | {"trials": [one]}) for one in (trial, again))
    assert now.content() == before.content()
    assert list(now.content()["trials"][0]) == list(Trial.model_fields)


def test_measured_values_are_found_by_name() -> None:
    report, kmeans, scores = read_report(STORED), read_kmeans(STORED), read_scores(STORED)
    assert isinstance(report, Report)
    assert isinstance(kmeans, Kmeans)
    assert isinstance(scores, Scores)
    row = next(row for row in report.history if (row.source, row.round) == ("video", 1))
    assert row.score("ami", "label_speaker") == scores.labels["label_speaker"].ami is not None
    assert row.score("ami", "no such column") is None
    assert report.first_label == "label"
    assert report.sources["video"].objective == kmeans.objective
    assert sum(scores.sizes) == scores.clips == 48


def test_a_report_lists_the_nodes_of_its_round_and_what_is_done_once(worked_run: Run) -> None:
    listed = [node.name for node in REPORT.settings(worked_run.config, Node("report", None, 1)).nodes]
    assert listed == [
        "shard",
        *(
            f"{stage}.{modality}"
            for stage in ("init", "extract", "cluster", "label")
            for modality in ("video", "audio")
        ),
    ]


@pytest.mark.parametrize("whiten", [True, False])
def test_whether_earlier_features_were_whitened_is_known_from_the_settings(whiten: bool) -> None:
    earlier = read_kmeans(STORED)
    assert preprocessing_of(earlier, whiten).whitened is whiten
    assert preprocessing_of(earlier.model_copy(update={"whitened": True}), False).whitened
