"""The entries of docs/troubleshooting.md are messages that the code has."""

import ast
import re

from tests.places import ROOT

TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^\*\*`(.+)`\*\*$", TEXT, re.MULTILINE)
VALUE = "\0"


def written_texts() -> list[str]:
    """Return all texts in the packages; what is put into them is one character."""
    found = []
    for package in ("shards", "xdc_core", "flows"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else VALUE for part in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def is_written(entry: str, texts: list[str]) -> bool:
    """Whether a text has the parts of an entry between its `...`, in their order."""
    parts = [re.escape(part) for part in re.split(r"\.\.\.", entry) if part.strip(" ")]
    pattern = re.compile(".*?".join(parts), re.DOTALL)
    return any(pattern.search(text) for text in texts)


def test_every_entry_is_a_message_of_the_code() -> None:
    texts = written_texts()
    assert len(ENTRIES) > 30
    assert not is_written("corpus.videos: ... is a message that nobody wrote", texts)
    assert [entry for entry in ENTRIES if not is_written(entry, texts)] == []


def test_every_entry_says_more_than_its_message() -> None:
    after = re.findall(r"^\*\*`.+`\*\*\n(.+)", TEXT, re.MULTILINE)
    assert len(after) == len(ENTRIES)
