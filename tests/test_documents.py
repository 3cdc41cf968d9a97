"""The documents name files, modules, anchors and test files that exist."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

from tests.places import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Roots of the project's own paths. Others (runs/..., corpora/...) are examples of a user's files.
PATH = re.compile(r"(?:^|(?<=[\s`(\"]))(?:shards|xdc_core|flows|tests|benchmarks|docs)/[\w./-]*")
MODULE = re.compile(r"(?<![\w./])(?:shards|xdc_core|flows|benchmarks)(?:\.[a-z_]\w*)+(?![\w/])")
# A name right after a file, as in `shards/corpus/index.py: MEMBERS` or `cut_names` (`shards/datasets/segments.py`).
NAME_IN_FILE = re.compile(r"`([A-Za-z_]\w*)`\s\(`([\w/]+\.py)`\)|`([\w/]+\.py): ([A-Za-z_]\w*)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_the_documents_are_those_of_the_project() -> None:
    names = {path.name for path in DOCUMENTS}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "media.md", "method.md", "reliability.md"} <= names


def test_citation_and_changelog_are_of_the_version_that_is_built() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert cited == newest[1] == Version(built).base_version


def names_defined(path: Path) -> set[str]:
    """Return the names that the top level of a Python file defines or imports."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def exists(dotted: str) -> bool:
    """Whether a dotted name is a package, a module, or a name at the top level of one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        rest = parts[length:]
        if place.with_suffix(".py").is_file():
            return not rest or rest[0] in names_defined(place.with_suffix(".py"))
        if place.is_dir():
            return not rest
    return False


def lines(path: Path) -> Iterator[tuple[int, str]]:
    return enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)


def test_a_missing_module_or_name_is_noticed() -> None:
    # Otherwise the tests below would hold for a search that finds nothing.
    names = ("shards.store.build.build", "xdc_core.training", "shards.store.nowhere", "shards.store.build.nothing")
    assert [exists(name) for name in names] == [True, True, False, False]
    assert len(PATH.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))) > 50


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    paths = [(number, match.group().rstrip(".")) for number, line in lines(document) for match in PATH.finditer(line)]
    assert [f"{document.name}:{number}: {path}" for number, path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_module_that_a_document_names_exists(document: Path) -> None:
    names = [(number, match.group()) for number, line in lines(document) for match in MODULE.finditer(line)]
    files = ("shards.json",)  # Of a corpus; only its name is like that of a module.
    wrong = [(number, name) for number, name in names if name not in files and not exists(name)]
    assert [f"{document.name}:{number}: {name}" for number, name in wrong] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_name_that_a_document_gives_with_its_file_is_in_that_file(document: Path) -> None:
    wrong = []
    for before, file, other_file, after in NAME_IN_FILE.findall(document.read_text(encoding="utf-8")):
        name, path = before or after, ROOT / (file or other_file)
        words = set(re.findall(r"\w+", path.read_text(encoding="utf-8"))) if path.is_file() else set()
        if name not in words:
            wrong.append(f"{name} in {path.relative_to(ROOT)}")
    assert wrong == []


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    wrong = []
    for number, line in lines(document):
        for link in LINK.findall(line):
            if "://" in link:
                continue
            file, _, fragment = link.partition("#")
            target = (document.parent / file).resolve() if file else document
            headings = (
                {anchor(text.lstrip("#")) for _, text in lines(target) if text.startswith("#")}
                if target.suffix == ".md" and target.is_file()
                else set()
            )
            if not target.exists() or (fragment and fragment not in headings):
                wrong.append(f"{document.name}:{number}: {link}")
    assert wrong == []


def test_the_map_names_every_folder_of_the_packages() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = {
        f"{package}/{path.name}/"
        for package in ("shards", "xdc_core", "flows")
        for path in (ROOT / package).iterdir()
        if (path / "__init__.py").is_file()
    }
    assert folders, "no packages found"
    assert {folder for folder in folders if f"`{folder}`" not in text} == set()


def test_the_readme_is_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
