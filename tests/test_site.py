"""The documentation builds as pages, without a network and without a warning."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

pytest.importorskip("mkdocs", reason="mkdocs is not installed (the extra `dev` has it)")
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built strictly: a link to a page or a heading that is missing ends it."""
    out = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = os.environ | OFFLINE | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    built = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


@pytest.mark.slow
def test_the_site_has_a_page_for_every_document_and_every_folder_of_code(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    documents = {
        path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in (ROOT / "docs").rglob("*.md")
    }
    assert documents | {"index.html", "contributing.html", "changelog.html", "deploy.html"} <= pages
    assert {"reference/shards.store.html", "reference/xdc_core.graph.html", "reference/flows.executors.html"} <= pages
    assert "read_stored" in (site / "reference" / "shards.store.html").read_text(encoding="utf-8")


def test_every_document_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    missing = [page for page in missing if f": {page}\n" not in text]
    assert missing == []


@pytest.mark.slow
def test_a_page_loads_nothing_from_a_network(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    marks = ('<script src="', '<img src="', 'rel="stylesheet" href="')
    loaded = [part.split('"')[0] for mark in marks for part in page.split(mark)[1:]]
    assert loaded
    assert [address for address in loaded if "://" in address] == []
