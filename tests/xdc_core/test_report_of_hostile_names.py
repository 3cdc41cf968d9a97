"""A report of labels and file names that strangers chose: shown as they are, and nothing of them is run or fetched."""

import csv
import html
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shards.corpus.listing import list_corpus
from xdc_core.config.load import FILE_NAME
from xdc_core.config.schema import Config
from xdc_core.config.write import commented_yaml
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.run import open_run

MARK = "strangersays"
LABELS = [
    f"<script>{MARK}()</script>",
    f'" onmouseover="{MARK}()" x="',
    f"' onclick='{MARK}()",
    f"</style><img src=http://example.com/{MARK}.png onerror={MARK}()>",
    "{{ 7 * 7 }}{% raw %}${x}`",
    f"]]><svg/onload={MARK}()>",
    f"</script><iframe src=javascript:{MARK}()>",
    "\u202eright to left\ufeff é 視頻",
]
NAMES = [
    "<b onclick=alert(1)>.mp4",
    "a\"b'c.mp4",
    "&lt;x&gt; {{ 1 }}.mp4",
    "-rf $(touch pwned) `x`.mp4",
    "line\nbreak\ttab.mp4",
    "</title><script>alert(1)<\u2215script>.mp4",
]
WITH_ADDRESS = ("src", "href", "action", "data", "poster", "srcset", "formaction", "xlink:href", "background")


class Page(HTMLParser):
    """Collects what a browser would run or fetch, and where the strangers' words turn up."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.addresses: list[str] = []
        self.handlers: list[tuple[str, str]] = []
        self.code: list[str] = []
        self.text: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # JSON is data for our own script, which makes text of it; a browser does not run it.
        self._inside = "json" if tag == "script" and dict(attrs).get("type") == "application/json" else tag
        for name, value in attrs:
            if name in WITH_ADDRESS:
                self.addresses.append(value or "")
            if name.startswith("on") or (name == "style" and "url(" in (value or "")):
                self.handlers.append((tag, name))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "json":
            self.text.append(json.dumps(json.loads(data), ensure_ascii=False))
        else:
            (self.code if self._inside in ("script", "style") else self.text).append(data)


@pytest.fixture(scope="module")
def hostile_reports(tiny_config: Config, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report directory of the first round of a run on videos whose names and labels are hostile."""
    root = tmp_path_factory.mktemp("hostile")
    listing = list_corpus(digits)
    (root / "videos").mkdir()
    with (root / "videos" / "list.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "label_other"])
        for number, source in enumerate(listing.sources):
            name = f"{number} {NAMES[number % len(NAMES)]}".replace("/", "\u2215")
            shutil.copy(listing.root / source.path, root / "videos" / name)
            rows.writerow([name, LABELS[number % len(LABELS)], LABELS[number % 3]])
    places = {"path": str(root / "corpus"), "videos": str(root / "videos" / "list.csv"), "learn_splits": None}
    corpus = tiny_config.corpus.model_copy(update=places)
    (root / "run").mkdir()
    config = tiny_config.model_copy(update={"corpus": corpus, "rounds": 0})
    (root / "run" / FILE_NAME).write_text(commented_yaml(config), encoding="utf-8")
    run = open_run(root / "run")
    for node in all_nodes(run.config):
        run_stage(run, node)
    return next(run.directory(node) for node in all_nodes(run.config) if node.stage == "report")


def pages(folder: Path) -> dict[str, Page]:
    found = {}
    for path in folder.rglob("*.html"):
        page = Page()
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        found[path.name] = page
    assert found
    return found


@pytest.mark.slow
def test_strangers_words_are_text_and_never_code(hostile_reports: Path) -> None:
    for name, page in pages(hostile_reports).items():
        assert not [code for code in page.code if MARK in code or "alert(1)" in code], name
        assert not page.handlers, name
        assert not [address for address in page.addresses if MARK in address or "javascript:" in address], name


@pytest.mark.slow
def test_strangers_words_are_to_be_read_as_they_are(hostile_reports: Path) -> None:
    shown = "".join(text for page in pages(hostile_reports).values() for text in page.text)
    assert MARK in shown
    assert any(label in shown for label in LABELS)


@pytest.mark.slow
def test_a_page_fetches_nothing_from_anywhere(hostile_reports: Path) -> None:
    for path in hostile_reports.rglob("*.html"):
        text = html.unescape(path.read_text(encoding="utf-8"))
        assert "@import" not in text
        for address in pages(hostile_reports)[path.name].addresses:
            assert not address.startswith(("http:", "https:", "//", "ftp:", "file:", "javascript:")), address


@pytest.mark.parametrize("template", sorted((Path(__file__).parents[2] / "xdc_core" / "report").rglob("*.html")))
def test_a_template_names_no_address_and_turns_no_escaping_off(template: Path) -> None:
    text = template.read_text(encoding="utf-8")
    for never in ("http://", "https://", "|safe", "| safe", "autoescape false", "@import"):
        assert never not in text.replace("http://www.w3.org/", ""), never
