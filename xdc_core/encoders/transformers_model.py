"""Models of `transformers` as encoders: VideoMAE and V-JEPA 2 for pictures, AST for sound.

An encoder's file must be enough to build it again. It therefore has one more tensor, `architecture`: the bytes of the
model's config.json, uint8.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from shards.errors import ConfigError
from xdc_core.encoders.transformers_files import CONFIG, EXTRA, family_of, has_weights, known_family

ARCHITECTURE = "architecture"


class TransformersEncoder(nn.Module):
    """A model of transformers without a head: views -> feature [B, width], width being its hidden size.

    Pictures are float32 [B, 3, T, H, W], sound float32 [B, 1, frames, mels]. The feature of VideoMAE and V-JEPA 2 is
    the mean over all tokens of the last layer, as in VideoMAE's fine-tuning (whose head has one more layer norm). That
    of AST is its pooled output: the mean of the class token and the distillation token after the last layer norm.
    """

    architecture: Tensor

    def __init__(self, model: nn.Module, config: Any, stored: Tensor | None = None) -> None:
        """Take a model with its configuration. stored: the tensor that described them, if one did."""
        super().__init__()
        self.model = model
        self.kind: str = config.model_type
        self.input = _input_shape(config)
        self.tubelet: int = getattr(config, "tubelet_size", 1)
        self.width: int = config.hidden_size
        self.written_by = f"transformers {config.transformers_version}"
        if stored is None:
            # What begins with an underscore is of the machine: where the model was read from.
            values = {name: value for name, value in config.to_dict().items() if not name.startswith("_")}
            text = json.dumps(values, sort_keys=True, default=str)
            stored = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        self.register_buffer(ARCHITECTURE, stored)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Load tensors by name, as torch does. Raises ConfigError if they are not those of this model."""
        try:
            return super().load_state_dict(*arguments, **options)
        except RuntimeError as error:
            raise ConfigError(
                f"the tensors do not fit the {self.kind} model of the installed transformers; the model was described "
                f"by {self.written_by}. Install that version. ({error})"
            ) from error

    def forward(self, views: Tensor) -> Tensor:
        """Return the features, float32 [B, width]. Raises ConfigError for views of another shape than the model's."""
        shape, fits = tuple(views.shape[1:]), self.input
        if self.kind == "vjepa2" and shape[1] % self.tubelet == 0:
            fits = (fits[0], min(shape[1], fits[1]), *fits[2:])
        if shape != fits:
            raise ConfigError(
                f"the {self.kind} model takes views of {list(fits)}, but was given {list(shape)}. Change the settings "
                "of the view, or use another model."
            )
        if self.kind == "audio-spectrogram-transformer":
            pooled: Tensor = self.model(views[:, 0]).pooler_output
            return pooled
        tokens: Tensor = self.model(views.transpose(1, 2)).last_hidden_state
        return tokens.mean(dim=1)


def _input_shape(config: Any) -> tuple[int, ...]:
    if config.model_type == "audio-spectrogram-transformer":
        return 1, config.max_length, config.num_mel_bins
    if config.model_type == "vjepa2":
        return 3, config.frames_per_clip, config.crop_size, config.crop_size
    side = config.image_size
    return 3, config.num_frames, *((side, side) if isinstance(side, int) else side)


def transformers_encoder(described_by: Path | Mapping[str, Tensor] | None) -> TransformersEncoder:
    """Return the model that a folder or the tensors of an encoder's file describe, in float32.

    From a folder it has the weights in `*.safetensors`, or, without any, random ones from torch's generator. From
    tensors it has random weights, to be replaced by these tensors. Only the classes of transformers are used, never
    code from the folder, and nothing is unpickled.

    Raises:
        ConfigError: transformers is not installed, the model is not one of those known here, or its weights do not fit.
    """
    transformers = _transformers()
    if isinstance(described_by, Path):
        _, values = family_of(described_by)
        where, stored = f"{described_by / CONFIG}", None
    else:
        values, stored = _stored_values(described_by)
        where = f"the tensor {ARCHITECTURE!r} of an encoder's file"
    model = None
    try:
        config = _configuration(transformers, values)
        if not isinstance(described_by, Path) or not has_weights(described_by):
            model = transformers.AutoModel.from_config(config, trust_remote_code=False)
    except ConfigError:
        raise
    except Exception as error:  # Values of a stranger's file can raise any error in the classes of transformers.
        raise ConfigError(
            f"{where} describes no {values['model_type']} model that the installed transformers can build: "
            f"{type(error).__name__}: {error}. Use another model, or another version of transformers."
        ) from error
    if model is None:
        assert isinstance(described_by, Path)
        model = _pretrained(transformers, described_by, config)
    # The predictor of V-JEPA 2 has no part in a feature, and would get no gradient.
    return TransformersEncoder(model.encoder if config.model_type == "vjepa2" else model, config, stored)


def _configuration(transformers: Any, values: Mapping[str, Any]) -> Any:
    """Return the configuration with those values that describe a network.

    Others are left out: some of them make transformers fetch code, such as `attn_implementation` and `auto_map`.
    """
    kind = values["model_type"]
    known = {name for name in transformers.AutoConfig.for_model(kind).to_dict() if not name.startswith("_")}
    chosen = {name: value for name, value in values.items() if name in known - {"model_type"}}
    return transformers.AutoConfig.for_model(kind, **chosen)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(f"an encoder hf:... needs the package transformers ({error}): {EXTRA}") from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _pretrained(transformers: Any, folder: Path, config: Any) -> Any:
    try:
        model, report = transformers.AutoModel.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{folder}: the weights cannot be read: {error}. Download or save them again.") from error
    wrong = sorted(map(str, {*report["missing_keys"], *report.get("mismatched_keys", ())}))
    if wrong:
        raise ConfigError(
            f"{folder}: the weights do not fit config.json: {len(wrong)} tensors are missing or of another shape "
            f"({wrong[0]} first). Use the files of one model."
        )
    return model


def _stored_values(tensors: Mapping[str, Tensor] | None) -> tuple[dict[str, Any], Tensor]:
    """Return the configuration in an encoder's file, and the tensor that holds it."""
    stored = (tensors or {}).get(ARCHITECTURE)
    if stored is None or stored.dtype != torch.uint8:
        raise ConfigError(
            f"the weights of an encoder hf:... have no tensor {ARCHITECTURE!r}, so xdc did not write them. Give the "
            "folder of the model as the encoder, hf:FOLDER, and no weights."
        )
    where = f"the tensor {ARCHITECTURE!r} of an encoder's file"
    try:
        values = json.loads(stored.cpu().numpy().tobytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON ({error}). Export the encoder again.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where} holds a {type(values).__name__}, not an object. Export the encoder again.")
    known_family(values, where)
    return values, stored
