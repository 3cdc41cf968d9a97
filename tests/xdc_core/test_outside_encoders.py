"""Models of transformers as encoders, with tiny random configurations: nothing is downloaded."""

import json
import re
import shutil
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from shards.errors import ConfigError, StageError
from shards.store.files import sha256_of
from shards.store.manifest import read_manifest
from tests.places import ROOT
from tests.runs import MakeRun
from xdc_core.config.load import parse_config
from xdc_core.data.features import read_features
from xdc_core.encoders.build import build_encoder
from xdc_core.encoders.file import load_encoder, save_encoder
from xdc_core.encoders.header import EncoderHeader
from xdc_core.encoders.hub import fetch, hub_commit
from xdc_core.encoders.import_weights import load_weights
from xdc_core.encoders.transformers_files import FAMILIES, has_weights, misfits, stored_name
from xdc_core.encoders.transformers_model import transformers_encoder
from xdc_core.exports.load import load_export
from xdc_core.exports.write import export
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import round_nodes, setup_nodes
from xdc_core.graph.state import node_state
from xdc_core.modalities.audio import AudioSettings
from xdc_core.modalities.audio_view import normalise
from xdc_core.modalities.kaldi import kaldi_log_mel, kaldi_recipe
from xdc_core.modalities.video import VideoSettings
from xdc_core.runs.node import Node

transformers = pytest.importorskip("transformers")

SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 16}
VIDEO = {"frames": 4, "crop": 32, "short_edges": [32]}
AUDIO = {"frames": 64, "mels": 32, "filters": "kaldi", "align": "start", "mean": -4.2677393, "std": 9.1379948}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def videomae() -> Any:
    return transformers.VideoMAEModel(
        transformers.VideoMAEConfig(image_size=32, num_frames=4, hidden_size=16, intermediate_size=32, **SMALL)
    )


def vjepa2() -> Any:
    small = {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    return transformers.VJEPA2Model(
        transformers.VJEPA2Config(crop_size=32, frames_per_clip=4, hidden_size=24, **SMALL, **small)
    )


def ast() -> Any:
    return transformers.ASTModel(
        transformers.ASTConfig(max_length=64, num_mel_bins=32, hidden_size=16, intermediate_size=32, **SMALL)
    )


def saved(folder: Path, model: Any, weights: bool = True) -> Path:
    """A folder as save_pretrained writes it; without weights with nothing but config.json."""
    if weights:
        model.save_pretrained(folder)
    else:
        model.config.save_pretrained(folder)
    return folder


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    return saved(tmp_path / "models" / "videomae", videomae())


def test_a_round_with_them_needs_their_folders_only_until_the_first_encoders_are_made(
    tmp_path: Path, make_run: MakeRun, pretrained: Path
) -> None:
    """Pictures by pretrained weights, sound by random ones: init, features, clusters, training, features again."""
    sound = saved(tmp_path / "models" / "ast", ast(), weights=False)
    transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=32, sampling_rate=8000).save_pretrained(sound)
    run = make_run(
        video={"encoder": "hf:../models/videomae", **VIDEO}, audio={"encoder": "hf:../models/ast", **AUDIO}, pca=8
    )
    for node in setup_nodes(run.config):
        run_stage(run, node)
    first = {name: run.directory(Node("init", name)) / "encoder.safetensors" for name in ("video", "audio")}
    stored = load_file(first["video"])
    for key, value in transformers.AutoModel.from_pretrained(pretrained).state_dict().items():
        assert torch.equal(stored[f"model.{key}"], value)

    shutil.rmtree(tmp_path / "models")
    nodes = [*round_nodes(run.config, 0), Node("extract", "video", 1), Node("extract", "audio", 1)]
    for node in nodes:
        run_stage(run, node)
    assert {node_state(run, node, Fingerprints(run))[0] for node in [*setup_nodes(run.config), *nodes]} == {"fresh"}
    for name in ("video", "audio"):
        before, after = (
            read_features(next(run.directory(Node("extract", name, n)).rglob("0*.parquet"))) for n in (0, 1)
        )
        assert before[1].shape[1] == 16
        assert np.isfinite(after[1]).all()
        assert not np.allclose(before[1], after[1])

    saved(tmp_path / "models" / "videomae", videomae())  # Other weights.
    states = [node_state(run, Node("init", name), Fingerprints(run)) for name in ("video", "audio")]
    assert states == [("stale", "the encoder's source changed"), ("fresh", "")]


