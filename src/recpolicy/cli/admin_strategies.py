"""`recpolicy admin strategies`: the serving table of the strategy engine, and the last runs of its jobs."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from recpolicy.cli.admin_client import URL
from recpolicy.cli.admin_options import Json, KeyFile, Url
from recpolicy.cli.admin_tables import estimate_text, say_rows, say_runs, show
from recpolicy.cli.output import print_text

TRAIN, EVALUATE = "train_strategies", "evaluate_strategies"
_LEARNED = ("version", "interactions", "avg_reward", "reward_std", "like_rate", "total_states", "coverage")


def strategies(
    count: Annotated[int, typer.Option("--count", min=1, max=100, help="Runs of each job.")] = 5,
    url: Url = URL, key_file: KeyFile = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Show the statistics of the serving table of strategies, its last trainings, and the last evaluation."""
    from recpolicy.cli.admin_client import client

    server = client(url, key_file)
    statistics = server.get("/v1/strategies/stats")
    runs = {name: server.get(f"/v1/admin/runs?name={name}&limit={count}")["runs"] for name in (TRAIN, EVALUATE)}
    show({"statistics": statistics, "runs": runs}, as_json, say_strategies)


def say_strategies(answer: Mapping[str, Any]) -> None:
    """Print the statistics of the table, what the last trainings learned, the last evaluation, and the runs."""
    statistics, runs = answer["statistics"], answer["runs"]
    policy = statistics["policy"]
    name = "untrained" if policy["version"] is None else f"version {policy['version']}"
    print_text(f"strategies: {name}, {policy['policy_digest'][:12]}")
    facts = {key: value for key, value in statistics.items() if key != "policy"}
    say_rows([{"statistic": key, "value": _number(value)} for key, value in facts.items()], "no statistics")
    trained = [run for run in runs[TRAIN] if run["status"] == "done"]
    if trained:
        print_text("trainings:")
        say_rows(
            [{"executed_at": run["executed_at"], **{key: _number(run["metadata"].get(key)) for key in _LEARNED}}
             for run in trained], "none",
        )  # fmt: skip
    evaluated = next((run for run in runs[EVALUATE] if run["status"] == "done"), None)
    if evaluated is not None:
        found = evaluated["metadata"]
        print_text(f"evaluation of the last {found['test_days']:g} days:")
        parts = {"all": found["all"], **found["by_content_type"]}
        say_rows([_evaluation(kind, figures) for kind, figures in parts.items()], "none")
    print_text("runs:")
    say_runs(sorted([*runs[TRAIN], *runs[EVALUATE]], key=lambda run: run["id"], reverse=True))


def _number(value: float | None) -> str:
    """Return a number as `recpolicy strategy stats` prints it: shares of millions of cells are small."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _evaluation(content_type: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a kind of content in an evaluation."""
    return {
        "content type": content_type, "events": figures["events"], "users": figures["users"],
        "mean reward": estimate_text(figures["mean_reward"]), "like rate": estimate_text(figures["like_rate"]),
        "explored": figures["explored"],
    }  # fmt: skip
