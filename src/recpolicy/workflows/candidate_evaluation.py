"""Evaluate a candidate: on held-out ratings with the baselines, and against the incumbent on logged rounds, on logged
sessions or in simulated sessions.

The evaluation is a JSON file for the gate, and a page for people. N rounds, U users, A items of the catalog.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.optional_deps import require_extra
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.session_log import SessionLog
from recpolicy.data.splits import Split
from recpolicy.evaluation.diversity import ActionDiversity, action_diversity
from recpolicy.evaluation.groups import GroupFigure, make_groups
from recpolicy.evaluation.ranking import top_items
from recpolicy.evaluation.rating_accuracy import Calibration, rating_calibration
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.models.own_like_model import LikeFunction
from recpolicy.ope.results import PolicyComparison
from recpolicy.workflows.evaluation_rounds import (
    ALL_USERS,
    chosen_users,
    is_log_of_sessions,
    read_gate_log,
    rounds_of_users,
)
from recpolicy.workflows.held_out_evaluation import HeldOutEvaluation, evaluate
from recpolicy.workflows.log_evaluation import (
    LogComparison,
    check_log_type,
    compare_on_log,
    off_policy_gain,
    plain_groups,
)
from recpolicy.workflows.session_comparison import SessionComparison, compare_in_sessions
from recpolicy.workflows.session_log_evaluation import SessionLogComparison, compare_on_sessions

__all__ = [
    "INCUMBENT", "CandidateEvaluation", "evaluate_candidate", "evaluate_candidate_folder", "off_policy_gain",
]  # fmt: skip

INCUMBENT = "incumbent"
"""The incumbent's name among the policies of the held-out evaluation."""
_LIKE = 0.75
"""A like is a rating in the upper quarter of the scale: 4 and more on 1..5."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of `predict` for one user and all items, without network and queue."""

    median_ms: float
    p99_ms: float
    calls: int


