"""Docstrings are plain text with `code`: keep their stars, bars and underscores, and their indented blocks, literal."""

import re
from importlib import import_module
from typing import Any

from sphinx.application import Sphinx

PUBLIC = ("recpolicy", "recpolicy.ope", "recpolicy.workflows")
_SECTIONS = ("Args:", "Returns:", "Raises:", "Yields:")


def setup(app: Sphinx) -> dict[str, Any]:
    """Import the public names, which packages load lazily, and convert docstrings before napoleon reads them."""
    for package in map(import_module, PUBLIC):
        for name in getattr(package, "__all__", ()):
            getattr(package, name)
    app.connect("autodoc-process-docstring", _convert, priority=400)
    return {"parallel_read_safe": True}


def _convert(_app: Sphinx, _kind: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Turn indented blocks into literal blocks and escape the marks of reStructuredText elsewhere."""
    converted: list[str] = []
    in_section = in_block = False
    for line in lines:
        if line and not line.startswith(" "):
            in_section, in_block = line.strip() in _SECTIONS, False
        starts_block = line.startswith("    ") and not in_section and not in_block
        if starts_block and (not converted or not converted[-1].strip()):
            converted += ["::", ""]
            in_block = True
        converted.append(line if in_block else _escape(line))
    lines[:] = converted


def _escape(line: str) -> str:
    pieces = re.split(r"(`[^`]*`)", line)
    return "".join(piece if piece.startswith("`") else re.sub(r"([*|]|\b_|_\b)", r"\\\1", piece) for piece in pieces)
