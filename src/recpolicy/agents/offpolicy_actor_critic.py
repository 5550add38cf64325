"""Off-policy actor-critic: a softmax policy that follows an ensemble of critics, from logged or own steps.

One trunk carries three kinds of heads: the policy, the behavior policy (no gradient to the trunk) and E critics. The
critics learn the values of the policy itself by expected SARSA (action_values.py), from steps of any policy and without
importance weights. The actor has two forms:

    logged        gradient = w lambda_K (Q~(s, a) - sum_b pi(b|s) Q~(s, b)) grad log pi(a|s),  w = min(pi / beta, c)
    all_actions   gradient = sum_a lambda_K (Q~(s, a) - sum_b pi(b|s) Q~(s, b)) grad pi(a|s)

Q~ = mean + kappa sd over critics. The critics have last layers of their own with different initial weights: so they
disagree about actions that the log does not show. With `dueling` the level of a critic's values is a separate output;
without it, values that grow from one reward to those of a session lose the order of the items. Heads that score by
item features learn about items that the log lacks from similar ones, and so come to agree. With `item_offset_std` each
critic also has a trained offset for each item that starts at random: without a logged step it keeps its start.
Sources: Chen et al. 2022 (10.1145/3523227.3546758); random starts that data alone can remove after Osband et al. 2018
(1806.03335).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from recpolicy.agents import categorical
from recpolicy.agents.action_values import (
    advantages,
    all_actions_actor_loss,
    combine_critics,
    expected_sarsa_targets,
    logged_actor_loss,
    policy_values,
    restrict_to_support,
)
from recpolicy.agents.divergence_limit import ReferenceLimitConfig
from recpolicy.agents.dqn import huber, largest, soft_update
from recpolicy.agents.experience import Experience, flatten
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import ExportedPolicy
from recpolicy.agents.reference_policy import LimitedLearner
from recpolicy.agents.sequence import Figures, SessionAgent
from recpolicy.agents.session_networks import ItemScores, SessionNetworkConfig, Trainer, make_value
from recpolicy.agents.topk_reinforce import (
    effective_share,
    export_trunk_and_head,
    importance,
    load_trunk_and_head,
    make_head,
    make_trunk,
    top_k_multiplier,
    transform_weights,
)
from recpolicy.core.config import (
    Count,
    Fraction,
    NonNegativeNumber,
    Number,
    PositiveFraction,
    PositiveNumber,
    Size,
    Temperature,
    config_dataclass,
)
from recpolicy.core.errors import ConfigError
from recpolicy.core.seeds import generator
from recpolicy.models.sequence_layout import SequenceLayout


@config_dataclass
class OffPolicyActorCriticConfig(ReferenceLimitConfig, SessionNetworkConfig):
    """Settings of the off-policy actor-critic."""

    gamma: Fraction = 0.9
    """Discount per item, in [0, 1]."""
    actor: Literal["logged", "all_actions"] = "logged"
    """Actions in the actor's gradient: the logged one, with an importance weight, or all of them."""
    kappa: Number = 0.0
    """Standard deviations over critics that are added to their mean; negative values are pessimistic."""
    critics: Size = 2
    """Number E of critics."""
    dueling: bool = True
    """Use Q = V(s) + score - mean score in the critics, with V as a separate output."""
    support: Fraction = 0.0
    """Actions with a smaller probability of behavior count as the worst supported one; 0 supports all."""
    k: Size = 1
    """Number K of items per slate; 1 if one item is shown at a time, as in SessionEnvironment."""
    max_weight: PositiveNumber = 20.0
    """Largest importance weight of the logged form; the paper's is e^3."""
    behavior: Literal["logged", "head"] = "logged"
    """Source of beta: the logged probability, or the behavior head's estimate."""
    value_temperature: Temperature = 4.0
    """Initial points of expected rating per unit of a critic's value (dot head); must be > 0."""
    item_offset_std: NonNegativeNumber = 0.0
    """Standard deviation of each critic's initial item offsets, in the unit of learning; 0 has no offsets."""
    tau: PositiveFraction = 0.005
    """Share of the online weights in the target critics' moving average at each gradient step."""
    n_epochs: Count = 1
    """Gradient steps per block."""
    batch_size: Size = 256
    """Logged steps per block."""
    vf_coef: NonNegativeNumber = 0.5
    """Weight of the critics' loss and of the value network's loss."""
    ent_coef: NonNegativeNumber = 0.01
    """Weight of the entropy bonus."""


