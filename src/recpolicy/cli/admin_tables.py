"""Output of server responses: tables for people, JSON for machines.

Lists become tables and other fields one line each, so that fields of a newer server are shown, too.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from recpolicy.cli.output import print_json, print_text

_RUN = ("id", "name", "status", "executed_at", "finished_at", "users", "records")
_ROLLOUT = ("id", "champion", "challenger", "state", "stage", "traffic_fraction", "started_at", "ended_at", "reason")


def show(answer: Any, as_json: bool, print_answer: Callable[[Any], None]) -> None:
    """Print an answer as JSON for machines, or by a function for people."""
    if as_json:
        print_json(answer)
    else:
        print_answer(answer)


def say(
    answer: Any, as_json: bool, rows: str | None = None, columns: Sequence[str] = (), none: str | None = None
) -> None:
    """Print an answer; of `rows`, the name of its list, these columns (all where none is named) and nothing else."""
    if as_json:
        print_json(answer)
    elif rows is not None and isinstance(answer, Mapping) and rows in answer:
        listed = [{name: row.get(name) for name in columns or row} for row in answer[rows]]
        say_rows(listed, none or f"no {rows} yet")
    elif isinstance(answer, Mapping):
        say_facts(answer)
    elif answer is not None:
        say_rows(answer, "nothing yet")


def say_rows(rows: Sequence[Mapping[str, Any]], none: str) -> None:
    """Print rows as a table, or `none` where there are none."""
    import pandas as pd

    from recpolicy.cli.output import print_frame

    if not rows:
        print_text(none)
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    print_frame(pd.DataFrame({name: [_cell(name, row.get(name)) for row in rows] for name in names}, dtype=object))


def say_routing(routing: Mapping[str, Any]) -> None:
    """Print who serves whom, one fact a line."""
    print_text(f"champion: {_version(routing['champion'])}")
    if routing["challenger"] is None:
        print_text("challenger: none")
    else:
        what = "shadows" if routing["shadow"] else "answers"
        print_text(
            f"challenger: version {routing['challenger']}, {what} {100 * routing['traffic_fraction']:g} % of the users"
        )
    print_text(f"previous: {_version(routing['previous'])}")
    print_text(f"exploration: {'on' if routing['exploration'] else 'paused'}")


def say_status(answer: Mapping[str, Any]) -> None:
    """Print who serves whom, and whether the store takes what it is given."""
    say_routing(answer["routing"])
    print_text(f"serving: {answer['policy']['agent']}, version {answer['policy']['version']}; store: {answer['store']}")
    if answer.get("fault"):
        print_text(f"fault: {answer['fault']}")


def say_versions(answer: Mapping[str, Any]) -> None:
    """Print the versions of a registry as a table."""
    say_rows(
        [
            {
                "version": version["number"], "alias": ", ".join(version["aliases"]), "agent": version["agent"],
                "gate": version["verdict"] or "none", "registered": f"{version['registered_at'][:19]}Z",
                "digest": version["digest"][:12],
            }
            for version in answer["versions"]
        ],
        "no versions yet",
    )  # fmt: skip


def say_change(answer: Mapping[str, Any]) -> None:
    """Print who serves whom after a change."""
    say_routing(answer["routing"])
    print_text(f"in effect after {answer['ms']:.1f} ms")


def say_rollouts(answer: Mapping[str, Any]) -> None:
    """Print the next step and the figures of the rollout under way, and the last rollouts."""
    current = answer["current"]
    if current["rollout"] is not None:
        print_text(f"next: {current['next']} ({current['reason']})")
        say_facts({"metrics": current["metrics"]})
    say(answer, False, "rollouts", _ROLLOUT)


def _version(number: int | None) -> str:
    return "none" if number is None else f"version {number}"


def say_facts(answer: Mapping[str, Any], indent: str = "") -> None:
    """Print one fact a line; a part with facts of its own is indented under its name."""
    for name, value in answer.items():
        if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            print_text(f"{indent}{name}:")
            say_rows(value, "")
        elif isinstance(value, Mapping) and value:
            print_text(f"{indent}{name}:")
            say_facts(value, f"{indent}  ")
        else:
            print_text(f"{indent}{name}: {_cell(name, value)}".rstrip())


def say_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """Print runs of jobs as a table, with the reason of a run that did nothing or failed."""
    say_rows([{**{name: run.get(name) for name in _RUN}, "reason": _reason(run)} for run in runs], "no runs yet")


def say_checklist(answer: Mapping[str, Any]) -> None:
    """Print the items of the production checklist, and how many are kept."""
    items = answer["items"]
    names = ("figure", "expected", "command")
    rows = [
        {"item": item["name"], "": "kept" if item["kept"] else "NOT KEPT", **{name: item[name] for name in names}}
        for item in items
    ]
    say_rows(rows, "no items")
    print_text(f"{sum(item['kept'] for item in items)} of {len(items)} are kept")


def say_rollout_signals(answer: Mapping[str, Any]) -> None:
    """Print the differences of the signals of a rollout's variants as a table."""
    rows = [
        {
            "signal": row["type"], "segment": row["segment"], "users": sum(row["users"].values()),
            "rate": estimate_text(row["rate"]["champion"]), "rate difference": estimate_text(row["rate"]["difference"]),
            "value difference": estimate_text(row["value"]["difference"]),
        }
        for row in answer["rows"]
    ]  # fmt: skip
    say_rows(rows, "no signals yet")


def say_signals(answer: Mapping[str, Any]) -> None:
    """Print the rates of signals as a table."""
    names = ("day", "version", "task", "type", "events", "users")
    rows = [
        {**{name: row[name] for name in names}, **{name: estimate_text(row[name]) for name in ("rate", "mean")}}
        for row in answer["rows"]
    ]
    say_rows(rows, "no signals yet")


def say_drift(run: Mapping[str, Any] | None) -> None:
    """Print a drift check: time, version, one row of figures a metric, and the alarms."""
    if run is None:
        print_text("drift was not checked yet; check it now: recpolicy admin run drift")
        return
    checked, found = _cell("time", run["executed_at"]), run["metadata"]
    if run["status"] != "done":
        print_text(f"drift: run {run['id']}, {checked}: {run['status']}; {_reason(run)}")
        return
    print_text(f"drift: run {run['id']}, {checked}, version {found['version']}")
    metrics = found["metrics"].items()
    say_rows([{"metric": name, "figures": _figures(figures)} for name, figures in metrics], "no metrics")
    for kind, message in found["alarms"].items():
        print_text(f"ALARM ({kind}): {message}")
    if not found["alarms"]:
        print_text("no alarm")


def estimate_text(estimate: Mapping[str, float | None]) -> str:
    """Return an estimate with its interval; without one for a few users."""
    value, low, high = (estimate[name] for name in ("value", "lo", "hi"))
    if value is None:
        return ""
    if low is None or high is None:
        return f"{value:.3f}"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _figures(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return "too few events"
    return ", ".join(f"{name} {_cell(name, value)}" for name, value in figures.items())


def _reason(run: Mapping[str, Any]) -> str:
    return str(run["metadata"].get("reason") or run["metadata"].get("error") or "")


def _cell(name: str, value: Any) -> str:
    """A value in one line; milliseconds since 1970 as a time in UTC, days since 1970 as a date."""
    if type(value) is int and name == "day":
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=value)).strftime("%Y-%m-%d")
    if value is None:
        return ""
    if type(value) is int and value > 10**11 and (name in ("time", "heartbeat") or name.endswith("_at")):
        return datetime.fromtimestamp(value / 1e3, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, float):
        return f"{value:.3f}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
