"""An encoder's file says how its input is made, and is not used with other input."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from shards.errors import ConfigError, StageError
from shards.store.files import sha256_of
from tests.runs import MakeRun
from xdc_core.config.views import views_of
from xdc_core.encoders.build import build_encoder
from xdc_core.encoders.file import FILE_NAME, load_encoder, save_encoder, stored_header
from xdc_core.encoders.header import EncoderHeader, header_of
from xdc_core.graph.run_stage import run_stage
from xdc_core.modalities.view import Views
from xdc_core.runs.corpora import clips_of
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

TINY = "r2plus1d_tiny"


def encoder_of(run: Run, node: Node) -> Path:
    return run.directory(node) / FILE_NAME


def test_a_trained_encoder_says_how_its_input_was_made(worked_run: Run) -> None:
    config = worked_run.config
    for modality in config.modalities:
        settings = getattr(config, modality)
        header = stored_header(encoder_of(worked_run, Node("train", modality, 0)))
        assert header is not None
        assert (header.encoder, header.modality, header.width) == (settings.encoder, modality, 64)
        stored = {name: header.view[name] for name in type(settings).model_fields if name in header.view}
        assert type(settings).model_validate(stored | {"encoder": settings.encoder}) == settings
        assert header.clips["fps"] == config.corpus.fps
        assert header.clips["sample_rate"] == config.corpus.sample_rate
        assert "shuffle_seed" not in header.clips
    assert header.view["recipe"]["hop_s"] == 0.010
    assert header.view["video_frames"] == config.video.frames


def test_equal_encoders_give_equal_files(worked_run: Run, tmp_path: Path) -> None:
    views = views_of(worked_run.config, "video")
    for name in ("one", "two"):
        header = header_of(views, 64, clips_of(worked_run.corpus), training=True)
        save_encoder(tmp_path / name, build_encoder(TINY, seed=1), header)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    tensors = build_encoder(TINY, seed=1).state_dict()
    for name, tensor in load_file(tmp_path / "one").items():
        assert torch.equal(tensor, tensors[name])


def test_a_file_of_version_0_1_is_read_and_fits_any_input(worked_run: Run, tmp_path: Path) -> None:
    encoder = build_encoder(TINY, seed=1)
    path = tmp_path / "old.safetensors"
    path.write_bytes(save(encoder.state_dict(), metadata={"encoder": TINY}))
    assert stored_header(path) == EncoderHeader(TINY)
    views = views_of(worked_run.config, "video")
    loaded = load_encoder(path, TINY, views, {"fps": 1.0}).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in encoder.state_dict().items())


def changed_views(run: Run, modality: str, **changes: Any) -> Views:
    views = views_of(run.config, modality)
    settings = views.settings.model_copy(update=changes)
    return Views(views.modality, settings, changes.get("frames", views.frames) if modality == "video" else views.frames)


@pytest.mark.parametrize(
    ("modality", "changes", "clips", "named"),
    [
        (
            "video",
            {"mean": (0.5, 0.5, 0.5)},
            {},
            r"video\.mean is \[0\.43216, .*\] in the file, and \[0\.5, 0\.5, 0\.5\]",
        ),
        ("video", {"std": (1.0, 1.0, 1.0)}, {}, r"video\.std is"),
        ("video", {}, {"fps": 25.0}, r"corpus\.fps"),
        ("audio", {"mels": 64}, {}, r"audio\.mels is 40 in the file, and 64 here"),
        ("audio", {"filters": "kaldi"}, {}, r"audio\.filters is vmz in the file, and kaldi here"),
        ("audio", {"std": 2.0}, {}, r"audio\.std is 1.0 in the file, and 2.0 here"),
        ("audio", {"align": "start"}, {}, r"audio\.align is centre in the file, and start here"),
        ("audio", {}, {"sample_rate": 44100}, r"corpus\.sample_rate is \d+ in the file, and 44100 here"),
    ],
)
def test_other_input_is_an_error_with_both_values(
    worked_run: Run, modality: str, changes: dict[str, Any], clips: dict[str, Any], named: str
) -> None:
    path = encoder_of(worked_run, Node("train", modality, 0))
    views, given = changed_views(worked_run, modality, **changes), clips_of(worked_run.corpus) | clips
    with pytest.raises(StageError, match=named):
        load_encoder(path, views.settings.encoder, views, given)


@pytest.mark.parametrize(
    ("modality", "changes"),
    [
        ("video", {"frames": 16}),
        ("video", {"crop": 32, "short_edges": (32, 48), "flip": False}),
        ("audio", {"mask_frames": 3, "mask_mels": 2}),
        ("audio", {"frames": 50}),
    ],
)
def test_what_may_differ_does(worked_run: Run, modality: str, changes: dict[str, Any]) -> None:
    path = encoder_of(worked_run, Node("train", modality, 0))
    views = changed_views(worked_run, modality, **changes)
    load_encoder(path, views.settings.encoder, views, clips_of(worked_run.corpus))


def test_resampled_sound_keeps_its_time_scale(worked_run: Run) -> None:
    def views(frames: int, video_frames: int) -> Views:
        made = changed_views(worked_run, "audio", align="span", frames=frames)
        return Views(made.modality, made.settings, video_frames)

    header = header_of(views(100, 8), 64, {"fps": 15.0}, training=True)
    assert header.misfits(views(200, 16), {"fps": 15.0}) == []
    assert header.misfits(views(100, 16), {"fps": 30.0}) == []
    for other, fps in ((views(50, 8), 15.0), (views(100, 16), 15.0), (views(100, 8), 30.0)):
        (line,) = header.misfits(other, {"fps": fps})
        assert "a step of the input lasts 0.00533333 s in the file" in line
    (line,) = header.misfits(views(50, 8), {})
    assert "lasts 0.08 frames of the clip in the file, and 0.16" in line


def test_weights_for_another_normalisation_are_refused(worked_run: Run, make_run: MakeRun, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    shutil.copy(encoder_of(worked_run, Node("train", "video", 0)), file)
    run = make_run(video={"weights": str(file), "mean": (0.5, 0.5, 0.5)})
    with pytest.raises(ConfigError, match=r"video\.weights: .*weights\.safetensors .*video\.mean is \[0\.43216"):
        run_stage(run, Node("init", "video"))
    assert not run.directory(Node("init", "video")).exists()


def test_weights_hand_on_what_their_file_says(worked_run: Run, make_run: MakeRun, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    shutil.copy(encoder_of(worked_run, Node("train", "video", 0)), file)
    run = make_run(video={"weights": str(file)})
    run_stage(run, Node("init", "video"))
    assert sha256_of(encoder_of(run, Node("init", "video"))) == sha256_of(file)
