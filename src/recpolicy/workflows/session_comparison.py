"""Compare a policy with another one in paired simulated sessions of the evaluation world.

W users of the world, U users and I items of the data, A action items. Both policies meet the same users with
the same random numbers, so the gain is paired, with a t interval over users. The sessions are simulated: they show
a gain given the world's assumptions (docs/explanation/simulator.md), not a gain in service.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError
from recpolicy.core.statistics import Interval, ratio_interval
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.splits import Split
from recpolicy.evaluation.diversity import ActionDiversity
from recpolicy.evaluation.groups import GroupFigure, Groups, group_figures
from recpolicy.inference.predictor import Policy
from recpolicy.models.own_like_model import LikeFunction, OwnLikeModel, read_like_model
from recpolicy.models.session_world import SessionWorld
from recpolicy.workflows.held_out_evaluation import check_trained_on, get_rating_model
from recpolicy.workflows.log_evaluation import check_same_ids
from recpolicy.workflows.session_plan import LIKE_MODEL
from recpolicy.workflows.session_players import (
    SESSIONS_PER_USER,
    check_comparable,
    greedy_choice,
    policy_environment,
    session_settings,
)
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds

GREEDY_RATING_MODEL = "the greedy rating model"
FITTED = "fitted"
"""In place of a like model: the fitted one, also for a policy that was trained with another."""


@dataclass(frozen=True)
class SessionComparison:
    """A policy against a baseline in the same simulated sessions."""

    baseline: str
    """Name of the policy that it is compared with."""
    world: str
    notes: tuple[str, ...]
    """The like model of the world, if it is your own or that of the training is another."""
    reward: Interval
    """Mean reward of a session."""
    gain: Interval
    """Mean reward of a session minus the baseline's, paired by user."""
    length: float
    """Mean number of items in a session, or of slates."""
    users: int
    sessions: int
    actions: ActionDiversity
    """Diversity of the items that the policy showed at a step."""
    slate_size: int
    """Number of items shown at once."""
    user: NDArray[np.int32] = field(repr=False, compare=False)
    """Rows [W] of the user table."""
    gain_by_user: NDArray[np.float64] = field(repr=False, compare=False)
    """Gain [W] of each user."""

    def figures(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "baseline": self.baseline, "world": self.world, "reward": self.reward.as_dict(),
            "gain": self.gain.as_dict(), "length": self.length, "users": self.users, "sessions": self.sessions,
            **({"slate_size": self.slate_size} if self.slate_size > 1 else {}),
            "notes": list(self.notes),
        }  # fmt: skip

    def group_gains(self, groups: Groups) -> dict[str, GroupFigure]:
        """Return the gain within each group of users [U]."""
        ones = np.ones(len(self.user))
        return group_figures(groups.of(self.user), self.gain_by_user, ones, float(np.ptp(self.gain_by_user)))


def compare_in_sessions(
    policy: Policy,
    incumbent: Policy | None,
    split: Split,
    seed: int = 0,
    users: NDArray[np.bool_] | None = None,
    like_model: "str | Path | LikeFunction | None" = None,
) -> SessionComparison:
    """Return the comparison of two policies in simulated sessions.

    Either policy may be one of single rounds: it shows its best items one after the other. If a session policy learned
    from slates, both policies show slates of its size.

    Args:
        policy: The candidate, trained on this split.
        incumbent: The policy in service; None compares with the greedy rating model of the candidate's features.
        split: The split, with timestamps.
        seed: Seed of the sessions.
        users: True [U] for the users whose sessions count; None counts all users of the evaluation world.
        like_model: Your own P(like) in the world, see `read_like_model`; or FITTED. None is the fitted one, unless the
            policy was trained with another.

    Raises:
        ConfigError: Both policies are of sessions that cannot be compared, or no user of the world counts; or the
            candidate was trained with a like model of its own, and none is given.
        DataError: The candidate was trained on another train part, or the incumbent has other users or items.
    """
    silence_libraries()
    check_trained_on("the policy", policy, split)
    own, notes = _world_model(policy, split, like_model)
    for role, compared in (("the policy", policy), ("the incumbent", incumbent)):
        if compared is not None and compared.artifact.trained_items < len(compared.artifact.items):
            raise ConfigError(
                f"{role} has items that were added after its training; simulated sessions know only those of the"
                " training: compare the versions on logged rounds"
            )
    if incumbent is not None:
        check_same_ids(policy, incumbent)
        if policy.sequential and incumbent.sequential:
            check_comparable({"the policy": policy, "the incumbent": incumbent}, own_worlds=True)
    # The policy whose sessions these are: of two single-round policies, the candidate with the default settings.
    host = incumbent if incumbent is not None and not policy.sequential and incumbent.sequential else policy
    settings = session_settings(host) if host.sequential else SessionTrainConfig()
    world = make_worlds(split, settings, policy.metadata["seed"], own).evaluation_world
    counted = np.ones(len(world.users), bool) if users is None else users[world.users]
    if not counted.any():
        raise ConfigError("sessions: none of the evaluation world's users counts; expected a split with more users")
    runners = _Runners(host, settings, world, seed)
    mine = runners.run(policy)
    theirs = (
        runners.run_table(get_rating_model(policy, split.train).mean) if incumbent is None else runners.run(incumbent)
    )
    baseline = GREEDY_RATING_MODEL if incumbent is None else f"incumbent {incumbent.metadata['policy_digest'][:8]}"
    reward, gain = mine.reward[counted], (mine.reward - theirs.reward)[counted]
    ones = np.ones(len(gain))
    return SessionComparison(
        baseline, world.name, notes, ratio_interval(reward, ones, float(np.ptp(reward))),
        ratio_interval(gain, ones, float(np.ptp(gain))), float(mine.length[counted].mean()), len(gain),
        SESSIONS_PER_USER * len(gain), mine.actions, settings.slate_size, world.users[counted], gain,
    )  # fmt: skip


