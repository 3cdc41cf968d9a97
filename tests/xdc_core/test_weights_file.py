"""Weights from files: what the published ones look like, what is taken, and in which words all else is refused."""

import argparse
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.video import r2plus1d_18 as torchvision_r2plus1d_18

from shards.errors import ConfigError
from xdc_core.encoders.build import build_encoder
from xdc_core.encoders.file import save_encoder
from xdc_core.encoders.header import EncoderHeader
from xdc_core.encoders.import_weights import load_weights

# Middle planes of conv1 and conv2 of every block in the published files.
MIDDLE = {
    "layer1.0": (144, 144),
    "layer1.1": (144, 144),
    "layer2.0": (230, 288),
    "layer2.1": (288, 288),
    "layer3.0": (460, 576),
    "layer3.1": (576, 576),
    "layer4.0": (921, 1152),
    "layer4.1": (1152, 1152),
}
PLANES = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
HEAD = {"fc.weight": torch.zeros(400, 64), "fc.bias": torch.zeros(400)}


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published files, written out from their description, not from our network."""

    def norm(name: str, planes: int) -> dict[str, tuple[int, ...]]:
        kinds = ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{kind}": (planes,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}

    shapes: dict[str, tuple[int, ...]] = {"stem.0.weight": (45, 3, 1, 7, 7)} | norm("stem.1", 45)
    shapes |= {"stem.3.weight": (64, 45, 3, 1, 1)} | norm("stem.4", 64)
    before = 64
    for block, middles in MIDDLE.items():
        after = PLANES[block[:6]]
        for conv, middle, taken in (("conv1", middles[0], before), ("conv2", middles[1], after)):
            shapes |= {f"{block}.{conv}.0.0.weight": (middle, taken, 1, 3, 3)} | norm(f"{block}.{conv}.0.1", middle)
            shapes |= {f"{block}.{conv}.0.3.weight": (after, middle, 3, 1, 1)} | norm(f"{block}.{conv}.1", after)
        if before != after:
            shapes |= {f"{block}.downsample.0.weight": (after, before, 1, 1, 1)} | norm(f"{block}.downsample.1", after)
        before = after
    return shapes


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """A state dict as in the published files, with random values."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.tensor(7) if key.endswith("tracked") else torch.rand(shape, generator=generator) + 0.1
        for key, shape in published_shapes().items()
    }


@pytest.fixture
def tiny() -> dict[str, Tensor]:
    """A state dict of the tiny video encoder, its statistics unlike those of a new one."""
    state = build_encoder("r2plus1d_tiny", seed=3).state_dict()
    return {key: value + 0.5 if key.endswith(("mean", "var")) else value for key, value in state.items()}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def same(encoder: nn.Module, state: dict[str, Tensor]) -> bool:
    found = encoder.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in found)


def refusal(path: Path, name: str = "r2plus1d_tiny") -> str:
    """The text with which a file is refused, without its path."""
    with pytest.raises(ConfigError) as caught:
        load_weights(path, name)
    modality = "audio" if name.startswith("audio") else "video"
    assert str(caught.value).startswith(f"{modality}.weights: {path}")
    return str(caught.value).removeprefix(f"{modality}.weights: {path}")


def test_the_published_names_are_those_of_torchvision_without_the_head() -> None:
    theirs = set(torchvision_r2plus1d_18().state_dict())
    assert theirs - set(published_shapes()) == {"fc.weight", "fc.bias"}
    assert set(published_shapes()) < theirs


def test_the_published_shapes_have_the_known_number_of_parameters() -> None:
    sizes = [torch.Size(s).numel() for k, s in published_shapes().items() if k.endswith(("weight", "bias"))]
    assert sum(sizes) + 400 * 512 + 400 == 33_370_839


@pytest.mark.parametrize("zipped", [False, True], ids=["as torch 1.4 wrote it", "as torch writes it"])
def test_a_published_file_gives_its_weights_and_statistics_and_our_batch_norm(
    published: dict[str, Tensor], tmp_path: Path, zipped: bool
) -> None:
    path = tmp_path / "r2plus1d_18_xdc_ig65m_kinetics.pth"
    torch.save(published, path, _use_new_zipfile_serialization=zipped)
    encoder, dropped = load_weights(path, "r2plus1d_18")
    assert same(encoder, published)
    assert dropped == []
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm3d)]
    assert {(norm.eps, norm.momentum, norm.training) for norm in norms} == {(1e-3, 0.1, True)}


def test_torchvisions_file_gives_torchvisions_features(tmp_path: Path) -> None:
    theirs = torchvision_r2plus1d_18()
    generator = torch.Generator().manual_seed(0)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    encoder, dropped = load_weights(saved(tmp_path / "a.pth", theirs.state_dict()), "torchvision_r2plus1d_18")
    assert dropped == ["fc.weight", "fc.bias"]
    theirs.fc = nn.Identity()
    clips = torch.randn(1, 3, 4, 32, 32, generator=generator)
    with torch.no_grad():
        expected = theirs.eval()(clips)
        assert expected.std() > 1e-3
        torch.testing.assert_close(encoder.eval()(clips), expected)


