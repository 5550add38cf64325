"""The report of a trained policy: its training, its figures beside the baselines, its suggestions, on one page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.files import write_json
from recpolicy.core.metrics import read_csv
from recpolicy.core.optional_deps import require_extra
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.splits import Split
from recpolicy.evaluation.gate import GateConfig, gate
from recpolicy.inference.predictor import Policy
from recpolicy.workflows.evaluate import METRICS_FILE, HeldOutEvaluation, evaluate
from recpolicy.workflows.evaluate_candidate import CandidateEvaluation, evaluate_candidate
from recpolicy.workflows.evaluate_sessions import SessionEvaluation, evaluate_sessions

_NOTES = (
    "Held-out choice: the policy chooses among the items that a user really rated in the test part, so the reward of"
    " every alternative is known. Intervals are 95 % bootstrap intervals over users. Random is the uniform choice,"
    " oracle the best one; place is where a choice lies between them, 0 at random, 1 at the oracle.",
    "Evaluation regret: how much less the policy's choice is worth than the best item, in a simulated world of another"
    " model class than the one it was trained in. The training regret is that of the training world: the gap between"
    " the two is what simulation cannot be trusted for.",
    "A rating is known only where a user chose to rate: nothing here is a click-through rate.",
)

_SESSION_NOTE = (
    "Sessions are simulated: likes, watch fractions and going on are stand-ins made of ratings and their times; drift"
    " and fatigue are assumed (docs/explanation/simulator.md). The evaluation world simulates other users by another"
    " model class than the training world; fatigue_aware knows its hidden state and is no policy that could be served."
    " How much of a gain comes from looking ahead and how much from learning the next like better, only a training with"
    " gamma 0 can tell: benchmarks/looking_ahead compares the two."
)


def write_policy_report(
    policy: Policy,
    split: Split,
    folder: Path,
    out: Path,
    *,
    user: Any = None,
    seed: int = 0,
    log: BanditLog | None = None,
    incumbent: Policy | None = None,
    limits: GateConfig | None = None,
) -> HeldOutEvaluation:
    """Evaluate the policy (whose artifact is `folder`) and write the page to `out`; `user` gets the suggestions.

    With logged rounds, the page shows what they say of the policy beside the incumbent (or whoever logged), and the
    gate. Raises what `evaluate_candidate` raises for rounds and incumbent, and ConfigError where there can be no page.
    """
    require_extra("train", "the report")
    from recpolicy.evaluation.report_page import ReportContent, refuse_page, write_report
    from recpolicy.workflows.evaluation_page import LOG_NOTE, evaluation_tables

    refuse_page(out)  # before anything is computed
    policies = {policy.artifact.agent: policy}
    evaluated = None if log is None else evaluate_candidate(policy, split, log, incumbent, seed)
    verdict = _verdict(evaluated, policies, split, folder, seed)
    played = evaluate_sessions(policies, split, seed=seed, out=folder) if policy.sequential else None
    sessions = [] if played is None else [("In simulated sessions, 95 % intervals over users", played.table())]
    log_tables, log_figures = _of_log(evaluated, limits)
    content = ReportContent(
        title=f"{policy.artifact.agent} on {policy.metadata['data']}",
        summary=_summary(policy.metadata) + _log_summary(evaluated),
        tables=[
            *log_tables, ("On held-out ratings, beside the baselines", verdict.table()), *sessions,
            *evaluation_tables(verdict.evaluation), _suggestions(policy, user),
        ],
        figures=log_figures + _session_figures(played, folder) + _figures(policy, split, verdict, folder, user),
        notes=[
            *_NOTES, f"Evaluation world: {verdict.evaluation_world}.", *([] if played is None else [_SESSION_NOTE]),
            *([] if evaluated is None else [LOG_NOTE]),
        ],
    )  # fmt: skip
    write_report(out, content)
    return verdict


def _verdict(
    evaluated: CandidateEvaluation | None, policies: Mapping[str, Policy], split: Split, folder: Path, seed: int
) -> HeldOutEvaluation:
    if evaluated is None or evaluated.held_out is None:
        return evaluate(policies, split, seed=seed, out=folder)
    write_json(folder / METRICS_FILE, evaluated.held_out.as_dict())
    return evaluated.held_out


def _of_log(
    evaluated: CandidateEvaluation | None, limits: GateConfig | None
) -> tuple[list[Any], list[tuple[str, str]]]:
    """Tables and figures of the log, the gate first; nothing without a log."""
    if evaluated is None or evaluated.trial is None:
        return [], []
    from recpolicy.workflows.evaluation_page import estimator_tables, log_tables
    from recpolicy.workflows.gate_record import gate_tables

    tables, figures = estimator_tables(evaluated.trial)
    return [*gate_tables(gate(evaluated.as_dict(), limits)), *log_tables(evaluated), *tables], figures


def _summary(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    split, training = metadata["split"], metadata["training"]
    played = (
        f"{training['total_timesteps']:,} interactions"
        if "total_timesteps" in training
        else f"{training['rows']:,} rows"
    )
    return [
        ("agent", metadata["agent"]),
        ("split", f"{split['name']} (train {split['train'][:12]}, test {split['test'][:12]})"),
        ("training", f"{training['mode']}, {played}"),
        ("rating model", metadata["rating_model"]["name"]),
        ("settings", json.dumps(metadata["config"]["agent"])),
        ("seed", str(metadata["seed"])),
        ("versions", ", ".join(f"{name} {number}" for name, number in metadata["versions"].items())),
    ]


def _log_summary(evaluated: CandidateEvaluation | None) -> list[tuple[str, str]]:
    if evaluated is None or evaluated.trial is None:
        return []
    choices, digest = evaluated.trial.feedback, evaluated.inputs["rounds"] or ""
    return [
        ("judged on", f"{len(choices):,} logged rounds of {len(np.unique(choices.user)):,} users ({digest[:12]})"),
        ("compared with", evaluated.baseline),
    ]


def _suggestions(policy: Policy, user: Any) -> tuple[str, Any]:
    user = policy.artifact.users["user_id"].iloc[0] if user is None else user
    table = policy.recommend(user, k=10)[["rank", "title", "rating", "std", "propensity"]]
    return f"Suggestions for user {user}: items not yet rated", table.set_index("rank")


def _session_figures(played: SessionEvaluation | None, folder: Path) -> list[tuple[str, str]]:
    if played is None:
        return []
    from recpolicy.core.plotting import to_svg
    from recpolicy.evaluation.plots import session_curve_figure, session_rewards_figure

    evaluation, train = (
        {name: one.reward for name, one in found.items()} for found in (played.evaluation_world, played.train)
    )
    figures = [
        (
            "Reward of a session, in the evaluation world and in the training world",
            session_rewards_figure(evaluation, train),
        )
    ]
    if (folder / "metrics.csv").exists():
        rows = read_csv(folder / "metrics.csv")
        step, reward = (np.array([row[name] for row in rows]) for name in ("step", "sessions/reward"))
        baselines = {name: train[name].value for name in ("rating_model", "most_popular", "random")}
        figures.append(("Reward of a session while training", session_curve_figure(step, reward, baselines)))
    return [(caption, to_svg(figure)) for caption, figure in figures]


def _figures(
    policy: Policy, split: Split, verdict: HeldOutEvaluation, folder: Path, user: Any
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
                curves |= {key: plots.Curve(step, one * step[np.newaxis]) for key, one in per_interaction.items()}
            figures.append((caption, to_svg(draw(curves))))
    evaluation = verdict.evaluation
    choices = {key: result.held_out_choice for key, result in evaluation.policies.items()}
    chosen = plots.held_out_choice_figure(choices, evaluation.random, evaluation.oracle)
    figures.append(("Held-out choice between random and oracle", to_svg(chosen)))
    _, rating = policy.scores()
    test = split.test
    calibration = plots.calibration_figure(rating[test.user, test.item], test.rating)
    figures.append(("Predicted and true ratings on the test part", to_svg(calibration)))
    if "pulls" in policy.metadata["training"]:
        pulls = np.array(policy.metadata["training"]["pulls"])
        figures.append(("How often each item was shown while training", to_svg(plots.pulls_figure({name: pulls}))))
    user = policy.artifact.users["user_id"].iloc[0] if user is None else user
    best = policy.recommend(user, k=10)
    drawn = plots.recommendations_figure(
        best["title"].tolist(), best["rating"].to_numpy(), best["std"].to_numpy(), policy.artifact.scale
    )
    figures.append((f"Estimated ratings of the suggestions for user {user}", to_svg(drawn)))
    return figures
