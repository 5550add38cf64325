"""Deep Q-learning of strategies on continuous traits, from a log.

A network estimates Q(x, a) from the traits as numbers, the situation and the levels. Its target is r + gamma max_b
Q(x', b), where x' is the next round of the same session; without a next round it is r. The target network is that of
the pass before, so each pass is a regression: fitted Q iteration. Without sessions, or with gamma 0, one pass is all.
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
from recpolicy.strategies.config import DIMENSIONS, SITUATION, StrategyConfig, read_strategy_config
from recpolicy.strategies.log_rounds import rounds_from_log
from recpolicy.strategies.rounds import check_rounds, learning_order
from recpolicy.workflows.artifacts import check_absent
from recpolicy.workflows.feature_training import train_feature_policy
from recpolicy.workflows.strategy_training import read_strategy_log

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
    with_next: int
    """Rounds with a next round in the same session."""


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
) -> StrategyDQN:
    """Train a network on all rounds of a log and write a feature policy to the folder `out`.

    Its scores are Q-values: expected rewards, plus the discounted value of the rest of a session.

    Args:
        log: The log, or its folder.
        out: The folder to write; it must not exist.
        config: The settings of the engine or their TOML file; gamma and rewards come from it.
        settings: A StrategyDQNConfig or its settings.
        train: Settings of FeatureTrainConfig, such as epochs.
        seed: Seed of initial weights and of the order of rounds.

    Raises:
        ArtifactError: `out` exists.
        DataError: The log is wrong.
        DivergedError: A number of the training is not finite or absurdly large.
    """
    require_extra("train", "training")
    check_absent(Path(out))
    silence_libraries()
    from recpolicy.models.feature_agent_configs import FeatureEpsilonGreedyConfig, FeatureTrainConfig
    from recpolicy.training.feature_training import learn_feature_policy

    engine = config if isinstance(config, StrategyConfig) else read_strategy_config(config)
    own = settings if isinstance(settings, StrategyDQNConfig) else build(StrategyDQNConfig, settings or {}, "dqn")
    settled = read_strategy_log(log, engine) if isinstance(log, str | Path) else log
    settled = settled.select(np.flatnonzero(settled.has_reward), settled.name)
    following = _following(settled, engine)
    learning, schema = engine.learning, strategy_schema(engine)
    agent = FeatureEpsilonGreedyConfig(epsilon=learning.exploration_final_eps)
    fit = build(FeatureTrainConfig, train or {}, "train")
    has_next = following != NO_NEXT
    passes = own.passes if has_next.any() and learning.gamma > 0 else 1
    largest = own.max_value or float(np.abs(settled.reward).max()) / max(1 - learning.gamma, 1e-3)
    current = replace(settled, reward_range=None)
    for number in range(passes - 1):
        network = learn_feature_policy(current, schema, AGENT, agent, fit, seed=seed + number)
        best = np.maximum.reduceat(network.scores_of(settled), settled.start[:-1])
        value = np.where(has_next, best[following], 0.0)
        target = np.clip(settled.reward + learning.gamma * value, -largest, largest)
        current = replace(current, reward=target)
    policy = train_feature_policy(
        current, schema, AGENT, out, config=fit, agent_config=agent, seed=seed + passes - 1
    )  # fmt: skip
    return StrategyDQN(policy, passes, len(settled), int(has_next.sum()))


def _following(log: FeatureLog, config: StrategyConfig) -> Any:
    """Return the next round [N] of the same session, or NO_NEXT."""
    rounds = rounds_from_log(log, config)
    check_rounds(rounds, config)
    order = learning_order(rounds)
    following = np.full(len(rounds), NO_NEXT)
    followed = np.flatnonzero(order.has_next)
    following[order.rows[followed]] = order.rows[followed + 1]
    return following
