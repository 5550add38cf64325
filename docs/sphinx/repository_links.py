"""Links from pages to files of the repository that are no pages: each file becomes a highlighted page with lines.

A link to a folder goes to the folder's README.md.
"""

import os
import re
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.application import Sphinx
from sphinx.util import logging

_LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\(([^)\s#:]+)(?:#([^)\s]*))?\)")
_FILES = "files"
_logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Rewrite the links when a page is read, write the linked files at the end."""
    app.connect("source-read", _rewrite)
    app.connect("build-finished", _write_files)
    return {"parallel_read_safe": False}


def _rewrite(app: Sphinx, page: str, source: list[str]) -> None:
    path = Path(app.env.doc2path(page))
    if path.suffix != ".md":
        return
    root, folder = Path(app.srcdir), path.parent

    def rewrite(link: re.Match[str]) -> str:
        text, target, anchor = link[1], (folder / link[2]).resolve(), link[3]
        if target.is_dir() and (target / "README.md").is_file():
            target = target / "README.md"
            return f"[{text}]({os.path.relpath(target, folder)})"
        if not target.exists():
            _logger.warning("no such file: %s", link[2], location=page)
        name = target.relative_to(root).as_posix()
        if not target.is_file() or name.removesuffix(target.suffix) in app.env.found_docs:
            return link[0]
        fragment = f"#{anchor.replace('L', 'L-', 1)}" if anchor else ""
        up = "../" * page.count("/")
        return f'<a href="{up}{_FILES}/{name}.html{fragment}">{text}</a>'

    in_code = False
    lines = source[0].split("\n")
    for number, line in enumerate(lines):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        if not in_code:
            lines[number] = _LINK.sub(rewrite, line)
    source[0] = "\n".join(lines)


def _write_files(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    root, out = Path(app.srcdir), Path(app.outdir)
    pattern = re.compile(rf'href="(?:\.\./)*{_FILES}/([^"#]+)\.html')
    pages = (path.read_text(encoding="utf-8") for path in out.rglob("*.html") if _FILES not in path.parts)
    for name in sorted({name for page in pages for name in pattern.findall(page)}):
        try:
            lexer = get_lexer_for_filename(name)
        except ClassNotFound:
            lexer = TextLexer()
        style = HtmlFormatter(
            full=True, title=name, linenos="inline", lineanchors="L", anchorlinenos=True, style="friendly"
        )
        target = out / _FILES / f"{name}.html"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(highlight((root / name).read_text(encoding="utf-8"), lexer, style), encoding="utf-8")
