"""The page of a candidate's evaluation, and tables that it shares with the report of a policy (policy_report.py)."""

import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from recpolicy.core.optional_deps import require_extra
from recpolicy.core.statistics import Interval
from recpolicy.evaluation.evaluation import Evaluation
from recpolicy.evaluation.groups import GroupFigure
from recpolicy.workflows.candidate_evaluation import CandidateEvaluation
from recpolicy.workflows.session_log_evaluation import SessionLogComparison

if TYPE_CHECKING:
    from recpolicy.workflows.log_evaluation import LogComparison

Tables = list[tuple[str, pd.DataFrame]]
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
LOG_NOTE = (
    "Values on logged rounds are off-policy estimates: the reward of the policy, without exploration, in the rounds"
    " that another policy logged. They need true propensities and overlap; the effective sample size measures the"
    " overlap."
)

SESSION_NOTE = (
    "Gains in sessions are simulated: both policies meet the same users with the same random numbers, in a world that"
    " neither was trained in. They hold for users who behave as that world assumes."
)


def write_evaluation_page(evaluation: "CandidateEvaluation", page: Path) -> None:
    """Write the evaluation of a candidate as an HTML page.

    Args:
        evaluation: The evaluation, with held-out ratings, logged rounds or both.
        page: File to write.

    Raises:
        MissingExtraError: The extra `report`, which draws the plots, is not installed.
    """
    require_extra("report", "the page of an evaluation")
    from recpolicy.evaluation.report_page import ReportContent, write_report

    content = ReportContent(
        title=f"Evaluation of {evaluation.name}",
        summary=policy_summary(evaluation.policy) + page_origin(),
        tables=log_tables(evaluation) + session_tables(evaluation) + held_out_tables(evaluation),
        notes=[LOG_NOTE, *([] if evaluation.sessions is None else [SESSION_NOTE])],
    )
    write_report(page, content)


def policy_summary(policy: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the non-empty facts about a policy as (label, value), for the head of a page; 12 digits of a digest."""
    return [
        (key, _DIGEST.sub(r"\1", value if isinstance(value, str) else json.dumps(value)))
        for key, value in policy.items()
        if value not in (None, [], {})
    ]


def page_origin() -> list[tuple[str, str]]:
    """Return when the page was written and by which command, if by one."""
    program = Path(sys.argv[0]).name
    command = [("command", " ".join([program, *sys.argv[1:]]))] if program == "recpolicy" else []
    return [("written", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")), *command]


def log_tables(evaluation: "CandidateEvaluation") -> Tables:
    """Return value and gain on the log, and the gain by group; empty without a log."""
    if evaluation.log_comparison is None:
        return []
    gain, relative = evaluation.log_comparison.gain, evaluation.log_comparison.relative_gain
    unit = "session" if isinstance(evaluation.log_comparison, SessionLogComparison) else "round"
    rows = {
        "candidate": str(gain.candidate.intervals["t"]),
        evaluation.baseline: str(gain.incumbent.intervals["t"]),
        "gain": str(gain.limits["t"]),
        "relative gain over the logging policy (snips)": None if relative is None else str(relative["t"]),
    }
    frame = pd.DataFrame({f"reward per {unit}": list(rows.values())}, index=pd.Index(list(rows), name="policy"))
    tables = [(f"On logged {unit}s ({gain.estimator}, 95 % intervals over users)", frame)]
    if evaluation.log_groups:
        caption = f"Gain over {evaluation.baseline} on logged {unit}s, by group of users"
        tables.append((caption, _group_frame(evaluation.log_groups)))
    return tables


def session_tables(evaluation: "CandidateEvaluation") -> Tables:
    """Return reward and gain in simulated sessions, and the gain by group; empty without them."""
    sessions = evaluation.sessions
    if sessions is None:
        return []
    rows = {
        "candidate": str(sessions.reward),
        f"gain over {sessions.baseline}": str(sessions.gain),
    }
    frame = pd.DataFrame({"reward per session": list(rows.values())}, index=pd.Index(list(rows), name="policy"))
    tables = [(f"In {sessions.sessions:,} simulated sessions of {sessions.users:,} users (95 % intervals)", frame)]
    if evaluation.session_groups:
        caption = f"Gain over {sessions.baseline} per session, by group of users"
        tables.append((caption, _group_frame(evaluation.session_groups)))
    return tables


def held_out_tables(evaluation: "CandidateEvaluation") -> Tables:
    """Return the figures with the baselines, of the lists and by group; empty without held-out ratings."""
    if evaluation.held_out is None:
        return []
    held_out = evaluation.held_out
    return [
        ("On held-out ratings, with the baselines", held_out.table()),
        *evaluation_tables(held_out.evaluation),
    ]


def evaluation_tables(evaluation: Evaluation) -> Tables:
    """Return the figures of the recommended lists, and the held-out choice by group of users."""
    return [
        (f"The {evaluation.k} best items not yet rated", evaluation.lists_table()),
        ("Held-out choice by group of users", evaluation.group_table()),
    ]


def estimator_tables(log_comparison: "LogComparison") -> tuple[Tables, list[tuple[str, str]]]:
    """Return the table of all estimators, and the plots of the log as (caption, SVG)."""
    from recpolicy.core.plotting import to_svg
    from recpolicy.ope import plots as log_plots

    estimates = log_comparison.estimates()
    logged = log_comparison.feedback.behavior_prob
    figures = {
        "Overlap: probability of the logged items": log_plots.overlap_figure(log_comparison.candidate.prob, logged),
        "Importance weights of the rounds": log_plots.weights_figure(log_comparison.candidate.prob, logged),
        "Estimates by estimator": log_plots.estimators_figure(estimates, logged=_mean_reward(log_comparison)),
        "Predicted and logged rewards": log_plots.reward_calibration_figure(
            log_comparison.predictions(), log_comparison.feedback.reward
        ),
    }
    table = estimates.table()[["value", "bootstrap", "t", "effective sample size", "max weight", "tuned", "verdict"]]
    caption = "Estimators side by side (reward per round, 95 % intervals over users: bootstrap, Student's t)"
    return [(caption, table)], [(caption, to_svg(figure)) for caption, figure in figures.items()]


def _mean_reward(log_comparison: "LogComparison") -> Interval:
    mean = float(log_comparison.feedback.reward.mean())
    return Interval(mean, mean, mean)


def _group_frame(figures: Mapping[str, GroupFigure]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "users": [group.users for group in figures.values()],
            "gain": [str(group.interval) for group in figures.values()],
        },
        index=pd.Index(list(figures), name="group"),
    )
