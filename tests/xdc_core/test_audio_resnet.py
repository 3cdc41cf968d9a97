import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xdc_core.encoders.audio_resnet import AudioResNet, audio_resnet_18, audio_resnet_tiny
from xdc_core.encoders.build import build_encoder


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def spectrograms(count: int, frames: int = 100) -> Tensor:
    return 20 * torch.rand(count, 1, frames, 40, generator=torch.Generator().manual_seed(0))


def test_the_full_encoder_has_the_parameters_of_its_table_of_blocks() -> None:
    blocks = [(16, 32), (32, 32), (32, 32)]
    blocks += [(32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    expected = 3 * 3 * 16 + 16
    for planes_in, planes in blocks:
        expected += 9 * planes_in * planes + 9 * planes * planes + 4 * planes
        if planes_in != planes:
            expected += planes_in * planes + 2 * planes
    assert size(audio_resnet_18()) == expected == 11_202_528


def test_100_frames_of_40_bands_end_as_4_by_2_and_the_pool_covers_them() -> None:
    encoder = build_encoder("audio_resnet_18", seed=0).eval()
    x = spectrograms(2)
    with torch.no_grad():
        last = encoder.stages(encoder.stem(x))
        assert last.shape == (2, 512, 4, 2)
        torch.testing.assert_close(encoder(x), F.max_pool2d(last, (4, 2), stride=1).flatten(1))


def test_the_feature_is_that_of_the_network_written_out() -> None:
    encoder = build_encoder("audio_resnet_18", seed=3)
    generator = torch.Generator().manual_seed(2)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    state = encoder.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        scale = weight / (var + 1e-3).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + bias[:, None, None]

    x = spectrograms(2)
    expected = F.conv2d(x, state["stem.weight"], state["stem.bias"], padding=1)
    for index, stride in enumerate([2, 1, 1, 2, 1, 2, 1, 2, 1, 2, 1]):
        block = f"stages.{index}"
        shortcut = expected
        if stride == 2:
            shortcut = F.conv2d(expected, state[f"{block}.downsample.0.weight"], stride=2)
            shortcut = norm(shortcut, f"{block}.downsample.1")
        y = F.conv2d(expected, state[f"{block}.conv1.weight"], stride=stride, padding=1)
        y = F.relu(norm(y, f"{block}.bn1"))
        y = norm(F.conv2d(y, state[f"{block}.conv2.weight"], padding=1), f"{block}.bn2")
        expected = F.relu(y + shortcut)
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(x), expected.flatten(2).amax(2), rtol=1e-3, atol=1e-3)


def test_batch_norm_has_the_epsilon_and_momentum_of_the_original() -> None:
    norms = [module for module in audio_resnet_18().modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 11 * 2 + 5
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.1)}


def test_the_tiny_encoder_is_tiny_and_every_parameter_learns() -> None:
    encoder = audio_resnet_tiny()
    assert 50_000 < size(encoder) < 120_000
    feature = encoder(spectrograms(4))
    assert feature.shape == (4, encoder.width) == (4, 64)
    assert feature.dtype == torch.float32
    (feature * torch.randn(64, generator=torch.Generator().manual_seed(1))).sum().backward()
    # Batch norm takes any constant out again, so the stem's bias moves at the edges of the picture only.
    idle = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


@pytest.mark.parametrize("frames", [1, 50, 100, 333])
def test_other_numbers_of_frames_give_a_feature_of_the_same_width(frames: int) -> None:
    for encoder in (audio_resnet_tiny().eval(), audio_resnet_18().eval()):
        with torch.no_grad():
            assert encoder(spectrograms(1, frames)).shape == (1, encoder.width)


def test_stages_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"widths \[16, 32\] and blocks \[1\]"):
        AudioResNet(8, (16, 32), (1,))
