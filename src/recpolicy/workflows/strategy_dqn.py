"""Deep Q-learning of strategies on continuous traits, from a log.

A network estimates Q(x, a) from the traits as numbers, the situation and the levels. Its target is r + gamma max_b
Q(x', b), where x' is the next round of the same session; without a next round it is r. The target network is that of
the pass before, so each pass is a regression: fitted Q iteration. Without sessions, or with gamma 0, one pass is all.
A policy to continue from is the first target network. Every pass fits a new network, so the rounds that the earlier
policy learned are learned again if they are in the window: a network of the new rounds alone would forget the others.
Source: Riedmiller 2005; Mnih et al. 2015.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.config import Count, NonNegativeNumber, build, config_dataclass
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.features.schema import CategoryFeature, Feature, FeatureSchema, NumberFeature
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.strategies.config import DIMENSIONS, SITUATION, StrategyConfig
from recpolicy.strategies.log_rounds import rounds_from_log
from recpolicy.strategies.network_policy import STRATEGY, NetworkStrategyPolicy, read_network_policy
from recpolicy.strategies.rounds import check_rounds, learning_order
from recpolicy.strategies.training import rounds_of_window
from recpolicy.workflows.artifacts import check_absent
from recpolicy.workflows.feature_training import train_feature_policy
from recpolicy.workflows.strategy_training import read_strategy_log, training_settings

AGENT = "eps_greedy"
"""The agent of feature policies whose network estimates the values."""
NO_NEXT = -1


@config_dataclass
class StrategyDQNConfig:
    """Settings of deep Q-learning from a log of strategies."""

    passes: Count = 5
    """Regressions, each with the network before it as the target network; one without sessions."""
    max_value: NonNegativeNumber = 0.0
    """Largest absolute target; 0: that of a session of rewards at the end of their range, range / (1 - gamma)."""


@dataclass(frozen=True)
class StrategyDQN:
    """A trained network and the targets of its passes."""

    policy: FeaturePolicy
    passes: int
    rounds: int
    """Rounds learned."""
    with_next: int
    """Rounds with a next round in the same session."""
    left_out: int
    """Rounds outside the window, or of users with too few interactions in it."""


def strategy_schema(config: StrategyConfig) -> FeatureSchema:
    """Return the features of a log of strategies: traits as numbers, situation and levels as categories."""
    context: dict[str, Feature] = {name: NumberFeature() for name in config.profile.traits}
    context |= {part: CategoryFeature() for part in SITUATION}
    return FeatureSchema(context, {name: CategoryFeature() for name in DIMENSIONS})


def train_strategy_dqn(
    log: str | Path | FeatureLog,
    out: str | Path,
    config: StrategyConfig | str | Path | None = None,
    *,
    settings: StrategyDQNConfig | Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    seed: int = 0,
    incumbent: str | Path | None = None,
    days_back: float | None = None,
    min_interactions: int = 1,
) -> StrategyDQN:
    """Train a network on the rounds of a log and write a feature policy to the folder `out`.

    Its scores are Q-values: expected rewards, plus the discounted value of the rest of a session.

    Args:
        log: The log, or its folder.
        out: The folder to write; it must not exist.
        config: The settings of the engine or their TOML file; gamma and rewards come from it. None takes those of the
            incumbent, or the defaults.
        settings: A StrategyDQNConfig or its settings.
        train: Settings of FeatureTrainConfig, such as epochs.
        seed: Seed of initial weights and of the order of rounds.
        incumbent: Folder of the policy whose network is the first target network.
        days_back: Length of the window in days, up to the last round; None takes all rounds.
        min_interactions: Interactions in the window that a user needs.

    Raises:
        ArtifactError: `out` exists, or the incumbent is damaged or no such policy.
        ConfigError: A setting is wrong, or the incumbent has another schema or other rewards.
        DataError: The log is wrong, or the window has no round of such a user.
        DivergedError: A number of the training is not finite or absurdly large.
    """
    require_extra("train", "training")
    check_absent(Path(out))
    silence_libraries()
    from recpolicy.models.feature_agent_configs import FeatureEpsilonGreedyConfig, FeatureTrainConfig
    from recpolicy.training.feature_training import learn_feature_policy

    old = None if incumbent is None else read_network_policy(incumbent)
    engine = training_settings(config, None if old is None else old.config)
    own = settings if isinstance(settings, StrategyDQNConfig) else build(StrategyDQNConfig, settings or {}, "dqn")
    settled = read_strategy_log(log, engine) if isinstance(log, str | Path) else log
    rewarded = np.flatnonzero(settled.has_reward)
    rounds = rounds_from_log(settled, engine)
    learned = rewarded[rounds_of_window(rounds, 36_500 if days_back is None else days_back, min_interactions)]
    settled = settled.select(learned, settled.name)
    following = _following(settled, engine)
    learning, schema = engine.learning, strategy_schema(engine)
    agent = FeatureEpsilonGreedyConfig(epsilon=learning.exploration_final_eps)
    fit = build(FeatureTrainConfig, train or {}, "train")
    has_next = following != NO_NEXT
    passes = own.passes if has_next.any() and learning.gamma > 0 else 1
    largest = own.max_value or float(np.abs(settled.reward).max()) / max(1 - learning.gamma, 1e-3)
    current = replace(settled, reward_range=None)
    network = None if old is None else old.policy
    for number in range(passes):
        if network is not None:
            best = np.maximum.reduceat(network.scores_of(settled), settled.start[:-1])
            value = np.where(has_next, best[following], 0.0)
            target = np.clip(settled.reward + learning.gamma * value, -largest, largest)
            current = replace(current, reward=target)
        if number < passes - 1:
            network = learn_feature_policy(current, schema, AGENT, agent, fit, seed=seed + number)
    policy = train_feature_policy(
        current, schema, AGENT, out, config=fit, agent_config=agent, seed=seed + passes - 1,
        metadata={STRATEGY: engine.as_dict(), "log": settled.digest, **_parents(old)},
        learned_before=None if old is None else old.policy.learned_events,
    )  # fmt: skip
    return StrategyDQN(policy, passes, len(settled), int(has_next.sum()), len(rewarded) - len(learned))


def _parents(old: NetworkStrategyPolicy | None) -> dict[str, Any]:
    """Return the metadata that name the policy whose values the targets rest on."""
    if old is None:
        return {}
    parent = {"policy_digest": old.policy_digest, "log": old.metadata.get("log")}
    return {"parents": [*old.metadata.get("parents", []), parent]}


def _following(log: FeatureLog, config: StrategyConfig) -> Any:
    """Return the next round [N] of the same session, or NO_NEXT."""
    rounds = rounds_from_log(log, config)
    check_rounds(rounds, config)
    order = learning_order(rounds)
    following = np.full(len(rounds), NO_NEXT)
    followed = np.flatnonzero(order.has_next)
    following[order.rows[followed]] = order.rows[followed + 1]
    return following