@pytest.mark.parametrize(
    ("make", "views", "feature"),
    [
        (videomae, (2, 3, 4, 32, 32), lambda model, x: model(x.transpose(1, 2)).last_hidden_state.mean(1)),
        (vjepa2, (2, 3, 4, 32, 32), lambda model, x: model.get_vision_features(x.transpose(1, 2)).mean(1)),
        (vjepa2, (2, 3, 2, 32, 32), lambda model, x: model.get_vision_features(x.transpose(1, 2)).mean(1)),
        (ast, (2, 1, 64, 32), lambda model, x: model(x[:, 0]).pooler_output),
    ],
)
def test_the_feature_is_that_of_the_real_model_and_a_file_is_enough_to_build_it_again(
    tmp_path: Path, make: Callable[[], Any], views: tuple[int, ...], feature: Callable[[Any, Any], torch.Tensor]
) -> None:
    model = make().eval()
    folder = saved(tmp_path / "model", model)
    name = f"hf:{folder}"
    encoder = build_encoder(name, 0, folder)
    save_encoder(tmp_path / "encoder.safetensors", encoder, EncoderHeader(name))
    shutil.rmtree(folder)
    again = load_encoder(tmp_path / "encoder.safetensors", name).eval()
    given = torch.rand(views)
    with torch.no_grad():
        assert torch.equal(again(given), encoder.eval()(given))
        torch.testing.assert_close(again(given), feature(model, given))
    assert again.width == model.config.hidden_size
    assert all(parameter.grad is not None for parameter in _trained(again, given).parameters())
    with pytest.raises(ConfigError, match=r"takes views of \[.*\], but was given \["):
        again(given[..., :16])


def _trained(encoder: torch.nn.Module, views: torch.Tensor) -> torch.nn.Module:
    """An encoder after a step of training: with several processes torch refuses parameters without a gradient."""
    encoder.train()(views).sum().backward()
    return encoder


def test_random_weights_depend_on_name_and_seed_only(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", videomae(), weights=False)
    torch.manual_seed(1)
    one = build_encoder("hf:./model", 5, folder).state_dict()
    torch.manual_seed(2)
    same, other = (build_encoder("hf:./model", seed, folder).state_dict() for seed in (5, 6))
    name = "model.encoder.layer.0.attention.output.dense.weight"
    name = name if name in one else next(key for key in one if key.endswith("weight") and one[key].std() > 0.01)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one[name], other[name])


def test_settings_that_do_not_fit_are_errors_with_the_right_values(make_run: MakeRun, pretrained: Path) -> None:
    transformers.VideoMAEImageProcessor(image_mean=[0.5, 0.5, 0.5], image_std=[0.2, 0.2, 0.2]).save_pretrained(
        pretrained
    )
    run = make_run(video={"encoder": f"hf:{pretrained}", **VIDEO, "frames": 8, "crop": 16})
    with pytest.raises(ConfigError) as error:
        run_stage(run, Node("init", "video"))
    text = str(error.value)
    assert "video.frames is 8, but 4 is needed (num_frames)" in text
    assert "video.crop is 16, but 32 is needed (image_size)" in text
    assert "video.mean is [0.43216, 0.394666, 0.37645], but the model was trained with [0.5, 0.5, 0.5]" in text


def test_a_model_of_sound_needs_its_filters_and_sample_rate(tmp_path: Path) -> None:
    folder = saved(tmp_path / "ast", ast(), weights=False)
    transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=32).save_pretrained(folder)
    settings = AudioSettings().model_dump()
    assert misfits(folder, "audio", settings, 8000) == [
        "audio.frames is 100, but 64 is needed (max_length)",
        "audio.mels is 40, but 32 is needed (num_mel_bins)",
        "audio.filters is vmz, but kaldi is needed",
        "audio.align is span, but centre or start is needed: a step of the input is 10 ms",
        "corpus.sample_rate is 8000, but 16000 is needed",
        "audio.mean is 0.0, but the model was trained with -4.267739",
        "audio.std is 1.0, but the model was trained with 9.137995",
    ]
    assert misfits(folder, "audio", settings | AUDIO, 16000) == []
    assert misfits(folder, "video", VideoSettings().model_dump(), 16000) == ["it is a model of audio, not of video"]


def test_what_config_json_leaves_out_has_the_values_of_transformers() -> None:
    for kind, family in FAMILIES.items():
        config = transformers.AutoConfig.for_model(kind)
        pairs = [*family.inputs.values(), *([family.tubelet] if family.tubelet else [])]
        assert {key: getattr(config, key) for key, _ in pairs} == dict(pairs)


