"""The registry of modalities: what a modality says of itself holds, and what a package may not do with a name."""

import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from shards.errors import ConfigError
from shards.media.encode import encode_picture, encode_sound
from tests.installed_package import install_package
from xdc_core.config.load import parse_config
from xdc_core.config.views import views_of
from xdc_core.modalities.registry import MODALITIES

RATE, FRAMES, FPS = 16000, 16, 8
ROW: dict[str, Any] = {"frames": FRAMES, "fps": float(FPS), "sample_rate": RATE, "samples": 2 * RATE}
DECLARED = """
from xdc_core.modalities.modality import Modality, ModalitySettings

class Settings(ModalitySettings):
    encoder: str = "r2plus1d_tiny"

HEAT = Modality({name!r}, "clip -> encoder", Settings, "video", "mp4", (), "heat.view", "channels_last_3d", "#123456")
"""


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    """A clip's files: two seconds of grey and of silence."""
    frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
    return {
        "mp4": encode_picture(iter([frame] * FRAMES), FPS, 8, 1)[0],
        "flac": encode_sound(np.zeros(2 * RATE, np.int16), RATE),
    }


@pytest.mark.parametrize("name", ["video", "audio"])
def test_a_view_reads_only_the_columns_that_the_modality_names(members: dict[str, bytes], name: str) -> None:
    config = parse_config({"video": {"short_edges": [32], "crop": 32}}, "a test")
    modality = MODALITIES[name]
    row = {column: ROW[column] for column in modality.columns}
    views = views_of(config, name)
    view = views.view(members[modality.member], row, None)
    batch = views.normalise(view[None]).contiguous(memory_format=modality.channels_last)
    assert batch.shape == (1, *view.shape)
    assert batch.dtype.is_floating_point


def refusal(folder: Path, entry: str, name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install a package whose modality calls itself `name` under the name of an entry point; say how it is refused."""
    modules = {"heat/__init__.py": "", "heat/modality.py": DECLARED.format(name=name)}
    install_package(folder, "heat", modules, {"xdc.modalities": {entry: "heat.modality:HEAT"}})
    monkeypatch.syspath_prepend(folder)
    for module in ("heat", "heat.modality"):  # Of another test's package.
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(ConfigError) as caught:
        parse_config({"modalities": ["video", "audio", entry]}, "a test")
    return str(caught.value)


@pytest.mark.parametrize("name", ["train", "joint", "Heat", "corpus"])
def test_a_name_with_another_meaning_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = refusal(tmp_path, name, name, monkeypatch)
    assert text.startswith(f"the modality {name!r} of heat 1.2.3 needs another name")


def test_an_entry_point_has_the_name_of_its_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = refusal(tmp_path, "heat", "cold", monkeypatch)
    assert text == "the modality 'heat' of heat 1.2.3 calls itself 'cold'. Give its entry point the same name."


def test_the_name_of_a_built_in_modality_cannot_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_package(tmp_path, "heat", {}, {"xdc.modalities": {"audio": "heat.modality:HEAT"}})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"the modality 'audio' is given by xdc and by heat 1\.2\.3"):
        MODALITIES.find("audio")


def test_an_unknown_modality_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"modalities\.1: .*Did you mean 'audio'\? There are: video, audio"):
        parse_config({"modalities": ["video", "audoi"]}, "a test")
    with pytest.raises(ConfigError, match="a modality is named twice"):
        parse_config({"modalities": ["video", "audio", "video"]}, "a test")


def test_an_evaluation_of_a_modality_that_is_not_learnt_is_refused() -> None:
    values: dict[str, Any] = {"method": "sdc", "modalities": ["video"]}
    with pytest.raises(ConfigError, match=r"evaluate\.a is of audio, but the run only has encoders of video"):
        parse_config(values | {"evaluate": {"a": {"protocol": "fc", "modality": "audio"}}}, "a test")
    with pytest.raises(ConfigError, match=r"evaluate\.b: retrieval needs two modalities, but the run has only video"):
        parse_config(values | {"evaluate": {"b": {"protocol": "retrieval"}}}, "a test")
