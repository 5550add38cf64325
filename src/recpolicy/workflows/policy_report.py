"""The report of a trained policy: one HTML page with its evaluation, its plots and its recommendations."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recpolicy.core.files import write_json
from recpolicy.core.metrics import read_csv
from recpolicy.core.optional_deps import require_extra
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.session_log import SessionLog
from recpolicy.data.splits import Split
from recpolicy.evaluation.evaluation import Evaluation
from recpolicy.evaluation.gate import GateConfig, gate, gate_tables
from recpolicy.inference.block_prediction import rating_interval
from recpolicy.inference.predictor import Policy
from recpolicy.workflows.candidate_evaluation import CandidateEvaluation, evaluate_candidate
from recpolicy.workflows.held_out_evaluation import METRICS_FILE, HeldOutEvaluation, evaluate
from recpolicy.workflows.learning_curve import learning_curve
from recpolicy.workflows.log_evaluation import LogComparison
from recpolicy.workflows.reports import LOG_NOTE, estimator_tables, evaluation_tables, log_tables, page_origin
from recpolicy.workflows.session_evaluation import SessionEvaluation, evaluate_or_read_sessions, read_metrics

_SUGGESTED = ("rank", "title", "rating", "std", "value", "session_value", "probability")
_NOTES = (
    "Held-out choice: the policy chooses among the items that a user really rated in the test part, so the reward of"
    " every alternative is known. Intervals are 95 % bootstrap intervals over users. Random is the uniform choice,"
    " oracle the best one; the normalized choice is 0 at random and 1 at the oracle.",
    "Evaluation regret: how much worse the policy's choice is than the best item, in a second simulated world that uses"
    " another model class than the training world. The training regret is measured in the training world. The gap"
    " between the two shows how far the simulation can be trusted.",
    "A rating is known only where a user chose to rate: nothing here is a click-through rate.",
    "The documentation explains every figure: docs/explanation/evaluation.md (held-out choice, regret, diversity),"
    " docs/explanation/simulator.md (worlds and sessions), docs/explanation/off_policy.md (logged rounds),"
    " docs/explanation/gate.md (the gate) and docs/glossary.md (words).",
)

_SESSION_NOTE = (
    "Sessions are simulated: likes, watch fractions and continuation are derived from ratings and their times; drift"
    " and fatigue are assumed (docs/explanation/simulator.md). The evaluation world simulates other users by another"
    " model class than the training world. fatigue_aware reads the hidden state of the world and cannot be served."
    " A training with gamma 0 shows how much of a gain comes from planning ahead: benchmarks/looking_ahead compares"
    " the two."
)


def write_policy_report(
    policy: Policy,
    split: Split,
    folder: Path,
    out: Path,
    *,
    user: Any = None,
    seed: int = 0,
    log: BanditLog | SessionLog | None = None,
    incumbent: Policy | None = None,
    limits: GateConfig | None = None,
) -> HeldOutEvaluation:
    """Evaluate the policy and write one self-contained HTML page.

    It needs no TensorFlow. Without the extra `train`, sessions are those that metrics.json holds from an earlier
    evaluation, and the page says what it leaves out.

    Args:
        policy: The policy.
        split: The split that it was trained on.
        folder: Its artifact; gets metrics.json.
        out: The page to write.
        user: The user whose recommendations the page shows; the first one by default.
        seed: Seed of the intervals.
        log: Logged rounds; with them, the page compares the policy with the incumbent and shows the gate.
        incumbent: The policy in service; None is the logging policy.
        limits: Limits of the gate; None takes the defaults.

    Returns:
        The evaluation on the test part.

    Raises:
        ConfigError: The page cannot be written to `out`.
        DataError: The policy was fitted on another train part, or has learned from these rounds.
        MissingExtraError: The extra `report`, which draws the plots, is not installed.
    """
    require_extra("report", "the report")
    from recpolicy.evaluation.report_page import ReportContent, refuse_page, write_report

    refuse_page(out)  # before the expensive part
    policies = {policy.artifact.agent: policy}
    evaluated = None if log is None else evaluate_candidate(policy, split, log, incumbent, seed)
    stored = read_metrics(folder)
    held_out = _evaluate_held_out(evaluated, policies, split, folder, seed)
    sessions, session_notes = (
        evaluate_or_read_sessions(policy, split, folder, seed, stored) if policy.sequential else (None, [])
    )
    session_tables = (
        [] if sessions is None else [("In simulated sessions, 95 % intervals over users", sessions.table())]
    )
    log_sections, log_figures = _log_sections(evaluated, limits)
    user = policy.artifact.users["user_id"].iloc[0] if user is None else user
    best = policy.recommend(user, k=10)
    content = ReportContent(
        title=f"{policy.artifact.agent} on {policy.metadata['data']}",
        answer=_answer(policy.artifact.agent, held_out.evaluation),
        own=policy.artifact.agent,
        summary=_summary(policy.metadata) + _log_summary(evaluated) + page_origin(),
        tables=[
            *log_sections, ("On held-out ratings, with the baselines", held_out.table()), *session_tables,
            *evaluation_tables(held_out.evaluation), _suggestions(best, user),
        ],
        figures=[
            *log_figures, *_session_figures(sessions, folder),
            *_figures(policy, split, held_out, folder, best, user),
        ],
        notes=[
            *held_out.notes, *session_notes, *_NOTES, f"Evaluation world: {held_out.evaluation_world}.",
            *([] if sessions is None else [_SESSION_NOTE]),
            *([] if evaluated is None else [LOG_NOTE]),
        ],
    )  # fmt: skip
    write_report(out, content)
    return held_out


def _evaluate_held_out(
    evaluated: CandidateEvaluation | None, policies: Mapping[str, Policy], split: Split, folder: Path, seed: int
) -> HeldOutEvaluation:
    if evaluated is None or evaluated.held_out is None:
        return evaluate(policies, split, seed=seed, out=folder)
    write_json(folder / METRICS_FILE, evaluated.held_out.as_dict())
    return evaluated.held_out


def _log_sections(
    evaluated: CandidateEvaluation | None, limits: GateConfig | None
) -> tuple[list[Any], list[tuple[str, str]]]:
    """Return tables and figures of the log, the gate first; empty without a log."""
    if evaluated is None or evaluated.log_comparison is None:
        return [], []
    comparison = evaluated.log_comparison
    tables, figures = estimator_tables(comparison) if isinstance(comparison, LogComparison) else ([], [])
    return [*gate_tables(gate(evaluated.as_dict(), limits)), *log_tables(evaluated), *tables], figures


def _summary(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    split, training = metadata["split"], metadata["training"]
    amount = (
        f"{training['total_timesteps']:,} interactions"
        if "total_timesteps" in training
        else f"{training['rows']:,} rows"
    )
    return [
        ("agent", metadata["agent"]),
        ("split", f"{split['name']} (train {split['train'][:12]}, test {split['test'][:12]})"),
        ("training", f"{training['mode']}, {amount}"),
        ("rating model", metadata["rating_model"]["name"]),
        ("settings", json.dumps(metadata["config"]["agent"])),
        ("seed", str(metadata["seed"])),
        ("versions", ", ".join(f"{name} {number}" for name, number in metadata["versions"].items())),
    ]


def _answer(name: str, evaluation: Evaluation) -> str:
    """Return in one sentence how the policy chooses on held-out ratings."""
    result = evaluation.policies[name]
    popular = evaluation.difference(name, "most_popular")
    share = result.normalized_choice
    way = "" if share is None else f" {share.value:.0%} of the way from random to perfect,"
    answer = (
        f"On held-out ratings, {name} chooses{way} {popular.value:+.2f} [{popular.lo:+.2f}, {popular.hi:+.2f}] rating"
        " points above most popular"
    )
    if "rating_model" not in evaluation.policies:
        return f"{answer}. It is not compared with the greedy rating model."
    model = evaluation.difference(name, "rating_model")
    verdict = "better than" if model.lo > 0 else "worse than" if model.hi < 0 else "not shown to differ from"
    return f"{answer}, and {verdict} the greedy rating model ({model.value:+.2f} [{model.lo:+.2f}, {model.hi:+.2f}])."


def _log_summary(evaluated: CandidateEvaluation | None) -> list[tuple[str, str]]:
    if evaluated is None or evaluated.log_comparison is None:
        return []
    choices, digest = evaluated.log_comparison.feedback, evaluated.inputs["rounds"] or ""
    unit = "rounds" if isinstance(evaluated.log_comparison, LogComparison) else "sessions"
    return [
        ("evaluated on", f"{len(choices):,} logged {unit} of {len(np.unique(choices.user)):,} users ({digest[:12]})"),
        ("compared with", evaluated.baseline),
    ]


def _suggestions(best: pd.DataFrame, user: Any) -> tuple[str, Any]:
    # A session policy has no value of a single item, but one of the session.
    table = best[[name for name in _SUGGESTED if name in best]]
    ranked = "value, the score without exploration" if "value" in table else "the policy's score without exploration"
    caption = (
        f"Suggestions for user {user}: items not yet rated, ranked by {ranked}. probability: of the item in a round"
        " of the exploring policy, which may prefer another one; rating: the expected rating; std: its standard"
        " deviation"
    )
    return caption, table.set_index("rank")


def _session_figures(sessions: SessionEvaluation | None, folder: Path) -> list[tuple[str, str]]:
    if sessions is None:
        return []
    from recpolicy.core.plotting import to_svg
    from recpolicy.evaluation.plots import session_curve_figure

    figures = [("Reward of a session, in the evaluation world and in the training world", sessions.plot())]
    if (folder / "metrics.csv").exists():
        rows = read_csv(folder / "metrics.csv")
        step, reward = (np.array([row[name] for row in rows]) for name in ("step", "sessions/reward"))
        names = ("rating_model", "most_popular", "random")
        baselines = {name: sessions.training_world[name].reward.value for name in names}
        figures.append(("Reward of a session while training", session_curve_figure(step, reward, baselines)))
        return [(caption, to_svg(figure)) for caption, figure in figures] + _exploration("the exploring policy", rows)
    return [(caption, to_svg(figure)) for caption, figure in figures]


def _exploration(name: str, rows: Sequence[Mapping[str, float]]) -> list[tuple[str, str]]:
    """Return the plot of the exploration of a training; none for metrics of versions that did not measure it."""
    if not rows or "exploration/share" not in rows[0]:
        return []
    from recpolicy.core.plotting import to_svg
    from recpolicy.evaluation.plots import Curve, exploration_figure

    last = rows[-1]
    caption = f"Exploration while training: at the end {last['exploration/share']:.1%} of the choices are not greedy"
    if "exploration/mean_width" in last:
        width = last["exploration/mean_width"]
        caption += f", and the chosen estimates have a mean standard deviation of {width:.3g} (0: not modeled)"
    step, share = (np.array([row[key] for row in rows]) for key in ("step", "exploration/share"))
    return [(caption, to_svg(exploration_figure({name: Curve(step, share[np.newaxis])})))]


def _figures(
    policy: Policy, split: Split, held_out: HeldOutEvaluation, folder: Path, best: pd.DataFrame, user: Any
) -> list[tuple[str, str]]:
    from recpolicy.core.plotting import to_svg
    from recpolicy.evaluation import plots

    figures = []
    name = policy.artifact.agent
    if (folder / "metrics.csv").exists() and not policy.sequential:
        rows = read_csv(folder / "metrics.csv")
        step = np.array([row["step"] for row in rows])
        for metric, draw, caption in (
            ("regret/cumulative", plots.regret_figure, "Cumulative regret in the training world"),
            ("reward/mean", plots.reward_figure, "Mean reward per interaction while training"),
        ):
            curves = {name: plots.Curve(step, np.array([[row[metric] for row in rows]]))}
            if metric == "regret/cumulative":
                per_interaction = policy.metadata["training"]["baseline_regret"]
                curves |= {key: plots.Curve(step, regret * step[np.newaxis]) for key, regret in per_interaction.items()}
            figures.append((caption, to_svg(draw(curves))))
        figures += _exploration(name, rows)
    evaluation = held_out.evaluation
    compared = [key for key in ("rating_model", "most_popular") if key in evaluation.policies]
    curve = learning_curve(policy, split, folder, seed=evaluation.seed)
    if curve is not None:
        choices = {key: evaluation.policies[key].held_out_choice for key in compared}
        caption = "Held-out choice at several times of the training, which saw none of these ratings"
        figures.append((caption, to_svg(curve.plot(choices))))
    figures.append(("Held-out choice between random and oracle", to_svg(held_out.plot())))
    others = [other for other in evaluation.policies if other != name]
    differences = {other: evaluation.difference(name, other) for other in others}
    forest = plots.intervals_figure(
        {name: differences}, f"held-out choice of {name} minus that of the policy", zero=0.0
    )
    figures.append((f"Differences of {name} to each policy, paired by user (95 %)", to_svg(forest)))
    by_group = {
        key: {group: figure.interval for group, figure in evaluation.policies[key].groups.items()}
        for key in (name, *compared)
    }
    if by_group[name]:
        groups = plots.intervals_figure(by_group, "mean true rating of the choice (stars)")
        figures.append(("Held-out choice by group of users (95 %)", to_svg(groups)))
    rating, std = (part[split.test.user, split.test.item] for part in policy.ratings())
    low, high = rating_interval(policy.artifact, rating, std)
    covered = float(np.mean((low <= split.test.rating) & (split.test.rating <= high)))
    calibration = plots.calibration_figure(rating, split.test.rating)
    caption = f"Predicted and true ratings on the test part; {covered:.1%} lie within their 95 % intervals"
    figures.append((caption, to_svg(calibration)))
    if "pulls" in policy.metadata["training"]:
        pulls = np.array(policy.metadata["training"]["pulls"])
        figures.append(("Recommendations of each item while training", to_svg(plots.pulls_figure({name: pulls}))))
    drawn = plots.recommendations_figure(
        best["title"].tolist(), best["rating"].to_numpy(), best["std"].to_numpy(), policy.artifact.scale
    )
    figures.append((f"Estimated ratings of the suggestions for user {user}", to_svg(drawn)))
    return figures
