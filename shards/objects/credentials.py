"""Where the credentials and the address of an object store come from: the environment, and the files of the AWS tools.

They are looked up in the process that reads, and stand in no file of a run.
"""

import configparser
import os
import socket
from pathlib import Path
from typing import Any

from shards.errors import MachineError

# Any of them names a source of credentials that obstore looks up itself.
SOURCES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
NAMES = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "region": "region",
    "endpoint_url": "endpoint",
}
ADDRESS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")  # Of the server; the first that is set counts.
UNSUPPORTED = ("sso_session", "sso_start_url", "role_arn", "credential_process")  # Other ways to get credentials.
OTHERWISE = "by"
INSTANCE = ("169.254.169.254", 80)  # Where a machine of a cloud asks for its own credentials.
INSTANCE_S = 1.0
NO_CREDENTIALS = (
    "no credentials for it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with a profile in "
    "~/.aws/credentials, on every machine that works; or AWS_SKIP_SIGNATURE=true for a public bucket"
)


def store_settings(url: str) -> dict[str, Any]:
    """Return settings for obstore that it does not find in the environment itself. `url`: for messages.

    They are of the profile AWS_PROFILE (else default) in ~/.aws/credentials and ~/.aws/config, as for the AWS tools.

    Raises:
        MachineError: there are no credentials.
    """
    found: dict[str, Any] = _profile()
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        found = {name: value for name, value in found.items() if name in ("region", "endpoint")}
    unsupported = found.pop(OTHERWISE, "")
    if unsupported and "access_key_id" not in found and not any(os.environ.get(name) for name in SOURCES):
        profile = _profile_name()
        raise MachineError(
            f"{url}: the profile {profile} gets its credentials by {unsupported}, which is not supported. Get "
            f'them with the AWS tools: eval "$(aws configure export-credentials --profile {profile} --format env)"'
        )
    if "access_key_id" not in found and not any(os.environ.get(name) for name in SOURCES) and not _in_a_cloud():
        raise MachineError(f"{url}: {NO_CREDENTIALS}.")
    return {name: value for name, value in found.items() if not _given(name)}


def endpoint(settings: dict[str, Any]) -> str:
    """Return the address of the server, "" for that of AWS."""
    return next((os.environ[name] for name in ADDRESS if os.environ.get(name)), str(settings.get("endpoint", "")))


def _given(name: str) -> bool:
    """Return whether the environment has an address or a region, which come before those of a profile."""
    of = {"region": ("AWS_REGION", "AWS_DEFAULT_REGION"), "endpoint": ADDRESS}
    return any(os.environ.get(variable) for variable in of.get(name, ()))


def _profile_name() -> str:
    return os.environ.get("AWS_PROFILE") or "default"


def _profile() -> dict[str, str]:
    """Return the settings of the profile. One of UNSUPPORTED that it has is named under OTHERWISE.

    Raises:
        MachineError: a file cannot be understood.
    """
    name = _profile_name()
    places = (("AWS_CONFIG_FILE", "config", f"profile {name}"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name))
    found: dict[str, str] = {}
    for variable, file, section in places:
        path = Path(os.environ.get(variable) or Path.home() / ".aws" / file)
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:  # Their texts have lines of the file: secrets.
            raise MachineError(f"{path}{_line_of(error)} is not as the AWS tools write it: correct it.") from None
        for title in dict.fromkeys((name, section)):
            if parser.has_section(title):
                items = dict(parser.items(title))
                found |= {NAMES[key]: value for key, value in items.items() if key in NAMES}
                if others := [key for key in UNSUPPORTED if key in items]:
                    found[OTHERWISE] = others[0]
    return found


def _line_of(error: Exception) -> str:
    number = getattr(error, "lineno", None) or next((line for line, _ in getattr(error, "errors", ())), None)
    return f", line {number}," if number else ""


def _in_a_cloud() -> bool:
    try:
        socket.create_connection(INSTANCE, INSTANCE_S).close()
    except OSError:
        return False
    return True
