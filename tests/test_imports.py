"""Who may import whom: flows -> xdc_core -> shards, and heavy packages only where they are needed."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import ROOT

BELOW = {"shards": {"shards"}, "xdc_core": {"shards", "xdc_core"}, "flows": {"shards", "xdc_core", "flows"}}
# The rooms of each package, as folders or files: each imports itself and those before it. What lies beside them, as ""
# or as the folder around some of them, is a room, too.
ROOMS = {
    "shards": (
        *("", "store", "objects", "workers", "media", "sources", "datasets", "layouts", "exchange"),
        *("corpus", "indexing", "digits"),
    ),
    "xdc_core": (
        *("modalities", "encoders", "clustering", "config", "runs", "compute", "documents", "data", "outside", "ranks"),
        *("training", "evaluation", "probes", "report/tables", "report", "search", "stages", "graph"),
        *("cleaning", "inspection", "planning", "tracking", "exports", "new_clips", "curation"),
        *("study", ""),
    ),
    "flows": (
        *("executors/kind", "executors/queue", "executors/slurm", "executors/ray", "executors"),
        *("runners", "", "server", "orchestration"),
        *("cli/inspecting", "cli/machine", "cli/running", "cli/using", "cli"),
    ),
}
# Imports that still go upward: module, what it imports. Nothing is to be added.
UPWARD: set[tuple[str, str]] = set()
MOST_MODULES = 14  # In a folder, `__init__` not counted.
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


def modules(package: str) -> dict[str, Path]:
    """The modules of a package by dotted name, but for `__init__`."""
    paths = (path for path in sources(package) if path.name != "__init__.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def imported(package: str) -> dict[str, set[str]]:
    """Which modules of the package each one imports, wherever in it: also late, and for types alone."""
    known = modules(package)
    return {
        module: {name for _, name in imports(path) if name in known}
        | {
            f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if f"{node.module}.{alias.name}" in known
        }
        for module, path in known.items()
    }


def room(module: str) -> str:
    """The room of a module: the file itself where it is named as one, else its folder in the package."""
    package, *folders, name = module.split(".")
    own = "/".join([*folders, name])
    return own if own in ROOMS[package] else "/".join(folders)


@pytest.mark.parametrize("package", BELOW)
def test_every_module_lies_in_a_room(package: str) -> None:
    assert {room(module) for module in modules(package)} == set(ROOMS[package])


@pytest.mark.parametrize("package", BELOW)
def test_no_import_goes_upward(package: str) -> None:
    order = ROOMS[package]
    upward = {
        (module, other)
        for module, others in imported(package).items()
        for other in others
        if order.index(room(other)) > order.index(room(module))
    }
    assert upward == {pair for pair in UPWARD if pair[0].startswith(f"{package}.")}


@pytest.mark.parametrize("package", BELOW)
def test_no_imports_go_in_a_circle(package: str) -> None:
    left = imported(package)
    while free := {module for module, others in left.items() if not others & set(left)}:
        left = {module: others for module, others in left.items() if module not in free}
    # Those that are left are in a circle, or import one that is.
    assert left == {}


def test_a_folder_has_no_more_modules_than_a_person_can_look_over() -> None:
    counts = Counter(path.parent for package in BELOW for path in modules(package).values())
    assert {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > MOST_MODULES} == {}


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
