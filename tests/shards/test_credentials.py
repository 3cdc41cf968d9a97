"""Credentials for object stores: from the environment, or from a profile of the AWS tools."""

from pathlib import Path

import pytest

from shards.errors import MachineError
from shards.objects.credentials import endpoint, store_settings

URL = "s3://bucket/corpus"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder .aws of a user without variables for AWS."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_PROFILE", "AWS_SKIP_SIGNATURE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[default]\naws_access_key_id = me\nSECRET\n", 3),
        ("SECRET = 1\n[default]\n", 1),
        ("[default]\naws_access_key_id = me\n\ufffd SECRET = [\nSECRET\n", 4),
    ],
)
def test_a_malformed_file_is_named_with_the_line_and_without_its_text(home: Path, text: str, line: int) -> None:
    (home / "credentials").write_text(text, encoding="utf-8")
    with pytest.raises(
        MachineError, match=rf"/\.aws/credentials, line {line}, is not as the AWS tools write it"
    ) as caught:
        store_settings(URL)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_section_that_is_there_twice_is_joined_as_by_the_aws_tools(home: Path) -> None:
    (home / "credentials").write_text(
        "[default]\naws_access_key_id = me\n[default]\naws_secret_access_key = mine\naws_secret_access_key = new\n"
    )
    assert store_settings(URL) == {"access_key_id": "me", "secret_access_key": "new"}


@pytest.mark.parametrize("way", ["sso_session", "role_arn", "credential_process"])
def test_a_profile_with_another_way_to_credentials_is_told_how_to_use_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    (home / "config").write_text(f"[profile lab]\n{way} = something\nregion = eu-west-1\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(MachineError, match=rf"lab gets its credentials by {way}, .* export-credentials --profile lab"):
        store_settings(URL)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    assert store_settings(URL) == {"region": "eu-west-1"}


def test_keys_of_the_environment_go_with_the_profile_s_address(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "config").write_text("[default]\nregion = here\nendpoint_url = http://store:8333\n")
    (home / "credentials").write_text("[default]\naws_access_key_id = other\naws_secret_access_key = others\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    settings = store_settings(URL)
    assert settings == {"region": "here", "endpoint": "http://store:8333"}
    assert endpoint(settings) == "http://store:8333"
    monkeypatch.setenv("AWS_REGION", "there")
    assert store_settings(URL) == {"endpoint": "http://store:8333"}
