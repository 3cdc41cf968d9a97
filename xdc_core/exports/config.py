"""config.json: what an exported encoder is, and all settings with which its input is made."""

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from shards.errors import ConfigError
from shards.settings import CorpusSettings
from shards.store.files import sha256_of
from shards.store.manifest import fingerprint
from xdc_core.config.schema import ExtractSettings
from xdc_core.documents.document import Document
from xdc_core.modalities.registry import MODALITIES
from xdc_core.modalities.view import Views

FORMAT: Literal[1] = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
ONNX = "model.onnx"
CLUSTERS = "clusters"
CARD = "README.md"
JOINT = "joint"
# Keys whose values are settings of xdc, and the property of `ExportConfig` that checks them.
SETTINGS = {"view": "views", "clips": "corpus_settings", "extract": "extract_settings"}
AGAIN = "Copy or export it again."


class ExportedClusters(Document):
    """The clusters in `clusters/`. fingerprint: of the run's cluster stage. source: what was clustered. round: whose.

    k: clusters; algorithm: its name. modalities: whose features were clustered, concatenated in this order. files: the
    sha256 of every file, by name.
    """

    fingerprint: str
    source: str
    round: int
    k: int
    algorithm: str
    modalities: list[str]
    files: dict[str, str]

    @property
    def identity(self) -> str:
        """Return a digest of the stage's fingerprint and the files: other files are other clusters."""
        return fingerprint([self.fingerprint, self.files])


def is_cluster_file(name: str) -> bool:
    """Return whether a file of a cluster stage belongs to the clusters, by its name in the stage's directory."""
    return "/" not in name and Path(name).suffix in (".npy", ".npz", ".json")


class ExportedOnnx(Document):
    """model.onnx. input: the shape of its input. difference: the largest from PyTorch's features, relative to their
    length, at the batch sizes `checked`.
    """

    sha256: str
    input: list[int | str]
    difference: float
    checked: list[int]


class ExportConfig(Document):
    """The description of an exported encoder.

    encoder: its name; width: of its feature, float32. sha256: of model.safetensors. run: the name of the run's folder;
    method: of the run; round: the one that begins with this encoder, so also the number of rounds it was trained for
    with `last_training: none`. view: settings of the view, as in the run's section of this modality. video_frames:
    frames of a clip per view. recipe: constants of the modality. clips: settings of the corpus that decide a clip's
    bytes. extract: precision, channels_last, views. clusters: None if none were made of this encoder's features in its
    round; without_clusters then says why.
    """

    format: Literal[1] = FORMAT
    kind: Literal["encoder"] = "encoder"
    xdc_version: str = ""
    run: str
    method: str
    round: int
    modality: str
    encoder: str
    width: int
    parameters: int
    sha256: str
    view: dict[str, Any]
    video_frames: int
    recipe: dict[str, Any]
    clips: dict[str, Any]
    extract: dict[str, Any]
    clusters: ExportedClusters | None = None
    without_clusters: str = ""
    onnx: ExportedOnnx | None = None

    @property
    def views(self) -> Views:
        """Return the views of this encoder. Raises ConfigError if its modality belongs to a package that is missing."""
        modality = MODALITIES.find(self.modality)
        return Views(
            modality, modality.settings.model_validate(self.view | {"encoder": self.encoder}), self.video_frames
        )

    @property
    def corpus_settings(self) -> CorpusSettings:
        """Return the settings with which media are cut into clips."""
        return CorpusSettings.model_validate(self.clips)

    @property
    def extract_settings(self) -> ExtractSettings:
        """Return the settings with which features are computed."""
        return ExtractSettings.model_validate(self.extract)


class JointConfig(Document):
    """The description of joint clusters: of the concatenated features of several encoders, which lie beside it.

    encoders: the sha256 of each encoder, by modality.
    """

    format: Literal[1] = FORMAT
    kind: Literal["joint"] = "joint"
    xdc_version: str = ""
    run: str
    method: str
    round: int
    encoders: dict[str, str]
    clusters: ExportedClusters