@pytest.mark.parametrize("name", ["a.pth", "a.pt"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nested", [[], ["state_dict"], ["model"], ["state_dict", "model"]], ids="/".join)
def test_a_state_dict_is_found_where_training_code_puts_it(
    tiny: dict[str, Tensor], tmp_path: Path, nested: list[str], prefix: str, name: str
) -> None:
    content: dict[str, Any] = {prefix + key: value for key, value in tiny.items()}
    for key in reversed(nested):
        content = {"epoch": 3, key: content}
    encoder, dropped = load_weights(saved(tmp_path / name, content), "r2plus1d_tiny")
    assert same(encoder, tiny)
    assert dropped == []


def test_a_head_is_dropped_and_told(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    encoder, dropped = load_weights(saved(tmp_path / "a.pth", tiny | HEAD), "r2plus1d_tiny")
    assert same(encoder, tiny)
    assert dropped == ["fc.weight", "fc.bias"]


def test_audio_weights_load_like_video_weights(tmp_path: Path) -> None:
    state = build_encoder("audio_resnet_tiny", seed=3).state_dict()
    encoder, dropped = load_weights(saved(tmp_path / "a.pth", {"model": state | HEAD}), "audio_resnet_tiny")
    assert same(encoder, state)
    assert dropped == ["fc.weight", "fc.bias"]


def test_half_precision_becomes_single(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in tiny.items()}
    encoder, _ = load_weights(saved(tmp_path / "a.pth", half), "r2plus1d_tiny")
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert torch.equal(encoder.state_dict()["stem.0.weight"], half["stem.0.weight"].float())


def test_an_encoder_that_xdc_wrote_loads(tmp_path: Path) -> None:
    encoder = build_encoder("r2plus1d_tiny", seed=3)
    save_encoder(tmp_path / "encoder.safetensors", encoder, EncoderHeader("r2plus1d_tiny"))
    loaded, dropped = load_weights(tmp_path / "encoder.safetensors", "r2plus1d_tiny")
    assert same(loaded, encoder.state_dict())
    assert dropped == []


def test_other_keys_are_refused_and_the_first_of_them_named(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    more = {f"extra.{number}": torch.zeros(1) for number in range(5)}
    assert refusal(saved(tmp_path / "a.pth", tiny | more)) == (
        " does not fit r2plus1d_tiny:\n"
        "  unexpected: extra.0; extra.1; extra.2; and 2 more\n"
        "  Use weights of r2plus1d_tiny, or set video.encoder to the encoder of this file."
    )


@pytest.mark.parametrize("key", ["stem.0.weight", "stem.1.running_var", "layer3.0.conv2.1.num_batches_tracked"])
def test_a_missing_key_is_refused_whichever_it_is(tiny: dict[str, Tensor], tmp_path: Path, key: str) -> None:
    del tiny[key]
    assert f"does not fit r2plus1d_tiny:\n  missing: {key}\n" in refusal(saved(tmp_path / "a.pth", tiny))
    assert f"does not fit r2plus1d_tiny:\n  missing: {key}\n" in refusal(saved(tmp_path / "b.pth", tiny | HEAD))


def test_the_counters_of_batch_norm_may_all_be_absent(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    bare = {key: value for key, value in tiny.items() if not key.endswith("num_batches_tracked")}
    assert len(bare) < len(tiny)
    loaded, _ = load_weights(saved(tmp_path / "a.pth", bare), "r2plus1d_tiny")
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in bare.items())


@pytest.mark.parametrize(("half", "other"), [("fc.weight", "fc.bias"), ("fc.bias", "fc.weight")])
def test_half_a_head_is_refused(tiny: dict[str, Tensor], tmp_path: Path, half: str, other: str) -> None:
    assert f"\n  missing: {other}\n" in refusal(saved(tmp_path / "a.pth", tiny | {half: HEAD[half]}))


def test_another_shape_is_refused_with_both(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    tiny["stem.0.weight"] = torch.zeros(13, 3, 1, 5, 5)
    expected = "\n  of another shape: stem.0.weight is [13, 3, 1, 5, 5], expected [12, 3, 1, 5, 5]\n"
    assert expected in refusal(saved(tmp_path / "a.pth", tiny))


@pytest.mark.parametrize("kind", [torch.int64, torch.complex64])
def test_numbers_of_another_type_are_refused(tiny: dict[str, Tensor], tmp_path: Path, kind: torch.dtype) -> None:
    tiny["stem.0.weight"] = tiny["stem.0.weight"].to(kind)
    expected = f"\n  of another type: stem.0.weight is {kind}, expected torch.float32\n"
    assert expected in refusal(saved(tmp_path / "a.pth", tiny))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tiny: dict[str, Tensor], tmp_path: Path, value: float) -> None:
    tiny["stem.1.running_var"][3] = value
    assert ": stem.1.running_var has values that are not finite" in refusal(saved(tmp_path / "a.pth", tiny))


def test_a_prefix_on_some_names_only_is_refused(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    tiny["module.stem.0.weight"] = tiny.pop("stem.0.weight")
    text = refusal(saved(tmp_path / "a.pth", tiny))
    assert "\n  missing: stem.0.weight\n  unexpected: module.stem.0.weight\n" in text


def test_torchvisions_file_is_recognised_in_ours(tmp_path: Path) -> None:
    text = refusal(saved(tmp_path / "a.pth", torchvision_r2plus1d_18().state_dict()), "r2plus1d_18")
    assert (
        "\n  of another shape: layer2.0.conv2.0.0.weight is [230, 128, 1, 3, 3], expected [288, 128, 1, 3, 3]; " in text
    )
    assert text.endswith("\n  This looks like torchvision_r2plus1d_18: set video.encoder to torchvision_r2plus1d_18.")


@pytest.mark.parametrize("name", ["torchvision_r2plus1d_18", "r2plus1d_tiny"])
def test_a_published_file_is_recognised_in_another_encoder(
    published: dict[str, Tensor], tmp_path: Path, name: str
) -> None:
    text = refusal(saved(tmp_path / "a.pth", published), name)
    assert text.endswith("\n  This looks like r2plus1d_18: set video.encoder to r2plus1d_18.")


def test_weights_of_the_other_modality_are_recognised(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    assert refusal(saved(tmp_path / "a.pth", tiny), "audio_resnet_tiny").endswith(
        "\n  This looks like r2plus1d_tiny: it belongs to video.weights, with video.encoder set to r2plus1d_tiny."
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            "r2plus1d_18",
            "holds the encoder 'r2plus1d_18', but video.encoder is 'r2plus1d_tiny': set video.encoder to r2",
        ),
        ("audio_resnet_tiny", "'r2plus1d_tiny': it belongs to audio.weights, with audio.encoder set to audio_resnet"),
        (
            "of_the_future",
            "holds the encoder 'of_the_future', but video.encoder is 'r2plus1d_tiny': use other weights.",
        ),
    ],
)
def test_a_file_of_xdc_with_another_encoder_is_refused(
    tiny: dict[str, Tensor], tmp_path: Path, found: str, words: str
) -> None:
    # With the very weights of the tiny one: the name alone decides.
    path = tmp_path / "encoder.safetensors"
    save_file(tiny, path, metadata={"encoder": found})
    assert words in refusal(path)


def test_safetensors_without_an_encoders_name_are_refused(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tiny, tmp_path / "model.safetensors")
    assert "has no encoder's name in its header" in refusal(tmp_path / "model.safetensors")


def test_the_content_of_a_file_of_xdc_is_checked_too(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    del tiny["stem.0.weight"]
    save_file(tiny, tmp_path / "encoder.safetensors", metadata={"encoder": "r2plus1d_tiny"})
    assert "missing: stem.0.weight" in refusal(tmp_path / "encoder.safetensors")


@pytest.mark.parametrize("kept", [0, 0.001, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "zipped", "pickled"])
def test_a_file_that_is_cut_off_is_refused(tiny: dict[str, Tensor], tmp_path: Path, kind: str, kept: float) -> None:
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    if kind == "safetensors":
        save_file(tiny, path, metadata={"encoder": "r2plus1d_tiny"})
    else:
        torch.save(tiny, path, _use_new_zipfile_serialization=kind == "zipped")
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    text = refusal(path)
    assert "cannot be read: " in text
    assert text.endswith("Download or export the file again.")


@pytest.mark.parametrize("content", [b"404: Not Found", b"<html>moved</html>", b"\x80\x02}q\x00."])
def test_what_torch_did_not_write_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    assert "cannot be read: it is cut off, damaged, or not written by torch.save" in refusal(path)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zipped", "pickled", "plain pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(tiny: dict[str, Tensor], tmp_path: Path, form: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "a.pth"
    content: dict[str, Any] = {"state_dict": tiny, "hook": Touch(trace)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zipped")
    refusal(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Touch(trace)))
    assert trace.exists()  # It would have shown.


def test_a_checkpoint_with_objects_tells_which_and_how_to_get_around(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    text = refusal(saved(tmp_path / "a.pth", {"state_dict": tiny, "args": argparse.Namespace(lr=1)}))
    assert text == (
        " holds an object of argparse.Namespace. Only tensors and plain values are read: anything else could run code. "
        "If you trust the file, save its state dict alone with torch.save, and give that."
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.zeros(3), r" holds an object of Tensor, but a state dict was expected"),
        ([1, 2], r" holds an object of list, but a state dict was expected"),
        ({}, r" holds an empty state dict, but"),
        ({"state_dict": {}}, r" holds an empty state dict, but"),
        ({"stem.0.weight": [1.0]}, r": 'stem\.0\.weight' is of type list, but a state dict was expected"),
        ({0: torch.zeros(1)}, r": 0 is of type Tensor, but a state dict was expected"),
        ({"epoch": 3, "net": {}}, r": 'epoch' is of type int, .* under one of the keys state_dict, model\."),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    assert re.match(words, refusal(saved(tmp_path / "a.pth", content)))
