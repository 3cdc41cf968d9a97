import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video import r2plus1d_18 as torchvision_r2plus1d_18
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

from xdc_core.encoders.build import build_encoder
from xdc_core.encoders.r2plus1d import R2Plus1D, middle_planes, r2plus1d_18, r2plus1d_tiny
from xdc_core.encoders.torchvision_r2plus1d import torchvision_r2plus1d_18 as headless_torchvision


class OwnMiddlePlanes(Conv2Plus1D):
    """torchvision's convolution with the middle planes of the published weights, whatever the block proposes."""

    def __init__(self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1) -> None:
        planes = in_planes * out_planes * 27 // (in_planes * 9 + 3 * out_planes)
        super().__init__(in_planes, out_planes, planes, stride, padding)


def published_network() -> VideoResNet:
    """The network of the published weights, put together from torchvision's parts."""
    network = VideoResNet(BasicBlock, [OwnMiddlePlanes] * 4, [2, 2, 2, 2], R2Plus1dStem)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return network


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_with_a_400_way_head_it_has_the_parameters_of_the_published_network() -> None:
    assert size(r2plus1d_18()) + size(nn.Linear(512, 400)) == 33_370_839
    assert size(torchvision_r2plus1d_18()) == 31_505_325


def test_torchvisions_network_stands_beside_it_without_its_head() -> None:
    theirs = torchvision_r2plus1d_18().state_dict()
    ours = headless_torchvision()
    assert size(ours) + size(nn.Linear(512, 400)) == 31_505_325
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.items() if not key.startswith("fc.")
    }
    norms = [module for module in ours.modules() if isinstance(module, nn.BatchNorm3d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}


def test_key_names_are_those_of_torchvision_without_the_head() -> None:
    theirs = [key for key in torchvision_r2plus1d_18().state_dict() if not key.startswith("fc.")]
    assert list(r2plus1d_18().state_dict()) == theirs


@pytest.mark.parametrize(
    ("block", "ours", "theirs"), [("layer2", 288, 230), ("layer3", 576, 460), ("layer4", 1152, 921)]
)
def test_middle_planes_follow_from_each_convolution_unlike_torchvision(block: str, ours: int, theirs: int) -> None:
    key = f"{block}.0.conv2.0.0.weight"
    assert r2plus1d_18().state_dict()[key].shape[0] == ours
    assert torchvision_r2plus1d_18().state_dict()[key].shape[0] == theirs


def test_middle_planes_keep_the_parameters_of_the_full_convolution() -> None:
    for planes_in, planes_out in [(64, 64), (64, 128), (512, 512)]:
        planes = middle_planes(planes_in, planes_out)
        halves = planes * (9 * planes_in + 3 * planes_out)
        full = 27 * planes_in * planes_out
        assert full - (9 * planes_in + 3 * planes_out) < halves <= full


def test_a_state_dict_of_the_published_shapes_loads_and_gives_the_same_feature() -> None:
    encoder = build_encoder("r2plus1d_18", seed=1)
    generator = torch.Generator().manual_seed(2)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    theirs = published_network()
    left_out = theirs.load_state_dict(encoder.state_dict(), strict=False)
    assert left_out.unexpected_keys == []
    assert left_out.missing_keys == ["fc.weight", "fc.bias"]
    theirs.fc = nn.Identity()
    clips = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, expected = encoder.eval()(clips), theirs.eval()(clips)
    assert ours.shape == (2, 512)
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_batch_norm_keeps_the_epsilon_of_the_weights_and_a_useful_momentum() -> None:
    norms = [module for module in r2plus1d_18().modules() if isinstance(module, nn.BatchNorm3d)]
    assert len(norms) == 2 + 8 * 4 + 3
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.1)}


def last_map(encoder: R2Plus1D, clips: Tensor) -> Tensor:
    maps: list[Tensor] = []
    encoder.get_submodule(encoder.stages[-1]).register_forward_hook(lambda module, taken, made: maps.append(made))
    with torch.no_grad():
        encoder.eval()(clips)
    return maps[0]


@pytest.mark.parametrize(("frames", "steps"), [(6, 3), (8, 4), (1, 1)])
def test_the_tiny_encoder_halves_time_only_once(frames: int, steps: int) -> None:
    assert last_map(r2plus1d_tiny(), torch.zeros(1, 3, frames, 32, 32)).shape == (1, 64, steps, 4, 4)


def test_eight_frames_end_as_one_step_in_the_full_encoder() -> None:
    assert last_map(r2plus1d_18(), torch.zeros(1, 3, 8, 112, 112)).shape == (1, 512, 1, 7, 7)


def test_the_tiny_encoder_is_tiny_and_every_parameter_learns() -> None:
    encoder = r2plus1d_tiny()
    assert 40_000 < size(encoder) < 100_000
    feature = encoder(torch.randn(4, 3, 6, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert feature.shape == (4, encoder.width) == (4, 64)
    assert feature.dtype == torch.float32
    (feature * torch.randn(64, generator=torch.Generator().manual_seed(1))).sum().backward()
    idle = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_the_order_of_frames_matters() -> None:
    encoder = build_encoder("r2plus1d_tiny", seed=0).eval()
    clip = torch.randn(1, 3, 6, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.allclose(encoder(clip), encoder(clip.flip(2)), rtol=1e-3)


def test_stages_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"widths \[16, 32\], blocks \[1\]"):
        R2Plus1D(12, (16, 32), (1,))