def test_the_log_mel_of_kaldi_is_that_of_the_feature_extractor_of_ast() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 16000 + 77).astype(np.float32)
    made = kaldi_log_mel(torch.from_numpy(sound), kaldi_recipe(16000, 128))
    padded = torch.nn.functional.pad(made, (0, 0, 0, 120 - len(made)))
    settings = AudioSettings(mels=128, filters="kaldi", mean=-4.2677393, std=2 * 4.5689974)
    wanted = transformers.ASTFeatureExtractor(max_length=120)(sound, sampling_rate=16000, return_tensors="pt")
    torch.testing.assert_close(normalise(padded[None, None], settings)[0], wanted["input_values"], atol=1e-4, rtol=0)
    assert len(made) == kaldi_recipe(16000, 128).frames(len(sound))


def test_sound_shorter_than_a_window_and_other_sample_rates_have_the_frames_of_the_recipe() -> None:
    for rate, samples in ((16000, 10), (16000, 400), (11025, 11025), (8000, 8000), (44100, 44100), (22050, 551)):
        recipe = kaldi_recipe(rate, 24)
        assert kaldi_log_mel(torch.rand(samples), recipe).shape == (recipe.frames(samples), 24)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config\.json does not exist"),
        (lambda folder: (folder / "config.json").write_text("["), r"config\.json cannot be read"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
            "model_type is 'bert', but one of",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "the weights cannot be read"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "a pickle, which is not read",
        ),
        (lambda folder: _drop(folder / "model.safetensors"), "1 tensors are missing or of another shape"),
        (shutil.rmtree, r"does not exist\. Correct the path"),
    ],
)
def test_what_is_no_model_is_refused(
    make_run: MakeRun, pretrained: Path, change: Callable[[Path], object], why: str
) -> None:
    change(pretrained)
    run = make_run(video={"encoder": f"hf:{pretrained}", **VIDEO})
    with pytest.raises(ConfigError, match=why):
        run_stage(run, Node("init", "video"))


def _drop(file: Path) -> None:
    tensors = load_file(file)
    tensors.popitem()
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["hf:", "hf:videomae", "hf:a/b/c", "hf:a/b@"])
def test_a_name_that_is_neither_a_folder_nor_a_model_on_the_hub_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is neither hf:FOLDER .* nor hf:OWNER/NAME"):
        parse_config({"video": {"encoder": name}}, "a test")