def _world_model(
    policy: Policy, split: Split, like_model: "str | Path | LikeFunction | None"
) -> tuple[OwnLikeModel | None, tuple[str, ...]]:
    """Return the like model of the world, None for the fitted one, and notes on it.

    An artifact may come from anybody, so no module is imported because an artifact names it.
    """
    trained = policy.metadata.get(LIKE_MODEL)
    if like_model is None and trained is not None:
        raise ConfigError(
            f"the policy was trained with the like model {trained['name']}, so it is compared in that world: give"
            f" --like-model {trained['name']}; or --like-model {FITTED} for the fitted worlds, or --log-only"
        )
    if like_model is None or like_model == FITTED:
        name = None if trained is None else trained["name"]
        return None, () if name is None else (
            f"The policy was trained with {name}; these sessions are of the fitted one.",
        )
    own = read_like_model(like_model, split.train)
    note = f"P(like) of the simulated sessions is that of {own.name} (digest {own.digest[:12]})"
    if trained is None:
        return own, (f"{note}; the policy was trained with the fitted one.",)
    same = trained["digest"] == own.digest
    return own, (f"{note}, as in the training." if same else f"{note}; the training had other probabilities.",)


@dataclass(frozen=True)
class _ByUser:
    reward: NDArray[np.float64]  # [W] mean over a user's sessions
    length: NDArray[np.float64]  # [W]
    actions: ActionDiversity


class _Runners:
    """Runs policies in one world. Policies with the host's observations share one compiled runner."""

    def __init__(self, host: Policy, settings: SessionTrainConfig, world: SessionWorld, seed: int):
        self._host, self._world, self._seed, self._slate_size = host, world, seed, settings.slate_size
        self._runner = self._compile(host, settings)

    def run(self, policy: Policy) -> _ByUser:
        """Return the rewards of a session policy or a single-round policy."""
        if not policy.sequential:
            return self.run_table(policy.scores()[0])
        runner = self._runner if policy is self._host else self._compile(policy, session_settings(policy))
        return self._by_user(runner, greedy_choice(policy))

    def run_table(self, score: NDArray[np.floating]) -> _ByUser:
        """Return the rewards of showing each user's best items by a table [U, I]."""
        from recpolicy.evaluation.sessions import by_table

        rows = score[self._world.users][:, self._host.artifact.action_items]
        return self._by_user(self._runner, by_table(rows, self._slate_size))

    def _compile(self, policy: Policy, settings: SessionTrainConfig) -> Any:
        from recpolicy.evaluation.sessions import SessionRunner

        sessions = SESSIONS_PER_USER * len(self._world.users)
        return SessionRunner(policy_environment(policy, settings, self._world, self._seed, sessions), sessions)

    def _by_user(self, runner: Any, choose: Any) -> _ByUser:
        results = runner.run(choose, self._seed)
        length = results.by_user(results.length.astype(np.float64))
        return _ByUser(results.by_user(results.reward), length, results.diversity())
