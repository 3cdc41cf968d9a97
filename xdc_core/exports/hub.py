"""Exported encoders in the interface of huggingface_hub: `from_pretrained`, and the upload of an export.

Importing this module needs the extra `hub`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch

from shards.errors import ConfigError
from xdc_core.encoders.hub import client_errors
from xdc_core.exports.config import encoder_folders
from xdc_core.exports.load import LoadedEncoder, feature, load_export

try:
    from huggingface_hub import HfApi, ModelHubMixin, snapshot_download
except ImportError as missing:
    raise ConfigError(
        f"from_pretrained and --push need the package huggingface_hub ({missing}). Run: pip install 'xdc-pipeline[hub]'"
    ) from None


class Encoder(torch.nn.Module, ModelHubMixin):
    """An exported encoder as a module: `Encoder.from_pretrained(directory or repository)`.

    Called with normalised views (`loaded.encoding.views`), it returns features, float32 [B, width].
    """

    def __init__(self, loaded: LoadedEncoder) -> None:
        super().__init__()
        self.loaded, self.network = loaded, loaded.encoder

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """Return the features of normalised views: float32 [B, width]."""
        features: torch.Tensor = self.network(views)
        return features

    def feature(self, path: Path | str) -> Any:
        """Return the feature of a media file, computed where the module is: see `xdc_core.exports.load.feature`."""
        where = next(self.parameters()).device
        return feature(path, replace(self.loaded, encoding=replace(self.loaded.encoding, device=where)))

    @classmethod
    def _from_pretrained(  # type: ignore[override]
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        modality: str | None = None,
        device: str = "cpu",
    ) -> Self:
        """Load an encoder from a folder or a repository; `modality`: of an export with several."""
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            )
        return cls(load_export(folder / modality if modality else folder, device))

    def _save_pretrained(self, save_directory: Path) -> None:
        raise ConfigError("an encoder is exported from its run: xdc export RUN --to DIR")


def push(directory: Path, repository: str) -> str:
    """Upload an export to a repository of the Hub. Return the address of the commit.

    A missing repository is made, a private one. Files that it has and the export has not stay. The token is that of
    huggingface_hub (HF_TOKEN, or `hf auth login`); HF_ENDPOINT may name another server.

    Raises:
        ConfigError: there is no export, or the Hub refuses it or cannot be reached.
    """
    if not encoder_folders(directory):
        raise ConfigError(
            f"{directory} is not an export: none of its folders has a config.json. See: xdc export --help"
        )
    api = HfApi(library_name="xdc")
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=directory, commit_message="Encoders exported by xdc")
    except client_errors() as error:
        raise ConfigError(
            f"--push {repository}: {api.endpoint} did not take {directory}: {error}. The export is complete: log in "
            "with `hf auth login` or set HF_TOKEN, check the name (USER/NAME), and run the same command again."
        ) from error
    return str(commit)
