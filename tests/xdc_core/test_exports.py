"""Exports: the encoders of a run in folders that are used without it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shards.corpus.index import read_whole_index
from shards.errors import ConfigError, MediaError
from shards.store.files import sha256_of
from shards.store.manifest import read_manifest
from tests.places import ROOT
from tests.runs import MakeRun
from tests.shards.media_maker import plain, tone, write_video
from tests.sharing import made_once
from xdc_core.data.features import read_features
from xdc_core.encoders.build import build_encoder
from xdc_core.exports.config import ExportConfig, read_config
from xdc_core.exports.load import clip_features, feature, load_export
from xdc_core.exports.onnx import CHECKED, TOLERANCE, check_installed, input_shape, largest_difference, write_onnx
from xdc_core.exports.write import export
from xdc_core.graph.run_stage import run_stage
from xdc_core.new_clips.exported import clusters_of_export, read_exports
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

BOTH = pytest.mark.parametrize("modality", ["video", "audio"])


@pytest.fixture(scope="session")
def exported(worked_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoders at the start of round 1. Not to be written to."""
    return made_once(tmp_path_factory, "exported", lambda out: export(worked_run, out / "export", None, [])) / "export"


@pytest.fixture
def own_copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copied"))


def features_of(run: Run, modality: str, number: int) -> dict[str, np.ndarray]:
    """The features that the run has, by key."""
    found = {}
    for path in sorted(run.directory(Node("extract", modality, number)).rglob("*.parquet")):
        found |= dict(zip(*read_features(path), strict=True))
    return found


@BOTH
def test_a_folder_has_the_encoder_its_settings_and_the_clusters_of_its_features(
    worked_run: Run, exported: Path, modality: str
) -> None:
    folder = exported / modality
    encoder = worked_run.directory(Node("train", modality, 0)) / "encoder.safetensors"
    assert (folder / "model.safetensors").read_bytes() == encoder.read_bytes()
    config = json.loads((folder / "config.json").read_text())
    assert (config["modality"], config["width"], config["round"]) == (modality, 64, 1)
    assert config["sha256"] == sha256_of(encoder)
    for name, value in config["view"].items():
        assert value == json.loads(getattr(worked_run.config, modality).model_dump_json())[name]
    clusters = worked_run.directory(Node("cluster", modality, 1))
    manifest = read_manifest(clusters)
    assert manifest is not None
    assert config["clusters"]["fingerprint"] == manifest.fingerprint
    for name in ("centroids.npy", "preprocess.npz", "kmeans.json"):
        assert (folder / "clusters" / name).read_bytes() == (clusters / name).read_bytes()


def test_cards_have_data_and_metrics_and_no_path_of_the_machine(worked_run: Run, exported: Path) -> None:
    cards = [path.read_text() for path in exported.rglob("*") if path.suffix in (".md", ".json")]
    assert len(cards) == 7
    for text in cards:
        assert str(worked_run.root) not in text
        assert str(worked_run.corpus) not in text
        assert "/tmp" not in text
    card = (exported / "video" / "README.md").read_text()
    corpus = read_manifest(worked_run.corpus)
    assert corpus is not None
    assert corpus.summary["hours"] > 0
    assert f"({corpus.summary['hours']} hours)" in card
    for part in ("license: other", "48 clips", "test: 8", "| nmi |", "4 clusters", "after 1 round of training"):
        assert part in card


@BOTH
def test_the_feature_of_a_file_is_the_pipelines(worked_run: Run, exported: Path, modality: str) -> None:
    encoder, wanted = load_export(exported / modality), features_of(worked_run, modality, 1)
    index = read_whole_index(worked_run.corpus, ["key", "source"]).to_pylist()
    assert worked_run.videos is not None
    for row in index[:3]:
        made = feature(worked_run.videos.parent / row["source"], encoder)
        assert (made.dtype, made.shape) == (np.float32, (64,))
        assert np.linalg.norm(made - wanted[row["key"]]) <= 1e-5 * np.linalg.norm(made)


def test_several_views_are_averaged_as_in_extraction(copy_run: MakeRun, tmp_path: Path) -> None:
    run = copy_run(extract={"views": 3})
    run_stage(run, Node("extract", "video", 0))
    export(run, tmp_path / "export", 0, ["video"])
    row = read_whole_index(run.corpus, ["key", "source"]).to_pylist()[0]
    assert run.videos is not None
    made = feature(run.videos.parent / row["source"], tmp_path / "export")
    wanted = features_of(run, "video", 0)[row["key"]]
    assert np.linalg.norm(made - wanted) <= 1e-5 * np.linalg.norm(made)


