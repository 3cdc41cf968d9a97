"""The optimiser, what it decays, and the learning rate of every step."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from xdc_core.config.training import TrainSettings
from xdc_core.encoders.build import build_encoder
from xdc_core.training.heads import EncoderWithHeads
from xdc_core.training.optimiser import learning_rate, make_optimizer, peak_rate

SCHEDULES = pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])


def rates(steps: int, **settings: Any) -> list[float]:
    return [learning_rate(step, steps, TrainSettings(**settings)) for step in range(steps)]


@SCHEDULES
def test_the_learning_rate_rises_over_the_warm_up_and_never_after(schedule: str) -> None:
    found = rates(100, schedule=schedule, lr=0.1, warmup=0.1)
    assert found[:10] == pytest.approx([0.01 * (n + 1) for n in range(10)])
    assert max(found) == found[10] == pytest.approx(0.1)
    assert all(after <= before + 1e-12 for before, after in pairwise(found[10:]))
    assert min(found) > 0


def test_the_step_schedule_falls_to_a_tenth_after_each_third() -> None:
    found = rates(90, schedule="step", lr=1.0, warmup=0)
    assert [round(found[n], 6) for n in (0, 29, 30, 59, 60, 89)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize("steps", [*range(1, 40), 999, 1000, 1001, 31250])
def test_the_thirds_fall_on_the_steps_they_always_fell_on(steps: int) -> None:
    # As before milestones could be chosen: results of older runs stay what they are.
    before = [0.1 ** int(3 * step / steps) for step in range(steps)]
    assert rates(steps, schedule="step", lr=1.0, warmup=0) == before


def test_the_learning_rate_falls_by_gamma_at_the_milestones_counted_after_the_warm_up() -> None:
    # 20 of 100 steps rise; half of the other 80 is step 60, nine tenths of them step 92.
    found = rates(100, schedule="step", lr=1.0, warmup=0.2, milestones=(0.5, 0.9), gamma=0.5)
    assert {n + 1: after for n, (before, after) in enumerate(pairwise(found)) if after < before} == {60: 0.5, 92: 0.25}


def test_the_cosine_ends_near_zero() -> None:
    found = rates(100, schedule="cosine", lr=1.0, warmup=0)
    assert found[50] == pytest.approx(0.5)
    assert found[99] < 0.001


@pytest.mark.parametrize("steps", [1, 2, 3])
@SCHEDULES
def test_a_training_of_a_few_steps_has_a_rate_for_each(steps: int, schedule: str) -> None:
    assert min(rates(steps, schedule=schedule, warmup=0.5)) > 0


@SCHEDULES
def test_the_peak_grows_with_the_batch_where_the_rate_is_given_for_some_clips(schedule: str) -> None:
    for_32 = rates(50, schedule=schedule, lr=0.01, lr_per=32, batch=32)
    for_256 = rates(50, schedule=schedule, lr=0.01, lr_per=32, batch=256)
    assert max(for_256) == pytest.approx(0.08)
    assert for_256 == pytest.approx([8 * rate for rate in for_32])
    assert for_32 == rates(50, schedule=schedule, lr=0.01, batch=32)
    assert peak_rate(TrainSettings(lr=0.01, batch=256)) == 0.01


# --- what is decayed ---------------------------------------------------------------------------------------------


@pytest.fixture
def model() -> EncoderWithHeads:
    return EncoderWithHeads(build_encoder("audio_resnet_tiny", 0), {"video": 4, "audio": 4}, 0.01, 0)


def decayed(model: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    """The names of the parameters that shrink at a step without any gradient."""
    for value in model.parameters():
        value.data.fill_(1.0)
        value.grad = torch.zeros_like(value)
    optimizer.step()
    found = {name for name, value in model.named_parameters() if (value < 1).all()}
    assert all((value == 1).all() for name, value in model.named_parameters() if name not in found)
    return found


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_weight_decay_spares_what_it_is_told_to(model: EncoderWithHeads, optimizer: str) -> None:
    def names(decay_on: str) -> set[str]:
        settings = TrainSettings.model_validate(
            {"optimizer": optimizer, "decay_on": decay_on, "weight_decay": 0.1, "lr": 0.1}
        )
        return decayed(model, make_optimizer(model, settings))

    everything = {name for name, _ in model.named_parameters()}
    biases = {name for name in everything if name.endswith(".bias")}
    scales = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {"encoder.stem.bias", "heads.video.bias", "encoder.stages.0.bn1.bias"} <= biases
    assert len(scales) == 9
    assert names("all") == everything
    assert names("weights_and_scales") == everything - biases
    assert names("weights") == everything - biases - scales


@pytest.mark.parametrize("decay_on", ["all", "weights_and_scales", "weights"])
def test_every_parameter_is_learnt_whatever_is_decayed(model: EncoderWithHeads, decay_on: str) -> None:
    optimizer = make_optimizer(model, TrainSettings.model_validate({"decay_on": decay_on}))
    found = [id(value) for group in optimizer.param_groups for value in group["params"]]
    assert sorted(found) == sorted(id(value) for value in model.parameters())


def test_both_optimisers_take_their_settings(model: EncoderWithHeads) -> None:
    (group,) = make_optimizer(model, TrainSettings(momentum=0.8, weight_decay=0.01, lr=0.3)).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.3, 0.8, 0.01, True)
    plain = make_optimizer(model, TrainSettings(momentum=0)).param_groups[0]
    assert (plain["momentum"], plain["nesterov"]) == (0, False)
    adamw = make_optimizer(model, TrainSettings(optimizer="adamw", weight_decay=0.02))
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["weight_decay"] == 0.02
