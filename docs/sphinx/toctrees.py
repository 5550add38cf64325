"""The navigation follows the lists of links: no page repeats its list as a toctree.

docs/index.md: one captioned toctree a section. README.md of a folder: one toctree of the pages in that folder.
"""

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

_LINK = re.compile(r"(?<!!)\[[^\[\]]+\]\(([^)\s#:]+\.(?:md|ipynb))\)")


def setup(app: Sphinx) -> dict[str, Any]:
    """Append the toctrees when a page is read, after folders have become their README.md."""
    app.connect("source-read", _append, priority=900)
    return {"parallel_read_safe": True}


def _append(app: Sphinx, page: str, source: list[str]) -> None:
    if page == app.config.root_doc:
        sections = re.split(r"^## ", source[0], flags=re.MULTILINE)[1:]
        for section in sections:
            caption = section.split("\n", 1)[0].split(":")[0]
            source[0] += _toctree(_targets(app, page, section), caption)
    elif page.endswith("/README"):
        folder = page.removesuffix("README")
        source[0] += _toctree([target for target in _targets(app, page, source[0]) if target.startswith(folder)])


def _targets(app: Sphinx, page: str, text: str) -> list[str]:
    """Return the pages that the text links, each once, in order."""
    folder = Path(app.env.doc2path(page)).parent
    paths = [os.path.relpath((folder / link).resolve(), app.srcdir) for link in _LINK.findall(text)]
    names = [path.removesuffix(Path(path).suffix) for path in paths]
    return [name for name in dict.fromkeys(names) if name in app.env.found_docs and name != page]


def _toctree(pages: list[str], caption: str = "") -> str:
    if not pages:
        return ""
    lines = [
        "",
        "",
        "```{toctree}",
        ":hidden:",
        *([f":caption: {caption}"] if caption else []),
        "",
        *(f"/{page}" for page in pages),
    ]
    return "\n".join([*lines, "```", ""])