class Critics(tf.Module):
    """A trunk and E heads that score all items; used twice, online and as the target."""

    def __init__(
        self, trunk: tf_keras.Sequential, heads: list[ItemScores], name: str, *, dueling: bool = False,
        offsets: NDArray[np.float32] | None = None,
    ):  # fmt: skip
        """Use `offsets` [E, A] as the initial item offsets; None has no offsets."""
        super().__init__(name=name)
        self.trunk, self.heads, self._dueling = trunk, heads, dueling
        self.offsets = None if offsets is None else tf.Variable(offsets, name="item_offsets")

    def __call__(self, observation: tf.Tensor) -> tf.Tensor:
        """Return unmasked values [E, n, A]."""
        state = self.trunk(observation)
        if self._dueling:
            values = tf.stack([head.dueling_values(observation, state) for head in self.heads])
        else:
            values = tf.stack([head.of(state, observation, None) for head in self.heads])
        # Added last: in a dueling mean every step would move the offsets of all items.
        return values if self.offsets is None else values + self.offsets[:, tf.newaxis]

    @property
    def weights(self) -> list[tf.Variable]:
        """The weights of the trunk, of all heads and any item offsets, in a fixed order."""
        offsets = [] if self.offsets is None else [self.offsets]
        return [*self.trunk.trainable_variables, *(weight for head in self.heads for weight in head.weights), *offsets]