@dataclass(frozen=True)
class CandidateEvaluation:
    """The evaluation of one policy."""

    policy: Mapping[str, Any]
    held_out: HeldOutEvaluation | None
    name: str
    """The policy's name in `held_out`."""
    log_comparison: LogComparison | SessionLogComparison | None
    """The policy on logged rounds or sessions."""
    baseline: str
    """Name of the policy that `log_comparison` compares with."""
    seed: int
    actions: ActionDiversity
    """Diversity of the policy's best items, over the logged rounds or, without a log, over all users; of a policy of
    sessions, of the items that it shows at a step of simulated or logged sessions."""
    log_groups: Mapping[str, GroupFigure]
    """Gain on the log by group of users; empty without a log."""
    latency: Latency
    inputs: Mapping[str, str | None]
    """Digests of all inputs."""
    actions_over: str = "all users"
    """Choices behind `actions`: all users, logged rounds, logged sessions or simulated sessions."""
    sessions: SessionComparison | None = None
    """The policy in simulated sessions."""
    session_groups: Mapping[str, GroupFigure] = field(default_factory=dict)
    """Gain in simulated sessions by group of users; empty without them."""
    calibration: Calibration | None = None
    likes: dict[str, Any] = field(default_factory=dict)
    """ROC curve and confusion matrix of likes on held-out ratings; empty without them."""

    @property
    def off_policy(self) -> PolicyComparison | None:
        """The gain on logged rounds or sessions; None without a log."""
        return None if self.log_comparison is None else self.log_comparison.gain

    @property
    def held_out_against(self) -> str:
        """Name of the policy that the groups' held-out choice is compared with: the incumbent, if it is evaluated."""
        evaluated = {} if self.held_out is None else self.held_out.evaluation.policies
        return INCUMBENT if INCUMBENT in evaluated else "most_popular"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        body: dict[str, Any] = {
            "policy": dict(self.policy),
            "seed": self.seed,
            "inputs": dict(self.inputs),
            "actions": {
                **asdict(self.actions),
                "over": self.actions_over,
            },
            "latency": asdict(self.latency),
        }
        if self.held_out is not None:
            body["held_out"] = self._held_out(self.held_out)
        if self.log_comparison is not None:
            groups = {"baseline": self.baseline, "groups": plain_groups(self.log_groups)}
            body["off_policy"] = {**self.log_comparison.figures(self.baseline), "group_gain": groups}
            body["notes"] = list(self.log_comparison.notes)
        if self.sessions is not None:
            groups = {"baseline": self.sessions.baseline, "groups": plain_groups(self.session_groups)}
            body["sessions"] = {**self.sessions.figures(), "group_gain": groups}
            body["notes"] = [*body.get("notes", ()), *self.sessions.notes]
        return body

    def _held_out(self, held_out: HeldOutEvaluation) -> dict[str, Any]:
        evaluation = held_out.evaluation
        others = [name for name in evaluation.policies if name != self.name]
        gains = {other: evaluation.difference(self.name, other).as_dict() for other in others}
        result, baseline = evaluation.policies[self.name], self.held_out_against
        groups = plain_groups(evaluation.group_difference(self.name, baseline))
        return {
            **held_out.as_dict(), "gain": gains, "coverage": result.coverage, "rmse": result.rmse,
            "held_out_choice": result.held_out_choice.as_dict(), "group_gain": {"baseline": baseline, "groups": groups},
            "calibration": None if self.calibration is None else asdict(self.calibration),
        }  # fmt: skip

    def figures(self) -> dict[str, float | str]:
        """Return the main figures as a flat mapping."""
        body = self.as_dict()
        figures: dict[str, float | str] = {"agent": self.policy["agent"]}
        if "held_out" in body:
            held_out = body["held_out"]
            figures |= {"held_out_choice": held_out["held_out_choice"]["value"], "coverage": held_out["coverage"]}
            if held_out["rmse"] is not None:
                figures["rmse"] = held_out["rmse"]
        if "off_policy" in body:
            logged = body["off_policy"]
            figures |= {
                "off_policy_value": logged["value"]["value"], "gain": logged["gain"]["t"]["value"],
                "gain_lower": logged["gain"]["t"]["lo"], "gain_upper": logged["gain"]["t"]["hi"],
                "effective_sample_size": logged["effective_sample_size"],
            }  # fmt: skip
        if "sessions" in body:
            sessions = body["sessions"]
            figures |= {
                "session_reward": sessions["reward"]["value"], "session_gain": sessions["gain"]["value"],
                "session_gain_lower": sessions["gain"]["lo"], "session_gain_upper": sessions["gain"]["hi"],
            }  # fmt: skip
        if self.likes:
            figures["auc"] = self.likes["auc"]
        return figures


def evaluate_candidate_folder(
    folder: Path,
    split: Split | None,
    rounds: Path | None,
    incumbent: Path | None = None,
    seed: int = 0,
    users: str = ALL_USERS,
    *,
    sessions: bool = False,
    held_out: bool = True,
) -> CandidateEvaluation:
    """Evaluate the policy in `folder` on a split, on a file of rounds, or on both.

    Args:
        folder: The artifact of the candidate.
        split: The split of its training, or None.
        rounds: A file of rounds for evaluation or the folder of an ingested log, a log of sessions, or None. A session
            policy leaves rounds out: they hold no evidence on it.
        incumbent: The artifact of the policy in service; None compares with the logging policy.
        seed: Seed of the intervals and the sessions.
        users: Users whose rounds or sessions count: ALL_USERS, or a half of them by USER_HALVES.
        sessions: Evaluate in simulated sessions even if both policies are of single rounds.
        held_out: Evaluate on the held-out ratings of the split.

    Raises:
        DataError: Split and rounds are both None, the policy was trained on other ratings, or it has learned from these
            rounds.
        ConfigError: `users` is unknown.
    """
    policy = load_policy(folder)
    compared = None if incumbent is None else load_policy(incumbent)
    log = None
    if rounds is not None and (not policy.sequential or is_log_of_sessions(rounds)):
        log = rounds_of_users(read_gate_log(rounds, policy), users)
    counted = chosen_users(len(policy.artifact.users), users)
    return evaluate_candidate(
        policy, split, log, compared, seed, sessions=sessions, session_users=counted, held_out=held_out
    )