def test_a_model_in_the_cache_of_the_hub_is_used_without_the_hub(
    make_run: MakeRun, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is the digest. Later the cache is not needed, also if the branch has moved on."""
    constants = pytest.importorskip("huggingface_hub").constants
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = cache / "models--someone--tiny"
    shutil.copytree(pretrained, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    assert hub_commit("hf:someone/tiny") == COMMIT
    assert hub_commit(f"hf:someone/other@{COMMIT}") == COMMIT
    run = make_run(video={"encoder": "hf:someone/tiny", **VIDEO})
    run_stage(run, Node("init", "video"))
    manifest = read_manifest(run.directory(Node("init", "video")))
    assert manifest is not None
    assert manifest.inputs["the encoder's source"] == COMMIT
    (repository / "refs" / "main").write_text(COMMIT[::-1])
    assert node_state(run, Node("init", "video"), Fingerprints(run))[0] == "fresh"
    shutil.rmtree(cache)
    assert node_state(run, Node("init", "video"), Fingerprints(run))[0] == "fresh"
    run_stage(run, Node("extract", "video", 0))
    with pytest.raises(ConfigError, match=r"'hf:someone/tiny' is not in the local cache of the hub, and cannot be"):
        hub_commit("hf:someone/tiny")
    with pytest.raises(ConfigError, match="is not in the local cache of the hub"):
        fetch("hf:someone/tiny", COMMIT)


class Answers(BaseHTTPRequestHandler):
    """Answers the client of the Hub for one model, whose files are in the folder `model`."""

    model: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path.startswith(f"/api/models/someone/tiny/tree/{COMMIT}"):
            files = [{"type": "file", "path": path.name, "size": path.stat().st_size} for path in self.model.iterdir()]
            self._answer(json.dumps([file | {"oid": sha256_of(self.model / file["path"])} for file in files]).encode())
        elif (path := self.model / self.path.rpartition("/")[2]).is_file():
            self._answer(path.read_bytes(), ETag=f'"{sha256_of(path)}"', **{"X-Repo-Commit": COMMIT})
        else:
            self.send_error(404)

    def _answer(self, data: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in (headers | {"Content-Type": "application/json", "Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def test_what_the_cache_lacks_of_a_model_is_fetched_and_without_the_hub_it_is_named(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another program has put only the configuration and the weights there."""
    constants = pytest.importorskip("huggingface_hub").constants
    cache = tmp_path / "cache" / "models--someone--tiny"
    shutil.copytree(pretrained, cache / "snapshots" / COMMIT)
    transformers.VideoMAEImageProcessor().save_pretrained(pretrained)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Answers, "model", pretrained, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        folder = fetch("hf:someone/tiny", COMMIT)
        assert "no preprocessor_config.json, so that mean, std and sample rate were not comp" in capsys.readouterr().err
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert fetch("hf:someone/tiny", COMMIT) == folder
        server.shutdown()
        thread.join()
    (file,) = {path.name for path in folder.iterdir()} - {"config.json", "model.safetensors"}
    assert (folder / file).read_bytes() == (pretrained / file).read_bytes()
    assert "warning" not in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (folder / file).unlink()
    assert fetch("hf:someone/tiny", COMMIT) == folder
    assert "were not compared" in capsys.readouterr().err


def test_a_file_of_weights_that_is_missing_is_named(
    tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder, and in a cache that was filled in part. Without any it would else begin with random weights."""
    constants = pytest.importorskip("huggingface_hub").constants
    folder = tmp_path / "cache" / "models--someone--tiny" / "snapshots" / COMMIT
    videomae().save_pretrained(folder, max_shard_size="10KB")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert has_weights(fetch("hf:someone/tiny", COMMIT))
    for left, path in enumerate(reversed(shards)):
        path.unlink()
        for look in (lambda: has_weights(folder), lambda: fetch("hf:someone/tiny", COMMIT)):
            with pytest.raises(
                ConfigError, match=rf"{left + 1} of the {len(shards)} files .* missing \({path.name} first"
            ):
                look()


def test_trained_weights_of_xdc_have_the_architecture_and_others_are_refused(pretrained: Path, tmp_path: Path) -> None:
    name = f"hf:{pretrained}"
    save_encoder(tmp_path / "a.safetensors", build_encoder(name, 0, pretrained), EncoderHeader(name))
    shutil.rmtree(pretrained)
    loaded, _ = load_weights(tmp_path / "a.safetensors", name, "video")
    assert json.loads(bytes(loaded.architecture.numpy()))["model_type"] == "videomae"
    torch.save(videomae().state_dict(), tmp_path / "b.pth")
    with pytest.raises(ConfigError, match="have no tensor 'architecture'"):
        load_weights(tmp_path / "b.pth", name, "video")


def test_without_transformers_the_message_has_the_extra(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"needs the package transformers .*pip install 'xdc-pipeline\[hf\]'"):
        build_encoder(f"hf:{pretrained}", 0, pretrained)


def test_a_file_of_another_version_of_transformers_is_an_error_that_names_it(pretrained: Path, tmp_path: Path) -> None:
    """Parameters are renamed between versions."""
    name = f"hf:{pretrained}"
    save_encoder(tmp_path / "a.safetensors", build_encoder(name, 0, pretrained), EncoderHeader(name))
    tensors = load_file(tmp_path / "a.safetensors")
    renamed = {key.replace("dense", "linear"): value for key, value in tensors.items()}
    save_file(renamed, tmp_path / "b.safetensors", metadata={"encoder": name})
    with pytest.raises(ConfigError, match=rf"was described by transformers {transformers.__version__}\. Install that"):
        load_encoder(tmp_path / "b.safetensors", name)


def test_more_filters_than_the_paper_s_recipe_has_bins_for_need_that_of_kaldi() -> None:
    with pytest.raises(ConfigError, match=r"mels \(81\) must be at most 80 with filters: vmz"):
        parse_config({"audio": {"mels": 81}}, "a test")
    assert parse_config({"audio": {"mels": 128, "filters": "kaldi"}}, "a test").audio.mels == 128


def test_the_settings_in_the_documentation_fit_the_defaults_of_transformers(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "outside.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    config = parse_config(yaml.safe_load(example), "the example")
    for name, kind in (("video", "videomae"), ("audio", "audio-spectrogram-transformer")):
        transformers.AutoConfig.for_model(kind).save_pretrained(tmp_path / name)
        transformers.ASTFeatureExtractor().save_pretrained(tmp_path / "audio")
        settings = getattr(config, name).model_dump()
        assert misfits(tmp_path / name, name, settings, config.corpus.sample_rate) == []


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        ({"model_type": "bert"}, "model_type is 'bert', but one of videomae"),
        ({"model_type": ["videomae"]}, "model_type is .'videomae'., but one of"),
        ({}, "model_type is None"),
        ({"model_type": "videomae", "hidden_size": -5}, "describes no videomae model that .*RuntimeError"),
        ({"model_type": "videomae", "hidden_act": "mine"}, "describes no videomae model that .*KeyError"),
        ({"model_type": "videomae", "patch_size": 0}, "describes no videomae model that .*ZeroDivisionError"),
        ({"model_type": "videomae", "image_size": "wide"}, "describes no videomae model that .*image_size"),
        ([1], "holds a list, not an object"),
        (b"\xff{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_file_that_describes_no_model_is_refused(stored: Any, why: str) -> None:
    data = stored if isinstance(stored, bytes) else json.dumps(stored).encode()
    tensors = {"architecture": torch.frombuffer(bytearray(data), dtype=torch.uint8)}
    with pytest.raises(ConfigError, match=why):
        transformers_encoder(tensors)


def test_what_describes_no_network_has_no_effect(tmp_path: Path) -> None:
    """An attention from a repository of the Hub would be fetched, and run."""
    hostile = {
        "attn_implementation": "someone/code",
        "_attn_implementation": "someone/code",
        "_name_or_path": "/home/me",
    }
    hostile |= {"auto_map": {"AutoModel": "code.Model"}, "quantization_config": {"quant_method": "bitsandbytes"}}
    folder = saved(tmp_path / "model", videomae(), weights=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | hostile))
    for encoder in (
        transformers_encoder(folder),
        transformers_encoder(
            {"architecture": torch.tensor([*json.dumps(config | hostile).encode()], dtype=torch.uint8)}
        ),
    ):
        assert encoder.width == 16
        assert encoder.model.config._attn_implementation in ("sdpa", "eager")
    assert not {*hostile} & {*json.loads(transformers_encoder(folder).architecture.numpy().tobytes())}


def test_a_file_of_another_version_with_the_same_tensors_is_read(pretrained: Path, tmp_path: Path) -> None:
    """The description has the version, which may be longer there."""
    name = f"hf:{pretrained}"
    save_encoder(tmp_path / "a.safetensors", build_encoder(name, 0, pretrained), EncoderHeader(name))
    tensors = load_file(tmp_path / "a.safetensors")
    values = json.loads(tensors["architecture"].numpy().tobytes()) | {"transformers_version": "4.100.100.dev0"}
    tensors["architecture"] = torch.tensor([*json.dumps(values).encode()], dtype=torch.uint8)
    save_file(tensors, tmp_path / "b.safetensors", metadata={"encoder": name})
    assert torch.equal(load_encoder(tmp_path / "b.safetensors", name).architecture, tensors["architecture"])


def test_a_file_has_no_path_of_the_machine_and_fits_the_folder_wherever_it_lies(
    pretrained: Path, tmp_path: Path
) -> None:
    name = f"hf:{pretrained}"
    save_encoder(tmp_path / "a.safetensors", build_encoder(name, 0, pretrained), EncoderHeader(name))
    assert str(tmp_path).encode() not in (tmp_path / "a.safetensors").read_bytes()
    for other in ("hf:./videomae", "hf:../elsewhere/videomae", name):
        assert load_encoder(tmp_path / "a.safetensors", other).width == 16
        assert load_weights(tmp_path / "a.safetensors", other, "video")[0].width == 16
    with pytest.raises(StageError, match=r"holds the encoder 'hf:\./videomae', but .* says 'hf:./other'"):
        load_encoder(tmp_path / "a.safetensors", "hf:./other")


def test_an_export_has_no_path_of_the_machine_and_says_what_it_began_with(
    make_run: MakeRun, pretrained: Path, tmp_path: Path
) -> None:
    run = make_run(video={"encoder": f"hf:{pretrained}", **VIDEO})
    run_stage(run, Node("init", "video"))
    export(run, tmp_path / "export", 0, ["video"])
    for path in (tmp_path / "export").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path
    card = (tmp_path / "export" / "video" / "README.md").read_text()
    assert "# hf:./videomae (video), xdc, round 0" in card
    assert "started from the pretrained weights of hf:./videomae and is" in card
    assert "random weights" not in card
    shutil.rmtree(pretrained)
    assert load_export(tmp_path / "export" / "video").encoder.width == 16


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("hf:/home/me/models/large", "hf:./large"),
        ("hf:~/large/", "hf:./large"),
        ("hf:..", "hf:./model"),
        ("hf:~me", "hf:./me"),
        ("hf:someone/large@main", "hf:someone/large@main"),
        ("r2plus1d_18", "r2plus1d_18"),
        ("package.module:function", "package.module:function"),
    ],
)
def test_the_name_in_a_file(name: str, stored: str) -> None:
    assert stored_name(name) == stored_name(stored) == stored
