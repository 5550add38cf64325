"""The agents of feature policies by name: their configs, the models that they learn, and their exploration.

Linear agents learn by sums over rounds, networks by gradient steps, the hashed model by one step for each round. All
rounds have importance weights (feature_training.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.core.types import Array
from recpolicy.data.features.encoder import FeatureEncoder
from recpolicy.inference.feature_policy import squarecb_settings
from recpolicy.models.bilinear import BilinearModel, rows_as_pairs
from recpolicy.models.feature_agent_configs import (
    FeatureBoltzmannConfig,
    FeatureEpsilonGreedyConfig,
    FeatureNetworkConfig,
    FeatureNeuralLinUCBConfig,
    FeatureSquareCBConfig,
    FeatureTrainConfig,
    HybridLinUCBConfig,
    LinTSConfig,
    SharedLinUCBConfig,
)
from recpolicy.models.hashed_linear import HashedLinearConfig
from recpolicy.models.hashed_reward import HashedModel, reward_scale
from recpolicy.models.hybrid_linear import HybridModel
from recpolicy.models.network_reward import EncodedModel, NetworkModel, apply_layers, count_layers
from recpolicy.models.reward_model import Pairs, RewardModel
from recpolicy.training.feature_networks import PairNetwork, train_network


@dataclass(frozen=True)
class TrainingRows:
    """The chosen pairs of N rounds with rewards and weights, ready for any model."""

    pairs: Pairs
    reward: Array  # [N], in units of the policy's reward_std
    weight: Array  # [N], mean 1
    encoder: FeatureEncoder
    reward_range: tuple[float, float] | None  # in the same unit
    reward_std: float
    config: FeatureTrainConfig
    seed: int
    name: str
    initial: Mapping[str, Array] | None = None
    """Layers that a network starts from, with rewards in the unit of `reward`."""

    @property
    def width(self) -> tuple[int, int]:
        """Dense columns of contexts and of actions."""
        return len(self.encoder.context_names), len(self.encoder.action_names)

    @property
    def interactions(self) -> bool:
        """True if linear models see products of context and action."""
        return self.encoder.schema.interactions

    @property
    def prior_reward(self) -> float:
        """The weighted mean reward, to which linear models shrink."""
        return float(np.average(self.reward, weights=self.weight))


@dataclass(frozen=True)
class FeatureAgent:
    """The learning and the exploration of one agent."""

    config: type[Any]
    learn: Callable[[TrainingRows, Any], RewardModel]
    """Returns the reward model of training rows and the agent's config."""
    head: str
    """A key of inference.action_distributions.HEADS."""
    settings: Callable[[Any, TrainingRows], Mapping[str, float]]
    """Returns the head's parameters."""
    sparse: Callable[[Any], bool] = lambda _: False
    """True if its model reads hashed features."""


def _linear(rows: TrainingRows, config: Any) -> RewardModel:
    """Learn one linear model of all actions, by its sums."""
    if not getattr(config, "bias", True):
        raise ConfigError("bias is false; a linear model over features always has a constant: leave bias out")
    model = BilinearModel.untrained(
        rows.width, interactions=rows.interactions, precision=config.precision, prior_reward=rows.prior_reward,
        forgetting=config.forgetting,
    )  # fmt: skip
    return model.updated(rows.pairs, rows.reward, rows.weight)


def _hybrid(rows: TrainingRows, config: HybridLinUCBConfig) -> RewardModel:
    """Learn a shared linear model and one per action id, by their sums."""
    model = HybridModel.untrained(
        rows.width, interactions=rows.interactions, precision=config.shared_precision,
        arm_precision=config.arm_precision, prior_reward=rows.prior_reward, forgetting=config.forgetting,
    )  # fmt: skip
    return model.updated(rows.pairs, rows.reward, rows.weight)


def _network(rows: TrainingRows, config: FeatureNetworkConfig) -> RewardModel:
    """Learn a network whose output is the reward."""
    network, mean, std = _train(rows, config, outputs=1)
    layers = network.export()
    last = count_layers(layers) - 1
    layers[f"kernel_{last}"] *= std
    layers[f"bias_{last}"] = layers[f"bias_{last}"] * std + mean
    return NetworkModel(layers)


