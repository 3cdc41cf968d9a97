"""The commands in the documents are commands of `xdc`, and those that take seconds do what they say."""

import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from flows.cli.app import app
from tests.places import ROOT
from xdc_core.runs.run import Run

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL_ENDS = {"|", "&&", "||", "&", ";", ">", "<", ")"}
# Words of the documents that stand for a number or a choice.
PLACEHOLDERS = {"N": "2", "SPLIT": "test"}
# They read a finished run, or make a configuration, and need nothing else.
QUICK = ("status", "report", "runs", "verify", "clean")


class Command(NamedTuple):
    """A call of xdc in a document."""

    where: str
    words: tuple[str, ...]


def commands(document: Path) -> list[Command]:
    """Return the lines of a document's blocks that begin with `xdc `, or with a prompt and `xdc `, as words."""
    text = document.read_text(encoding="utf-8")
    found = []
    for block in FENCE.finditer(text):
        if block[1] not in ("", "bash", "sh", "shell"):
            continue
        first = text.count("\n", 0, block.start(2)) + 1
        for number, line in enumerate(re.sub(r"\\\n\s*", " ", block[2]).splitlines()):
            called = re.match(r"\s*(?:\w+\$ )?xdc (.+)", line)
            if not called:
                continue
            lexer = shlex.shlex(called[1], posix=True, punctuation_chars=True)
            lexer.wordchars += "=:,{}[]@%+*"
            words = []
            for word in lexer:
                if word in SHELL_ENDS:
                    break
                words.append(PLACEHOLDERS.get(word, word))
            found.append(Command(f"{document.relative_to(ROOT)}:{first + number}", tuple(words)))
    return found


COMMANDS = [command for document in DOCUMENTS for command in commands(document)]
QUICK_COMMANDS = {
    command.words: command
    for command in COMMANDS
    if command.words[0] in QUICK and not set(command.words[1:]) & {"runs/second", "RUN"}
}


def test_the_commands_are_found() -> None:
    # Otherwise the tests below would hold for a search that finds nothing.
    assert len(COMMANDS) > 80
    assert {"init", "run", "eval", "search", "compare"} <= {command.words[0] for command in COMMANDS}
    assert {words[0] for words in QUICK_COMMANDS} >= {"status", "report", "verify", "clean"}


def test_an_option_that_is_not_there_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        typer.main.get_command(app).commands["run"].make_context("run", ["runs/first", "--twice"])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.where)
def test_a_command_of_a_document_is_parsed(command: Command) -> None:
    group = typer.main.get_command(app)
    name, *arguments = command.words
    if name.startswith("-"):
        assert name in {option for parameter in group.params for option in parameter.opts}, command.where
        return
    assert name in group.commands, f"{command.where}: xdc has no command {name}"
    # Raises a usage error for an option that is not there, a value of another type, or a missing argument.
    group.commands[name].make_context(name, list(arguments))


@pytest.mark.parametrize("command", QUICK_COMMANDS.values(), ids=lambda command: " ".join(command.words))
def test_a_quick_command_of_a_document_works(
    command: Command, worked_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(worked_run.root, tmp_path / "runs" / "first")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, list(command.words))
    assert done.exit_code == 0, f"{command.where}: {done.output}"
    assert done.output.strip()
