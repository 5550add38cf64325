"""Sessions: a policy leads them, and logs of them are judged by every estimator of sessions.

M sessions of at most T steps, N steps in all, An items. The target is a session policy as it explores; its choices at
logged steps are replayed as `recpolicy ope estimate --policy-mode exploring` does.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from counting import Asked
from numpy.typing import NDArray

from recpolicy.agents.learner import ExportedPolicy
from recpolicy.environments.session import SessionEnvironment
from recpolicy.inference.artifact import PolicyParts
from recpolicy.inference.predictor import Policy
from recpolicy.inference.session_replay import exploring_probabilities, moments
from recpolicy.models.session_world import SessionWorld
from recpolicy.ope.config import MultiStepConfig
from recpolicy.ope.engine import trajectory_value_differences
from recpolicy.ope.feedback import TrajectoryFeedback
from recpolicy.ope.fqe import FQEConfig, linear_model
from recpolicy.training.rollout_sessions import (
    SessionRollout,
    exploring,
    rollout_sessions,
    softmax_policy,
    with_uniform_mix,
)
from recpolicy.workflows.policy_feedback import SESSION_RIDGE, step_features
from recpolicy.workflows.session_settings import SessionTrainConfig, session_config
from recpolicy.workflows.training_data import coerce

Array = NDArray[np.float64]

EACH = 5
"""Sessions of a user."""
_SIDE_BY_SIDE = 1_024


@dataclass(frozen=True)
class Stage:
    """Where sessions are led: the world, and the policy to be judged in it."""

    world: SessionWorld
    policy: Policy

    def play(self, floor: float, sessions: int, seed: int) -> SessionRollout:
        """Let the policy lead sessions, exploring with a share of uniform choices; of 1 the choice is random."""
        parts = self.policy.artifact
        if floor == 1:
            chance = softmax_policy(np.zeros(len(parts.action_items)))
        else:
            exported = ExportedPolicy(parts.estimator, parts.head, dict(parts.settings), dict(parts.policy))
            chance = with_uniform_mix(exploring(exported), floor)
        training = coerce(SessionTrainConfig, self.policy.metadata["config"]["train"], "train")
        environment = SessionEnvironment(
            self.world, parts.context, parts.item, parts.action_items, session_config(training, _SIDE_BY_SIDE), seed
        )
        return rollout_sessions(environment, chance, sessions, seed, False)

    @cached_property
    def parts(self) -> PolicyParts:
        """The same policy, knowing of no items beyond its catalog, nor of the value of a session: quicker to ask."""
        parts, arms = self.policy.artifact, self.policy.artifact.action_items
        arrays = {name: array for name, array in parts.policy.items() if not name.startswith("value/")}
        return replace(
            parts, item=parts.item[arms], offset=parts.offset[arms], action_items=np.arange(len(arms), dtype=np.int32),
            policy={**arrays, "genres": arrays["genres"][arms]},
        )  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """A log of M sessions as a replay reads it, session after session; the items are arms."""

    user: NDArray[np.int32]  # [N]
    step: NDArray[np.int32]  # [N]
    item: NDArray[np.int32]  # [N]
    log_propensity: Array  # [N]
    reward: Array  # [N]
    liked: NDArray[np.bool_]  # [N]
    ended: NDArray[np.bool_]  # [N]
    start: NDArray[np.intp]  # [M + 1]

    def __len__(self) -> int:
        return len(self.step)

    @property
    def length(self) -> NDArray[np.intp]:
        """Steps of each session [M]."""
        return np.diff(self.start)

    def padded(self, values: NDArray[np.floating]) -> Array:
        """Values [N, ...] of the steps as a table [M, T, ...], 0 after the end."""
        table = np.zeros((len(self.length), int(self.length.max()), *values.shape[1:]))
        table[np.repeat(np.arange(len(self.length)), self.length), self.step] = values
        return table


@dataclass(frozen=True)
class Sessions:
    """All sessions that were played."""

    rollout: SessionRollout

    @cached_property
    def begin(self) -> NDArray[np.intp]:
        """Where each session begins [M + 1]."""
        return np.append(np.flatnonzero(self.rollout.step == 0), len(self.rollout.step))

    @cached_property
    def person(self) -> NDArray[np.int32]:
        """Who was in each session [M]."""
        return self.rollout.user[self.begin[:-1]]

    @cached_property
    def earned(self) -> Array:
        """What each session earned [M]."""
        return np.add.reduceat(self.rollout.reward.astype(np.float64), self.begin[:-1])

    def taken(self, rows: NDArray[np.intp]) -> Steps:
        """These sessions, in this order."""
        length = np.diff(self.begin)[rows]
        start = np.append(0, np.cumsum(length))
        row = np.repeat(self.begin[rows] - start[:-1], length) + np.arange(start[-1])
        one = self.rollout
        return Steps(
            one.user[row], one.step[row], one.arm[row], one.log_propensity[row], one.reward[row].astype(np.float64),
            one.liked[row], one.ended[row], start,
        )  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """M sessions as estimators read them under the target."""

    sessions: TrajectoryFeedback
    features: Array  # [M, T, F]
    expected: Array  # [M, T, F]

    def first(self, sessions: int) -> "Seen":
        """The first sessions alone."""
        kept = np.arange(len(self.sessions)) < sessions
        return Seen(self.sessions.sessions(kept), self.features[:sessions], self.expected[:sessions])

    def shuffled(self, rng: np.random.Generator) -> "Seen":
        """The same sessions with the propensities of other steps of the log."""
        logged, inside = self.sessions.behavior_prob.copy(), self.sessions.is_step
        logged[inside] = rng.permutation(logged[inside])
        return replace(self, sessions=replace(self.sessions, behavior_prob=logged))


def seen(parts: PolicyParts, log: Steps, user: NDArray[np.integer]) -> Seen:
    """Sessions [M] of these users as `recpolicy ope estimate --policy-mode exploring` sees them."""
    probability, rating, wanted, typical = np.empty((4, len(log)))
    low, high = parts.scale
    for moment in moments(parts, log):
        chance = exploring_probabilities(parts, moment.estimate, moment.allowed)
        believed = np.clip((moment.estimate.mean - low) / (high - low), 0, 1)
        here = np.arange(len(moment.row)), moment.arm
        probability[moment.row], rating[moment.row] = np.minimum(chance[here], 1), believed[here]
        typical[moment.row] = believed.mean(axis=1)
        wanted[moment.row] = np.einsum("na,na->n", chance, believed)
    left = 1 - log.step / int(parts.policy["steps"])
    sessions = TrajectoryFeedback(
        reward=log.padded(log.reward), behavior_prob=log.padded(np.exp(log.log_propensity)),
        target_prob=log.padded(probability), length=log.length, user=user,
        ended=log.ended[log.start[1:] - 1] | (log.length == log.length.max()),
    )  # fmt: skip
    return Seen(sessions, *(log.padded(step_features(log, left, typical, one)) for one in (rating, wanted)))


def asked(log: Seen, config: MultiStepConfig) -> Asked:
    """What every estimator says of one log."""
    model = linear_model(log.sessions, log.features, log.expected, config, FQEConfig(ridge=SESSION_RIDGE))
    return trajectory_value_differences(log.sessions, None, None, config, model=model)
