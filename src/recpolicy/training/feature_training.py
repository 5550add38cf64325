"""Train a feature policy from a log of rounds with features: weights, encoder, reward model, head.

N rounds. Rounds are weighted by 1 / propensity, clipped and normalized to mean 1, so that actions which the logging
policy rarely showed count as much as others. Foster & Rakhlin 2020 (2002.04926) call it importance-weighted regression.
Linear models are sums over rounds and need one pass; networks and hashed models take `epochs` passes.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from recpolicy.core.config import Count, Fraction, PositiveFraction, PositiveNumber, Precision, Size, config_dataclass
from recpolicy.core.errors import DataError, unknown_name_error
from recpolicy.core.types import Array
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.features.encoder import FeatureEncoder
from recpolicy.data.features.schema import ACTION_ID, FeatureSchema
from recpolicy.data.learned_events import log_events
from recpolicy.data.reward_signals import RewardScale, summarize_rewards
from recpolicy.inference.artifact import REAL_REWARDS
from recpolicy.inference.feature_policy import FeaturePolicy, ImportanceWeights, chosen_pairs, squarecb_settings
from recpolicy.models.bilinear import BilinearModel
from recpolicy.models.hybrid_linear import HybridModel
from recpolicy.models.reward_model import Pairs, RewardModel
from recpolicy.training.divergence import check_arrays

logger = logging.getLogger(__name__)


@config_dataclass
class FeatureTrainConfig:
    """Settings of a training from a log with features; the agent's own settings are separate."""

    max_weight: PositiveNumber = 20.0
    """Largest weight of a round before normalization; the weight is 1 / propensity."""
    uniform_mix: Fraction = 0.0
    """Share of uniform choices in the policy; above 0, every action has a positive propensity."""
    epochs: Count = 10
    """Passes of a neural model over the log; other models take one pass."""
    batch_size: Size = 256
    """Rounds per gradient step of a neural model."""


@dataclass(frozen=True)
class TrainingRows:
    """The chosen pairs of N rounds with rewards and weights, ready for any model."""

    pairs: Pairs
    reward: Array  # [N], in units of the policy's reward_std
    weight: Array  # [N], mean 1
    encoder: FeatureEncoder

    @property
    def width(self) -> tuple[int, int]:
        """Dense columns of contexts and of actions."""
        return len(self.encoder.context_names), len(self.encoder.action_names)

    @property
    def prior_reward(self) -> float:
        """The weighted mean reward, to which linear models shrink."""
        return float(np.average(self.reward, weights=self.weight))


Learn = Callable[[TrainingRows, Any, FeatureTrainConfig, int], RewardModel]


@dataclass(frozen=True)
class FeatureAgent:
    """How one agent learns and explores."""

    config: type[Any]
    learn: Learn
    """Returns the reward model of training rows, the agent's config, the training's config and a seed."""
    head: str
    settings: Callable[[Any, FeatureLog], Mapping[str, float]]
    """Returns the head's parameters."""
    sparse: Callable[[Any], bool] = lambda _: False
    """True if its model reads hashed features."""


def _shared(rows: TrainingRows, config: Any, train: FeatureTrainConfig, seed: int) -> RewardModel:
    """Learn one linear model of all actions, by its sums."""
    del train, seed
    model = BilinearModel.untrained(
        rows.width, interactions=rows.encoder.schema.interactions, precision=config.precision,
        prior_reward=rows.prior_reward, forgetting=getattr(config, "forgetting", 1.0),
    )  # fmt: skip
    return model.updated(rows.pairs, rows.reward, rows.weight)


def _hybrid(rows: TrainingRows, config: Any, train: FeatureTrainConfig, seed: int) -> RewardModel:
    """Learn a shared linear model and one per action id, by their sums."""
    del train, seed
    model = HybridModel.untrained(
        rows.width, interactions=rows.encoder.schema.interactions, precision=config.shared_precision,
        arm_precision=config.arm_precision, prior_reward=rows.prior_reward, forgetting=config.forgetting,
    )  # fmt: skip
    return model.updated(rows.pairs, rows.reward, rows.weight)


@config_dataclass
class FeatureSquareCBConfig:
    """Settings of SquareCB over features."""

    model: Literal["linear", "neural", "hashed"] = "linear"
    """Model of rewards: `linear` from sums, `neural`, or `hashed` linear for any number of features."""
    gamma_scale: PositiveNumber = 10.0
    """gamma after the first round, for rewards in [0, 1]; must be > 0."""
    gamma_exponent: Fraction = 0.5
    """Growth of gamma with the rounds, in [0, 1]; 0 keeps it constant."""
    precision: Precision = 100.0
    """Linear model: weight of the prior mean, in observations per direction; must be > 0."""
    forgetting: PositiveFraction = 1.0
    """Linear model: share of a round's weight that remains after each later round, in (0, 1]."""


