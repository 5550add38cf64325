"""Top-K off-policy-corrected REINFORCE, with a behavior head.

Each block of whole sessions is used several times, so all but the first pass are off-policy. Per step, with everything
but log pi held constant,

    gradient = w lambda_K G grad log pi(a|s),   w = pi / beta (clipped, or normalized to mean 1),
    lambda_K = K (1 - pi)^(K-1): maximize the probability that a slate of K independent draws holds the item.

beta is the logged probability, or the estimate of the behavior head: a second softmax on the same trunk, trained on all
steps without a gradient to the trunk. The policy's loss uses only steps with G != 0. The correction ignores that the
policy would also visit other states.

Where a step shows a slate (SlateEnvironment), each place that the user read is a step of its own: pi and beta are those
of its item given the items before it, and G is the return of the slate without the like of another item. Source: Chen
et al. 2019 (1812.02353).
"""

from collections.abc import Mapping
from typing import Any, Literal

import tensorflow as tf
import tf_keras

from recpolicy.agents.actor_critic import VALUE, advantages_under, value_arrays
from recpolicy.agents.categorical import log_probability, log_probability_and_entropy
from recpolicy.agents.divergence_limit import ReferenceLimitConfig
from recpolicy.agents.experience import Experience, SlateExperience, flatten, join_places, slate_items
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import ExportedPolicy
from recpolicy.agents.neural import NetworkPart, dense_layers, layer_arrays, load_networks
from recpolicy.agents.observation import context_width
from recpolicy.agents.reference_policy import LimitedLearner
from recpolicy.agents.reinforce import first_sessions
from recpolicy.agents.returns import explained_variance, standardize
from recpolicy.agents.sequence import Figures, SessionAgent
from recpolicy.agents.sequence_encoders import encoder_arrays
from recpolicy.agents.session_networks import (
    ItemScores,
    SessionNetworkConfig,
    Trainer,
    dot_head_features,
    make_encoder,
    make_tower,
    make_value,
)
from recpolicy.core.config import Count, Fraction, NonNegativeNumber, PositiveNumber, Size, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.seeds import integer_seed
from recpolicy.models.sequence_layout import SequenceLayout


@config_dataclass
class TopKReinforceConfig(ReferenceLimitConfig, SessionNetworkConfig):
    """Settings of top-K REINFORCE."""

    gamma: Fraction = 0.9
    """Discount per item, in [0, 1]."""
    k: Size = 1
    """Number K of items per slate; 1 if one item is shown at a time, as in SessionEnvironment."""
    weights: Literal["clipped", "self_normalized"] = "clipped"
    """Transformation of the importance weights."""
    max_weight: PositiveNumber = 20.0
    """Largest weight of the clipped form; the paper's is e^3."""
    behavior: Literal["logged", "head"] = "logged"
    """Source of beta: the logged probability, or the behavior head's estimate."""
    n_epochs: Count = 3
    """Gradient steps per block."""
    baseline: bool = True
    """Subtract a value estimate from the returns; the paper does not."""
    normalize_advantage: bool = True
    """Standardize the differences of a block, if there is a baseline."""
    ent_coef: NonNegativeNumber = 0.01
    """Weight of the entropy bonus."""


