"""The table of benchmarks/leaderboard: means over folds, marks of what was not run, sentences from intervals."""

import importlib.util
import json
from pathlib import Path

import pytest

_PATH = Path(__file__).parents[1] / "benchmarks" / "leaderboard" / "leaderboard.py"


@pytest.fixture(scope="module")
def leaderboard():
    spec = importlib.util.spec_from_file_location("leaderboard", _PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


AGENTS = {"rating_model": "baseline", "linucb": "rounds", "ppo": "sessions", "dqn": "sessions"}


def cell(choice, likes, **difference):
    interval = {name: {"value": value, "lo": value - 0.5, "hi": value + 0.5} for name, value in difference.items()}
    return {
        "choice": {"value": choice, "lo": choice - 1, "hi": choice + 1},
        "likes": {"value": likes, "lo": likes - 1, "hi": likes + 1},
        "regret": {"value": 0.5, "lo": 0.4, "hi": 0.6}, "rmse": 0.9, "coverage": 0.1, "diversity": None,
        "training_s": 7.0, "recommend_ms": 1.5, **interval,
    }  # fmt: skip


CELLS = {
    "rating_model/u1/0": cell(4.0, 13.0),
    "linucb/u1/0": cell(4.0, 13.0, choice_difference=1.0, likes_difference=-1.0),
    "linucb/u2/0": cell(4.4, 13.0, choice_difference=1.0, likes_difference=-1.0),
    "linucb/u1/3": cell(4.2, 15.0, choice_difference=9.0, likes_difference=9.0),
    "ppo/u1/0": cell(4.0, 14.0, choice_difference=0.1, likes_difference=1.0),
}


def test_a_mean_over_folds_has_the_means_of_their_bounds_and_other_seeds_do_not_count(leaderboard):
    alone = {key: value for key, value in CELLS.items() if key.startswith("linucb")}
    assert leaderboard.mean_over_folds(alone, "linucb", "choice") == pytest.approx({"value": 4.2, "lo": 3.2, "hi": 5.2})
    assert leaderboard.mean_over_folds(CELLS, "linucb", "choice")["value"] == 4.0  # the others have no u2
    assert leaderboard.seed_deviation(CELLS, "linucb", "likes") == pytest.approx(2**0.5)  # 13 and 15 on u1
    assert leaderboard.seed_deviation(CELLS, "ppo", "likes") is None


def test_what_was_not_run_is_marked(leaderboard):
    text = leaderboard.markdown_table(CELLS, AGENTS).splitlines()
    linucb, dqn = (next(line for line in text if line.startswith(f"| {name} ")) for name in ("linucb", "dqn"))
    assert "u3, u4, u5, seeds 1, 2, 4 on u1 not run" in linucb
    assert dqn.count("not run") == len(leaderboard.COLUMNS) + 1
    assert len({line.count("|") for line in text}) == 1
    everything = {f"ppo/{fold}/{seed}": CELLS["ppo/u1/0"] for fold, seed in leaderboard.CELLS}
    assert leaderboard.missing(everything, "ppo") == ""


def test_sentences_follow_from_the_intervals(leaderboard):
    choice, likes, both, absent = leaderboard.comparison_sentences(CELLS, AGENTS)
    assert choice.endswith("better: linucb; no difference shown: ppo.")
    assert likes.endswith("better: ppo; worse: linucb.")
    assert both == "No agent is shown to be better than the greedy rating model on both."
    assert absent == "Not run: dqn."
    winner = CELLS | {"ppo/u1/0": cell(5.0, 15.0, choice_difference=1.0, likes_difference=1.0)}
    assert "on both: ppo." in leaderboard.comparison_sentences(winner, AGENTS)[2]


def test_html_sorts_by_numbers_and_escapes(leaderboard):
    page = leaderboard.html_table(CELLS, {**AGENTS, "<script>": "rounds"})
    assert 'data-key="14.0"' in page
    assert "&lt;script&gt;" in page
    assert page.count("<tr>") == 1 + 5
    assert leaderboard.figures(CELLS, AGENTS)["linucb_choice_difference_lo"] == 0.5


def test_the_table_replaces_that_of_the_readme(leaderboard, tmp_path):
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"cells": CELLS, "agents": AGENTS}))
    leaderboard.write_readme(results)  # no README, no harm
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{leaderboard.BEGIN}\nformer table\n{leaderboard.END}\nafter\n")
    leaderboard.write_readme(results)
    once = readme.read_text()
    leaderboard.write_readme(results)
    assert readme.read_text() == once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "former table" not in once
    assert "5 of 36 cells were run." in once
