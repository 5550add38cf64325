"""Every command shown in README.md and docs/ parses: commands, options and arguments exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from recpolicy.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if not {"_build", "decisions"} & {*page.parts}),
    *sorted(ROOT.glob("benchmarks/*/README.md")),
]


def commands(text):
    """The commands in code blocks, without continued lines, comments and what a shell adds."""
    found, fenced = [], False
    for line in text.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if not (fenced or line.startswith("    ")):
            continue
        for command in re.split(r" && | \| ", re.sub(r"^(\$ |(\.tools/bin/)?poetry run )", "", line.strip())):
            if command.startswith("recpolicy "):
                found.append(shlex.split(command, comments=True)[1:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_on_the_page_parse(page):
    for words in commands(page.read_text(encoding="utf-8")):
        command, path = typer.main.get_command(app), []
        while hasattr(command, "commands") and words and not words[0].startswith("-"):
            assert words[0] in command.commands, f"no command recpolicy {' '.join([*path, words[0]])}"
            path.append(words[0])
            command = command.commands[words.pop(0)]
        if {"-h", "--help", "..."} & {*words}:
            continue
        command.make_context(" ".join(path), words)  # raises for an unknown option, a missing or a wrong value


def test_commands_are_found():
    assert ["train", "linucb", "--split", "u1", "--out", "runs/linucb"] in commands(
        PAGES[0].read_text(encoding="utf-8")
    )
