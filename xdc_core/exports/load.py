"""Use an exported encoder: a media file in, its feature out.

from xdc_core.exports.load import feature
feature("clip.mp4", "exported/video")  # float32 [width]
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shards.errors import ConfigError, MediaError
from xdc_core.exports.config import AGAIN, CONFIG, WEIGHTS, ExportConfig, check_sha256, read_config

if TYPE_CHECKING:
    import numpy as np
    import torch

    from xdc_core.data.encode import Encoding
    from xdc_core.exports.media import CutClip, LeftOut


@dataclass(frozen=True)
class LoadedEncoder:
    """An exported encoder in evaluation mode, on a device, with the settings of its input."""

    config: ExportConfig
    encoding: "Encoding"

    @property
    def encoder(self) -> "torch.nn.Module":
        """Return the network: it maps what `encoding.views.normalise` returns to features, float32 [B, width]."""
        return self.encoding.encoder


class ClipFeatures(NamedTuple):
    """The features of a file's clips, in order.

    spans: float64 [clips, 2], begin and end in seconds. features: float32 [clips, width]. rejects: the clips that
    cannot be used, with begin, end, kind and reason; they are in neither of the arrays.
    """

    spans: "np.ndarray"
    features: "np.ndarray"
    rejects: "list[LeftOut]"


def load_export(directory: Path | str, device: str = "cpu") -> LoadedEncoder:
    """Load an exported encoder.

    directory: the folder of one encoder, such as DIR/video. device: of torch.

    Raises:
        ConfigError: there is no export, it is damaged, or it is of another version.
        StageError: the file of weights holds another encoder than config.json says.
    """
    folder, config = read_config(Path(directory))
    return load_weights_of(folder, config, device)


def load_weights_of(folder: Path, config: ExportConfig, device: str = "cpu") -> LoadedEncoder:
    """Load model.safetensors of a folder, with the content of its config.json. Raises as `load_export`."""
    import torch
    from safetensors import SafetensorError

    from xdc_core.data.encode import Encoding
    from xdc_core.encoders.file import load_encoder, stored_header

    check_sha256(folder / WEIGHTS, config.sha256)
    views, settings, where = config.views, config.extract_settings, torch.device(device)
    try:
        header = stored_header(folder / WEIGHTS)
        lines = header.misfits(views, config.clips) if header else []
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"{folder / WEIGHTS} cannot be read as an encoder: {error}. {AGAIN}") from error
    if lines:
        raise ConfigError(
            f"{folder}: {WEIGHTS} was made for other input than {CONFIG} says: {'; '.join(lines)}. {AGAIN}"
        )
    encoder = load_encoder(folder / WEIGHTS, config.encoder).to(where).eval()
    if settings.channels_last:
        encoder.to(memory_format=views.modality.channels_last)  # type: ignore[call-overload]
    return LoadedEncoder(config, Encoding(encoder, views, settings, where))


def feature(path: Path | str, encoder: LoadedEncoder | Path | str) -> "np.ndarray":
    """Return the feature of a media file: float32 [width]. Of a file of several clips it is the mean of theirs,
    without those that cannot be used (`clip_features` names them).

    path: any video or sound. It is decoded in a child process with limits, and cut into clips as by the run's corpus:
    of at most `clip_seconds`; a rest shorter than `min_seconds` is left out. encoder: as `load_export` returns it, or
    the folder of one.

    The child process imports the calling script: that must do its work under `if __name__ == "__main__":`.

    Raises:
        ConfigError: there is no such file or export.
        MediaError: the file cannot be used, lacks the encoder's modality, or is shorter than a view.
    """
    import numpy as np

    mean: np.ndarray = clip_features(path, encoder).features.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def clip_features(path: Path | str, encoder: LoadedEncoder | Path | str) -> ClipFeatures:
    """Return the features of the clips of a media file; see `feature`.

    They are those that the run's pipeline computes for these clips, but for rounding. As there, a clip's feature is
    that of its centre view, or with `extract.views` above 1 the mean of several. Clips that the pipeline would reject
    (damaged, or silent) are left out and named. One clip at a time is encoded.

    Raises as `feature`; a MediaError also if no clip is left.
    """
    import numpy as np
    import torch

    from xdc_core.exports.media import LeftOut, cut_media

    loaded = encoder if isinstance(encoder, LoadedEncoder) else load_export(encoder)
    encoding, views = loaded.encoding, loaded.encoding.views
    of_clips, spans, rejects, longest = [], [], [], 0
    with closing(cut_media(Path(path), loaded.config.corpus_settings, views.modality)) as clips:
        for clip in clips:
            if isinstance(clip, LeftOut):
                rejects.append(clip)
                continue
            of_clips.append(encoding.encode(_views_of(clip, encoding)).mean(dim=0).cpu())
            spans.append((clip.start_s, clip.end_s))
            longest = max(longest, clip.row["frames"])
    if not of_clips:
        first = rejects[0]
        raise MediaError(
            f"{path}: none of its clips can be used ({len(rejects)}). The first, {first.start_s:.2f} to "
            f"{first.end_s:.2f} s: {first.reason}",
            first.kind,
        )
    if longest < views.frames:
        raise MediaError(
            f"{path} has {longest} frames at {loaded.config.corpus_settings.fps:g} per second, but a view needs "
            f"{views.frames}. Give a longer file.",
            "too_short",
        )
    return ClipFeatures(np.array(spans, np.float64), torch.stack(of_clips).numpy(), rejects)


def _views_of(clip: "CutClip", encoding: "Encoding") -> "torch.Tensor":
    """Return the views of a clip, [views, ...], at the places where extraction takes them."""
    import torch

    from xdc_core.data.view_starts import clip_starts

    views = encoding.views
    starts: list[int | None] = [None]
    if encoding.settings.views > 1:
        starts = [*clip_starts(clip.row["frames"], views.frames, encoding.settings.views)]
    data = clip.member(views.modality)
    return torch.stack([views.view(data, clip.row, start) for start in starts])
