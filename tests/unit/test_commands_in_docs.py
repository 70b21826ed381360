"""Every `flotilla …` that the README and the docs write is a command that there is, with options that it has."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hub.cli import main

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_COMMAND = re.compile(r"(?:^|(?<=[ |;&(]))flotilla ([a-z].*)")
_END = re.compile(r"[#>|;&]")


def written(page: Path) -> Iterator[list[str]]:
    """The words of each command of a page: in its code, and in its sentences between backticks."""
    for line in page.read_text().splitlines():
        for code in [line.strip()] if line.startswith("    ") else re.findall(r"`([^`]+)`", line):
            if found := _COMMAND.search(code):
                yield [word.strip(",'") for word in _END.split(found[1])[0].split()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_docs_are_there(page: Path) -> None:
    for words in written(page):
        command: click.Command = main
        for word in words:
            if not isinstance(command, click.Group) or word not in command.commands:
                break
            command = command.commands[word]
        assert command is not main, f"there is no 'flotilla {' '.join(words)}'"
        options = {option for each in command.params for option in each.opts} | {"--help"}
        asked = {word.partition("=")[0].strip("[].)") for word in words if re.match(r"\[?--[a-z]", word)}
        assert asked <= options, f"flotilla {command.name} has no {asked - options}"


def test_the_docs_are_really_looked_at() -> None:
    assert len([words for page in PAGES for words in written(page)]) > 100
