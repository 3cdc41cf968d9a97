import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from shards.errors import ConfigError
from xdc_core.encoders.batch_norm import calibrate_batch_norm
from xdc_core.encoders.build import build_encoder
from xdc_core.encoders.registry import ENCODERS

TINY = ["r2plus1d_tiny", "audio_resnet_tiny"]
SHAPES = {"video": (3, 6, 32, 32), "audio": (1, 100, 40)}


def batches(name: str, count: int, size: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    shape = (size, *SHAPES[ENCODERS[name].modality])
    return [5 + 3 * torch.randn(shape, generator=generator) for _ in range(count)]


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_table_is_read_without_loading_torch() -> None:
    code = (
        "import sys; from xdc_core.encoders.registry import ENCODERS; "
        "print([(s.name, s.modality, s.width) for s in ENCODERS.values()]); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [
        "[('r2plus1d_18', 'video', 512), ('torchvision_r2plus1d_18', 'video', 512), ('r2plus1d_tiny', 'video', 64), "
        "('audio_resnet_18', 'audio', 512), ('audio_resnet_tiny', 'audio', 64)]",
        "False",
    ]


@pytest.mark.slow
def test_torchvision_is_loaded_for_its_own_encoder_only() -> None:
    code = (
        "import sys; from xdc_core.encoders.build import build_encoder as build\n"
        "for name in ('r2plus1d_tiny', 'audio_resnet_tiny', 'torchvision_r2plus1d_18'):\n"
        "    build(name, 0); print('torchvision' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False", "True"]


@pytest.mark.parametrize("name", list(ENCODERS))
def test_an_encoder_has_the_width_of_its_entry(name: str) -> None:
    spec = ENCODERS[name]
    encoder = build_encoder(name, seed=0)
    assert encoder.width == spec.width
    with torch.no_grad():
        feature = encoder.eval()(batches(name, 1, size=1)[0])
    assert feature.shape == (1, spec.width)
    assert torch.isfinite(feature).all()


@pytest.mark.parametrize("name", list(ENCODERS))
def test_weights_depend_on_the_seed_only(name: str) -> None:
    torch.manual_seed(1)
    one = build_encoder(name, seed=5)
    torch.manual_seed(2)
    assert same(one, build_encoder(name, seed=5))
    assert not same(one, build_encoder(name, seed=6))


def test_weights_of_a_seed_stay_what_they_are() -> None:
    # Round 1 starts from these: if they change, no earlier run can be repeated.
    encoder = build_encoder("r2plus1d_tiny", seed=0)
    first = encoder.state_dict()["stem.0.weight"].flatten()[:3]
    torch.testing.assert_close(first, torch.tensor([0.115353, 0.020752, 0.1423251]), rtol=1e-5, atol=1e-7)


def test_building_leaves_the_random_generators_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for name in TINY:
        build_encoder(name, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_encoders_of_one_seed_are_unrelated() -> None:
    full = build_encoder("r2plus1d_18", seed=0).state_dict()["stem.3.weight"].flatten()[:500]
    tiny = build_encoder("r2plus1d_tiny", seed=0).state_dict()["stem.3.weight"].flatten()[:500]
    assert abs(torch.corrcoef(torch.stack([full, tiny]))[0, 1]) < 0.2


@pytest.mark.parametrize("name", list(ENCODERS))
def test_convolutions_start_with_variance_2_over_fan_out_and_batch_norm_with_identity(name: str) -> None:
    for module in build_encoder(name, seed=0).modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            # Four standard errors of a sample standard deviation.
            spread = 4 / (2 * module.weight.numel()) ** 0.5
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=spread)
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            assert (module.weight == 1).all()
            assert (module.running_var == 1).all()
            assert not module.bias.any()
            assert not module.running_mean.any()
            assert module.num_batches_tracked == 0


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'resnet50'.*r2plus1d_18, r2plus1d_tiny"):
        build_encoder("resnet50", seed=0)


@pytest.mark.parametrize(("name", "conv", "norm"), [(TINY[0], "stem.0", "stem.1"), (TINY[1], "stem", "")])
def test_calibration_averages_the_statistics_of_the_batches(name: str, conv: str, norm: str) -> None:
    encoder = build_encoder(name, seed=0)
    given = batches(name, 3)
    with torch.no_grad():
        if norm:
            inputs = [encoder.get_submodule(conv)(batch) for batch in given]
        else:
            norm = "stages.0.bn1"
            inputs = [encoder.get_submodule("stages.0.conv1")(encoder.get_submodule(conv)(b)) for b in given]
    rows = [x.transpose(0, 1).flatten(1) for x in inputs]
    assert calibrate_batch_norm(encoder, given) == 3
    layer = encoder.get_submodule(norm)
    torch.testing.assert_close(layer.running_mean, sum(r.mean(1) for r in rows) / 3, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.running_var, sum(r.var(1) for r in rows) / 3, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_calibration_forgets_what_was_measured_before(name: str) -> None:
    once, twice = build_encoder(name, seed=0), build_encoder(name, seed=0)
    calibrate_batch_norm(once, batches(name, 2))
    calibrate_batch_norm(twice, [batch * 100 for batch in batches(name, 2)])
    calibrate_batch_norm(twice, batches(name, 2))
    assert same(once, twice)


@pytest.mark.parametrize("name", TINY)
def test_after_calibration_evaluation_is_as_normalised_as_training(name: str) -> None:
    encoder = build_encoder(name, seed=0)
    (batch,) = batches(name, 1, size=32)
    calibrate_batch_norm(encoder, [batch])
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(batch), encoder.train()(batch), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", TINY)
def test_calibration_changes_nothing_but_the_statistics(name: str, training: bool) -> None:
    encoder = build_encoder(name, seed=0).train(training)
    before = {key: value.clone() for key, value in encoder.named_parameters()}
    calibrate_batch_norm(encoder, batches(name, 2))
    assert all(torch.equal(value, before[key]) for key, value in encoder.named_parameters())
    assert all(value.grad is None for value in encoder.parameters())
    assert {module.training for module in encoder.modules()} == {training}
    momenta = {m.momentum for m in encoder.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)}
    assert momenta == {0.1}


def test_calibration_restores_the_momentum_when_a_batch_fails() -> None:
    encoder = build_encoder(TINY[1], seed=0).eval()
    with pytest.raises(RuntimeError):
        calibrate_batch_norm(encoder, [torch.zeros(2, 7, 100, 40)])
    assert {m.momentum for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert not any(module.training for module in encoder.modules())


def test_calibration_without_batches_is_an_error_and_keeps_the_statistics() -> None:
    encoder = build_encoder(TINY[1], seed=0)
    calibrate_batch_norm(encoder, batches(TINY[1], 1))
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(ValueError, match="no batches"):
        calibrate_batch_norm(encoder, iter([]))
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_calibration_keeps_no_graph() -> None:
    encoder = build_encoder(TINY[1], seed=0)
    made: list[Tensor] = []
    encoder.register_forward_hook(lambda module, taken, feature: made.append(feature))
    calibrate_batch_norm(encoder, batches(TINY[1], 2))
    assert [feature.requires_grad for feature in made] == [False, False]
