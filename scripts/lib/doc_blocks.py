"""Read the code blocks of Markdown pages, and check without running them that they can be understood.

A block is fenced; its language is the first word after the fence. A comment above a block, or below a heading for the
whole section, says what the block needs to run, such as `<!-- needs: cluster -->`.
"""

import re
import shlex
import subprocess
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path

NEEDS = ("cluster", "docker", "server", "traffic")
PARSED_ONLY = ("cluster", "docker", "traffic")
"""Needs that a machine of a developer does not have: a cluster, Docker, events of some days."""
_MARK = re.compile(r"\s*<!-- needs: (.+) -->\s*")
_FENCE = re.compile(r"(\s*)(`{3,})(.*)")
_HEADING = re.compile(r"(#+) ")
_PROGRAM = re.compile(r"(\$ )?(recpolicy|scripts/|poetry|pip|curl|docker|podman|kubectl|gcloud|export|cp|tar)\b")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    """Line of the fence, from 1."""
    language: str
    """Empty for output."""
    text: str
    needs: str | None = None


def read_blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order.

    Raises:
        ValueError: A mark stands above no block or names an unknown need, or commands have no language.
    """
    reader = _Reader(page)
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        reader.read(number, line)
    return reader.blocks


class _Reader:
    def __init__(self, page: Path):
        self.page, self.blocks = page, list[Block]()
        self._sections: list[tuple[int, str]] = []  # (level of the heading, need)
        self._heading = 0  # level of the heading directly above, or 0
        self._mark: str | None = None
        self._open: tuple[int, str, str, list[str]] | None = None  # line, fence, language, lines

    def read(self, number: int, line: str) -> None:
        if self._open is not None:
            self._read_code(line)
            return
        mark, fence, heading = _MARK.fullmatch(line), _FENCE.fullmatch(line), _HEADING.match(line)
        if mark:
            self._read_mark(number, mark[1])
        elif fence:
            words = fence[3].split()
            self._open = (number, fence[2], words[0] if words else "", [])
        elif line.strip():
            if self._mark is not None:
                raise ValueError(f"{self.page}:{number}: expected a code block below the mark, found {line!r}")
            self._heading = len(heading[1]) if heading else 0
            if heading:
                self._sections = [entry for entry in self._sections if entry[0] < self._heading]

    def _read_mark(self, number: int, need: str) -> None:
        if need not in NEEDS:
            raise ValueError(f"{self.page}:{number}: needs {need!r}; expected {', '.join(NEEDS)}")
        if self._heading:
            self._sections.append((self._heading, need))
        else:
            self._mark = need

    def _read_code(self, line: str) -> None:
        assert self._open is not None
        number, fence, language, lines = self._open
        if line.strip() != fence:
            lines.append(line)
            return
        needs = self._mark or (self._sections[-1][1] if self._sections else None)
        block = Block(self.page, number, language, textwrap.dedent("\n".join(lines)) + "\n", needs)
        if not language and _PROGRAM.match(block.text):
            raise ValueError(f"{self.page}:{number}: commands without a language; write ```bash")
        self.blocks.append(block)
        self._open, self._mark, self._heading = None, None, 0


def commands(text: str) -> list[list[str]]:
    """Return the words of every `recpolicy` command in code blocks of a page, without what a shell adds."""
    found, fenced = [], False
    for line in text.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if not (fenced or line.startswith("    ")):
            continue
        for command in re.split(r" && | \|\| | \| ", re.sub(r"^(\$ |(\.tools/bin/)?poetry run )", "", line.strip())):
            if command.startswith("recpolicy "):
                words = shlex.split(re.sub(r" \d?[<>]{1,2} .*", "", command), comments=True)
                found.append(words[1:])
    return found


def check_command(words: list[str]) -> None:
    """Parse a command; raises a usage error for a missing command, an unknown option, a missing or a wrong value."""
    import typer

    from recpolicy.cli.main import app

    command, words, path = typer.main.get_command(app), list(words), []
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            raise ValueError(f"no command recpolicy {' '.join([*path, words[0]])}")
        path.append(words[0])
        command = command.commands[words.pop(0)]
    if not {"-h", "--help", "--version", "..."} & {*words}:
        command.make_context(" ".join(path), words)


def parse_block(block: Block) -> None:
    """Raise an error if a block cannot be run: a syntax error, or a wrong command of recpolicy."""
    if block.language == "python":
        compile(block.text, f"{block.page}:{block.line}", "exec")
    elif block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "bash":
        subprocess.run(["bash", "-n", "-c", block.text], check=True, capture_output=True, text=True)
        for words in commands(f"```\n{block.text}```\n"):
            check_command(words)
