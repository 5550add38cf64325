"""SquareCB: actions get probabilities in inverse proportion to the gap between their predicted reward and the best.

B batch, A actions. With A allowed actions, predicted rewards f and the best action b,

    p_a = 1 / (A + gamma (f_b - f_a)) for a other than b,    p_b = 1 - sum of the others.

gamma 0 is uniform, gamma infinity greedy; gamma = scale * t^exponent grows with the number of rounds t. Rewards are in
units of their range. Any model of rewards serves: here the shared linear model or the network over items. Source:
Foster & Rakhlin, "Beyond UCB: optimal and efficient contextual bandits with regression oracles", ICML 2020.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import tensorflow as tf

from recpolicy.agents import action_distributions
from recpolicy.agents.divergence_limit import SoftenedLimitConfig
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent, Estimate, ExportedPolicy, Learner
from recpolicy.agents.linucb_shared import SharedLinUCB, require_pair_features
from recpolicy.agents.neural import EpsilonGreedyConfig, make_epsilon_greedy
from recpolicy.agents.observation import Observation
from recpolicy.core.config import (
    Fraction,
    LearningRate,
    PositiveFraction,
    PositiveNumber,
    Precision,
    Size,
    config_dataclass,
)
from recpolicy.models.feature_agent_configs import SharedLinUCBConfig


@config_dataclass
class SquareCBConfig(SoftenedLimitConfig):
    """Settings of SquareCB; the limit is for the neural model, `reference_temperature` in units of reward."""

    model: Literal["linear", "neural"] = "linear"
    """Model of rewards: `linear`, shared by all items, or `neural`."""
    gamma_scale: PositiveNumber = 10.0
    """gamma after the first round, for rewards in [0, 1]; must be > 0."""
    gamma_exponent: Fraction = 0.5
    """Growth of gamma with the rounds, in [0, 1]; 0 keeps it constant."""
    precision: Precision = 100.0
    """Linear model: weight of the prior mean, in observations per direction; must be > 0."""
    forgetting: PositiveFraction = 1.0
    """Linear model: share of its knowledge that remains at each update, in (0, 1]."""
    layers: tuple[Size, ...] = (64, 64)
    """Neural model: units of the hidden layers (ReLU)."""
    head: Literal["dot", "plain"] = "dot"
    """Neural model: `dot` scores items by their embeddings; `plain` has one output per item."""
    learning_rate: LearningRate = 0.001
    """Neural model: Adam's step size."""


class SquareCB(Learner):
    """A reward model whose gaps give the probabilities."""

    def __init__(self, model: Learner, config: SquareCBConfig, reward_range: float):
        super().__init__(name="squarecb")
        self._model, self._config, self._reward_range = model, config, reward_range
        self._rounds = tf.Variable(0.0, trainable=False, name="squarecb/rounds")
        self.accepts_per_arm_features = model.accepts_per_arm_features

    def gamma(self) -> tf.Tensor:
        """Return gamma in units of 1 / reward."""
        rounds = tf.maximum(self._rounds, 1.0)
        return self._config.gamma_scale * rounds**self._config.gamma_exponent / self._reward_range

    def estimate(self, observation: Observation) -> Estimate:
        """Return the model's estimates."""
        return self._model.estimate(observation)

    def behavior_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the probabilities of SquareCB."""
        return action_distributions.squarecb(self.estimate(observation).mean, self.gamma(), observation.mask)

    def update(self, observation: Observation, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """Update the model and count the rounds."""
        self._rounds.assign_add(tf.cast(tf.size(action), tf.float32))
        return self._model.update(observation, action, reward)

    def start_from(self, arrays: Mapping[str, Any]) -> None:
        """Copy the network of an exported policy, if the model is neural; gamma starts anew."""
        self._model.start_from(arrays)

    def limit_divergence(self, config: Any) -> None:
        """Limit the divergence of the model's rewards, if it is neural."""
        self._model.limit_divergence(config)

    def end_limit(self) -> dict[str, Any]:
        """Drop any limit; return its figures."""
        return self._model.end_limit()

    def export(self) -> ExportedPolicy:
        """Return the model's arrays, with gamma as it is now."""
        return replace(self._model.export(), head="squarecb", settings={"gamma": float(self.gamma())})


def make_squarecb(
    spec: Any, action_spec: Any, config: SquareCBConfig, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return a SquareCB agent; the linear model needs `arms`."""
    if config.model == "linear":
        linear = SharedLinUCBConfig(precision=config.precision, forgetting=config.forgetting)
        model: Learner = SharedLinUCB(require_pair_features(arms, spec, "squarecb with a linear model"), linear)
    else:
        network = EpsilonGreedyConfig(layers=config.layers, head=config.head, learning_rate=config.learning_rate)
        model = make_epsilon_greedy(spec, action_spec, network, arms, seed).learner
    low, high = (0.0, 1.0) if arms is None else arms.scale
    return BanditAgent(spec, action_spec, SquareCB(model, config, high - low), seed=seed)
