"""A evaluation for people: tables and plots of what held-out ratings and logged rounds say."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from recpolicy.core.plotting import to_svg
from recpolicy.core.statistics import Interval
from recpolicy.evaluation.evaluation import Evaluation
from recpolicy.evaluation.groups import GroupFigure
from recpolicy.evaluation.report_page import ReportContent, write_report
from recpolicy.ope import plots as log_plots

if TYPE_CHECKING:
    from recpolicy.workflows.evaluate_candidate import CandidateEvaluation
    from recpolicy.workflows.log_evaluation import LogComparison

Tables = list[tuple[str, pd.DataFrame]]
LOG_NOTE = (
    "Values on logged rounds are off-policy estimates: what the policy, without exploring, would have earned in the"
    " rounds that another policy logged. They rest on true propensities and on overlap; the effective number of rounds"
    " says how much of the log speaks for this policy."
)


def write_evaluation_page(evaluation: "CandidateEvaluation", page: Path) -> None:
    """Write the page to `page`."""
    content = ReportContent(
        title=f"CandidateEvaluation of {evaluation.name}",
        summary=policy_summary(evaluation.policy),
        tables=log_tables(evaluation) + held_out_tables(evaluation),
        notes=[LOG_NOTE],
    )
    write_report(page, content)


def policy_summary(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of a policy as (label, value), for the head of a page; what is empty is left out."""
    return [
        (key, value if isinstance(value, str) else json.dumps(value))
        for key, value in described.items()
        if value not in (None, [], {})
    ]


def log_tables(evaluation: "CandidateEvaluation") -> Tables:
    """Value and gain on the log, and the gain by group; nothing without a log."""
    if evaluation.trial is None:
        return []
    found, trial = evaluation.trial.gain, evaluation.trial
    rows = {
        "candidate": str(found.candidate.intervals["bootstrap"]),
        evaluation.baseline: str(found.incumbent.intervals["bootstrap"]),
        "gain": str(found.intervals["bootstrap"]),
        "relative gain over who logged (snips)": None if trial.relative_gain is None else str(trial.relative_gain),
    }
    frame = pd.DataFrame({"reward per round": list(rows.values())}, index=pd.Index(list(rows), name="policy"))
    tables = [(f"On logged rounds ({found.estimator}, 95 % intervals over users)", frame)]
    if evaluation.log_groups:
        caption = f"Gain over {evaluation.baseline} on logged rounds, by group of users"
        tables.append((caption, _group_frame(evaluation.log_groups)))
    return tables


def held_out_tables(evaluation: "CandidateEvaluation") -> Tables:
    """Figures beside the baselines, what the lists are like, and groups; nothing without held-out ratings."""
    if evaluation.held_out is None:
        return []
    held_out = evaluation.held_out
    return [
        ("On held-out ratings, with the baselines", held_out.table()),
        *evaluation_tables(held_out.evaluation),
    ]


def evaluation_tables(evaluation: Evaluation) -> Tables:
    """What the lists are like, and the held-out choice by group of users."""
    return [
        (f"The {evaluation.k} best items not yet rated", evaluation.lists_table()),
        ("Held-out choice by group of users", evaluation.group_table()),
    ]


def estimator_tables(trial: "LogComparison") -> tuple[Tables, list[tuple[str, str]]]:
    """The table of all estimators, and the plots of the log: (tables, (caption, SVG) of figures)."""
    estimates = trial.estimates()
    logged = trial.feedback.behavior_prob
    figures = {
        "Overlap: how probable the logged items are": log_plots.overlap_figure(trial.candidate.prob, logged),
        "Weights: how few rounds speak for the policy": log_plots.weights_figure(trial.candidate.prob, logged),
        "What each estimator says": log_plots.estimators_figure(estimates, logged=_mean_reward(trial)),
        "Predicted and logged rewards": log_plots.reward_calibration_figure(trial.predictions(), trial.feedback.reward),
    }
    table = estimates.table()[["value", "bootstrap", "t", "effective sample size", "max weight", "tuned", "verdict"]]
    caption = "Estimators side by side (reward per round, 95 % intervals over users: bootstrap, Student's t)"
    return [(caption, table)], [(caption, to_svg(one)) for caption, one in figures.items()]


def _mean_reward(trial: "LogComparison") -> Interval:
    mean = float(trial.feedback.reward.mean())
    return Interval(mean, mean, mean)


def _group_frame(figures: Mapping[str, GroupFigure]) -> pd.DataFrame:
    return pd.DataFrame(
        {"users": [one.users for one in figures.values()], "gain": [str(one.interval) for one in figures.values()]},
        index=pd.Index(list(figures), name="group"),
    )
