"""The directive `leaderboard`: the sortable table of benchmarks/leaderboard/results.json and its sentences."""

import json
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "leaderboard"
sys.path.append(str(_FOLDER))
from leaderboard import comparison_sentences, extent, html_table  # noqa: E402 - the benchmark is no package


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("leaderboard", Leaderboard)
    return {"parallel_read_safe": True}


class Leaderboard(SphinxDirective):
    """A directive that writes the sentences and the table."""

    def run(self) -> list[nodes.Node]:
        """Return both; the page is built again when the results change."""
        results = _FOLDER / "results.json"
        self.env.note_dependency(str(results))
        if not results.exists():
            return self.parse_text_to_nodes("No cell was run yet.")
        body = json.loads(results.read_text(encoding="utf-8"))
        cells, agents = body["cells"], body["agents"]
        where = body["context"]
        text = "\n".join(f"- {sentence}" for sentence in comparison_sentences(cells, agents))
        run = f"{extent(cells, agents)} The last one was run on {where['date'][:10]}."
        table = nodes.raw("", html_table(cells, agents), format="html")
        return [*self.parse_text_to_nodes(f"{text}\n\n{run}"), table]