def _squarecb(rows: TrainingRows, config: FeatureSquareCBConfig, train: FeatureTrainConfig, seed: int) -> RewardModel:
    """Learn the model that the config names."""
    return {"linear": _shared}[config.model](rows, config, train, seed)


def _is_hashed(config: FeatureSquareCBConfig) -> bool:
    return config.model == "hashed"


def _squarecb_settings(config: FeatureSquareCBConfig, log: FeatureLog) -> Mapping[str, float]:
    """Return gamma for the log's rounds; without a range of rewards, for the span of those in the log."""
    low, high = (log.reward.min(), log.reward.max()) if log.reward_range is None else log.reward_range
    span = float(high - low) or 1.0
    return squarecb_settings(float(len(log)), config.gamma_scale, config.gamma_exponent, span)


def feature_agents() -> Mapping[str, FeatureAgent]:
    """Return the agents of feature policies by name; imports TensorFlow."""
    from recpolicy.agents.lints import LinTSConfig
    from recpolicy.agents.linucb_hybrid import HybridLinUCBConfig
    from recpolicy.agents.linucb_shared import SharedLinUCBConfig

    return {
        "linucb_shared": FeatureAgent(
            SharedLinUCBConfig, _shared, "upper_confidence", lambda config, _: {"alpha": config.alpha}
        ),
        "linucb_hybrid": FeatureAgent(
            HybridLinUCBConfig, _hybrid, "upper_confidence", lambda config, _: {"alpha": config.alpha}
        ),
        "squarecb": FeatureAgent(FeatureSquareCBConfig, _squarecb, "squarecb", _squarecb_settings, _is_hashed),
        "lints": FeatureAgent(LinTSConfig, _shared, "thompson", lambda config, _: {"scale": config.scale}),
    }


def feature_agent(name: str) -> FeatureAgent:
    """Return an agent; raise ConfigError with the nearest known name."""
    agents = feature_agents()
    if name not in agents:
        raise unknown_name_error("agent of feature policies", name, agents)
    return agents[name]


def fit_encoder(schema: FeatureSchema, log: FeatureLog) -> FeatureEncoder:
    """Return the encoder of a schema, fitted on the rounds and the distinct actions of a log.

    Raises:
        DataError: The log lacks a feature of the schema, or has a value of another type.
    """
    return FeatureEncoder.fit(schema, log.context, {**log.actions, ACTION_ID: log.action_id})


def learn_feature_policy(
    log: FeatureLog,
    schema: FeatureSchema,
    agent: str,
    agent_config: Any,
    config: FeatureTrainConfig,
    *,
    normalize: bool = False,
    seed: int = 0,
) -> FeaturePolicy:
    """Return a policy that learned from the rewarded rounds of a log.

    Args:
        log: Logged rounds; those without a reward are left out.
        schema: The features that the policy sees.
        agent: A name in `feature_agents`.
        agent_config: The agent's config.
        config: Settings of the training.
        normalize: Divide rewards by their standard deviation while learning.
        seed: Seed of initial weights and of the order of rounds.

    Raises:
        ConfigError: No such agent, or the model is too large.
        DataError: The log has no rewards, lacks a feature or has a value of another type.
        DivergedError: A number of the training is not finite or absurdly large.
    """
    entry = feature_agent(agent)
    rewarded = np.flatnonzero(log.has_reward)
    if not len(rewarded):
        raise DataError(f"{log.name}: no round has a reward; join rewards first, or set default_reward in [reward]")
    log = log if len(rewarded) == len(log) else log.select(rewarded, log.name)
    summary = summarize_rewards(log.reward, log.reward_range)
    for warning in summary.warnings():
        logger.warning("%s: %s", log.name, warning)

    clipped = ImportanceWeights(config.max_weight, 1.0).weight(log)
    importance = ImportanceWeights(config.max_weight, float(clipped.mean()))
    clipped_share = float((np.exp(-log.log_propensity) > config.max_weight).mean())
    reward_std = RewardScale.fit(log.reward).std if normalize else 1.0
    encoder = fit_encoder(schema, log)
    rows = TrainingRows(
        chosen_pairs(encoder, entry.sparse(agent_config), log), log.reward / reward_std, importance.weight(log), encoder
    )
    policy = FeaturePolicy(
        encoder=encoder,
        model=entry.learn(rows, agent_config, config, seed),
        agent=agent,
        head=entry.head,
        settings=entry.settings(agent_config, log),
        uniform_mix=config.uniform_mix,
        reward_range=log.reward_range,
        reward_std=reward_std,
        importance=importance,
        metadata={},
        learned_events=log_events(log),
    )
    estimate = policy.model.estimate(rows.pairs, widths=False).mean * reward_std
    loss = float(np.average(np.square(log.reward - estimate), weights=rows.weight))
    check_arrays(policy.model.arrays, loss, log.reward, log.name)
    figures = {"mode": "log", "rewards": REAL_REWARDS, "rows": len(log), "last_loss": loss, **summary.as_dict()}
    return replace(policy, metadata={"training": {**figures, "share_clipped": clipped_share}})
