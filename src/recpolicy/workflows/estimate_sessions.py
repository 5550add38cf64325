"""Off-policy evaluation of one policy of sessions on one log of sessions, by every estimator.

M logged sessions of at most T steps, N steps in all, A arms, F features. The target is the policy as it acts without
exploring (`greedy`) or as its artifact explores (`exploring`); what it would have done at a logged step follows from
the session so far, replayed as the policy sees it (serving/session_replay.py). The value is the expected discounted sum
of a session's rewards, up to where the logging system would have cut it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, DivergedError, unknown_name_error
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.session_log import SessionLog
from recpolicy.data.session_log_files import SESSIONS, is_session_log, read_sessions
from recpolicy.inference.predictor import Policy
from recpolicy.inference.session_replay import ACTS, moments
from recpolicy.models.session_world import MISSES
from recpolicy.ope.diagnostics import LEAST_EFFECTIVE_ROUNDS, diagnose
from recpolicy.ope.fqe import FQEConfig
from recpolicy.ope.multi_step import SequenceConfig
from recpolicy.ope.step_models import StepModel, linear_model
from recpolicy.ope.stepwise import cumulative_weights, discounts, returns
from recpolicy.ope.trajectories import LoggedTrajectories
from recpolicy.ope.trajectory_estimate import estimate_trajectories, trajectory_gains
from recpolicy.ope.weights import effective_size
from recpolicy.workflows.compatibility import refuse_learnt, refuse_other_ids, refuse_other_kind
from recpolicy.workflows.estimate import PolicyEstimates
from recpolicy.workflows.training_features import settings_of

Array = NDArray[np.float64]

GREEDY, EXPLORING = "greedy", "exploring"
RIDGE = 0.1
"""Transitions' worth of pull on the reward model's weights: where all is liked, some of its features are one."""


@dataclass(frozen=True)
class SessionPolicyEstimates(PolicyEstimates):
    """What a log of sessions says of a policy; `logged` and all values are sums over a session."""

    act: str = GREEDY
    """How the policies were taken to act: a name in ACTS."""
    gamma: float = 1.0
    """Discount per step."""
    notes: tuple[str, ...] = ()
    """What a reader must know: estimators left out, and why the log says little."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        return {**super().as_dict(), "act": self.act, "gamma": self.gamma, "notes": list(self.notes)}


def estimate_session_policy(
    policy: Policy,
    log: SessionLog,
    incumbent: Policy | None = None,
    *,
    act: str = GREEDY,
    gamma: float = 1.0,
    config: SequenceConfig | Mapping[str, Any] | None = None,
    seed: int = 0,
) -> SessionPolicyEstimates:
    """Estimate what the policy would have earned per session of `log`, by every estimator.

    With an incumbent also the gain over it, paired session by session; both act alike. Estimators with a reward model
    are left out, with a note, where the model does not settle. Raises ConfigError for policies of single rounds, an
    unknown way to act and settings unknown or out of range; DataError for a log without propensities, of other users or
    another catalogue than the policy's or of longer sessions, for one that a policy has learnt from, and for an
    incumbent of other users or items.
    """
    if act not in ACTS:
        raise unknown_name_error("way to act", act, ACTS)
    if not 0 <= gamma <= 1:
        raise ConfigError(f"gamma is {gamma}; it must be in 0..1")
    _check("the policy", policy, log)
    if incumbent is not None:
        _check("the incumbent", incumbent, log)
        refuse_other_ids(policy, incumbent)
    settings = config if isinstance(config, SequenceConfig) else _settings(policy, log, gamma, config, seed)
    trial, notes = _trial("the policy", policy, log, act, gamma, settings)
    estimates = estimate_trajectories(trial.sessions, config=settings, model=trial.model)
    gains = {}
    if incumbent is not None:
        other, more = _trial("the incumbent", incumbent, log, act, gamma, settings)
        notes += more
        gains = trajectory_gains(
            trial.sessions, other.sessions, config=settings, model=trial.model, incumbent_model=other.model
        )
    logged = float(returns(trial.sessions.paid, gamma).mean())
    return SessionPolicyEstimates(log.name, logged, estimates, gains, act, gamma, tuple(notes))


def holds_sessions(path: Path) -> bool:
    """Whether this folder or file is a log of sessions."""
    return (path / SESSIONS).exists() if path.is_dir() else is_session_log(path)


def sessions_for(policy: Policy, path: Path) -> SessionLog:
    """Read a file of sessions, or the one in a folder; DataError names file, row and what the policy does not know."""
    return read_sessions(path / SESSIONS if path.is_dir() else path, IdVocabulary.from_policy(policy))


@dataclass(frozen=True)
class _Trial:
    """One policy on one log."""

    sessions: LoggedTrajectories
    model: StepModel | None
    """None where the fit did not settle."""


@dataclass(frozen=True)
class _Replayed:
    """What a policy would have done at the N logged steps, and the ratings that it expected there, in 0..1."""

    probability: Array  # [N], of the logged item
    rating: Array  # [N], of the logged item
    wanted: Array  # [N], on average over the policy's choices
    typical: Array  # [N], on average over the catalogue