def test_clips_of_a_shared_corpus_are_described_as_they_were_cut(
    worked_run: Run, exported: Path, copy_run: MakeRun, tmp_path: Path
) -> None:
    """Without `corpus.videos` the settings in xdc.yaml have no effect, and may be others."""
    run = copy_run(corpus={"videos": None, "short_side": 48, "max_hours": 2.0})
    assert worked_run.config.corpus.short_side != 48
    export(run, tmp_path / "export", 1, [])
    for modality in ("video", "audio"):
        assert read_config(tmp_path / "export" / modality)[1].clips == read_config(exported / modality)[1].clips


def test_the_same_again_is_reused_and_keeps_an_edited_card(worked_run: Run, own_copy: Path) -> None:
    card = own_copy / "video" / "README.md"
    card.write_text("mine")
    assert export(worked_run, own_copy, 1, []).reused
    assert card.read_text() == "mine"


@pytest.mark.parametrize(("number", "modalities"), [(0, []), (1, ["video"])])
def test_another_export_is_not_overwritten(worked_run: Run, own_copy: Path, number: int, modalities: list[str]) -> None:
    before = sha256_of(own_copy / "video" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"exists and is not this export: .*Remove it, or give --to another folder"):
        export(worked_run, own_copy, number, modalities)
    assert sha256_of(own_copy / "video" / "model.safetensors") == before


def test_a_folder_with_something_else_is_left_alone(worked_run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not this export"):
        export(worked_run, tmp_path, 1, [])
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["notes.txt"]


def test_an_export_that_fails_leaves_nothing(worked_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xdc_core.exports.write.whole_card", full)
    with pytest.raises(OSError, match="No space"):
        export(worked_run, tmp_path / "export", 1, [])
    assert [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_without_clusters_of_its_features_a_folder_says_so(copy_run: MakeRun, tmp_path: Path) -> None:
    run = copy_run()
    shutil.rmtree(run.directory(Node("cluster", "video", 1)))
    made = export(run, tmp_path / "export", 1, [])
    assert list(made.without) == ["video"]
    assert not (tmp_path / "export" / "video" / "clusters").exists()
    _, config = read_config(tmp_path / "export" / "video")
    assert config.clusters is None
    assert "xdc stage cluster" in config.without_clusters
    assert "There are none" in (tmp_path / "export" / "video" / "README.md").read_text()


def test_joint_clusters_have_a_folder_that_names_both_encoders(copy_run: MakeRun, tmp_path: Path) -> None:
    run = copy_run(method="cdc")
    run_stage(run, Node("cluster", "joint", 0))
    made = export(run, tmp_path / "export", 0, [])
    assert made.folders == ("video", "audio", "joint")
    config = json.loads((tmp_path / "export" / "joint" / "config.json").read_text())
    assert config["encoders"] == {
        name: sha256_of(tmp_path / "export" / name / "model.safetensors") for name in ("video", "audio")
    }
    assert config["clusters"]["modalities"] == ["video", "audio"]
    assert (tmp_path / "export" / "joint" / "clusters" / "centroids.npy").exists()
    assert set(made.without) == {"video", "audio"}
    assert export(run, tmp_path / "export", 0, []).reused


def test_an_encoder_that_is_not_up_to_date_is_not_exported(copy_run: MakeRun, tmp_path: Path) -> None:
    run = copy_run(seed=5)
    with pytest.raises(ConfigError, match="has no encoder yet that is up to date"):
        export(run, tmp_path / "export", None, [])
    with pytest.raises(
        ConfigError, match=r"video encoder at the start of round 1 .train\.video of round 0.*xdc stage train"
    ):
        export(run, tmp_path / "export", 1, [])


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("model.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1]), r"damaged or another file: its sha256"),
        ("model.safetensors", None, "cannot be read"),
        ("config.json", lambda data: data.replace(b'"format": 1', b'"format": 2'), "format 2, but .* reads 1"),
        ("config.json", lambda data: data[:40], "cannot be read"),
        ("config.json", lambda data: data.replace(b'"width": 64', b'"width": "wide"'), "width: "),
        ("config.json", None, r"there is no config\.json"),
    ],
)
def test_a_damaged_export_is_an_error(own_copy: Path, file: str, change: Any, message: str) -> None:
    path = own_copy / "video" / file
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ConfigError, match=message):
        load_export(own_copy / "video")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: np.save(folder / "centroids.npy", np.zeros((4, 64), np.float32)), "damaged or another file"),
        (lambda folder: (folder / "kmeans.json").unlink(), r"kmeans\.json cannot be read"),
        (lambda folder: (folder / "centroids_1.npy").touch(), r"centroids_1\.npy is not named in config\.json"),
        (shutil.rmtree, "cannot be read"),
    ],
)
def test_clusters_are_those_that_were_exported(worked_run: Run, own_copy: Path, change: Any, message: str) -> None:
    """Neither an export of the same again nor an assignment takes others."""
    exported = read_exports(own_copy)
    (clusters,) = clusters_of_export(own_copy, exported, {"video": ("video",)})
    assert clusters.directory == own_copy / "video" / "clusters"
    change(own_copy / "video" / "clusters")
    with pytest.raises(ConfigError, match=rf"{message}.*Copy or export it again"):
        clusters_of_export(own_copy, exported, {"video": ("video",)})
    with pytest.raises(ConfigError, match=rf"{message}.*Copy or export it again"):
        export(worked_run, own_copy, 1, [])