def evaluate_candidate(
    policy: Policy,
    split: Split | None,
    log: BanditLog | SessionLog | None,
    incumbent: Policy | None = None,
    seed: int = 0,
    *,
    sessions: bool = False,
    session_users: NDArray[np.bool_] | None = None,
    held_out: bool = True,
    guardrails: GuardrailConfig | None = None,
    like_model: "str | Path | LikeFunction | None" = None,
) -> CandidateEvaluation:
    """Evaluate a candidate on held-out ratings, on a log, and in simulated sessions.

    Args:
        policy: The candidate.
        split: The split of its training, or None.
        log: Rounds or sessions for evaluation, or None. Both policies may be of either kind on logged sessions.
        incumbent: The policy in service; None compares with the logging policy. Held-out ratings include it if it was
            trained on the same train part.
        seed: Seed of the intervals and the sessions.
        sessions: Evaluate in simulated sessions even if both policies are of single rounds.
        session_users: True [U] for the users whose sessions count; None counts all.
        held_out: Evaluate on the held-out ratings of the split.
        guardrails: Guardrails under which the policies choose on logged rounds.
        like_model: Your own P(like) in the simulated sessions, see `compare_in_sessions`.

    Returns:
        All figures, with intervals; `as_dict` is what a gate reads.

    Raises:
        DataError: Split and log are both None, the policy was trained on other ratings, or it has learned from the log.
        ConfigError: The policy is one of sessions, and the log is one of rounds; or the sessions of both cannot be
            compared; or there are guardrails and logged sessions, or a like model and no simulated ones.
    """
    on_sessions = isinstance(log, SessionLog)
    if on_sessions and guardrails is not None:
        raise ConfigError("guardrails are only for logged rounds; leave them out for sessions")
    if isinstance(log, BanditLog):
        check_log_type(policy, False, log.name)
    in_sessions = sessions or policy.sequential or (incumbent is not None and incumbent.sequential)
    if in_sessions and split is None and not on_sessions:
        raise DataError(
            "a session policy is evaluated in logged or simulated sessions: give a log of sessions, or the split of its"
            " training"
        )
    if split is None and log is None:
        raise DataError("an evaluation needs held-out ratings or logged rounds: split and log are both None")
    if like_model is not None and not (in_sessions and split is not None):
        raise ConfigError("a like model is that of simulated sessions, and there are none here: leave it out")
    name = policy.artifact.agent
    test_split = split if held_out else None
    held_out_result = None
    if test_split is not None:
        fair = incumbent is not None and incumbent.metadata["split"]["train"] == test_split.train.digest
        policies = {name: policy} | ({INCUMBENT: incumbent} if fair and incumbent is not None else {})
        held_out_result = evaluate(policies, test_split, seed=seed)
    log_incumbent = incumbent
    log_comparison: LogComparison | SessionLogComparison | None = None
    if isinstance(log, SessionLog):
        log_comparison = compare_on_sessions(policy, incumbent, log, seed)
    elif log is not None:
        # A session policy chooses by what came before, so single rounds hold no evidence on it.
        log_incumbent = None if incumbent is not None and incumbent.sequential else incumbent
        log_comparison = compare_on_log(policy, log_incumbent, log, seed, guardrails)
    session_result = None
    if in_sessions and split is not None:
        session_result = compare_in_sessions(policy, incumbent, split, seed, session_users, like_model)
    if policy.sequential and session_result is not None:
        actions, actions_over = session_result.actions, "simulated sessions"
    elif log_comparison is not None:
        actions, actions_over = log_comparison.actions, "logged sessions" if on_sessions else "logged rounds"
    else:
        actions, actions_over = _action_diversity(policy), "all users"
    artifact = policy.artifact
    groups = make_groups(artifact.users, np.bincount(artifact.rated_user, minlength=len(artifact.users)))
    return CandidateEvaluation(
        policy=_described(policy),
        held_out=held_out_result,
        name=name,
        log_comparison=log_comparison,
        baseline="the logging policy"
        if log_incumbent is None
        else f"incumbent {log_incumbent.metadata['policy_digest'][:8]}",
        seed=seed,
        actions=actions,
        actions_over=actions_over,
        log_groups={} if log_comparison is None else log_comparison.group_gains(groups),
        latency=measure_latency(policy),
        inputs=_inputs(policy, incumbent, split, log),
        sessions=session_result,
        session_groups={} if session_result is None else session_result.group_gains(groups),
        calibration=None
        if test_split is None
        else rating_calibration(_estimates(policy, test_split), test_split.test.rating),
        likes={} if test_split is None else _likes(policy, test_split),
    )


