"""What an encoder's file says of itself: its name, and the settings with which its input was made."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from xdc_core.encoders.transformers_files import stored_name
from xdc_core.modalities.modality import ModalitySettings
from xdc_core.modalities.view import Views

NAME, SETTINGS = "encoder", "settings"  # The entries of a file's metadata.
SAME = 0.01  # Two time scales are the same if they differ by less: as in `ModalitySettings.for_frames`.


@dataclass(frozen=True)
class EncoderHeader:
    """The description of an encoder in its file.

    encoder: the name; in a file without the path of a folder (see `stored_name`). view: the settings of the view,
    as in `Views.hashed`, and `recipe`, the constants of its modality. clips: the settings of the corpus that decide
    its clips (`shards.settings.clip_part`). Both are {} if they are not known: of an encoder whose weights came
    from elsewhere, and of files of version 0.1.
    """

    encoder: str
    modality: str = ""
    width: int = 0
    view: Mapping[str, Any] = field(default_factory=dict)
    clips: Mapping[str, Any] = field(default_factory=dict)

    def metadata(self) -> dict[str, str]:
        """Return the entries for a file's metadata, in the order in which they are written."""
        settings = {name: value for name, value in asdict(self).items() if name != NAME}
        text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return {NAME: stored_name(self.encoder), SETTINGS: text}

    def misfits(self, views: Views, clips: Mapping[str, Any]) -> list[str]:
        """Return why features of these views, of clips with these settings, would be wrong; a line per setting.

        Compared are the settings in `ModalitySettings.exact`, the constants of the modality, the time scale, and the
        sound's sample rate. What is not known, here or there, is not compared.

        Raises:
            ValueError: the settings in the file are none of this modality.
        """
        if not self.view:
            return []
        modality, given, stored = views.modality, views.settings, self._settings_like(views)
        pairs = {f"{modality.name}.{name}": (getattr(stored, name), getattr(given, name)) for name in given.exact}
        pairs["the version of the view"] = (self.view.get("view_version", 1), modality.version)
        recipe = self.view.get("recipe") or {}
        pairs |= {f"{name} of the view": (recipe.get(name), value) for name, value in modality.recipe(given).items()}
        if modality.stored == "audio":
            pairs["corpus.sample_rate"] = (self.clips.get("sample_rate"), clips.get("sample_rate"))
        lines = [
            f"{name} is {_shown(there)} in the file, and {_shown(here)} here"
            for name, (there, here) in pairs.items()
            if there is not None and here is not None and there != here
        ]
        return lines + self._other_time_scale(stored, views, clips)

    def _settings_like(self, views: Views) -> ModalitySettings:
        """Return the stored settings of the view. Raises ValueError (pydantic's) if they are none of its modality."""
        kind = type(views.settings)
        return kind.model_validate({name: self.view[name] for name in kind.model_fields if name in self.view})

    def _other_time_scale(self, stored: ModalitySettings, views: Views, clips: Mapping[str, Any]) -> list[str]:
        frames = self.view.get("video_frames", self.view.get("frames", views.frames))
        there, here = stored.time_scale(frames), views.settings.time_scale(views.frames)
        if there is None or here is None:
            return []
        unit = "frames of the clip"
        if "fps" in self.clips and "fps" in clips:
            there, here, unit = there / self.clips["fps"], here / clips["fps"], "s"
        if abs(here / there - 1) <= SAME:
            return []
        keys = f"corpus.fps, {views.modality.name}.frames and video.frames" if unit == "s" else "the numbers of frames"
        return [
            f"a step of the input lasts {there:.6g} {unit} in the file, and {here:.6g} {unit} here ({keys} decide it)"
        ]


def read_header(metadata: Mapping[str, str]) -> EncoderHeader | None:
    """Return what the metadata of a safetensors file says of the encoder in it; None if xdc did not write it.

    Raises:
        ValueError: its settings cannot be read.
    """
    name = metadata.get(NAME)
    if name is None:
        return None
    name = stored_name(name)
    if SETTINGS not in metadata:
        return EncoderHeader(name)
    try:
        settings = json.loads(metadata[SETTINGS])
        known = {key: settings[key] for key in ("modality", "width", "view", "clips")}
    except (TypeError, KeyError) as error:
        raise ValueError(f"the settings in its header lack {error}") from error
    return EncoderHeader(name, **known)


def header_of(views: Views, width: int, clips: Mapping[str, Any], training: bool) -> EncoderHeader:
    """Return the description of an encoder that was made with these views of these clips.

    training: whether it was trained with them; otherwise only settings that matter in extraction are stored.
    """
    view = views.hashed(training)
    view.pop("encoder")
    if recipe := views.modality.recipe(views.settings):
        view["recipe"] = recipe
    return EncoderHeader(views.settings.encoder, views.modality.name, width, view, clips)


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