AnyConfig = TypeVar("AnyConfig", ExportConfig, JointConfig)


def identity_of(config: ExportConfig | JointConfig, onnx: bool | None = None) -> str:
    """Return a digest of all that decides an export: equal exports have equal ones.

    onnx: whether it has a model.onnx; None: as the document says.
    """
    values = config.content()
    values.pop("xdc_version", None)
    there = values.pop("onnx", None) is not None
    return fingerprint(values | {"onnx": there if onnx is None else onnx})


def read_config(directory: Path) -> tuple[Path, ExportConfig]:
    """Read config.json of an exported encoder. Return its folder, and the content.

    directory: the folder of one encoder, or one that holds nothing but the folder of one.

    Raises:
        ConfigError: there is none, it is damaged, or it is of another version.
    """
    folders = encoder_folders(directory)
    if not (directory / CONFIG).is_file():
        if len(folders) != 1:
            found = f"It has those of several: give one of {', '.join(map(str, folders))}." if folders else ""
            raise ConfigError(
                f"{directory} is not the folder of an exported encoder: there is no {CONFIG}. "
                f"{found or 'Make one: xdc export RUN --to DIR'}"
            )
        (directory,) = folders
    return directory, parse_config(ExportConfig, directory / CONFIG)


def encoder_folders(directory: Path) -> list[Path]:
    """Return the folders of the encoders in an export, by modality."""
    return [path.parent for path in sorted(directory.glob(f"*/{CONFIG}")) if (path.parent / WEIGHTS).exists()]


def parse_config(kind: type[AnyConfig], path: Path) -> AnyConfig:
    """Read a config.json.

    Raises:
        ConfigError: it is damaged or of another version, or has settings that this version does not know.
    """
    try:
        values = json.loads(path.read_bytes())
        version = values.get("format") if isinstance(values, dict) else None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. {AGAIN}") from error
    if version != FORMAT:
        made_with = values.get("xdc_version", "not stated") if isinstance(values, dict) else "not stated"
        raise ConfigError(
            f"{path} has format {version!r}, but this version of xdc reads {FORMAT}: it is an export of another "
            f"version, or none of xdc. Export it again with this one, or install the one that made it ({made_with})."
        )
    section: tuple[str, ...] = ()
    try:
        config = kind.model_validate(values)
        if isinstance(config, ExportConfig):
            for name, settings in SETTINGS.items():
                section = (name,)
                getattr(config, settings)
    except ValidationError as error:
        problem: Any = error.errors()[0]
        key = ".".join(map(str, (*section, *problem["loc"])))
        raise ConfigError(
            f"{path}: {key}: {problem['msg']}. {AGAIN} It was made with xdc "
            f"{values.get('xdc_version') or 'of a version that is not stated'}; if that is a newer one, install it."
        ) from error
    return config


def check_sha256(path: Path, expected: str) -> None:
    """Raise ConfigError if a file of an export is missing or is not the one that config.json names."""
    try:
        found = sha256_of(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}). {AGAIN}") from None
    if found != expected:
        raise ConfigError(
            f"{path} is damaged or another file: its sha256 is {found[:12]}..., but {CONFIG} says {expected[:12]}... "
            f"{AGAIN}"
        )


def check_clusters(folder: Path, clusters: ExportedClusters) -> None:
    """Raise ConfigError if the files in a folder `clusters/` are not those that config.json names."""
    for name, sha256 in clusters.files.items():
        check_sha256(folder / name, sha256)
    others = [path.name for path in sorted(folder.iterdir()) if is_cluster_file(path.name)]
    if more := [name for name in others if name not in clusters.files]:
        raise ConfigError(f"{folder / more[0]} is not named in {CONFIG}, so nothing checks it. {AGAIN}")
