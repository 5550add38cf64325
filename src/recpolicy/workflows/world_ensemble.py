"""Evaluate policies in an ensemble of evaluation worlds, for intervals that include the uncertainty of the simulator.

K worlds, W users of a world. Each world is fitted anew on a random half of the evaluation world's users and simulates
these users (models/session_worlds.py). The spread of a policy's reward over the worlds is that of the users and of the
fitted world together; the interval by users in one world has the users only. The worlds have one shape, so all
policies with the same observations share one compiled program, whose parameters are replaced from world to world.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.statistics import Interval, half_sample_interval
from recpolicy.inference.predictor import Policy
from recpolicy.models.session_world import SessionWorld
from recpolicy.workflows.session_players import (
    greedy_choice,
    group_by_observations,
    policy_environment,
    session_settings,
)


@dataclass(frozen=True)
class EnsembleReturns:
    """One policy's sessions in K worlds."""

    reward: Interval
    """Reward of a session in the evaluation world, with its interval over worlds."""
    gain: Interval | None
    """Reward minus that of the greedy rating model in the same worlds; None for that policy itself."""
    by_world: tuple[float, ...]
    """Reward of a session in each world."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        gain = None if self.gain is None else self.gain.as_dict()
        return {"reward": self.reward.as_dict(), "gain_on_rating_model": gain, "by_world": list(self.by_world)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "EnsembleReturns":
        """Return the figures that `as_dict` wrote."""
        gain = plain["gain_on_rating_model"]
        return cls(
            Interval(**plain["reward"]), None if gain is None else Interval(**gain), tuple(plain["by_world"])
        )  # fmt: skip


def play_ensemble(
    policies: Mapping[str, Policy],
    tables: Mapping[str, NDArray[np.floating]],
    worlds: Sequence[SessionWorld],
    sessions: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Return the mean reward of a session [K] of every policy and every table of scores [U, I], by name.

    Args:
        policies: The policies, of sessions or of single rounds.
        tables: Baselines by name, each a table of scores.
        worlds: The K worlds, all of one shape.
        sessions: Sessions of each policy in each world.
        seed: Seed of the sessions; all policies meet the same users and random numbers.
    """
    from recpolicy.evaluation.sessions import SessionRunner, by_table

    groups = group_by_observations(policies)
    scores = dict(tables) | {name: policy.scores()[0] for name, policy in policies.items() if not policy.sequential}
    action_items = next(iter(policies.values())).artifact.action_items
    rewards: dict[str, list[float]] = {name: [] for name in (*policies, *tables)}
    runners, size = [], session_settings(policies[groups[0][0]]).slate_size
    for group in groups:
        host = policies[group[0]]
        environment = policy_environment(host, session_settings(host), worlds[0], seed, sessions, replaceable=True)
        runners.append((group, environment, SessionRunner(environment, sessions)))
    for number, world in enumerate(worlds):
        for place, (group, environment, runner) in enumerate(runners):
            environment.load_world(world)
            choices = {name: greedy_choice(policies[name]) for name in group if policies[name].sequential}
            if place == 0:  # tables need any environment
                choices |= {name: by_table(table[world.users][:, action_items], size) for name, table in scores.items()}
            for name, choose in choices.items():
                results = runner.run(choose, seed + 1 + number)
                rewards[name].append(float(results.by_user(results.reward).mean()))
    return {name: np.array(values) for name, values in rewards.items()}


def ensemble_returns(
    rewards: Mapping[str, NDArray[np.float64]], full: Mapping[str, float], reference: str
) -> dict[str, EnsembleReturns]:
    """Return the intervals over worlds, around the rewards in the full evaluation world.

    Args:
        rewards: [K] by policy. full: Reward in the full world by policy. reference: The policy that gains are over.
    """
    result = {}
    for name, values in rewards.items():
        gain = None
        if name != reference:
            gain = half_sample_interval(full[name] - full[reference], values - rewards[reference])
        result[name] = EnsembleReturns(half_sample_interval(full[name], values), gain, tuple(values.tolist()))
    return result