class OffPolicyActorCritic(LimitedLearner):
    """A learner with a policy, a behavior head, critics, target critics and a value network."""

    wants_next_mask = True
    figures = (
        "loss", "policy_loss", "behavior_loss", "critic_loss", "value_loss", "entropy", "gradient_norm", "value_mean",
        "target_mean", "max_q_value", "critic_deviation", "clipped_share", "effective_share",
    )  # fmt: skip

    def __init__(
        self, policy: ItemScores, behavior: ItemScores, critics: Critics, targets: Critics, value: Any,
        config: OffPolicyActorCriticConfig,
    ):  # fmt: skip
        super().__init__("offpolicy_actor_critic", normalize_reward=config.normalize_reward)
        self._policy, self._behavior, self._critics, self._targets = policy, behavior, critics, targets
        self._value, self.config = value, config
        others = [*policy.weights, *behavior.weights, *value.trainable_variables]
        self._trainer = Trainer([*critics.weights, *others], config)
        self._follow(1.0)

    def scores(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return log-odds [B, A] of the policy."""
        return self._policy.of(self._critics.trunk(observation), observation, mask)

    def value(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:  # noqa: ARG002
        """Return the value network's estimate [B], which follows the critics' value of the policy."""
        return self._rewards.original(self._value(observation)[:, 0])

    def behavior_scores(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return log-odds [B, A] of the behavior head, without gradients to the trunk."""
        return self._behavior.of(tf.stop_gradient(self._critics.trunk(observation)), observation, mask)

    def action_values(self, observation: tf.Tensor) -> tf.Tensor:
        """Return the critics' values [E, B, A], also of actions that a mask excludes."""
        return self._rewards.original(self._critics(observation))

    def update(self, experience: Experience, seed: tf.Tensor) -> Figures:  # noqa: ARG002 - nothing is random
        """Take `n_epochs` gradient steps on a block of steps of any policy."""
        assert experience.next_mask is not None
        self._rewards.take_in(experience.reward)
        reward = self._rewards.normalized(experience.reward)
        steps = Experience(*(flatten(part) for part in experience._replace(reward=reward)))

        def step(index: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            figures = self._step(steps)
            return index + 1, sums + tf.stack([figures[name] for name in self.figures])

        start = (tf.constant(0), tf.zeros([len(self.figures)]))
        _, sums = tf.while_loop(lambda index, _: index < self.config.n_epochs, step, start)
        return dict(zip(self.figures, tf.unstack(sums / self.config.n_epochs), strict=True))

    def _step(self, steps: Experience) -> Figures:
        """Take one gradient step on `steps` [n, ...]."""
        config = self.config
        target = expected_sarsa_targets(
            steps.reward, steps.terminated, steps.next_mask, self.scores(steps.next_observation, None),
            self._targets(steps.next_observation), config.gamma,
        )  # fmt: skip
        with tf.GradientTape() as tape:
            scores = self.scores(steps.observation, steps.mask)
            own, entropy = categorical.log_probability_and_entropy(scores, steps.action)
            divergence = self._divergence(scores, steps.observation, steps.mask)
            behavior = self.behavior_scores(steps.observation, steps.mask)
            head = categorical.log_probability(behavior, steps.action)
            values = self._critics(steps.observation)  # [E, n, A]
            taken = tf.stack([categorical.at(part, steps.action) for part in tf.unstack(values)])  # [E, n]
            critic_loss = tf.reduce_mean(huber(target - taken))
            raw = importance(tf.stop_gradient(own), tf.stop_gradient(self._log_behavior(steps, head)))
            policy_loss = tf.reduce_mean(self._actor_loss(steps, scores, own, behavior, values, raw))
            behavior_loss = -tf.reduce_mean(head)
            followed = tf.stop_gradient(policy_values(tf.reduce_mean(values, axis=0), scores))
            value_loss = tf.reduce_mean(tf.square(followed - self._value(steps.observation)[:, 0]))
            mean_entropy = tf.reduce_mean(entropy)
            loss = policy_loss + behavior_loss + config.vf_coef * (critic_loss + value_loss)
            loss += self._penalty(divergence) - config.ent_coef * mean_entropy
        norm = self._descend(tape, loss, steps.observation, steps.mask)
        self._follow(config.tau)
        original = self._rewards.original
        return {
            "loss": loss, "policy_loss": policy_loss, "behavior_loss": behavior_loss, "critic_loss": critic_loss,
            "value_loss": self._rewards.original_square(value_loss), "entropy": mean_entropy, "gradient_norm": norm,
            "value_mean": original(tf.reduce_mean(taken)), "target_mean": original(tf.reduce_mean(target)),
            "max_q_value": original(largest(values)),
            "critic_deviation": original(tf.reduce_mean(tf.math.reduce_std(taken, axis=0))),
            "clipped_share": tf.reduce_mean(tf.cast(raw > config.max_weight, tf.float32)),
            "effective_share": effective_share(raw), **self._limit_figures(divergence),
        }  # fmt: skip

    def _log_behavior(self, steps: Experience, head: tf.Tensor) -> tf.Tensor:
        """Return log beta [n]; all_actions needs no weights, so its figures use the head's estimate."""
        logged = self.config.behavior == "logged" and self.config.actor == "logged"
        return steps.log_probability if logged else head

    def _actor_loss(
        self, steps: Experience, scores: tf.Tensor, own: tf.Tensor, behavior: tf.Tensor, values: tf.Tensor,
        raw: tf.Tensor,
    ) -> tf.Tensor:  # fmt: skip
        """Return the actor's loss [n]; the critics get no gradient from it."""
        config = self.config
        combined = combine_critics(tf.stop_gradient(values), config.kappa)
        if config.support:
            combined = restrict_to_support(combined, tf.nn.softmax(behavior), steps.mask, config.support)
        advantage = tf.stop_gradient(advantages(combined, scores))
        if config.actor == "all_actions":
            return all_actions_actor_loss(scores, advantage, config.k)
        weight = transform_weights(raw, tf.ones_like(raw), "clipped", config.max_weight)
        return logged_actor_loss(
            own, categorical.at(advantage, steps.action), weight, top_k_multiplier(tf.exp(own), config.k)
        )

    def _follow(self, share: float) -> None:
        for old, new in zip(self._targets.weights, self._critics.weights, strict=True):
            old.assign(soft_update(old, new, share))

    def start_from(self, arrays: Mapping[str, Any]) -> None:
        """Copy the policy and the value network of an exported policy; its trunk also carries the critics."""
        load_trunk_and_head(arrays, self._critics.trunk, self._policy, self._value)
        self._follow(1.0)

    def export(self) -> ExportedPolicy:
        """Return two networks as arrays: the trunk with the policy head, and the value network."""
        return export_trunk_and_head(self._critics.trunk, self._policy, self._value, self.reward_std)


def make_offpolicy_actor_critic(
    spec: Any, action_spec: Any, config: OffPolicyActorCriticConfig, arms: ItemFeatures | None = None, seed: int = 0,
    sequence: SequenceLayout | None = None,
) -> SessionAgent:  # fmt: skip
    """Return an off-policy actor-critic agent; without `arms` its heads are plain."""
    if not config.layers:
        raise ConfigError("OffPolicyActorCriticConfig.layers: the heads need a trunk of at least one layer")
    if config.kappa and config.critics == 1:
        raise ConfigError(
            "OffPolicyActorCriticConfig.kappa: one critic has no standard deviation; set critics to 2 or more, or kappa"
            " to 0"
        )
    policy, behavior = (make_head(action_spec, config, arms, seed, name) for name in ("policy", "behavior"))
    critics, targets = (
        _make_critics(spec, action_spec, config, arms, seed, name, sequence) for name in ("critics", "targets")
    )
    learner = OffPolicyActorCritic(policy, behavior, critics, targets, make_value(spec, config, seed, sequence), config)
    return SessionAgent(spec, action_spec, learner, seed=seed)


def _make_critics(
    spec: Any, action_spec: Any, config: OffPolicyActorCriticConfig, arms: ItemFeatures | None, seed: int, name: str,
    sequence: SequenceLayout | None,
) -> Critics:  # fmt: skip
    """Return a trunk with the heads of all critics, of random initial weights."""
    make = partial(
        make_head, action_spec, config, arms, seed, temperature=config.value_temperature, zero=False,
        state_value=config.dueling,
    )  # fmt: skip
    heads = [make(name=f"critic_{index}") for index in range(config.critics)]
    offsets = None
    if config.item_offset_std:
        shape = config.critics, int(action_spec.maximum) + 1
        offsets = np.float32(config.item_offset_std) * generator(seed, "critics/item_offsets").standard_normal(
            shape, np.float32
        )
    return Critics(make_trunk(spec, config, seed, sequence), heads, name, dueling=config.dueling, offsets=offsets)
