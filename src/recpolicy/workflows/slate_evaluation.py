"""Evaluate policies that show slates in simulated sessions: K items at once, chosen by single scores.

A session policy scores all items for the session so far, and the K best are the slate; a policy that learned from
slates has learned its scores for that. W users of the world, N sessions, A action items. All policies meet the same
users with the same random numbers, so differences are paired by user.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval, mean_interval
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.splits import Split
from recpolicy.evaluation.policy_scores import baseline_tables
from recpolicy.inference.predictor import Policy
from recpolicy.models.session_world import SessionWorld
from recpolicy.workflows.held_out_evaluation import check_trained_on, get_rating_model
from recpolicy.workflows.session_players import SESSIONS_PER_USER, session_settings
from recpolicy.workflows.session_settings import session_config


@dataclass(frozen=True)
class SlateResults:
    """The sessions of slates of one policy."""

    reward: Interval
    """Mean reward of a session: its liked items."""
    by_user: NDArray[np.float64]
    """Mean reward [W] of each user's sessions."""
    length: float
    """Mean number of slates of a session."""


def evaluate_slates(
    policies: Mapping[str, Policy],
    split: Split,
    world: SessionWorld,
    *,
    slate_size: int,
    continuation_probability: float = 0.8,
    sample: bool = False,
    seed: int = 0,
) -> dict[str, SlateResults]:
    """Evaluate session policies and the baselines in simulated sessions of slates.

    Args:
        policies: Session policies by name, trained on single items or slates; their catalogs must be equal.
        split: The split that all were trained on.
        world: The world of the users, such as the evaluation world.
        slate_size: Number K of items shown at once.
        continuation_probability: Probability of reading on after an item without a like, in (0, 1].
        sample: Draw the slates of policies from their probabilities without replacement, instead of the K best.
        seed: Seed of the sessions and the intervals.

    Returns:
        Results by name: the policies, and the baselines random, most_popular, highest_mean and rating_model.

    Raises:
        ConfigError: There is no policy, or one is not a session policy, or catalogs or lengths of sessions differ.
        DataError: A policy was trained on another train part.
        MissingExtraError: The extra `train` is not installed.
    """
    if not policies:
        raise ConfigError("evaluate_slates: no policies given; expected at least one")
    require_extra("train", "a simulation of sessions")
    silence_libraries()
    first = next(iter(policies.values()))
    for name, policy in policies.items():
        if not policy.sequential:
            raise ConfigError(f"{name} is a policy of single rounds; expected one of sessions")
        check_trained_on(name, policy, split)
        if not np.array_equal(policy.artifact.action_items, first.artifact.action_items):
            raise ConfigError(f"{name} has another catalog than {next(iter(policies))}; evaluate them one by one")
    from recpolicy.evaluation.sessions import SessionRunner, by_table

    model = get_rating_model(first, split.train)
    rows = np.ix_(world.users, first.artifact.action_items)
    tables = {name: table.score[rows] for name, table in baseline_tables(split.train, model).items()}
    runners: dict[str, Any] = {}
    results = {}
    for name, policy in policies.items():
        environment = _environment(policy, world, slate_size, continuation_probability, seed)
        runners[name] = SessionRunner(environment)
        results[name] = _results(runners[name].run(_slates_of(policy, slate_size, sample), seed), seed)

    runner = next(iter(runners.values()))
    baselines = {name: runner.run(by_table(table, slate_size), seed) for name, table in tables.items()}
    return results | {name: _results(played, seed) for name, played in baselines.items()}


def _slates_of(policy: Policy, slate_size: int, sample: bool) -> Callable[..., NDArray[np.integer]]:
    from recpolicy.evaluation.sessions import best_slate

    width = policy.artifact.context.shape[1]

    def choose(_: Any, observation: Any, mask: Any, rng: np.random.Generator) -> NDArray[np.integer]:
        score = policy.session_scores(observation[:, :width], observation[:, width:])
        if sample:  # the K best of perturbed log-odds are K draws without replacement
            score = score + rng.gumbel(size=score.shape)
        return best_slate(score, mask, slate_size, rng)

    return choose


def _environment(
    policy: Policy, world: SessionWorld, slate_size: int, continuation_probability: float, seed: int
) -> Any:  # fmt: skip
    """Return the environment of slates with the policy's own observations, at the length that it was trained for."""
    from recpolicy.environments.observation_encoders import OBSERVATION_ENCODERS
    from recpolicy.environments.session_slate import SlateConfig, SlateEnvironment

    artifact = policy.artifact
    shared = vars(session_config(session_settings(policy), SESSIONS_PER_USER * len(world.users)))
    config = SlateConfig(**shared, slate_size=slate_size, continuation_probability=continuation_probability)
    environment = SlateEnvironment(world, artifact.context, artifact.item, artifact.action_items, config, seed)
    steps = int(artifact.policy["steps"])  # a policy of single items counts fewer in a session
    environment.view = OBSERVATION_ENCODERS[config.view](
        artifact.item.shape[1], world.genres.shape[1], steps, config.last_n
    )
    return environment


def _results(played: Any, seed: int) -> SlateResults:
    earned = played.by_user(played.reward)
    return SlateResults(
        mean_interval(earned, generator(seed, "evaluation/slates")), earned, float(played.length.mean())
    )