class TopKReinforce(LimitedLearner):
    """A top-K REINFORCE learner: a trunk with two heads, and a value network."""

    whole_sessions = True
    learns_from_slates = True
    figures = (
        "loss", "policy_loss", "behavior_loss", "value_loss", "entropy", "gradient_norm", "explained_variance",
        "clipped_share", "effective_share",
    )  # fmt: skip

    def __init__(
        self, trunk: tf_keras.Sequential, policy: ItemScores, behavior: ItemScores, value: Any,
        config: TopKReinforceConfig,
    ):  # fmt: skip
        super().__init__("topk_reinforce", normalize_reward=config.normalize_reward)
        self._trunk, self._policy, self._behavior, self._value = trunk, policy, behavior, value
        self.config = config
        weights = [*trunk.trainable_variables, *policy.weights, *behavior.weights, *value.trainable_variables]
        self._trainer = Trainer(weights, config)

    def scores(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return log-odds [B, A] of the policy."""
        return self._policy.of(self._trunk(observation), observation, mask)

    def value(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:  # noqa: ARG002
        """Return the value network's estimate [B]."""
        return self._rewards.original(self._value(observation)[:, 0])

    def behavior_scores(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return log-odds [B, A] of the behavior head, without gradients to the trunk."""
        return self._behavior.of(tf.stop_gradient(self._trunk(observation)), observation, mask)

    def update(
        self,
        experience: Experience | SlateExperience,
        seed: tf.Tensor,  # noqa: ARG002 - nothing is random
    ) -> Figures:
        """Take `n_epochs` gradient steps on the loss."""
        slates = experience if isinstance(experience, SlateExperience) else None
        block = experience.steps if isinstance(experience, SlateExperience) else experience
        counted = first_sessions(block)
        self._rewards.take_in(block.reward, counted)
        block = block._replace(reward=self._rewards.normalized(block.reward))
        estimates, value = advantages_under(self._value, block, self.config.gamma, gae_lambda=1.0)
        explained = explained_variance(flatten(value), flatten(estimates.target))
        gain, target = estimates.advantage if self.config.baseline else estimates.target, estimates.target
        if slates is not None:
            places = slates.read.shape[2]
            paid, gain, target, counted = (
                tf.repeat(part, places, axis=1) for part in (block.reward, gain, target, counted)
            )
            counted *= tf.cast(join_places(slates.read), tf.float32)
            block = slate_items(slates._replace(steps=block))
            gain += block.reward - paid  # an item is not credited with the like of another
        weight, gain, target = flatten(counted), flatten(gain), flatten(target)
        if self.config.baseline and self.config.normalize_advantage:
            gain = standardize(gain, weight)
        weight /= tf.maximum(tf.reduce_mean(weight), 1e-6)

        def step(index: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            figures = self._step(block, gain, target, weight)
            figures["explained_variance"] = explained
            return index + 1, sums + tf.stack([figures[name] for name in self.figures])

        start = (tf.constant(0), tf.zeros([len(self.figures)]))
        _, sums = tf.while_loop(lambda index, _: index < self.config.n_epochs, step, start)
        return dict(zip(self.figures, tf.unstack(sums / self.config.n_epochs), strict=True))

    def _step(self, experience: Experience, gain: tf.Tensor, target: tf.Tensor, weight: tf.Tensor) -> Figures:
        observation, mask, action = (
            flatten(part) for part in (experience.observation, experience.mask, experience.action)
        )
        config = self.config
        with tf.GradientTape() as tape:
            scores = self.scores(observation, mask)
            own, entropy = log_probability_and_entropy(scores, action)
            divergence = self._divergence(scores, observation, mask)
            head = log_probability(self.behavior_scores(observation, mask), action)
            logged = flatten(experience.log_probability) if config.behavior == "logged" else tf.stop_gradient(head)
            raw = importance(tf.stop_gradient(own), logged)
            transformed = transform_weights(raw, weight, config.weights, config.max_weight)
            factor = tf.stop_gradient(transformed * top_k_multiplier(tf.exp(own), config.k)) * gain
            policy_loss = -tf.reduce_mean(weight * factor * own)
            behavior_loss = -tf.reduce_mean(weight * head)
            value_loss = tf.reduce_mean(weight * tf.square(target - self._value(observation)[:, 0]))
            mean_entropy = tf.reduce_mean(weight * entropy)
            loss = policy_loss + behavior_loss + 0.5 * value_loss - config.ent_coef * mean_entropy
            loss += self._penalty(divergence, weight)
        counted = weight * raw
        return {
            "loss": loss, "policy_loss": policy_loss, "behavior_loss": behavior_loss,
            "value_loss": self._rewards.original_square(value_loss), "entropy": mean_entropy,
            "gradient_norm": self._descend(tape, loss, observation, mask, weight),
            "clipped_share": tf.reduce_mean(weight * tf.cast(raw > config.max_weight, tf.float32)),
            "effective_share": effective_share(counted) / tf.maximum(effective_share(weight), 1e-6),
            **self._limit_figures(divergence, weight),
        }  # fmt: skip

    def start_from(self, arrays: Mapping[str, Any]) -> None:
        """Copy the policy and the value network of an exported policy; the behavior head stays."""
        load_trunk_and_head(arrays, self._trunk, self._policy, self._value)

    def export(self) -> ExportedPolicy:
        """Return two networks as arrays: the trunk with the policy head, and the value network."""
        return export_trunk_and_head(self._trunk, self._policy, self._value, self.reward_std)


def importance(log_own: tf.Tensor, log_behavior: tf.Tensor) -> tf.Tensor:
    """Return w = pi / beta [N], at most e^30 to avoid overflow."""
    return tf.exp(tf.minimum(log_own - log_behavior, 30.0))


def transform_weights(raw: tf.Tensor, weight: tf.Tensor, how: str, max_weight: float) -> tf.Tensor:
    """Return weights [N]: min(w, max_weight), or w scaled to mean 1 over the steps in use."""
    if how == "clipped":
        return tf.minimum(raw, max_weight)
    return raw * tf.reduce_sum(weight) / tf.maximum(tf.reduce_sum(weight * raw), 1e-12)


def top_k_multiplier(probability: tf.Tensor, k: int) -> tf.Tensor:
    """Return lambda_K = K (1 - pi)^(K-1), the derivative of 1 - (1 - pi)^K."""
    return k * tf.pow(1.0 - probability, float(k - 1))


def effective_share(weight: tf.Tensor) -> tf.Tensor:
    """Return (sum w)^2 / (N sum w^2), the effective share of a weighted sample."""
    return tf.square(tf.reduce_mean(weight)) / tf.maximum(tf.reduce_mean(tf.square(weight)), 1e-12)


def make_topk_reinforce(
    spec: Any, action_spec: Any, config: TopKReinforceConfig, arms: ItemFeatures | None = None, seed: int = 0,
    sequence: SequenceLayout | None = None,
) -> SessionAgent:  # fmt: skip
    """Return a top-K REINFORCE agent; without `arms` its heads are plain."""
    if not config.layers:
        raise ConfigError("TopKReinforceConfig.layers: the two heads need a trunk of at least one layer")
    policy, behavior = (make_head(action_spec, config, arms, seed, name) for name in ("policy", "behavior"))
    learner = TopKReinforce(
        make_trunk(spec, config, seed, sequence), policy, behavior, make_value(spec, config, seed, sequence), config
    )
    return SessionAgent(spec, action_spec, learner, seed=seed)


def make_trunk(
    spec: Any, config: SessionNetworkConfig, seed: int, sequence: SequenceLayout | None = None
) -> tf_keras.Sequential:
    """Return the hidden layers [B, O] -> [B, H] that several heads share, with any encoder of the last items first."""
    encoder = make_encoder(config, sequence, seed, "trunk")
    hidden = [
        tf_keras.layers.Dense(
            units, "relu", kernel_initializer=tf_keras.initializers.GlorotUniform(integer_seed(seed, f"trunk {i}"))
        )
        for i, units in enumerate(config.layers)
    ]
    trunk = tf_keras.Sequential([*([] if encoder is None else [encoder]), *hidden])
    trunk.build((None, context_width(spec)))
    return trunk


def load_trunk_and_head(
    arrays: Mapping[str, Any], trunk: tf_keras.Sequential, head: ItemScores, value: tf_keras.Sequential
) -> None:
    """Copy an exported policy into a trunk, its head and a value network; see `load_networks`."""
    parts = head.parts(first=len(dense_layers(trunk)))
    load_networks(arrays, NetworkPart(trunk), *parts, NetworkPart(value, VALUE))


def export_trunk_and_head(
    trunk: tf_keras.Sequential, head: ItemScores, value: tf_keras.Sequential, unit: float
) -> ExportedPolicy:
    """Return two networks as arrays: a trunk with its head, and a value network that learned in `unit` rewards."""
    layers, last = layer_arrays(trunk), layer_arrays(head.network)
    depth = len(layers) // 2
    layers |= {f"kernel_{depth}": last["kernel_0"], f"bias_{depth}": last["bias_0"]}
    layers |= encoder_arrays(trunk)
    return ExportedPolicy("session", "softmax", {}, head.tables() | layers | value_arrays(value, unit))


def make_head(
    action_spec: Any, config: SessionNetworkConfig, arms: ItemFeatures | None, seed: int, name: str,
    temperature: float | None = None, *, zero: bool = True, state_value: bool = False,
) -> ItemScores:  # fmt: skip
    """Return a head on a trunk that scores all items; plain without `arms`.

    Args:
        action_spec: Spec of the actions, 0..A-1.
        config: Settings of the networks; its last layer is the input of the head.
        arms: Item features of the dot head.
        seed: Seed of the initial weights.
        name: Name of the head and of its random stream.
        temperature: Replaces the config's temperature.
        zero: Start a dot head at 0, so that it ranks as the rating model does; plain heads start at random.
        state_value: Add an output for a value of the state.
    """
    dot = arms if config.head != "plain" else None
    outputs = int(action_spec.maximum) + 1 if dot is None else dot_head_features(dot).shape[1]
    outputs += state_value
    random = dot is None or not zero
    initial = tf_keras.initializers.GlorotUniform(integer_seed(seed, name)) if random else "zeros"
    network = tf_keras.Sequential([tf_keras.layers.Dense(outputs, kernel_initializer=initial)], name=name)
    network.build((None, config.layers[-1]))
    tower = make_tower(config, dot, seed, name)
    return ItemScores(network, dot, config.temperature if temperature is None else temperature, name, tower)
