"""The table of the leaderboard, from its cells: numbers, Markdown, HTML and the sentences that the intervals support.

A cell is one agent on one fold with one training seed, under the key `AGENT/FOLD/SEED`. The table has means over the
folds u1 to u5 with seed 0, as far as every agent has them. The bounds of a mean are the means of the folds' bounds: the
same users return in every fold, so the interval does not shrink with their number. The spread over training seeds on u1
is apart.

python benchmarks/leaderboard/leaderboard.py    # writes the table of results.json into README.md, as run.py does
"""

import html
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDS, SEEDS = ("u1", "u2", "u3", "u4", "u5"), (0, 1, 2, 3, 4)
CELLS = [*((fold, 0) for fold in FOLDS), *(("u1", seed) for seed in SEEDS[1:])]
"""Folds and seeds in the order in which they are run, each for all agents."""
NOT_RUN = "not run"
BEGIN, END = "<!-- table: written by leaderboard.py -->", "<!-- end of table -->"
"""Marks in the README between which the table stands."""
COLUMNS = {
    "choice": "held-out choice", "choice_difference": "minus rating model", "likes": "likes per session",
    "likes_difference": "minus rating model ", "regret": "regret", "rmse": "RMSE", "coverage": "coverage@10",
    "diversity": "diversity@10", "training_s": "training, s", "recommend_ms": "recommend, ms",
}  # fmt: skip
DIGITS = {"training_s": 0, "likes": 2, "likes_difference": 2, "recommend_ms": 2}
Cells = Mapping[str, Mapping[str, Any]]


def common_folds(cells: Cells) -> list[str]:
    """Return the folds that all agents with the first fold have: folds differ, so rows are comparable only on these."""
    agents = {key.split("/")[0] for key in cells if key.endswith(f"/{FOLDS[0]}/0")}
    return [fold for fold in FOLDS if agents and all(f"{agent}/{fold}/0" in cells for agent in agents)]


def mean_over_folds(cells: Cells, agent: str, column: str) -> dict[str, float] | None:
    """Return the mean of a column over the common folds, with bounds if it has some; None for an agent without them."""
    folds = common_folds(cells)
    if not all(f"{agent}/{fold}/0" in cells for fold in folds):
        return None
    found = [cells[f"{agent}/{fold}/0"].get(column) for fold in folds]
    values = [value if isinstance(value, Mapping) else {"value": value} for value in found if value is not None]
    if not values:
        return None
    return {key: statistics.fmean(value[key] for value in values) for key in values[0]}


def seed_deviation(cells: Cells, agent: str, column: str) -> float | None:
    """Return the standard deviation over the training seeds on u1; None with fewer than two."""
    found = [cells[f"{agent}/u1/{seed}"][column]["value"] for seed in SEEDS if f"{agent}/u1/{seed}" in cells]
    return statistics.stdev(found) if len(found) > 1 else None


