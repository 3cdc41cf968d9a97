"""The recipes of fine-tuning: the rates of their steps are those that the original schedulers give."""

from itertools import groupby
from typing import Any

import numpy as np
import pytest
import yaml
from torch import nn

from xdc_core.config.evaluation import EvaluationSettings
from xdc_core.config.finetune import RECIPES, FinetuneSettings
from xdc_core.config.load import parse_config
from xdc_core.config.write import commented_yaml
from xdc_core.graph.stages import settings_of
from xdc_core.probes.evaluation_clips import epoch_groups
from xdc_core.probes.finetuning_model import Classifier, make_optimizer, rate_share
from xdc_core.runs.node import Node

UCF101 = 9537  # Training videos of the first split.

# Runs of steps with the same rates on UCF101: steps, rate of the head, rate of the encoder (None: it does not learn).
# GDT and SeLaVi: 10 clips of every video are 2,980 batches of 32; their scheduler is stepped after an epoch. It rises
# from the base rates to 8 times these in 2 epochs, then counts the milestones 4 and 8 from its own start.
GDT = [
    (2980, 0.0025, 0.00025),
    (2980, 0.01125, 0.001125),
    (5 * 2980, 0.02, 0.002),
    (4 * 2980, 0.001, 0.0001),
    (2980, 0.00005, 0.000005),
]
# AVID: 1,490 batches of 64. First the classifier, then everything with a new Adam.
AVID = [
    (5 * 1490, 1e-4, None),
    (6 * 1490, 1e-4, 1e-4),
    (4 * 1490, 3e-5, 3e-5),
    (4 * 1490, 9e-6, 9e-6),
    (2 * 1490, 2.7e-6, 2.7e-6),
]
# VMZ: 3,125 batches of 32 per epoch, a step every 6,250. Caffe2 counts a step before it computes the step's rate.
VMZ = [(6249, 8e-4, 8e-4), (6250, 8e-5, 8e-5), (6250, 8e-6, 8e-6), (6250, 8e-7, 8e-7), (1, 8e-8, 8e-8)]


