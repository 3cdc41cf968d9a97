"""What a round's page says first: of clusters and trainings that went wrong, and of those that did not."""

from typing import Any

import pytest

from xdc_core.documents.report import Report
from xdc_core.report.diagnostics import diagnostics

SOURCE = {"k": 16, "clips": 48, "sample": 48, "empty": 0, "largest": 5, "largest_share": 0.1, "sizes": [3] * 16}
FURTHER = {"empty": 0, "largest": 5, "largest_share": 0.1, "agreement": {}}
NOTHING_SHARED = {"components": [3, 3], "correlations": [0.21, 0.1], "chance": 0.25, "above_chance": 0}
TRAINING = {"steps": 8, "clips": 128, "first_loss": 2.7, "loss": 1.3}


def report(source: dict[str, Any], training: dict[str, Any] = TRAINING) -> Report:
    row = {"source": "video", "round": 1, "k": 16, "empty": 0, "nmi_previous": 0.4, "ami:label": 0.3}
    values: dict[str, Any] = {"run": "run", "round": 1, "method": "xdc", "trained": True, "nodes": []}
    values |= {"sources": {"video": SOURCE | {"agreement": {}} | source}, "training": {"video": training}}
    values |= {"history": [row | {"round": 0, "nmi_previous": None}, row], "label_columns": ["label"]}
    return Report.model_validate(values)


def test_of_a_round_that_went_well_there_is_only_good_to_say() -> None:
    assert {level for level, _ in diagnostics(report({}))} == {"good"}


@pytest.mark.parametrize(
    "done",
    [
        {"pca_kept": 32, "whitened": False},
        {"pca_kept": 8, "whitened": True},
        {"canonical": NOTHING_SHARED | {"above_chance": 2}},
    ],
)
def test_of_preprocessing_with_enough_clips_there_is_nothing_to_say(done: dict[str, Any]) -> None:
    assert {level for level, _ in diagnostics(report({"preprocessing": done}))} == {"good"}


@pytest.mark.parametrize(
    ("source", "training", "expected"),
    [
        (
            {"largest_share": 0.9},
            {},
            ("bad", "video: one cluster holds 90% of the clips: the encoder hardly distinguishes clips."),
        ),
        (
            {"largest_share": 0.51},
            {},
            ("bad", "video: one cluster holds 51% of the clips: the encoder hardly distinguishes clips."),
        ),
        ({"empty": 5}, {}, ("bad", "video: 5 of 16 clusters are empty.")),
        ({"empty": 4}, {}, ("look", "video: 4 of 16 clusters are empty.")),
        (
            {"clusterings": [FURTHER | {"empty": 5}]},
            {},
            ("bad", "video, clustering 2: 5 of 16 clusters are empty."),
        ),
        (
            {"balance": {"iterations": 2, "squared_distance": 1.0, "uneven": [0.3, 0.12]}},
            {},
            (
                "look",
                "video: the clusters are not balanced yet, 12% of the mass would have to move. "
                "Raise label.iterations or label.temperature.",
            ),
        ),
        (
            {"k": 100, "largest_share": 0.2},
            {},
            ("look", "video: the largest cluster holds 20% of the clips, 20 times the average."),
        ),
        (
            {"sample": 48, "preprocessing": {"pca_kept": 8, "pca_asked": 32, "whitened": True}},
            {},
            (
                "look",
                "video: 8 principal components are kept, not 32: 48 clips are too few for more "
                "(cluster.clips_per_component).",
            ),
        ),
        (
            {"sample": 48, "preprocessing": {"pca_kept": 32, "whitened": True}},
            {},
            (
                "look",
                "video: 32 whitened components of 48 clips are mostly noise: 1.5 clips per component, 15 are enough. "
                "Set cluster.clips_per_component to 15.",
            ),
        ),
        (
            {"preprocessing": {"canonical": NOTHING_SHARED}},
            {},
            (
                "look",
                "video: the modalities share no axis above chance (correlation 0.21, with permuted clips 0.25), so "
                "axes that may be shared by chance are kept.",
            ),
        ),
        (
            {},
            {"loss": 2.69},
            ("look", "video: training brought the loss from 2.70 to 2.69: it hardly decreased."),
        ),
        (
            {"changed": {"clips": 48, "moved": 40, "ami": 0.01}},
            {},
            (
                "look",
                "video: NMI of 0.40 with the clusters of the round before, which is chance level (AMI 0.01): the "
                "clusters were not found again.",
            ),
        ),
        ({}, {"loss": float("inf")}, ("bad", "video: the loss is inf. Lower train.lr, or clip gradients.")),
    ],
)
def test_what_went_wrong_stands_first(
    source: dict[str, Any], training: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert diagnostics(report(source, TRAINING | training))[0] == expected


def test_fewer_components_that_are_still_too_many_are_said_to_be_both() -> None:
    done = {"pca_kept": 24, "pca_asked": 32, "whitened": True}
    said = [text for _, text in diagnostics(report({"sample": 48, "preprocessing": done}))]
    assert any("24 principal components are kept, not 32" in text for text in said)
    assert any("24 whitened components of 48 clips are mostly noise" in text for text in said)


@pytest.mark.parametrize("before", [0.01, 0.03, None])
def test_agreement_at_chance_level_is_not_good_although_it_did_not_fall(before: float | None) -> None:
    found = report({})
    rows = [row.content() | {"ami:label": ami} for row, ami in zip(found.history, (before, 0.02), strict=True)]
    rows = rows if before is not None else rows[1:]
    found = Report.model_validate(found.content() | {"history": rows})
    earlier = f", {before:.2f} in the round before" if before is not None else ""
    words = f"video: AMI of 0.02 with label{earlier}: chance level, the clusters hardly tell anything of this label."
    assert ("look", words) in diagnostics(found)
