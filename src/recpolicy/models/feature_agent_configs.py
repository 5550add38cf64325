"""Settings of the agents that learn from features, and of their trainings.

They need no TensorFlow, so a server checks learning settings without it.
"""

from collections.abc import Mapping
from typing import Any, Literal

from recpolicy.core.config import (
    Count,
    Fraction,
    LearningRate,
    NonNegativeNumber,
    PositiveFraction,
    PositiveNumber,
    Precision,
    Size,
    Temperature,
    config_dataclass,
)


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


@config_dataclass
class SharedLinUCBConfig:
    """Settings of LinUCB with a shared model."""

    alpha: NonNegativeNumber = 1.0
    """Multiplier of the confidence width; 0 acts greedily."""
    precision: Precision = 100.0
    """Weight of the prior mean, in observations per direction; must be > 0."""
    forgetting: PositiveFraction = 1.0
    """Share of the model's knowledge that remains at each update, in (0, 1]; below 1 it follows drift."""


@config_dataclass
class HybridLinUCBConfig:
    """Settings of hybrid LinUCB."""

    alpha: NonNegativeNumber = 1.0
    """Multiplier of the confidence width; 0 acts greedily."""
    shared_precision: Precision = 100.0
    """Weight of the shared prior mean, in observations per direction; must be > 0."""
    arm_precision: Precision = 10.0
    """Weight of each arm's prior mean 0, in observations per direction; must be > 0."""
    forgetting: PositiveFraction = 1.0
    """Share of the knowledge that remains at each update, in (0, 1]; below 1 it follows drift."""


@config_dataclass
class LinTSConfig:
    """Settings of linear Thompson sampling."""

    scale: NonNegativeNumber = 1.0
    """Standard deviation of the draws, in posterior widths; the standard deviation of the reward noise gives exact
    posteriors."""
    precision: Precision = 100.0
    """Weight of the prior mean, in observations per direction; must be > 0."""
    forgetting: PositiveFraction = 1.0
    """Share of an arm's knowledge that remains at each of its updates, in (0, 1]; below 1 it follows drift."""
    bias: bool = True
    """Append a constant 1 to the context."""


@config_dataclass
class FeatureNetworkConfig:
    """Settings of a network over features of context and action."""

    layers: tuple[Size, ...] = (64, 64)
    """Units of the hidden layers (ReLU)."""
    normalization: Literal["none", "layer", "batch"] = "none"
    """Normalization of the hidden layers before ReLU: of each pair (`layer`) or of each unit over a batch (`batch`)."""
    learning_rate: LearningRate = 0.003
    """Adam's step size."""


@config_dataclass
class FeatureEpsilonGreedyConfig(FeatureNetworkConfig):
    """Settings of epsilon-greedy over a network."""

    epsilon: Fraction = 0.05
    """Share of uniform actions, in [0, 1]."""


@config_dataclass
class FeatureBoltzmannConfig(FeatureNetworkConfig):
    """Settings of Boltzmann exploration over a network."""

    temperature: Temperature = 0.1
    """Softmax temperature in units of reward; must be > 0."""


@config_dataclass
class FeatureNeuralLinUCBConfig(FeatureNetworkConfig):
    """Settings of neural LinUCB over features."""

    encoding_dim: Size = 16
    """Width of the learned features."""
    alpha: NonNegativeNumber = 1.0
    """Multiplier of the confidence width; 0 acts greedily."""
    precision: Precision = 10.0
    """Weight of the prior mean, in observations per direction; must be > 0."""


@config_dataclass
class FeatureSquareCBConfig(FeatureNetworkConfig):
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
    hashed_learning_rate: PositiveNumber = 0.1
    """Hashed model: size of the steps; must be > 0."""


FEATURE_AGENT_CONFIGS: Mapping[str, type[Any]] = {
    "linucb_shared": SharedLinUCBConfig,
    "linucb_hybrid": HybridLinUCBConfig,
    "lints": LinTSConfig,
    "eps_greedy": FeatureEpsilonGreedyConfig,
    "boltzmann": FeatureBoltzmannConfig,
    "neural_linucb": FeatureNeuralLinUCBConfig,
    "squarecb": FeatureSquareCBConfig,
}
"""The settings of each agent of feature policies, by name."""
