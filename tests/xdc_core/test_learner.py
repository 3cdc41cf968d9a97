"""One training step: what the loss is made of, what is clipped, and how it is computed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xdc_core.config.training import TrainSettings
from xdc_core.encoders.build import build_encoder
from xdc_core.modalities.registry import MODALITIES
from xdc_core.training.checkpoint import load_checkpoint, save_checkpoint
from xdc_core.training.heads import EncoderWithHeads
from xdc_core.training.learner import Learner, head_weights, make_learner, step_settings
from xdc_core.training.onednn import avoid_small_strided_convolutions
from xdc_core.training.optimiser import make_optimizer
from xdc_core.training.process_rank import ProcessRank

BATCH = 8
SHAPES = {"video": (BATCH, 3, 6, 32, 32), "audio": (BATCH, 1, 100, 40)}
ENCODERS = {"video": "r2plus1d_tiny", "audio": "audio_resnet_tiny"}
BOTH = pytest.mark.parametrize("modality", ["video", "audio"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models are slowed down by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learner(modality: str = "audio", sources: tuple[str, ...] = ("video",), **settings: Any) -> Learner:
    """Always the same model; plain gradient descent, so that what a step changes is rate times gradient."""
    model = EncoderWithHeads(build_encoder(ENCODERS[modality], 0), dict.fromkeys(sources, 4), 0.1, 0)
    given = TrainSettings.model_validate({"momentum": 0.0, "weight_decay": 0.0} | settings)
    weights = head_weights(sources, modality, given.own_head_weight)
    return make_learner(
        model,
        MODALITIES[modality],
        step_settings(given),
        torch.device("cpu"),
        ProcessRank(0, 1),
        weights,
        lambda made: make_optimizer(made, given),
    )


def views(modality: str = "audio", seed: int = 0) -> Tensor:
    return torch.randn(SHAPES[modality], generator=torch.Generator().manual_seed(seed))


def wanted(*sources: str) -> dict[str, Tensor]:
    """Other cluster numbers for every source."""
    return {source: (torch.arange(BATCH) + shift) % 4 for shift, source in enumerate(sources)}


def change(made: Learner, *sources: str, rate: float = 1.0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What one step changes, by parameter, and what it measures."""
    before = {name: value.detach().clone() for name, value in made.model.named_parameters()}
    measured = made.step(views(), wanted(*sources or ("video",)), rate)
    return {name: value.detach() - before[name] for name, value in made.model.named_parameters()}, measured


def length(parts: dict[str, Tensor]) -> float:
    """The norm over all parameters."""
    return float(torch.stack([part.norm() for part in parts.values()]).norm())


def test_a_step_follows_the_gradient_at_the_given_rate() -> None:
    whole, _ = change(learner(), rate=1e-2)
    half, _ = change(learner(), rate=5e-3)
    for name in whole:
        torch.testing.assert_close(whole[name], 2 * half[name], atol=1e-6, rtol=1e-3)
    assert length(whole) > 0


def test_a_long_gradient_is_clipped_and_a_short_one_is_left() -> None:
    free, measured = change(learner())
    norm = length(free)
    assert "gradient_norm" not in measured
    clipped, measured = change(learner(clip_gradient=norm / 3))
    assert length(clipped) == pytest.approx(norm / 3, rel=1e-3)
    # What is logged is the norm before the clipping, that of all parameters together.
    assert measured["gradient_norm"].item() == pytest.approx(norm, rel=1e-3)
    left, measured = change(learner(clip_gradient=norm * 1.1))
    assert length(left) == pytest.approx(norm, rel=1e-3)
    assert measured["gradient_norm"].item() == pytest.approx(norm, rel=1e-3)


def test_the_loss_is_that_of_cross_entropy_and_the_accuracy_that_of_the_largest_logit() -> None:
    made = learner(sources=("audio", "video"))
    targets = wanted("audio", "video")
    with torch.no_grad():
        logits = made.model(views())
    measured = made.step(views(), targets, 0.1)
    assert measured.keys() == {"loss", "accuracy_audio", "accuracy_video"}
    losses = [-logits[name].log_softmax(1)[range(BATCH), targets[name]].mean() for name in targets]
    assert measured["loss"].item() == pytest.approx(float(sum(losses)), abs=1e-5)
    for name in targets:
        hits = sum(int(row.argmax()) == int(label) for row, label in zip(logits[name], targets[name], strict=True))
        assert measured[f"accuracy_{name}"].item() == pytest.approx(hits / BATCH)