def _described(policy: Policy) -> dict[str, Any]:
    metadata = policy.metadata
    return {
        "agent": policy.artifact.agent, "policy_digest": metadata["policy_digest"], "data": metadata["data"],
        "settings": metadata["config"]["agent"], "seed": metadata["seed"], "log": metadata.get("log"),
        "parents": [parent["policy_digest"] for parent in metadata.get("parents", [])],
    }  # fmt: skip


def _inputs(
    policy: Policy, incumbent: Policy | None, split: Split | None, log: BanditLog | SessionLog | None
) -> dict[str, str | None]:
    return {
        "candidate": policy.metadata["policy_digest"],
        "incumbent": None if incumbent is None else incumbent.metadata["policy_digest"],
        "train": None if split is None else split.train.digest,
        "test": None if split is None else split.test.digest,
        "rounds": None if log is None else log.digest,
    }


def _action_diversity(policy: Policy) -> ActionDiversity:
    """Return the diversity of the best items of all users."""
    score = policy.scores()[0][:, policy.artifact.action_items]
    return action_diversity(top_items(score, np.zeros(score.shape, bool), k=1).count)


def _estimates(policy: Policy, split: Split) -> NDArray[np.floating]:
    """Return the estimates of the held-out ratings [N]."""
    return np.asarray(policy.ratings()[0][split.test.user, split.test.item])


def _likes(policy: Policy, split: Split, points: int = 200) -> dict[str, Any]:
    """Return the figures of likes against other held-out ratings; empty if all are of one kind."""
    require_extra("train", "the curve of likes")
    from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

    low, high = split.test.scale
    limit = low + _LIKE * (high - low)
    like = split.test.rating >= limit
    if like.all() or not like.any():
        return {}
    estimate = _estimates(policy, split)
    fpr, tpr, threshold = roc_curve(like, estimate)
    sampled = np.unique(np.linspace(0, len(fpr) - 1, points).astype(int))
    return {
        "auc": float(roc_auc_score(like, estimate)),
        "fpr": fpr[sampled].tolist(), "tpr": tpr[sampled].tolist(),
        "threshold": np.minimum(threshold[sampled], high).tolist(),  # the first is infinite
        "confusion": confusion_matrix(like, estimate >= limit).tolist(),
    }  # fmt: skip


def measure_latency(policy: Policy, calls: int = 200, seconds: float = 2.0) -> Latency:
    """Time `predict` for one user after another, up to `calls` times or for `seconds`.

    A first call fills caches and is not counted.
    """
    users = policy.artifact.users["user_id"].tolist()
    policy.predict(users[0])
    durations: list[float] = []
    start_all = time.perf_counter()
    while not durations or (len(durations) < calls and time.perf_counter() - start_all < seconds):
        user = users[len(durations) % len(users)]
        start = time.perf_counter()
        policy.predict(user)
        durations.append(1_000 * (time.perf_counter() - start))
    median, p99 = np.quantile(durations, [0.5, 0.99])
    return Latency(float(median), float(p99), len(durations))
