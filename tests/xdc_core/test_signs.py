"""What a round's page says first: of clusters that went wrong, and of those that did not."""

from typing import Any

import pytest

from xdc_core.report.diagnostics import signs

SOURCE = {"k": 16, "empty": 0, "largest_share": 0.1}
TRAINING = {"first_loss": 2.7, "loss": 1.3}


def facts(source: dict[str, Any], training: dict[str, Any] = TRAINING, **more: Any) -> dict[str, Any]:
    row = {"source": "video", "round": 1, "nmi_previous": 0.4, "ami:label": 0.3}
    plain = {"round": 1, "sources": {"video": SOURCE | source}, "training": {"video": training}}
    plain |= {"history": [row | {"round": 0, "nmi_previous": None}, row], "label_columns": ["label"]}
    return plain | more


def test_a_round_that_went_well_has_good_signs_only() -> None:
    assert {level for level, _ in signs(facts({}))} == {"good"}


@pytest.mark.parametrize(
    ("source", "training", "sign"),
    [
        (
            {"largest_share": 0.9},
            {},
            ("bad", "video: one cluster holds 90% of the clips: the encoder tells little apart."),
        ),
        (
            {"largest_share": 0.51},
            {},
            ("bad", "video: one cluster holds 51% of the clips: the encoder tells little apart."),
        ),
        ({"empty": 5}, {}, ("bad", "video: 5 of 16 clusters are empty.")),
        ({"empty": 4}, {}, ("look", "video: 4 of 16 clusters are empty.")),
        (
            {"k": 100, "largest_share": 0.2},
            {},
            ("look", "video: the largest cluster holds 20% of the clips, 20 times its part."),
        ),
        (
            {},
            {"loss": 2.69},
            ("look", "video: training brought the loss from 2.70 to 2.69: it learnt next to nothing."),
        ),
        ({}, {"loss": float("inf")}, ("bad", "video: the loss is inf. Lower train.lr, or clip gradients.")),
    ],
)
def test_what_went_wrong_stands_first(source: dict[str, Any], training: dict[str, Any], sign: tuple[str, str]) -> None:
    assert signs(facts(source, TRAINING | training))[0] == sign
