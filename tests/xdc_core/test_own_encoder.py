"""A user's own encoder: `package.module:function` in the configuration, or an entry point of an installed package."""

import os
import sys
from pathlib import Path

import pytest
import torch

from shards.errors import ConfigError
from shards.store.files import sha256_of
from shards.store.manifest import read_manifest
from tests.installed_package import install_package
from tests.runs import MakeRun
from xdc_core.config.load import parse_config
from xdc_core.documents.metrics import read_metrics
from xdc_core.encoders.batch_norm import calibrate_batch_norm
from xdc_core.encoders.build import build_encoder
from xdc_core.encoders.file import FILE_NAME, read_encoder, save_encoder
from xdc_core.encoders.header import EncoderHeader
from xdc_core.encoders.import_weights import load_weights
from xdc_core.encoders.registry import encoder_spec
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.state import node_state
from xdc_core.runs.node import Node

# A linear layer and a norm that xdc has no rule to fill.
NETWORK = """
from torch import nn

class Small(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv3d(3, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.Linear(8, width)
        self.width = width

    def forward(self, views):
        return self.last(self.norm(self.conv(views)).relu().mean(dim=(2, 3, 4)))

def small():
    return Small()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the search path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def test_it_is_made_extracts_and_is_trained_and_a_change_of_its_source_makes_all_stale(
    place: Path, make_run: MakeRun
) -> None:
    install_package(place, "nets", {"own_nets/__init__.py": "", "own_nets/small.py": NETWORK}, {})
    name = "own_nets.small:small"
    run = make_run(method="sdc", video={"encoder": name}, pca=16)
    nodes = [Node("init", "video"), *(Node(stage, "video", 0) for stage in ("extract", "cluster", "label", "train"))]
    for node in nodes:
        run_stage(run, node)
    first = read_manifest(run.directory(nodes[0]))
    assert first is not None
    assert first.inputs["the encoder's source"] == sha256_of(place / "own_nets" / "small.py")
    features = read_manifest(run.directory(nodes[1]))
    assert features is not None
    assert features.summary["width"] == 24
    assert len(read_metrics(run.directory(nodes[-1]) / "metrics.jsonl")) > 0
    stored, trained = read_encoder(run.directory(nodes[-1]) / FILE_NAME)
    _, untrained = read_encoder(run.directory(nodes[0]) / FILE_NAME)
    assert stored == name
    assert not torch.equal(trained["conv.weight"], untrained["conv.weight"])
    assert {node_state(run, node, Fingerprints(run))[0] for node in nodes} == {"fresh"}

    (place / "own_nets" / "small.py").write_text(NETWORK.replace("nn.GroupNorm(2, 8)", "nn.GroupNorm(4, 8)"))
    assert node_state(run, nodes[0], Fingerprints(run)) == ("stale", "the encoder's source changed")
    assert {node_state(run, node, Fingerprints(run))[0] for node in nodes} == {"stale"}


def test_its_first_weights_are_its_own_and_depend_on_the_seed_only(place: Path) -> None:
    (place / "net_of_seeds.py").write_text(NETWORK)
    torch.manual_seed(1)
    one = build_encoder("net_of_seeds:small", seed=5).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    same, other = (build_encoder("net_of_seeds:small", seed=seed).state_dict() for seed in (5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["last.weight"], other["last.weight"])


def test_an_entry_point_gives_it_a_name(place: Path) -> None:
    declared = (
        "from xdc_core.encoders.spec import EncoderSpec\n"
        "SMALL = EncoderSpec('small', 'video', 24, 'named_nets')\n"
        "WRONG = EncoderSpec('other', 'video', 24, 'named_nets')\n"
    )
    points = {"xdc.encoders": {"small": "named_nets_declared:SMALL", "wrong": "named_nets_declared:WRONG"}}
    install_package(place, "nets", {"named_nets.py": NETWORK, "named_nets_declared.py": declared}, points)
    assert parse_config({"video": {"encoder": "small"}}, "a test").video.encoder == "small"
    assert "named_nets" not in sys.modules
    assert build_encoder("small", seed=0).width == 24
    with pytest.raises(ConfigError, match=r"audio\.encoder: 'small' is for video, not for audio\. Allowed: audio_"):
        parse_config({"audio": {"encoder": "small"}}, "a test")
    with pytest.raises(ConfigError, match=r"'wrong' of nets 1\.2\.3 calls itself 'other'"):
        build_encoder("wrong", seed=0)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import no_such_package\n", "cannot be imported: ModuleNotFoundError: No module named 'no_such_package'"),
        ("other = 3\n", "has no function 'make'"),
        ("make = 3\n", "has no function 'make'"),
        ("def make(): return 3\n", r"make\(\) returns an object of type int, but a torch.nn.Module is needed"),
        ("from torch import nn\ndef make(): return nn.Linear(2, 3)\n", "its attribute `width` is None"),
    ],
)
def test_what_is_no_encoder_is_refused(place: Path, source: str, why: str) -> None:
    module = f"no_encoder_{abs(hash(source))}"
    (place / f"{module}.py").write_text(source)
    with pytest.raises(ConfigError, match=why) as error:
        build_encoder(f"{module}:make", seed=0)
    assert f"the encoder '{module}:make'" in str(error.value)


@pytest.mark.parametrize(
    ("forward", "made"),
    [
        ("views.flatten(1)[:, :5]", r"\[4, 5\]"),
        ("(views, views)", "an object of type tuple"),
        ("views", r"\[4, 3, 2\]"),
    ],
)
def test_a_feature_of_another_shape_is_refused(place: Path, forward: str, made: str) -> None:
    module = f"wrong_shape_{abs(hash(forward))}"
    text = (
        f"from torch import nn\nclass Net(nn.Module):\n    width = 24\n    def forward(self, views): return {forward}\n"
    )
    (place / f"{module}.py").write_text(text)
    encoder = build_encoder(f"{module}:Net", seed=0)
    with pytest.raises(ConfigError, match=rf"{module}\.Net maps 4 views to {made}, but \[4, 24\] is needed"):
        calibrate_batch_norm(encoder, [torch.zeros(4, 3, 2)])


def test_it_starts_from_weights_of_a_file_that_fit_it(place: Path, tmp_path: Path) -> None:
    (place / "net_with_weights.py").write_text(NETWORK)
    name, path = "net_with_weights:small", tmp_path / "weights.pth"
    given = build_encoder(name, seed=3).state_dict()
    torch.save(given, path)
    loaded, dropped = load_weights(path, name, "video")
    assert dropped == []
    assert all(torch.equal(value, given[key]) for key, value in loaded.state_dict().items())
    other = tmp_path / "encoder.safetensors"
    save_encoder(other, build_encoder("r2plus1d_tiny", seed=0), EncoderHeader("r2plus1d_tiny"))
    with pytest.raises(ConfigError, match=r"video\.weights: .* but video\.encoder is 'net_with_weights:small': set "):
        load_weights(other, name, "video")


def test_its_file_is_found_without_importing_its_package(place: Path) -> None:
    install_package(place, "nets", {"heavy_nets/__init__.py": "1 / 0", "heavy_nets/small.py": NETWORK}, {})
    parse_config({"video": {"encoder": "heavy_nets.small:small"}}, "a test")
    assert "heavy_nets" not in sys.modules
    with pytest.raises(ConfigError, match=r"heavy_nets\.small cannot be imported: ZeroDivisionError"):
        encoder_spec("heavy_nets.small:small").build()
    os.remove(place / "heavy_nets" / "small.py")
    with pytest.raises(ConfigError, match=r"video\.encoder: .* there is no module heavy_nets\.small"):
        parse_config({"video": {"encoder": "heavy_nets.small:small"}}, "a test")
