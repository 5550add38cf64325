"""Behavior cloning: a softmax policy that imitates the policy of a log, with or without its propensities.

n steps. Two targets, each by its mean over logged steps:

    actions        - log pi(a|s): maximum likelihood; needs no propensities
    propensities   (log beta(a|s) - log pi(a|s))^2 / 2: regression on the logged log-probabilities

If pi can equal beta, the second has no gradient there in any single step, so a small log is enough. Rewards do not
change the policy. They teach the value network the value of the behavior policy, by TD(0). Sources: Pomerleau 1991;
Sutton & Barto 2018, chapter 6.
"""

from typing import Any, Literal

import tensorflow as tf

from recpolicy.agents import categorical
from recpolicy.agents.actor_critic import PolicyAndValue, networks
from recpolicy.agents.divergence_limit import ReferenceLimitConfig
from recpolicy.agents.experience import Experience, flatten
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.returns import td_errors
from recpolicy.agents.sequence import Figures, SessionAgent
from recpolicy.agents.session_networks import ItemScores, SessionNetworkConfig
from recpolicy.core.config import Fraction, NonNegativeNumber, Size, config_dataclass
from recpolicy.models.sequence_layout import SequenceLayout


@config_dataclass
class BehaviorCloningConfig(ReferenceLimitConfig, SessionNetworkConfig):
    """Settings of behavior cloning."""

    gamma: Fraction = 0.9
    """Discount per item of the value network, in [0, 1]."""
    target: Literal["actions", "propensities"] = "actions"
    """Target of the policy: the logged actions, or their logged probabilities."""
    batch_size: Size = 256
    """Logged steps per gradient step."""
    vf_coef: NonNegativeNumber = 0.5
    """Weight of the value loss."""


class BehaviorCloning(PolicyAndValue):
    """A learner with a policy that imitates and a value network, which gives the value of the behavior policy."""

    figures = ("loss", "policy_loss", "value_loss", "entropy", "gradient_norm", "log_ratio")

    def __init__(self, scores: ItemScores, value: Any, config: BehaviorCloningConfig):
        super().__init__(scores, value, config, "behavior_cloning")
        self.config = config

    def update(self, experience: Experience, seed: tf.Tensor) -> Figures:  # noqa: ARG002 - nothing is random
        """Take one gradient step on a block of the policy to imitate."""
        self._rewards.take_in(experience.reward)
        observation, mask, action = (
            flatten(part) for part in (experience.observation, experience.mask, experience.action)
        )
        reward, logged = flatten(self._rewards.normalized(experience.reward)), flatten(experience.log_probability)
        following = self._value(flatten(experience.next_observation))[:, 0]
        terminated = flatten(experience.terminated)
        with tf.GradientTape() as tape:
            scores = self._scores(observation, mask)
            own, entropy = categorical.log_probability_and_entropy(scores, action)
            divergence = self._divergence(scores, observation, mask)
            policy_loss = tf.reduce_mean(imitation_loss(own, logged, self.config.target))
            value = self._value(observation)[:, 0]
            target = tf.stop_gradient(td_errors(reward, value, following, terminated, self.config.gamma) + value)
            value_loss = tf.reduce_mean(tf.square(target - value))
            loss = policy_loss + self.config.vf_coef * value_loss + self._penalty(divergence)
        return {
            "loss": loss, "policy_loss": policy_loss, "value_loss": self._rewards.original_square(value_loss),
            "entropy": tf.reduce_mean(entropy), "gradient_norm": self._descend(tape, loss, observation, mask),
            "log_ratio": tf.reduce_mean(logged - own), **self._limit_figures(divergence),
        }  # fmt: skip


def imitation_loss(log_own: tf.Tensor, log_behavior: tf.Tensor, target: str) -> tf.Tensor:
    """Return the loss [n] of logged actions, of which `log_own` [n] are the policy's log-probabilities.

    Args:
        log_own: [n].
        log_behavior: [n], logged log-probabilities; unused for the target "actions".
        target: "actions" or "propensities".
    """
    if target == "actions":
        return -log_own
    return 0.5 * tf.square(log_behavior - log_own)


def make_behavior_cloning(
    spec: Any, action_spec: Any, config: BehaviorCloningConfig, arms: ItemFeatures | None = None, seed: int = 0,
    sequence: SequenceLayout | None = None,
) -> SessionAgent:  # fmt: skip
    """Return a behavior cloning agent; without `arms` its head is plain."""
    scores, value = networks(spec, action_spec, config, arms, seed, sequence)
    return SessionAgent(spec, action_spec, BehaviorCloning(scores, value, config), seed=seed)
