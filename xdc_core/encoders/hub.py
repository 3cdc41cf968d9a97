"""Models of `transformers` on the Hugging Face Hub: the commit of a name, and the local copy of its files."""

import re
import sys
from pathlib import Path
from typing import Any

from shards.errors import ConfigError
from xdc_core.encoders.transformers_files import CONFIG, EXTRA, PREPROCESSORS, WEIGHTS, has_weights, on_hub

COMMIT = re.compile("[0-9a-f]{40}")


def hub_commit(name: str) -> str:
    """Return the commit of a model on the hub: that in the name, else that in the local cache, else that on the hub.

    Raises:
        ConfigError: huggingface_hub is not installed, or the hub has no such model, or cannot be reached.
    """
    repository, revision = _hub_name(name)
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    hub = _hub(name)
    cached = hub.try_to_load_from_cache(repository, CONFIG, revision=revision)
    if isinstance(cached, str):
        return Path(cached).parent.name
    try:
        return str(hub.HfApi().model_info(repository, revision=revision, timeout=10).sha)
    except client_errors() as error:
        raise _not_there(name, error) from error


def fetch(name: str, commit: str) -> Path:
    """Return the folder with a model's configuration and weights at a commit of the hub. What the local cache lacks is
    downloaded. Files of other kinds, and weights in pickles, are not.

    If the hub cannot be asked, the local cache is enough. A model without the settings of its preprocessing is named in
    a warning on stderr: nothing then compares mean, std and sample rate.

    Raises:
        ConfigError: as `hub_commit`, or the model has no weights in safetensors, or not all of them are there.
    """
    hub, (repository, _) = _hub(name), _hub_name(name)
    try:
        patterns = [CONFIG, *PREPROCESSORS, *WEIGHTS]
        folder = Path(hub.snapshot_download(repository, revision=commit, allow_patterns=patterns))
    except client_errors() as error:
        cached = hub.try_to_load_from_cache(repository, CONFIG, revision=commit)
        if not isinstance(cached, str) or not has_weights(Path(cached).parent):
            raise _not_there(name, error) from error
        folder = Path(cached).parent
    if not has_weights(folder):
        raise ConfigError(f"the encoder {name!r}: the model has no *.safetensors at {commit}. Use another revision.")
    if not any((folder / file).is_file() for file in PREPROCESSORS):
        print(
            f"warning: the encoder {name}: the local copy of commit {commit} has no {PREPROCESSORS[-1]}, so that mean, "
            "std and sample rate were not compared with those of the model's training.",
            file=sys.stderr,
            flush=True,
        )
    return folder


def client_errors() -> tuple[type[Exception], ...]:
    """Return the errors that calls of huggingface_hub raise when the hub refuses something or cannot be reached."""
    from huggingface_hub import errors

    # Versions use different HTTP libraries, and each version's `HTTPError` is the base class in its own one. The
    # client's others, also those about tokens and its offline mode, are OSErrors. hf_xet raises RuntimeErrors.
    http: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    return OSError, RuntimeError, http, errors.HFValidationError, errors.EntryNotFoundError


def _hub_name(name: str) -> tuple[str, str | None]:
    found = on_hub(name)
    assert found is not None, f"{name} was not checked"
    return found


def _hub(name: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError(f"the encoder {name!r} needs the package huggingface_hub ({error}): {EXTRA}") from error
    return huggingface_hub


def _not_there(name: str, error: Exception) -> ConfigError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ConfigError(
        f"the encoder {name!r} is not in the local cache of the hub, and cannot be fetched from it ({first}). Correct "
        "the name, or download the model elsewhere and give its folder: hf:FOLDER."
    )
