"""A package as it lies once it is installed: its modules, and a dist-info folder with its entry points."""

from collections.abc import Mapping
from pathlib import Path


def install_package(
    folder: Path, name: str, modules: Mapping[str, str], entry_points: Mapping[str, Mapping[str, str]]
) -> Path:
    """Write modules (path below `folder` -> source) and entry points (group -> name -> value) of a distribution.

    Returns the folder, which is to be on sys.path or PYTHONPATH. Its version is 1.2.3.
    """
    for path, source in modules.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(source, encoding="utf-8")
    info = folder / f"{name}-1.2.3.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n", encoding="utf-8")
    groups = [
        "\n".join([f"[{group}]", *(f"{point} = {value}" for point, value in points.items())])
        for group, points in entry_points.items()
    ]
    (info / "entry_points.txt").write_text("\n\n".join(groups) + "\n", encoding="utf-8")
    return folder
