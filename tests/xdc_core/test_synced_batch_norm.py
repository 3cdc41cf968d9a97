"""Batch norm over two processes against nn.BatchNorm over the whole batch."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from xdc_core.encoders.build import build_encoder
from xdc_core.training.synced_batch_norm import SyncedBatchNorm, sync_batch_norms

SHAPES = [(6, 5, 7, 4), (4, 3, 2, 5, 5)]
RANKS = 2


def plain_norm(shape: tuple[int, ...]) -> nn.Module:
    """A batch norm that has learnt something; always the same."""
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm3d
    norm, generator = kind(shape[1], eps=1e-3, momentum=0.3), torch.Generator().manual_seed(1)
    for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        assert value is not None
        value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return norm


def batches(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Input, whose halves have other means and deviations, and the gradient that comes back."""
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(shape, generator=generator) for _ in range(2))
    half = shape[0] // 2
    return torch.cat([x[:half], 3 * x[half:] + 20]), gradient


def two_steps(norm: nn.Module, x: Tensor, gradient: Tensor) -> dict[str, Any]:
    """What comes of two training steps without an update in between."""
    for _ in range(2):
        norm.zero_grad()
        given = x.clone().requires_grad_()
        made = norm(given)
        made.backward(gradient)
    assert given.grad is not None
    gradients = {name: value.grad for name, value in norm.named_parameters()}
    return {"made": made.detach(), "x": given.grad, "parameters": gradients, "state": norm.state_dict()}


def be_rank(rank: int, folder: str) -> None:
    """One process: its half of every batch."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    found = []
    for shape in SHAPES:
        model = nn.Sequential(plain_norm(shape))
        sync_batch_norms(model)
        halves = [part.chunk(RANKS)[rank] for part in batches(shape)]
        found.append(two_steps(model[0], *halves))
    torch.save(found, f"{folder}/{rank}.pt")
    os._exit(0)  # See xdc_core.training.process_rank.leave_ranks.


@pytest.mark.slow
def test_two_processes_normalise_as_one_does(tmp_path: Path) -> None:
    multiprocessing.spawn(be_rank, (str(tmp_path),), nprocs=RANKS)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    for number, shape in enumerate(SHAPES):
        whole = two_steps(plain_norm(shape), *batches(shape))
        parts = [rank[number] for rank in ranks]
        for name in ("made", "x"):
            torch.testing.assert_close(torch.cat([part[name] for part in parts]), whole[name], rtol=1e-4, atol=1e-5)
        for name, gradient in whole["parameters"].items():
            torch.testing.assert_close(sum(part["parameters"][name] for part in parts), gradient, rtol=1e-4, atol=1e-4)
        for part in parts:
            assert part["state"].keys() == whole["state"].keys()
            for name, value in whole["state"].items():
                torch.testing.assert_close(part["state"][name], value, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("shape", SHAPES)
def test_in_evaluation_it_is_the_batch_norm_that_it_replaced(shape: tuple[int, ...]) -> None:
    plain = plain_norm(shape).eval()
    model = nn.Sequential(plain)
    sync_batch_norms(model)
    assert isinstance(model[0], SyncedBatchNorm)
    assert not model[0].training
    x, _ = batches(shape)
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("name", ["r2plus1d_tiny", "audio_resnet_tiny"])
def test_all_of_an_encoders_are_replaced_and_names_and_values_stay(name: str) -> None:
    encoder, plain = build_encoder(name, 0), build_encoder(name, 0)
    sync_batch_norms(encoder)
    kinds = [type(module) for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(kinds) >= 9
    assert set(kinds) == {SyncedBatchNorm}
    assert [module.eps for module in encoder.modules() if isinstance(module, SyncedBatchNorm)] == [1e-3] * len(kinds)
    assert list(encoder.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in plain.state_dict().items())