def test_other_files_are_other_clusters(own_copy: Path) -> None:
    """Also where somebody has changed config.json with them: what was assigned to the first is not taken for theirs."""
    (before,) = clusters_of_export(own_copy, read_exports(own_copy), {"video": ("video",)})
    centroids = own_copy / "video" / "clusters" / "centroids.npy"
    np.save(centroids, np.load(centroids) + 1)
    path = own_copy / "video" / "config.json"
    values = json.loads(path.read_text())
    values["clusters"]["files"]["centroids.npy"] = sha256_of(centroids)
    path.write_text(json.dumps(values))
    (after,) = clusters_of_export(own_copy, read_exports(own_copy), {"video": ("video",)})
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("clips", {"short_side": "wide"}, r"clips\.short_side: .*valid integer"),
        ("clips", {"from_the_future": 1}, r"clips\.from_the_future: Extra inputs"),
        ("clips", {"min_seconds": 99.0}, "clips: .*min_seconds"),
        ("view", {"crop": -1}, r"view\.crop: "),
        ("view", {"from_the_future": 1}, r"view\.from_the_future: Extra inputs"),
        ("extract", {"precision": "int4"}, r"extract\.precision: "),
    ],
)
def test_settings_of_another_version_are_an_error(own_copy: Path, section: str, values: Any, message: str) -> None:
    path = own_copy / "video" / "config.json"
    content = json.loads(path.read_text()) | {"xdc_version": "7.8"}
    content[section] |= values
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=rf"config\.json: {message}.*It was made with xdc 7\.8"):
        load_export(own_copy / "video")


@pytest.mark.parametrize("view", [{}, {"view": {"crop": "wide"}}])
def test_weights_with_a_header_that_cannot_be_read_are_an_error(own_copy: Path, view: Any) -> None:
    folder = own_copy / "video"
    metadata = {
        "encoder": "r2plus1d_tiny",
        "settings": json.dumps({"modality": "video", "width": 64, "clips": {}} | view),
    }
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors", metadata)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"sha256": sha256_of(folder / "model.safetensors")}))
    with pytest.raises(ConfigError, match=r"model\.safetensors cannot be read as an encoder"):
        load_export(folder)


def test_settings_that_do_not_fit_the_weights_are_an_error(own_copy: Path) -> None:
    path = own_copy / "audio" / "config.json"
    values = json.loads(path.read_text())
    values["clips"]["sample_rate"] = 44100
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"corpus\.sample_rate is \d+ in the file, and 44100 here"):
        load_export(own_copy / "audio")


def test_of_several_encoders_one_must_be_chosen(exported: Path) -> None:
    with pytest.raises(ConfigError, match=r"give one of .*audio, .*video"):
        load_export(exported)