class Small(nn.Module):
    """Stands for an encoder: a weight, a bias, a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 3
        self.layer = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)


def rates(settings: FinetuneSettings, recordings: int) -> list[tuple[int, float, float | None]]:
    """Runs of steps with the same rates of head and encoder."""
    model, rng = Classifier(Small(), 5, 0.0), np.random.default_rng(0)
    steps: list[tuple[float, float | None]] = []
    for epoch in range(settings.all_epochs):
        count = len(epoch_groups(np.arange(recordings), settings, rng))
        optimizer = make_optimizer(model, settings, head_alone=epoch < settings.head_epochs)
        peaks = {id(value): group["peak"] for group in optimizer.param_groups for value in group["params"]}
        head, body = (peaks.get(id(part.weight)) for part in (model.head, model.encoder.layer))  # type: ignore[union-attr]
        for step in range(count):
            share = rate_share(settings, epoch, step, count)
            steps.append((head * share, None if body is None else body * share))
    return [(len(list(run)), *key) for key, run in groupby(steps)]


@pytest.mark.parametrize(("name", "expected"), [("gdt", GDT), ("avid", AVID), ("vmz", VMZ)])
def test_every_step_has_the_rates_of_the_original(name: str, expected: list[tuple[int, float, float | None]]) -> None:
    found = rates(FinetuneSettings(recipe=name), UCF101)
    assert [steps for steps, _, _ in found] == [steps for steps, _, _ in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine[1:] == (pytest.approx(theirs[1], rel=1e-12), theirs[2] and pytest.approx(theirs[2], rel=1e-12))


def test_the_recipe_for_sound_rises_over_an_epoch_and_falls_twice() -> None:
    settings = FinetuneSettings(recipe="sound")
    found = rates(settings, 256)  # ESC-10's training recordings of a fold, less a fifth.
    # A step has the rate of its end, so each reduction begins with the last step of an epoch.
    runs = [*((1, step * 1e-3 / 80) for step in range(1, 80)), (400, 1e-3), (160, 1e-4), (161, 1e-5)]
    assert found == [(steps, pytest.approx(rate), pytest.approx(rate)) for steps, rate in runs]


def test_the_defaults_rise_with_every_step_and_have_one_view_of_a_recording() -> None:
    settings = FinetuneSettings()
    assert len(epoch_groups(np.arange(UCF101), settings, np.random.default_rng(0))) == 298
    assert rate_share(settings, 0, 0, 4) == 1 / 8
    assert [rate_share(settings, epoch, 3, 4) for epoch in (0, 1, 4, 5, 9)] == [0.5, 1.0, 1.0, 0.05, 0.05**2]
    assert rate_share(settings, 5, 2, 4) == 1.0


def test_an_epoch_draws_every_recording_as_often() -> None:
    recordings, rng = np.arange(100, 140), np.random.default_rng(1)
    several = np.concatenate(epoch_groups(recordings, FinetuneSettings(clips_per_recording=3, batch=8), rng))
    assert np.unique(several, return_counts=True)[1].tolist() == [3] * 40
    counted = np.concatenate(epoch_groups(recordings, FinetuneSettings(epoch_clips=104, batch=8), rng))
    assert sorted(set(np.unique(counted, return_counts=True)[1].tolist())) == [2, 3]
    assert len(counted) == 104
    fewer = np.concatenate(epoch_groups(recordings, FinetuneSettings(epoch_clips=16, batch=8), rng))
    assert len(set(fewer.tolist())) == 16


def test_one_view_of_a_recording_is_drawn_as_before_there_were_several() -> None:
    recordings = np.arange(70)
    groups = epoch_groups(recordings, FinetuneSettings(batch=8), np.random.default_rng(5))
    order = np.random.default_rng(5).permutation(recordings)
    assert [group.tolist() for group in groups] == [part.tolist() for part in np.array_split(order[:64], 8)]


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_configuration_gives_replaces_the_recipe(name: str) -> None:
    settings = FinetuneSettings.model_validate({"recipe": name, "epochs": 3, "milestones": [1]})
    assert (settings.epochs, settings.milestones) == (3, (1,))
    assert settings.head_lr == RECIPES[name]["head_lr"]
    again = FinetuneSettings.model_validate({"recipe": name, "clips_per_recording": 2})
    assert (again.clips_per_recording, again.epoch_clips) == (2, None)


def hashed(finetune: dict[str, Any]) -> dict[str, Any]:
    """What enters the fingerprint of a fine-tuning with these settings."""
    config = parse_config({"evaluate": {"a": {"protocol": "all", "modality": "video", "finetune": finetune}}}, "a test")
    found: dict[str, Any] = settings_of(config, Node("eval", "a", 0))["finetune"]
    return found


def test_a_recipe_is_the_same_as_its_values() -> None:
    for name, values in RECIPES.items():
        assert hashed({"recipe": name}) == hashed(values)
    assert hashed({"recipe": "gdt"}) != hashed({})


@pytest.mark.parametrize("given", [{"dropout": 0.0}, {"epochs": 2, "clips_per_recording": 4}, {"factor": 0.3}, {}])
def test_a_written_recipe_reads_back_the_same(given: dict[str, Any]) -> None:
    for name in RECIPES:
        finetune = {"recipe": name, **given}
        config = parse_config(
            {"evaluate": {"a": {"protocol": "all", "modality": "video", "finetune": finetune}}}, "a test"
        )
        again = parse_config(yaml.safe_load(commented_yaml(config)), "a test")
        assert again.evaluate["a"] == config.evaluate["a"]
        dumped = EvaluationSettings.model_validate(config.evaluate["a"].model_dump(mode="json"))
        assert dumped == config.evaluate["a"]


@pytest.mark.parametrize(
    ("finetune", "message"),
    [
        ({"recipe": "gtd"}, r"recipe.*'gtd' is unknown\. There are: gdt, avid, vmz, sound"),
        ({"epoch_clips": 100, "clips_per_recording": 2}, r"epoch_clips \(100\) and clips_per_recording \(2\) both say"),
    ],
)
def test_a_recipe_that_is_not_there_and_two_sizes_of_an_epoch_are_refused(
    finetune: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneSettings.model_validate(finetune)


@pytest.mark.parametrize(
    ("decay_on", "undecayed"),
    [
        ("all", set()),
        ("weights_and_scales", {"encoder.layer.bias", "encoder.norm.bias", "head.bias"}),
        ("weights", {"encoder.layer.bias", "encoder.norm.bias", "encoder.norm.weight", "head.bias"}),
    ],
)
def test_only_the_chosen_parameters_decay(decay_on: str, undecayed: set[str]) -> None:
    model = Classifier(Small(), 5, 0.0)
    settings = FinetuneSettings.model_validate({"recipe": "vmz", "decay_on": decay_on})
    groups = make_optimizer(model, settings).param_groups
    assert all(group["nesterov"] for group in groups)
    names = {id(value): name for name, value in model.named_parameters()}
    decays = {names[id(value)]: group["weight_decay"] for group in groups for value in group["params"]}
    assert {name for name, decay in decays.items() if decay == 0} == undecayed
    assert decays.keys() == set(names.values())