def missing(cells: Cells, agent: str) -> str:
    """Return the cells of an agent that were not run, as text; an empty text if there are none."""
    folds = [fold for fold in FOLDS if f"{agent}/{fold}/0" not in cells]
    seeds = [str(seed) for seed in SEEDS[1:] if f"{agent}/u1/{seed}" not in cells]
    if len(folds) + len(seeds) == len(CELLS):
        return NOT_RUN
    parts = [*folds, *([f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)} on u1"] if seeds else [])]
    return f"{', '.join(parts)} {NOT_RUN}" if parts else ""


def shown(value: Mapping[str, float] | None, column: str) -> str:
    """Return a number as text, with its bounds."""
    if value is None:
        return "–"
    digits = DIGITS.get(column, 3)
    text = f"{value['value']:.{digits}f}"
    return f"{text} [{value['lo']:.{digits}f}, {value['hi']:.{digits}f}]" if "lo" in value else text


def deviations(cells: Cells, agent: str) -> str:
    """Return the spread of choice and likes over seeds as text."""
    found = [seed_deviation(cells, agent, column) for column in ("choice", "likes")]
    return "–" if None in found else f"{found[0]:.3f}; {found[1]:.2f}"


def by_kind(agents: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return names and kinds of the agents: baselines, agents of single rounds, agents of sessions."""
    return sorted(agents.items(), key=lambda item: (item[1], item[0]))


def rows(cells: Cells, agents: Mapping[str, str]) -> list[list[str]]:
    """Return the cells of the table as text, a row per agent; `agents` are their kinds by name."""
    table = []
    for agent, kind in by_kind(agents):
        values = [shown(mean_over_folds(cells, agent, column), column) for column in COLUMNS]
        if mean_over_folds(cells, agent, "choice") is None:
            values = [NOT_RUN] * len(COLUMNS)
        elif kind == "baseline":
            values[list(COLUMNS).index("training_s")] = "–"
        table.append([agent, kind, *values, deviations(cells, agent), missing(cells, agent) or "all run"])
    return table


def header() -> list[str]:
    """Return the heads of the columns."""
    heads = [head.strip() for head in COLUMNS.values()]
    return ["agent", "kind", *heads, "SD over seeds (choice; likes)", "cells"]


def markdown_table(cells: Cells, agents: Mapping[str, str]) -> str:
    """Return the table as Markdown."""
    lines = [header(), ["---"] * len(header()), *rows(cells, agents)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def html_table(cells: Cells, agents: Mapping[str, str]) -> str:
    """Return the table as HTML that sorts by the column whose head is pressed; what was not run stays last."""
    body = []
    for line in rows(cells, agents):
        agent = line[0]
        keys: list[Any] = line[:2]
        for column in COLUMNS:
            value = mean_over_folds(cells, agent, column)
            keys.append("" if value is None else value["value"])
        keys += [seed_deviation(cells, agent, "likes") or "", line[-1]]
        tds = [
            f'<td data-key="{html.escape(str(key))}">{html.escape(text)}</td>'
            for key, text in zip(keys, line, strict=True)
        ]
        body.append(f"<tr>{''.join(tds)}</tr>")
    heads = "".join(f'<th scope="col"><button type="button">{html.escape(head)}</button></th>' for head in header())
    return (
        '<div class="leaderboard"><table><thead><tr>' + heads + "</tr></thead><tbody>" + "".join(body)
        + f"</tbody></table></div>\n<style>{_STYLE}</style>\n<script>{_SCRIPT}</script>"
    )  # fmt: skip


def comparison_sentences(cells: Cells, agents: Mapping[str, str]) -> list[str]:
    """Return what the intervals of the differences to the greedy rating model say, a sentence per figure."""
    sentences = []
    for column, name in (("choice_difference", "Held-out choice"), ("likes_difference", "Likes per session")):
        groups: dict[str, list[str]] = {"better": [], "worse": [], "no difference shown": []}
        for agent in agents:
            gap = mean_over_folds(cells, agent, column)
            if gap is not None:
                where = "better" if gap["lo"] > 0 else "worse" if gap["hi"] < 0 else "no difference shown"
                groups[where].append(agent)
        told = "; ".join(f"{where}: {', '.join(names)}" for where, names in groups.items() if names)
        sentences.append(f"{name}, compared with the greedy rating model: {told or NOT_RUN}.")
    both = _paying(cells, agents)
    sentences.append(
        f"Better than the greedy rating model on both: {', '.join(both)}." if both
        else "No agent is shown to be better than the greedy rating model on both."
    )  # fmt: skip
    absent = [agent for agent in agents if mean_over_folds(cells, agent, "choice") is None]
    if absent:
        sentences.append(f"Not run: {', '.join(absent)}.")
    return sentences


def extent(cells: Cells, agents: Mapping[str, str]) -> str:
    """Return how much was run, and of what the means in the table are."""
    return (
        f"{len(cells)} of {len(CELLS) * len(agents)} cells were run. The means are over the folds that every agent has:"
        f" {', '.join(common_folds(cells)) or 'none yet'}."
    )


def _paying(cells: Cells, agents: Sequence[str] | Mapping[str, str]) -> list[str]:
    gaps = {
        agent: [mean_over_folds(cells, agent, column) for column in ("choice_difference", "likes_difference")]
        for agent in agents
    }
    return [agent for agent, pair in gaps.items() if all(gap is not None and gap["lo"] > 0 for gap in pair)]


def figures(cells: Cells, agents: Mapping[str, str]) -> dict[str, float]:
    """Return the main numbers by name, for results.json."""
    numbers = {"cells_run": float(len(cells)), "cells": float(len(CELLS) * len(agents))}
    for agent in agents:
        for column in ("choice", "likes", "choice_difference", "likes_difference"):
            value = mean_over_folds(cells, agent, column)
            if value is not None:
                numbers |= {f"{agent}_{column}_{key}": float(f"{number:.6g}") for key, number in value.items()}
    return numbers


def write_readme(results: Path) -> None:
    """Write sentences and table into the README next to the results, between its marks; nothing if there is none."""
    readme = results.with_name("README.md")
    if not readme.exists():
        return
    body = json.loads(results.read_text(encoding="utf-8"))
    cells, agents = body["cells"], body["agents"]
    text = "\n\n".join([*comparison_sentences(cells, agents), extent(cells, agents), markdown_table(cells, agents)])
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


_STYLE = """
.leaderboard { overflow-x: auto; }
.leaderboard table { border-collapse: collapse; font-size: var(--font-size--small); }
.leaderboard table { font-variant-numeric: tabular-nums; }
.leaderboard th, .leaderboard td { border-bottom: 1px solid var(--color-table-border); padding: .2em .6em; }
.leaderboard th, .leaderboard td { text-align: left; }
.leaderboard td { white-space: nowrap; }
.leaderboard td:last-child { white-space: normal; min-width: 12em; }
.leaderboard button { all: unset; cursor: pointer; font-weight: bold; }
.leaderboard button:focus-visible { outline: 2px solid; }
.leaderboard th[aria-sort=ascending] button::after { content: " \\2191"; }
.leaderboard th[aria-sort=descending] button::after { content: " \\2193"; }
"""
_SCRIPT = """
for (const board of document.querySelectorAll(".leaderboard")) {
  const heads = [...board.querySelectorAll("th")], body = board.querySelector("tbody");
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "descending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.key;
    const rank = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    const rows = [...body.rows].sort((one, other) => {
      const a = key(one), b = key(other);
      if (a === "" || b === "") return (a === "") - (b === "");
      return up ? rank(a, b) : rank(b, a);
    });
    body.append(...rows);
  }));
}
"""


if __name__ == "__main__":
    write_readme(Path(__file__).with_name("results.json"))
