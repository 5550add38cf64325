"""Notebooks run on the miniature data set of the tests, each with small settings; a cache keeps their outputs.

The cache belongs to one state of the package. After a change of the package all notebooks run again; after a change of
a notebook, only this one.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from tiny_dataset import write_miniature

_NOTE = (
    ":::{note}\nThe outputs on this page come from a miniature data set with synthetic ratings."
    " Run the notebook to see MovieLens 100K.\n:::"
)


def setup(app: Sphinx) -> dict[str, Any]:
    """Choose the cache when the build starts, and the settings when a notebook is read."""
    app.connect("config-inited", _choose_cache)
    app.connect("source-read", _set_up)
    return {"parallel_read_safe": False}


def _choose_cache(app: Sphinx, config: Config) -> None:
    digest = hashlib.sha256()
    root = Path(app.srcdir)
    for path in sorted(root.glob("src/**/*.py")):
        digest.update(path.read_bytes())
    folder = root / ".cache" / "docs" / "notebooks"
    cache = folder / digest.hexdigest()[:16]
    for other in folder.glob("*"):
        if other != cache:
            shutil.rmtree(other)
    config.nb_execution_cache_path = str(cache)


def _set_up(app: Sphinx, page: str, source: list[str]) -> None:
    if not page.startswith("notebooks/") or page.endswith("README"):
        return
    work = Path(app.srcdir) / ".cache" / "docs" / "work" / page
    shutil.rmtree(work, ignore_errors=True)
    settings = {
        "DATA": write_miniature(work / "data"), "INTERACTIONS": 640, "LOG_ROUNDS": 2000, "MODEL": "bias", "MOVIES": 20,
        "ITEMS": 20, "OUT": work / "run", "RANK": 8, "REGISTRY": work / "registry", "ROOT": work / "runs",
        "ROUNDS": 4000, "USER": 7,
    }  # fmt: skip
    notebook = json.loads(source[0])
    notebook["cells"].insert(1, {"cell_type": "markdown", "id": "sample-note", "metadata": {}, "source": _NOTE})
    source[0] = json.dumps(notebook)
    os.environ.update({f"RECPOLICY_NOTEBOOK_{name}": str(value) for name, value in settings.items()})
