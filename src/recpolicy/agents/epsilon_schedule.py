"""The exploration schedule of DQN and Q-learning: each update multiplies epsilon by a factor."""

import tensorflow as tf

from recpolicy.core.config import Fraction, PositiveFraction, config_dataclass
from recpolicy.core.errors import ConfigError


@config_dataclass
class EpsilonScheduleConfig:
    """Settings of the exploration schedule."""

    exploration_initial_eps: Fraction = 0.3
    """Probability of exploration at the start."""
    exploration_final_eps: Fraction = 0.05
    """Probability of exploration at the end."""
    exploration_decay: PositiveFraction = 0.995
    """Factor on the probability of exploration at each block of steps."""

    def __post_init__(self) -> None:
        if self.exploration_final_eps > self.exploration_initial_eps:
            raise ConfigError(
                f"exploration_final_eps is {self.exploration_final_eps:g}: expected at most exploration_initial_eps,"
                f" {self.exploration_initial_eps:g}"
            )


def compute_epsilon(config: EpsilonScheduleConfig, blocks: tf.Tensor) -> tf.Tensor:
    """Return the probability of exploration after `blocks` blocks of steps."""
    decayed = config.exploration_initial_eps * tf.pow(config.exploration_decay, tf.cast(blocks, tf.float32))
    return tf.maximum(decayed, config.exploration_final_eps)
