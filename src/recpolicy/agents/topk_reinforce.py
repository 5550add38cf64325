"""Top-K off-policy-corrected REINFORCE, with a behaviour head.

A block of whole sessions is learnt from several times, so all but the first pass are off-policy. Per step, with
everything but log pi held constant,

    gradient = w lambda_K G grad log pi(a|s),   w = pi / beta (capped, or normalised to mean 1),
    lambda_K = K (1 - pi)^(K-1): of a slate of K independent draws only the chance that it holds the item counts.

beta is the probability that was logged, or the estimate of the behaviour head: a second softmax on the same trunk, with
its gradient blocked from the trunk, trained on all steps; the policy's loss sees only steps with G != 0. The correction
ignores that states, too, would be visited differently. Source: Chen et al. 2019 (1812.02353).
"""

from dataclasses import dataclass
from typing import Any, Literal

import tensorflow as tf
import tf_keras

from recpolicy.agents.actor_critic import advantages_under, value_arrays
from recpolicy.agents.categorical import log_probability, log_probability_and_entropy
from recpolicy.agents.experience import Experience, flatten
from recpolicy.agents.item_features import Arms
from recpolicy.agents.learner import ExportedPolicy
from recpolicy.agents.neural import layer_arrays
from recpolicy.agents.observation import context_width
from recpolicy.agents.reinforce import first_sessions
from recpolicy.agents.returns import explained_variance, standardise
from recpolicy.agents.sequence import Figures, SequenceAgent, SequenceLearner
from recpolicy.agents.session_networks import ItemScores, SessionNetworkConfig, Trainer, features_of, make_value
from recpolicy.core.errors import ConfigError
from recpolicy.core.seeds import integer_seed


