"""Give mkdocs the pages that are not files of `docs/`: README.md, CONTRIBUTING.md, CHANGELOG.md, and the API reference.

mkdocs.yml names this file as its hook. Links to files of the repository that are no pages become their names.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Path in the repository -> page of the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "deploy/README.md": "deploy.md",
}
PACKAGES = ("shards", "xdc_core", "flows")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+://)([^)\s#]*)(#[^)\s]*)?\)")


def rooms() -> dict[str, list[str]]:
    """Return the modules of each folder with code, by dotted name; private ones and scripts are left out."""
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            if file.name.startswith("_"):
                continue
            folder = ".".join(file.relative_to(ROOT).parent.parts)
            found.setdefault(folder, []).append(f"{folder}.{file.stem}")
    return found


def reference(folder: str, modules: list[str]) -> str:
    """Return the page of a folder: its modules, each with its docstrings."""
    parts = [f"# {folder}", ""]
    init = (ROOT / folder.replace(".", "/") / "__init__.py").read_text(encoding="utf-8").strip()
    if init.startswith('"""'):
        parts += [init.split('"""')[1].strip(), ""]
    for module in modules:
        parts += [f"::: {module}", ""]
    return "\n".join(parts)


def relinked(text: str, place: str) -> str:
    """Return a document of the repository (`place`: its path there) with links that hold on the site."""
    page = PAGES.get(place, place.removeprefix("docs/"))
    up = "../" * page.count("/")

    def link(match: re.Match[str]) -> str:
        picture, words, target, heading = match[1], match[2], match[3], match[4] or ""
        if not target:
            return match[0]
        path = (ROOT / place).parent.joinpath(target).resolve().relative_to(ROOT).as_posix()
        if path in PAGES:
            return f"[{words}]({up}{PAGES[path]}{heading})"
        if path.startswith("docs/") and (ROOT / path).is_file() and not path.endswith(".py"):
            return f"{picture}[{words}]({up}{path.removeprefix('docs/')}{heading})"
        # Words that are the path already keep their form.
        return f"`{path}`" if words.strip("`/") == path.strip("/") else f"{words} (`{path}`)"

    # The text within fences is left as it is.
    pieces = re.split(r"(^```.*?^```)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(piece if piece.startswith("```") else LINK.sub(link, piece) for piece in pieces)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the API reference at the end of the navigation."""
    pages = [{folder: f"reference/{folder}.md"} for folder in rooms()]
    config.nav = [*(config.nav or []), {"API reference": pages}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    for folder, modules in rooms().items():
        files.append(File.generated(config, f"reference/{folder}.md", content=reference(folder, modules)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Mend the links of a page."""
    uri = page.file.src_uri
    if uri.startswith("reference/"):
        return markdown
    places = {written: path for path, written in PAGES.items()}
    return relinked(markdown, places.get(uri, f"docs/{uri}"))