def test_the_weight_of_its_own_head_scales_that_heads_part_of_the_loss_only() -> None:
    sources = ("audio", "video")
    even, measured = change(learner(sources=sources), *sources, rate=1e-2)
    heavy, heavier = change(learner(sources=sources, own_head_weight=3.0), *sources, rate=1e-2)
    torch.testing.assert_close(heavy["heads.audio.weight"], 3 * even["heads.audio.weight"], atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(heavy["heads.video.weight"], even["heads.video.weight"], atol=1e-6, rtol=1e-3)
    own = -learner(sources=sources).model(views())["audio"].log_softmax(1)[range(BATCH), wanted("audio")["audio"]]
    assert (heavier["loss"] - measured["loss"]).item() == pytest.approx(2 * own.mean().item(), abs=1e-4)


def test_a_single_head_is_not_weighted_whosever_clusters_it_learns() -> None:
    assert head_weights(("audio",), "audio", 3.0) == {"audio": 1.0}
    assert head_weights(("video",), "audio", 3.0) == {"video": 1.0}
    assert head_weights(("joint",), "audio", 3.0) == {"joint": 1.0}
    assert head_weights(("video", "audio"), "video", 3.0) == {"video": 3.0, "audio": 1.0}


def test_the_heads_for_other_modalities_have_the_mean_of_their_losses() -> None:
    assert head_weights(("video", "third"), "audio", 3.0) == {"video": 0.5, "third": 0.5}
    assert head_weights(("audio", "video", "third"), "audio", 3.0) == {"audio": 3.0, "video": 0.5, "third": 0.5}


# --- how it is computed ------------------------------------------------------------------------------------------


def outputs_of_convolutions(made: Learner) -> list[Tensor]:
    """Filled at every step."""
    found: list[Tensor] = []
    for module in made.model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(lambda _, inputs, output: found.append(output))
    return found


def five_losses(made: Learner, modality: str) -> list[float]:
    return [made.step(views(modality, n), wanted("video"), 1e-3)["loss"].item() for n in range(5)]


@BOTH
def test_in_bfloat16_the_convolutions_are_and_the_weights_are_not(modality: str) -> None:
    made = learner(modality, precision="bfloat16")
    outputs = outputs_of_convolutions(made)
    losses = five_losses(made, modality)
    assert {output.dtype for output in outputs} == {torch.bfloat16}
    assert {value.dtype for value in made.model.parameters()} == {torch.float32}
    assert {value.grad.dtype for value in made.model.parameters() if value.grad is not None} == {torch.float32}
    exact = five_losses(learner(modality), modality)
    assert losses == pytest.approx(exact, rel=0.05)
    assert losses != exact


@BOTH
def test_in_channels_last_views_weights_and_maps_are_laid_out_so_and_the_losses_are_the_same(modality: str) -> None:
    made = learner(modality, channels_last=True)
    layout = {"video": torch.channels_last_3d, "audio": torch.channels_last}[modality]
    outputs, inputs = outputs_of_convolutions(made), []
    made.model.register_forward_pre_hook(lambda _, given: inputs.extend(given))
    losses = five_losses(made, modality)
    assert all(view.is_contiguous(memory_format=layout) for view in inputs)
    # The stem's; PyTorch computes some of the others in the usual layout, depending on the number of threads.
    assert outputs[0].is_contiguous(memory_format=layout)
    assert not outputs[0].is_contiguous()
    for value in made.model.parameters():
        assert value.ndim < 4 or value.is_contiguous(memory_format=layout)
    assert losses == pytest.approx(five_losses(learner(modality), modality), abs=1e-4)


@BOTH
def test_without_switches_all_is_float32_in_the_usual_layout(modality: str) -> None:
    made = learner(modality)
    outputs = outputs_of_convolutions(made)
    five_losses(made, modality)
    assert all(output.is_contiguous() and output.dtype == torch.float32 for output in outputs)
    assert made.forward is made.model


@pytest.mark.parametrize("settings", [{}, {"channels_last": True}, {"precision": "bfloat16"}])
@BOTH
def test_a_learner_that_is_restored_goes_on_as_if_nothing_had_been(
    modality: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    first, second = learner(modality, momentum=0.9, **settings), learner(modality, momentum=0.9, **settings)
    five_losses(first, modality)
    save_checkpoint(tmp_path, 5, first.state())
    second.restore(load_checkpoint(tmp_path) or {})
    assert five_losses(first, modality) == five_losses(second, modality)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_skipping_places_gives_what_the_stride_gave() -> None:
    plain, other = build_encoder("audio_resnet_tiny", 0), build_encoder("audio_resnet_tiny", 0)
    names = list(other.state_dict())
    avoid_small_strided_convolutions(other)
    assert list(other.state_dict()) == names
    for size in (100, 99, 37):
        sound = torch.randn(3, 1, size, 40)
        results = []
        for encoder in (plain, other):
            encoder.zero_grad()
            feature = encoder(sound)
            feature.square().sum().backward()
            results.append((feature, {name: value.grad for name, value in encoder.named_parameters()}))
        (one, gradients), (two, others) = results
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, others[name], atol=1e-2, rtol=1e-3)


def test_places_are_skipped_by_row_and_column_as_the_stride_says() -> None:
    convolution, maps = nn.Conv2d(3, 2, 1, stride=(3, 2)), torch.randn(1, 3, 12, 12)
    strided = convolution(maps)
    avoid_small_strided_convolutions(convolution)
    assert strided.shape == (1, 2, 4, 6)
    torch.testing.assert_close(convolution(maps), strided)


def test_only_small_convolutions_with_a_stride_are_changed() -> None:
    strided = [nn.Conv2d(8, 8, 1, stride=2), nn.Conv2d(16, 8, 1, stride=2), nn.Conv2d(8, 8, 3, stride=2)]
    avoid_small_strided_convolutions(nn.Sequential(*strided, nn.Conv3d(8, 8, 1, stride=2)))
    assert [module.stride for module in strided] == [(1, 1), (2, 2), (2, 2)]
    video = build_encoder("r2plus1d_tiny", 0)
    before = [module.stride for module in video.modules() if isinstance(module, nn.Conv3d)]
    avoid_small_strided_convolutions(video)
    assert [module.stride for module in video.modules() if isinstance(module, nn.Conv3d)] == before