@dataclass(frozen=True, kw_only=True)
class TopKReinforceConfig(SessionNetworkConfig):
    """Settings of top-K REINFORCE."""

    gamma: float = 0.9
    """Discount per item, in [0, 1]."""
    k: int = 1
    """K, items per slate; 1 where one item is shown at a time, as in SessionEnvironment."""
    weights: Literal["capped", "self_normalised"] = "capped"
    """How importance weights are tamed."""
    cap: float = 20.0
    """Largest weight of the capped form; the paper's is e^3."""
    behaviour: Literal["logged", "head"] = "logged"
    """Where beta comes from: the logged probability, or the behaviour head's estimate."""
    passes: int = 3
    """Gradient steps per block."""
    baseline: bool = True
    """Subtract a value estimate from the returns and standardise them; the paper does not."""
    entropy_weight: float = 0.01
    """Weight of the entropy bonus."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma <= 1 or self.k < 1 or self.passes < 1 or self.cap <= 0 or self.entropy_weight < 0:
            raise ConfigError(
                "TopKReinforceConfig: gamma must be in [0, 1], k and passes at least 1, cap above 0, entropy_weight"
                " 0 or more"
            )


class TopKReinforce(SequenceLearner):
    """A trunk with two heads, and a value network."""

    whole_sessions = True
    figures = (
        "loss", "policy_loss", "behaviour_loss", "value_loss", "entropy", "gradient_norm", "explained_variance",
        "capped_share", "effective_share",
    )  # fmt: skip

    def __init__(
        self, trunk: tf_keras.Sequential, policy: ItemScores, behaviour: ItemScores, value: Any,
        config: TopKReinforceConfig,
    ):  # fmt: skip
        super().__init__(name="topk_reinforce")
        self._trunk, self._policy, self._behaviour, self._value = trunk, policy, behaviour, value
        self.config = config
        networks = (trunk, policy.network, behaviour.network, value)
        self._trainer = Trainer([weight for network in networks for weight in network.trainable_variables], config)

    def scores(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Log-odds [B, A] of the policy."""
        return self._policy.of(self._trunk(observation), observation, mask)

    def value(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:  # noqa: ARG002
        """The value network's estimate [B]."""
        return self._value(observation)[:, 0]

    def behaviour_scores(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Log-odds [B, A] of the behaviour head, which leaves the trunk alone."""
        return self._behaviour.of(tf.stop_gradient(self._trunk(observation)), observation, mask)

    def learn(self, experience: Experience, seed: tf.Tensor) -> Figures:  # noqa: ARG002 - nothing is random
        """`passes` steps down the loss."""
        found, value = advantages_under(self._value, experience, self.config.gamma, trace=1.0)
        weight = flatten(first_sessions(experience))
        gain = flatten(found.target)
        if self.config.baseline:
            gain = standardise(flatten(found.advantage), weight)
        weight /= tf.maximum(tf.reduce_mean(weight), 1e-6)
        explained = explained_variance(flatten(value), flatten(found.target))

        def one(index: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            told = self._step(experience, gain, flatten(found.target), weight)
            told["explained_variance"] = explained
            return index + 1, sums + tf.stack([told[name] for name in self.figures])

        start = (tf.constant(0), tf.zeros([len(self.figures)]))
        _, sums = tf.while_loop(lambda index, _: index < self.config.passes, one, start)
        return dict(zip(self.figures, tf.unstack(sums / self.config.passes), strict=True))

    def _step(self, experience: Experience, gain: tf.Tensor, target: tf.Tensor, weight: tf.Tensor) -> Figures:
        observation, mask, action = (
            flatten(part) for part in (experience.observation, experience.mask, experience.action)
        )
        config = self.config
        with tf.GradientTape() as tape:
            own, entropy = log_probability_and_entropy(self.scores(observation, mask), action)
            head = log_probability(self.behaviour_scores(observation, mask), action)
            logged = flatten(experience.log_probability) if config.behaviour == "logged" else tf.stop_gradient(head)
            raw = importance(tf.stop_gradient(own), logged)
            tamed = tame(raw, weight, config.weights, config.cap)
            factor = tf.stop_gradient(tamed * top_k_multiplier(tf.exp(own), config.k)) * gain
            policy_loss = -tf.reduce_mean(weight * factor * own)
            behaviour_loss = -tf.reduce_mean(weight * head)
            value_loss = tf.reduce_mean(weight * tf.square(target - self._value(observation)[:, 0]))
            mean_entropy = tf.reduce_mean(weight * entropy)
            loss = policy_loss + behaviour_loss + 0.5 * value_loss - config.entropy_weight * mean_entropy
        counted = weight * raw
        return {
            "loss": loss, "policy_loss": policy_loss, "behaviour_loss": behaviour_loss, "value_loss": value_loss,
            "entropy": mean_entropy, "gradient_norm": self._trainer.descend(tape, loss),
            "capped_share": tf.reduce_mean(weight * tf.cast(raw > config.cap, tf.float32)),
            "effective_share": effective_share(counted) / tf.maximum(effective_share(weight), 1e-6),
        }  # fmt: skip

    def export(self) -> ExportedPolicy:
        """Trunk and policy head as one network, and the value network, as arrays."""
        layers = layer_arrays(self._trunk)
        depth = len(layers) // 2
        last = layer_arrays(self._policy.network)
        layers |= {f"kernel_{depth}": last["kernel_0"], f"bias_{depth}": last["bias_0"]}
        return ExportedPolicy("session", "softmax", {}, self._policy.tables() | layers | value_arrays(self._value))


def importance(log_own: tf.Tensor, log_behaviour: tf.Tensor) -> tf.Tensor:
    """w = pi / beta [N], bounded by e^30 against overflow."""
    return tf.exp(tf.minimum(log_own - log_behaviour, 30.0))


def tame(raw: tf.Tensor, weight: tf.Tensor, how: str, cap: float) -> tf.Tensor:
    """Weights [N]: min(w, cap), or w scaled to have mean 1 over the steps that count."""
    if how == "capped":
        return tf.minimum(raw, cap)
    return raw * tf.reduce_sum(weight) / tf.maximum(tf.reduce_sum(weight * raw), 1e-12)


def top_k_multiplier(probability: tf.Tensor, k: int) -> tf.Tensor:
    """lambda_K = K (1 - pi)^(K-1), the derivative of 1 - (1 - pi)^K."""
    return k * tf.pow(1.0 - probability, float(k - 1))


def effective_share(weight: tf.Tensor) -> tf.Tensor:
    """(sum w)^2 / (N sum w^2), the effective share of a weighted sample."""
    return tf.square(tf.reduce_mean(weight)) / tf.maximum(tf.reduce_mean(tf.square(weight)), 1e-12)


def make_topk_reinforce(
    spec: Any, action_spec: Any, config: TopKReinforceConfig, arms: Arms | None = None, seed: int = 0
) -> SequenceAgent:
    """Return a top-K REINFORCE agent; without `arms` its heads are plain."""
    if not config.layers:
        raise ConfigError("TopKReinforceConfig.layers: the two heads need a trunk of at least one layer")
    dot = arms if config.head == "dot" else None
    outputs = int(action_spec.maximum) + 1 if dot is None else features_of(dot).shape[1]
    trunk = tf_keras.Sequential(
        [
            tf_keras.layers.Dense(
                units, "relu", kernel_initializer=tf_keras.initializers.GlorotUniform(integer_seed(seed, f"trunk {i}"))
            )
            for i, units in enumerate(config.layers)
        ]
    )
    trunk.build((None, context_width(spec)))
    policy, behaviour = (_head(config, outputs, dot, seed, name) for name in ("policy", "behaviour"))
    learner = TopKReinforce(trunk, policy, behaviour, make_value(spec, config, seed), config)
    return SequenceAgent(spec, action_spec, learner, seed=seed)


def _head(config: TopKReinforceConfig, outputs: int, arms: Arms | None, seed: int, name: str) -> ItemScores:
    initial = tf_keras.initializers.GlorotUniform(integer_seed(seed, name)) if arms is None else "zeros"
    network = tf_keras.Sequential([tf_keras.layers.Dense(outputs, kernel_initializer=initial)], name=name)
    network.build((None, config.layers[-1]))
    return ItemScores(network, arms, config.temperature, name)