def test_media_that_cannot_be_used_are_errors(exported: Path, tmp_path: Path) -> None:
    frames = [plain((200, 8 * n, 0)) for n in range(30)]
    silent = write_video(tmp_path / "silent.mp4", frames, None, fps=15)
    video, audio = load_export(exported / "video"), load_export(exported / "audio")
    assert feature(silent, video).shape == (64,)
    with pytest.raises(MediaError, match="no sound"):
        feature(silent, audio)
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(MediaError, match=r"text\.mp4"):
        feature(tmp_path / "text.mp4", video)
    with pytest.raises(ConfigError, match="is not a file"):
        feature(tmp_path / "nothing.mp4", video)
    short = write_video(tmp_path / "short.mp4", frames[:3], tone(440, 0.2), fps=15)
    with pytest.raises(MediaError, match="shorter than min_seconds"):
        feature(short, video)


def test_a_file_shorter_than_a_view_is_an_error(own_copy: Path, tmp_path: Path) -> None:
    path = own_copy / "video" / "config.json"
    values = json.loads(path.read_text())
    values["clips"]["min_seconds"] = 0.1
    path.write_text(json.dumps(values))
    short = write_video(tmp_path / "short.mp4", [plain((200, 10, 0))] * 4, None, fps=15)
    with pytest.raises(MediaError, match=r"has \d frames at .* but a view needs"):
        feature(short, own_copy / "video")


def test_a_long_file_has_a_feature_per_clip(own_copy: Path, tmp_path: Path) -> None:
    path = own_copy / "video" / "config.json"
    values = json.loads(path.read_text())
    values["clips"] |= {"clip_seconds": 1.0, "min_seconds": 1.0}
    path.write_text(json.dumps(values))
    film = write_video(tmp_path / "film.mp4", [plain((8 * n, 0, 0)) for n in range(30)], None, fps=15)
    found = clip_features(film, own_copy / "video")
    np.testing.assert_allclose(found.spans, [(0, 1), (1, 2)], atol=1e-6)
    np.testing.assert_allclose(feature(film, own_copy / "video"), found.features.mean(axis=0), rtol=1e-5)


