"""Where the repository is, and the media files of others that some tests look at."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("XDC_TEST_DATA") or ROOT.parent / "shared" / "data")


def needs(folder: Path) -> pytest.MarkDecorator:
    """Skip a test where a folder of `DATA` is not there."""
    return pytest.mark.skipif(
        not folder.is_dir(), reason=f"{folder} is not there: set XDC_TEST_DATA to the folder that holds it"
    )