def _encoded(rows: TrainingRows, config: FeatureNeuralLinUCBConfig) -> RewardModel:
    """Learn a network, then a linear model of its standardized features, by sums."""
    network, _, _ = _train(rows, config, outputs=config.encoding_dim)
    layers = network.export()
    features = apply_layers(layers, rows.pairs)  # [N, E]
    mean, std = features.mean(axis=0), features.std(axis=0)
    std[std < 1e-9] = 1.0
    last = count_layers(layers) - 1
    layers[f"kernel_{last}"] /= std
    layers[f"bias_{last}"] = (layers[f"bias_{last}"] - mean) / std
    linear = BilinearModel.untrained(
        (config.encoding_dim, 0), interactions=True, precision=config.precision, prior_reward=rows.prior_reward
    )
    standardized = rows_as_pairs((features - mean) / std)
    return EncodedModel(layers, linear.updated(standardized, rows.reward, rows.weight))


def _train(rows: TrainingRows, config: FeatureNetworkConfig, outputs: int) -> tuple[PairNetwork, float, float]:
    return train_network(
        rows.pairs, rows.reward, rows.weight, rows.encoder, config, outputs=outputs, epochs=rows.config.epochs,
        batch_size=rows.config.batch_size, seed=rows.seed, source=rows.name, initial=rows.initial,
    )  # fmt: skip


def _hashed(rows: TrainingRows, config: FeatureSquareCBConfig) -> RewardModel:
    """Learn the hashed linear model in the order of the rounds."""
    model = HashedModel.untrained(
        HashedLinearConfig(learning_rate=config.hashed_learning_rate), rows.encoder.schema.bits, rows.interactions,
        *reward_scale(rows.reward, rows.reward_range),
    )  # fmt: skip
    return model.updated(rows.pairs, rows.reward, rows.weight)


_MODELS: Mapping[str, Callable[[TrainingRows, Any], RewardModel]] = {
    "linear": _linear, "neural": _network, "hashed": _hashed,
}  # fmt: skip


def _squarecb(rows: TrainingRows, config: FeatureSquareCBConfig) -> RewardModel:
    return _MODELS[config.model](rows, config)


def _squarecb_settings(config: FeatureSquareCBConfig, rows: TrainingRows) -> Mapping[str, float]:
    """Return gamma after the log's rounds; without a range of rewards, for the span of those in the log."""
    _, span = reward_scale(rows.reward, rows.reward_range)
    return squarecb_settings(float(len(rows.reward)), config.gamma_scale, config.gamma_exponent, span * rows.reward_std)


def _alpha(config: Any, _: TrainingRows) -> Mapping[str, float]:
    return {"alpha": config.alpha}


FEATURE_AGENTS: Mapping[str, FeatureAgent] = {
    "linucb_shared": FeatureAgent(SharedLinUCBConfig, _linear, "upper_confidence", _alpha),
    "linucb_hybrid": FeatureAgent(HybridLinUCBConfig, _hybrid, "upper_confidence", _alpha),
    "lints": FeatureAgent(LinTSConfig, _linear, "thompson", lambda config, _: {"scale": config.scale}),
    "eps_greedy": FeatureAgent(
        FeatureEpsilonGreedyConfig, _network, "epsilon_greedy", lambda config, _: {"epsilon": config.epsilon}
    ),
    "boltzmann": FeatureAgent(
        FeatureBoltzmannConfig, _network, "boltzmann", lambda config, _: {"temperature": config.temperature}
    ),
    "neural_linucb": FeatureAgent(FeatureNeuralLinUCBConfig, _encoded, "upper_confidence", _alpha),
    "squarecb": FeatureAgent(
        FeatureSquareCBConfig, _squarecb, "squarecb", _squarecb_settings, lambda config: config.model == "hashed"
    ),
}


def feature_agent(name: str) -> FeatureAgent:
    """Return an agent; raise ConfigError with the nearest known name."""
    if name not in FEATURE_AGENTS:
        raise unknown_name_error("agent of feature policies", name, FEATURE_AGENTS)
    return FEATURE_AGENTS[name]
