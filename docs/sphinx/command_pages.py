"""The directive `command-group`: every command of a group with usage, arguments, options and example.

    ```{command-group} registry
    ```

Without an argument it documents the commands that belong to no group.
"""

import re
from typing import Any

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from recpolicy.cli.main import app as recpolicy_app


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("command-group", CommandGroup)
    return {"parallel_read_safe": True}


class CommandGroup(SphinxDirective):
    """A directive that writes the reference of one command group."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the sections of the group's commands."""
        root: Any = typer.main.get_command(recpolicy_app)
        group, path = (
            (root.commands[self.arguments[0]], f"recpolicy {self.arguments[0]}")
            if self.arguments
            else (root, "recpolicy")
        )
        commands = [command for command in group.commands.values() if not hasattr(command, "commands")]
        text = "\n\n".join(_command(command, path) for command in commands)
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def _command(command: Any, group: str) -> str:
    """Return the section of one command, as Markdown."""
    path = f"{group} {command.name}"
    context = command.make_context(path, [], resilient_parsing=True)
    records = [parameter.get_help_record(context) for parameter in command.params]
    rows = [f"| `{name}` | {_escape(text)} |".replace("\n", " ") for name, text in filter(None, records)]
    usage = " ".join(
        [path, *(piece.replace("{", "").replace("}", "") for piece in command.collect_usage_pieces(context))]
    )
    example = re.sub(r"^Example:\s*", "", command.epilog or "").strip()
    parts = [
        f"## {command.name}", _escape(command.help or ""), f"```text\n{usage}\n```",
        "\n".join(["| argument or option | |", "| --- | --- |", *rows]) if rows else "",
        f"For example:\n\n```bash\n{example}\n```" if example else "",
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def _escape(text: str) -> str:
    """Keep the text of --help literal in Markdown, apart from `code`."""
    text = text.replace("\\[", "[").replace("|", "\\|")
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", piece) for piece in pieces)