def _trial(
    who: str, policy: Policy, log: SessionLog, act: str, gamma: float, settings: SequenceConfig
) -> tuple[_Trial, list[str]]:
    assert log.log_propensity is not None, "_check refuses logs without"
    replayed, last = _replayed(policy, log, act), log.start[1:] - 1
    sessions = LoggedTrajectories(
        reward=_padded(log, log.reward), logged_prob=_padded(log, np.exp(log.log_propensity)),
        target_prob=_padded(log, replayed.probability), length=log.length, user=log.user[log.start[:-1]], gamma=gamma,
        # A session as long as the longest met the limit of the logging system: that is its end.
        ended=log.ended[last] | (log.length == log.length.max()),
    )  # fmt: skip
    notes = _about_weights(who, sessions, act)
    left = 1 - log.step / int(policy.artifact.policy["steps"])
    features, expected = (
        _padded(log, step_features(log, left, replayed.typical, one)) for one in (replayed.rating, replayed.wanted)
    )
    try:
        return _Trial(sessions, linear_model(sessions, features, expected, settings, FQEConfig(ridge=RIDGE))), notes
    except DivergedError as error:
        notes.append(f"{who}: estimators with a reward model left out: {error}")
        return _Trial(sessions, None), notes


def _replayed(policy: Policy, log: SessionLog, act: str) -> _Replayed:
    found = _Replayed(*np.empty((4, len(log))))
    low, high = policy.artifact.scale
    for moment in moments(policy.artifact, log):
        row, logged = moment.row, (np.arange(len(moment.row)), moment.arm)
        probability = ACTS[act](policy.artifact, moment.estimate, moment.allowed)
        rating = np.clip((moment.estimate.mean - low) / (high - low), 0, 1)
        found.probability[row] = np.minimum(probability[logged], 1)
        found.rating[row], found.typical[row] = rating[logged], rating.mean(axis=1)
        found.wanted[row] = np.einsum("na,na->n", probability, rating)
    return found


def step_features(log: SessionLog, left: Array, typical: Array, rating: Array) -> Array:
    """What the reward model reads of each step [N, 9]: 1, the steps left, the responses so far, the ratings.

    left [N], the share of the steps that are left; typical, rating [N], expected of the catalogue and of an item.
    """
    begin, row = np.repeat(log.start[:-1], log.length), np.arange(len(log))
    before: Array = np.cumsum(log.liked) - log.liked.astype(np.float64)
    after_like = np.maximum.accumulate(np.where(log.liked, row + 1, 0))  # the row after the last like
    misses = row - np.maximum(np.append(0, after_like[:-1]), begin)
    columns = (
        np.ones(len(log)), left, left**2, (before - before[begin]) / log.length.max(), np.minimum(misses / MISSES, 1),
        typical, left * typical, rating, left * rating,
    )  # fmt: skip
    return np.column_stack(columns)


def _padded(log: SessionLog, values: NDArray[Any]) -> Array:
    """Values [N, ...] of the steps as a table [M, T, ...], 0 after the end."""
    table = np.zeros((len(log.length), int(log.length.max()), *values.shape[1:]))
    table[np.repeat(np.arange(len(log.length)), log.length), log.step] = values
    return table


def _check(who: str, policy: Policy, log: SessionLog) -> None:
    """Raise what `estimate_session_policy` says of a single policy and the log."""
    refuse_other_kind(policy, True, log.name)
    artifact = policy.artifact
    if log.log_propensity is None:
        raise DataError(f"{log.name}: no propensities, without which no estimator can weigh a session; log them")
    refuse_learnt(who, policy, log.name, log.digest)
    if int(log.user.max()) >= len(artifact.users):
        raise DataError(
            f"{log.name}: user row {int(log.user.max())}, but {who} ({artifact.agent}) knows {len(artifact.users)}"
            " users; read the log with the policy's tables (sessions_for)"
        )
    if not np.array_equal(log.catalogue, artifact.catalogue):
        raise DataError(
            f"{log.name}: its {len(log.catalogue)} items are not the {len(artifact.catalogue)} of {who}"
            f" ({artifact.agent}), which would have chosen among others; judge policies of the log's catalogue"
        )
    longest, steps = int(log.length.max()), int(artifact.policy["steps"])
    if longest > steps:
        raise DataError(
            f"{log.name}: a session of {longest} steps, but sessions of {who} ({artifact.agent}) have at most {steps}"
        )


def _settings(
    policy: Policy, log: SessionLog, gamma: float, config: Mapping[str, Any] | None, seed: int
) -> SequenceConfig:
    """Settings with the return of a session known to lie within what its steps can earn, one of them at least."""
    most = float(discounts(int(policy.artifact.policy["steps"]), gamma).sum())
    low, high = log.scale
    span = min(low, most * low), max(high, most * high)
    given = {"seed": seed, "reward_range": span, **(config or {})}
    found: SequenceConfig = settings_of(SequenceConfig, given, "off_policy")
    return found


def _about_weights(who: str, sessions: LoggedTrajectories, act: str) -> list[str]:
    """What the weights say of the log: from which step on it says little, and whether they average 1."""
    notes = []
    weight = cumulative_weights(sessions.ratio)
    left = np.array([effective_size(column) for column in weight.T])
    few = np.flatnonzero(left < LEAST_EFFECTIVE_ROUNDS)
    if len(few):
        advice = f"judge it as it explores (act {EXPLORING!r}), or " if act == GREEDY else ""
        notes.append(
            f"{who}: of {len(sessions):,} sessions fewer than {LEAST_EFFECTIVE_ROUNDS} effective ones are left after"
            f" step {few[0]} ({left[few[0]]:.0f}): {advice}take a log of a policy nearer to this one"
        )
    whole = np.ascontiguousarray(weight[:, -1])
    found = diagnose(whole, whole, sessions.units)
    if not found.sound:
        notes.append(
            f"{who}: the mean weight is {found.mean_weight:.3f} ± {found.mean_weight_error:.3f}, not 1: much of what it"
            " would do was hardly ever logged, or propensities are wrong; there is no verdict"
        )
    return notes
