"""The wheel has every file that the installed package reads, and those in the project's folder are links to them."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flows.server.deployments import AUTOMATION, DEPLOYMENTS
from shards.version import DISTRIBUTION
from tests.places import ROOT

PACKAGES = ("flows", "xdc_core", "shards")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy by the installed setuptools."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    code = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    there = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files == there
    assert files >= {"flows/orchestration/prefect.yaml", "flows/orchestration/prefect-automation.yaml"}
    assert any(name.startswith("xdc_core/config/presets/") for name in files)
    assert any(name.startswith("xdc_core/report/pages/") for name in files)


@pytest.mark.slow
def test_the_wheel_alone_has_the_command_with_its_presets_and_deployments(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert wheel.name.startswith(f"{DISTRIBUTION.replace('-', '_')}-")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(tmp_path / "site")

    def call(code: str, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    xdc = "from flows.cli.app import main; main()"
    assert re.fullmatch(rf"xdc \d\S+ \({DISTRIBUTION}\)\n", call(xdc, "--version"))
    call(xdc, "init", "run", "--preset", "digits")
    assert (tmp_path / "run" / "xdc.yaml").exists()
    code = "from flows.server.deployments import *; deployments_for('a', 'b', None); print(DEPLOYMENTS)"
    assert call(code) == f"{tmp_path}/site/flows/orchestration/prefect.yaml\n"


def test_the_files_in_the_projects_folder_are_those_of_the_package() -> None:
    for file in (DEPLOYMENTS, AUTOMATION):
        assert (ROOT / file.name).is_symlink()
        assert (ROOT / file.name).resolve() == file.resolve()


def test_messages_and_documents_name_the_distribution_when_they_name_an_extra() -> None:
    texts = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py")),
    ]
    wrong = [path for path in texts if re.search(r"pip install (--upgrade )?'?xdc['\[\s)]", path.read_text())]
    assert wrong == []
