"""Convolutions in bfloat16 that are wrong are found, layer by layer, and `xdc doctor` says what to do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from flows.cli.machine import gpus
from xdc_core.encoders import precision_check as convolution_check
from xdc_core.encoders.build import build_encoder
from xdc_core.encoders.precision_check import TOLERANCE, ConvolutionError, check_encoders

TINY = {"r2plus1d_tiny": (2, 3, 6, 32, 32), "audio_resnet_tiny": (2, 1, 100, 40)}
CPU = torch.device("cpu")


@pytest.fixture
def wrong_conv3d(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 3-d convolution that forgets a channel of its input in bfloat16, as a kernel with a wrong stride might."""
    right: Callable[..., Tensor] = torch.conv3d

    def wrong(given: Tensor, weight: Tensor, *others: Any) -> Tensor:
        if torch.is_autocast_enabled(given.device.type) and given.shape[1] == 16:
            given = torch.cat([given[:, :-8], torch.zeros_like(given[:, -8:])], 1)
        return right(given, weight, *others)

    monkeypatch.setattr(convolution_check.torch, "conv3d", wrong)


def test_right_convolutions_differ_by_rounding_and_not_by_nothing() -> None:
    found = list(check_encoders(CPU, TINY))
    assert all(1e-4 < error.worst < TOLERANCE for _, error in found)
    assert {name for name, _ in found} == set(TINY)


@pytest.mark.parametrize("name", TINY)
def test_every_shape_of_layer_is_compared_once_in_each_layout(name: str) -> None:
    encoder = build_encoder(name, 0)
    shapes = set()

    def note(module: Any, given: tuple[Tensor, ...]) -> None:
        shapes.add((given[0].shape, module.weight.shape, module.stride))

    for module in encoder.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
            module.register_forward_pre_hook(note)
    encoder.eval()(torch.zeros(TINY[name]))
    found = [error.channels_last for _, error in check_encoders(CPU, {name: TINY[name]})]
    assert found.count(True) == found.count(False) == len(shapes)


@pytest.mark.usefixtures("wrong_conv3d")
def test_a_wrong_layer_is_found_and_the_others_are_not_blamed() -> None:
    wrong = {error.layer for _, error in check_encoders(CPU, TINY) if error.worst > TOLERANCE}
    right = {error.layer for _, error in check_encoders(CPU, TINY) if error.worst <= TOLERANCE}
    assert wrong
    assert right
    modules = dict(build_encoder("r2plus1d_tiny", 0).named_modules())
    assert all(modules[layer].in_channels == 16 for layer in wrong)


def worst(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(convolution_check, "CHECKED", TINY)
    return gpus.convolutions("cpu")


def test_the_doctor_tells_how_far_the_worst_layer_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    row = worst(monkeypatch)
    assert row["state"] == "works"
    assert "convolutions equal float32 up to rounding" in row["text"]


@pytest.mark.usefixtures("wrong_conv3d")
def test_the_doctor_says_to_leave_bfloat16_where_a_layer_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    row = worst(monkeypatch)
    assert row["state"] == "broken"
    assert "of r2plus1d_tiny" in row["text"]
    assert "leave train.precision and extract.precision at float32" in row["text"]


def test_the_doctor_says_so_where_it_cannot_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> list[tuple[str, ConvolutionError]]:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED\nmore")

    monkeypatch.setattr(convolution_check, "check_encoders", fails)
    row = worst(monkeypatch)
    assert (row["state"], "CUDNN_STATUS_NOT_SUPPORTED. Leave" in row["text"]) == ("absent", True)
