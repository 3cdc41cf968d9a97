"""Who may import whom: flows -> xdc_core -> shards, and heavy packages only where they are needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BELOW = {"shards": {"shards"}, "xdc_core": {"shards", "xdc_core"}, "flows": {"shards", "xdc_core", "flows"}}
HEAVY = {"torch", "torchaudio", "torchvision", "faiss", "prefect", "av", "pyarrow", "sklearn", "scipy", "webdataset"}


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert len(found) > 5
    return found


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.lineno, str(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
            "import_module",
            "__import__",
        ):
            yield from ((node.lineno, arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


@pytest.mark.parametrize("package", BELOW)
def test_imports_go_one_way(package: str) -> None:
    forbidden = set(BELOW) - BELOW[package]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for line, name in imports(path)
        if name.split(".")[0] in forbidden | {"tests"}
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ["shards", "xdc_core"])
def test_only_flows_knows_prefect(package: str) -> None:
    assert [path.name for path in sources(package) if any(n.split(".")[0] == "prefect" for _, n in imports(path))] == []


def test_flows_does_know_prefect() -> None:
    # Else the test above would hold of a search that finds nothing.
    assert any(name.split(".")[0] == "prefect" for path in sources("flows") for _, name in imports(path))


@pytest.mark.parametrize("package", BELOW)
def test_importing_a_package_loads_none_of_its_modules(package: str) -> None:
    packages = [path for path in sources(package) if path.name == "__init__.py"]
    assert packages
    assert [path for path in packages if list(imports(path))] == []


def test_heavy_packages_wait_until_they_are_needed() -> None:
    light = (
        "flows.cli.app",
        "xdc_core.modalities.registry",
        "xdc_core.config.model",
        "xdc_core.config.methods",
        "xdc_core.runs.run",
    )
    code = (
        "import importlib, json, sys\n"
        f"heavy = {sorted(HEAVY)}\n"
        f"for name in {light}:\n"
        "    importlib.import_module(name)\n"
        "    print(name, *sorted(set(heavy) & set(sys.modules)))\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.split() == list(light)


def test_the_graph_and_the_stages_are_known_without_torch_and_faiss() -> None:
    heavy = "{'torch', 'faiss', 'sklearn', 'prefect', 'webdataset'}"
    code = f"import sys, xdc_core.graph.run_stage; print(*{heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.split() == []