def test_a_bad_clip_of_a_long_file_is_left_out_and_named(own_copy: Path, tmp_path: Path) -> None:
    for modality in ("video", "audio"):
        path = own_copy / modality / "config.json"
        values = json.loads(path.read_text())
        values["clips"] |= {"clip_seconds": 1.0, "min_seconds": 1.0}
        path.write_text(json.dumps(values))
    frames = [plain((5 * n, 0, 0)) for n in range(45)]
    sound = tone(440, 3.0)
    sound[..., len(sound.T) // 3 - 2000 : 2 * len(sound.T) // 3 + 2000] = 0
    film = write_video(tmp_path / "film.mp4", frames, sound, fps=15)
    for modality in ("video", "audio"):
        found = clip_features(film, own_copy / modality)
        np.testing.assert_allclose(found.spans, [(0, 1), (2, 3)], atol=1e-6)
        assert found.features.shape == (2, 64)
        assert [(reject.start_s, reject.kind) for reject in found.rejects] == [(1.0, "silent")]
        np.testing.assert_allclose(feature(film, own_copy / modality), found.features.mean(axis=0), rtol=1e-5)
    still = write_video(tmp_path / "still.mp4", frames, 0 * sound, fps=15)
    assert len(clip_features(still, own_copy / "video").spans) == 3
    with pytest.raises(MediaError, match=r"none of its clips can be used \(3\)\. The first, 0\.00 to 1\.00 s: "):
        feature(still, own_copy / "audio")


@BOTH
def test_from_pretrained_and_torch_hub_give_the_same_encoder(exported: Path, modality: str) -> None:
    pytest.importorskip("huggingface_hub")
    from xdc_core.exports.hub import Encoder

    loaded = load_export(exported / modality)
    views = torch.randn(2, *input_shape(loaded))
    of_hub = torch.hub.load(str(ROOT), "encoder", source="local", directory=str(exported / modality))
    with torch.inference_mode():
        wanted = loaded.encoder(views)
        assert torch.equal(Encoder.from_pretrained(exported / modality)(views), wanted)
        assert torch.equal(Encoder.from_pretrained(exported, modality=modality)(views), wanted)
        assert torch.equal(of_hub(views), wanted)


def test_a_module_that_is_moved_computes_features_where_it_is(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` stands for another device: it has no numbers, but every tensor must be there."""
    pytest.importorskip("huggingface_hub")
    from xdc_core.exports import hub

    seen = []
    monkeypatch.setattr(hub, "feature", lambda _, loaded: seen.append(loaded.encoding.device.type))
    encoder = hub.Encoder.from_pretrained(exported / "video")
    encoder.feature("film.mp4")
    encoder.to("meta").feature("film.mp4")
    assert seen == ["cpu", "meta"]


def test_torch_hub_names_every_package_that_loading_imports() -> None:
    import hubconf

    code = (
        "import sys, xdc_core.exports.load, xdc_core.data.encode; print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    ours = {"torch", "torchaudio", "safetensors", "av", "numpy", "pyarrow", "pydantic", "yaml"}
    assert ours & {*loaded.stdout.split()} <= {*hubconf.dependencies}
    assert "yaml" in loaded.stdout.split()


@BOTH
def test_onnx_gives_the_same_features_for_any_batch(
    worked_run: Run, exported: Path, tmp_path: Path, modality: str
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export(worked_run, tmp_path / "export", 1, [modality], onnx=True)
    _, config = read_config(tmp_path / "export")
    assert config.onnx is not None
    assert config.onnx.difference <= 1e-4
    assert config.onnx.sha256 == sha256_of(tmp_path / "export" / modality / "model.onnx")
    for place in (ROOT, Path(torch.__file__).parent, tmp_path):
        assert str(place).encode() not in (tmp_path / "export" / modality / "model.onnx").read_bytes()
    session = onnxruntime.InferenceSession(str(tmp_path / "export" / modality / "model.onnx"))
    loaded = load_export(exported / modality)
    for size in (1, 4, 7):
        views = torch.randn(size, *input_shape(loaded))
        (made,) = session.run(["features"], {"views": views.numpy()})
        with torch.inference_mode():
            wanted = loaded.encoder(views).numpy()
        assert np.linalg.norm(made - wanted, axis=1).max() <= 1e-4 * np.linalg.norm(wanted, axis=1).min()
    assert export(worked_run, tmp_path / "export", 1, [modality], onnx=True).reused
    with pytest.raises(ConfigError, match="with other options"):
        export(worked_run, tmp_path / "export", 1, [modality])


@pytest.mark.parametrize(
    ("graph", "network", "wanted"), [(1.0, 1.0, 0.0), (1.5, 1.0, 0.5), (np.nan, 1.0, np.nan), (1.0, np.nan, np.nan)]
)
def test_features_that_are_not_finite_never_agree(tmp_path: Path, graph: float, network: float, wanted: float) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    from onnx import helper

    class Times(torch.nn.Module):
        def forward(self, views: torch.Tensor) -> torch.Tensor:
            return views * network

    kind = onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, ["batch", 3]) for name in ("views", "features")]
    factor = helper.make_tensor("factor", kind, [1], [graph])
    node = helper.make_node("Mul", ["views", "factor"], ["features"])
    model = helper.make_model(
        helper.make_graph([node], "times", ends[:1], ends[1:], [factor]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "model.onnx")
    difference = largest_difference(tmp_path / "model.onnx", Times(), (3,))
    assert difference == pytest.approx(wanted, nan_ok=True)
    assert (difference <= TOLERANCE) == (wanted == 0)


@pytest.mark.slow
@pytest.mark.parametrize(("modality", "encoder"), [("video", "r2plus1d_18"), ("audio", "audio_resnet_18")])
def test_onnx_of_the_papers_encoders(exported: Path, tmp_path: Path, modality: str, encoder: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from xdc_core.encoders.file import save_encoder
    from xdc_core.encoders.header import EncoderHeader

    save_encoder(tmp_path / "model.safetensors", build_encoder(encoder, seed=0), EncoderHeader(encoder))
    values = json.loads((exported / modality / "config.json").read_text())
    values |= {"encoder": encoder, "width": 512, "sha256": sha256_of(tmp_path / "model.safetensors")}
    values["view"] |= {"crop": 112, "short_edges": [128]} if modality == "video" else {"frames": 100}
    made = write_onnx(tmp_path, ExportConfig.model_validate(values))
    assert made.difference <= 1e-4
    assert made.checked == list(CHECKED)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'xdc-pipeline\[onnx\]'"):
        check_installed()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "xdc_core.exports.hub", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'xdc-pipeline\[hub\]'"):
        import xdc_core.exports.hub  # noqa: F401
