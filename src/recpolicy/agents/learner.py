"""The parts of a bandit agent: a Learner (estimates and updates) inside TF-Agents' TFPolicy and TFAgent.

B batch, A actions. A learner holds the variables and implements one algorithm. BanditPolicy makes it a TFPolicy that
reports the true probability of its action; BanditAgent makes it a TFAgent.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tf_agents.agents import tf_agent
from tf_agents.policies import tf_policy
from tf_agents.policies import utils as policy_utilities
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.trajectories import time_step as ts

from recpolicy.agents import action_distributions
from recpolicy.agents.observation import Observation, read_observation
from recpolicy.core.errors import ConfigError
from recpolicy.core.seeds import stateless_seed
from recpolicy.core.tensorflow_random import as_stateless_seed


class Estimate(NamedTuple):
    """Reward estimates of a learner for each action."""

    mean: tf.Tensor  # [B, A] expected reward
    width: tf.Tensor  # [B, A] standard deviation of that estimate, in units of the reward noise; 0 where not modeled


@dataclass(frozen=True)
class ExportedPolicy:
    """A trained policy as plain arrays, for prediction without TensorFlow (inference/predictor.py)."""

    estimator: str
    """The computation of means and widths from the arrays: a key of inference.reward_estimators.ESTIMATORS."""
    head: str
    """The computation of probabilities from means and widths: a key of inference.action_distributions.HEADS."""
    settings: dict[str, float] = field(default_factory=dict)
    """The head's parameters."""
    arrays: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    """The estimator's parameters."""


class Learner(tf.Module, abc.ABC):
    """One algorithm: its variables, estimates, exploration and update."""

    accepts_per_arm_features = False
    """True if it scores actions by the features in the observation, so that the items may change every round."""
    learns_from_logs = True
    """True if its estimates hold under any logging policy, as estimates conditioned on the context do."""
    uniform_mix = 0.0
    """The share of uniform choices in its collect policy; set by BanditAgent."""

    @abc.abstractmethod
    def estimate(self, observation: Observation) -> Estimate:
        """Return the expected reward of every action and its uncertainty."""

    @abc.abstractmethod
    def behavior_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the probabilities [B, A] with which it acts while it learns; masked arms have 0."""

    @abc.abstractmethod
    def update(self, observation: Observation, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """Update from a batch of actions [B] and rewards [B]; returns the mean squared error before the update."""

    @abc.abstractmethod
    def export(self) -> ExportedPolicy:
        """Return the learner as plain arrays."""

    def start_from(self, arrays: Mapping[str, Any]) -> None:  # noqa: ARG002 - networks override it
        """Copy the network of an exported policy of the same kind; raises ConfigError for one of another shape."""
        raise ConfigError(f"{self.name} has no network that could start from a policy")

    def limit_divergence(self, config: Any) -> None:  # noqa: ARG002 - networks override it
        """Limit the divergence from the learner as it is now; raises ConfigError if it has no such limit."""
        raise ConfigError(f"{self.name} has no limit of the divergence from a policy")

    def end_limit(self) -> dict[str, Any]:
        """Drop any limit of the divergence; return its figures."""
        return {}

    def greedy_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the probabilities [B, A] of the policy that has stopped exploring: greedy in the estimates."""
        return action_distributions.greedy(self.estimate(observation).mean, observation.mask)

    def sample_action(self, observation: Observation, seed: tf.Tensor) -> tf.Tensor:
        """Draw actions [B] from `behavior_probabilities`; subclasses override it if they can draw more cheaply."""
        return action_distributions.sample(self.behavior_probabilities(observation), seed)


class BanditPolicy(tf_policy.TFPolicy):
    """A learner as a TFPolicy; `info` carries log_probability [B] and predicted_rewards_mean [B, A]."""

    def __init__(
        self, time_step_spec: Any, action_spec: Any, learner: Learner, *, explores: bool, uniform_mix: float, seed: int
    ):
        actions = action_spec.maximum - action_spec.minimum + 1
        info_spec = policy_utilities.PolicyInfo(
            predicted_rewards_mean=tensor_spec.TensorSpec((int(actions),), tf.float32, "predicted_rewards_mean")
        )
        super().__init__(time_step_spec, action_spec, info_spec=info_spec, emit_log_probability=True, clip=False)
        self._learner, self._explores, self.uniform_mix = learner, explores, uniform_mix
        self._seed = tf.constant(stateless_seed(seed, "policy"), tf.int32)

    def probabilities(self, observation: Any) -> tf.Tensor:
        """Return the probability [B, A] of every action."""
        read = read_observation(observation)
        chosen = (
            self._learner.behavior_probabilities(read) if self._explores else self._learner.greedy_probabilities(read)
        )
        return action_distributions.with_uniform_mix(chosen, self.uniform_mix, read.mask)

    def sample_action(self, observation: Any, seed: tf.Tensor) -> tf.Tensor:
        """Draw actions [B] for the compiled loop; `seed` int32 [2]. Probabilities are computed only if needed."""
        if not self._explores or self.uniform_mix:
            return action_distributions.sample(self.probabilities(observation), seed)
        return self._learner.sample_action(read_observation(observation), seed)

    def _distribution(self, time_step: ts.TimeStep, policy_state: Any) -> policy_step.PolicyStep:
        import tensorflow_probability as tfp

        probabilities = self.probabilities(time_step.observation)
        mean = self._learner.estimate(read_observation(time_step.observation)).mean
        distribution = tfp.distributions.Categorical(probs=probabilities, dtype=self._action_spec.dtype)
        return policy_step.PolicyStep(
            distribution, policy_state, policy_utilities.PolicyInfo(predicted_rewards_mean=mean)
        )

    def _action(self, time_step: ts.TimeStep, policy_state: Any, seed: Any = None) -> policy_step.PolicyStep:
        step = self._distribution(time_step, policy_state)
        probabilities = step.action.probs_parameter()
        action = action_distributions.sample(probabilities, as_stateless_seed(seed, self._seed))
        log_probability = tf.math.log(tf.gather(probabilities, action, batch_dims=1))
        return step._replace(action=action, info=step.info._replace(log_probability=log_probability))


def check_per_arm_features(time_step_spec: Any, learner: Learner) -> None:
    """Raise ConfigError if candidates change every round and the learner has one model per action."""
    observation = time_step_spec.observation
    if isinstance(observation, dict) and "per_arm" in observation and not learner.accepts_per_arm_features:
        raise ConfigError(
            f"{learner.name} keeps one model per item, but here the candidates change every round; linucb_shared"
            " learns from their features"
        )


class BanditAgent(tf_agent.TFAgent):
    """A learner as a TFAgent: `collect_policy` explores, `policy` exploits."""

    def __init__(
        self, time_step_spec: Any, action_spec: Any, learner: Learner, *, uniform_mix: float = 0.0, seed: int = 0
    ):
        check_per_arm_features(time_step_spec, learner)
        spec = tensor_spec.from_spec(time_step_spec)
        action_spec = tensor_spec.from_spec(action_spec)
        self.learner = learner
        collect = BanditPolicy(spec, action_spec, learner, explores=True, uniform_mix=uniform_mix, seed=seed)
        exploit = BanditPolicy(spec, action_spec, learner, explores=False, uniform_mix=0.0, seed=seed)
        super().__init__(
            spec, action_spec, policy=exploit, collect_policy=collect, train_sequence_length=None,
            train_step_counter=tf.Variable(0, dtype=tf.int64, trainable=False, name="train_step"),
        )  # fmt: skip
        self.uniform_mix = uniform_mix
        self.action_seed = tf.constant(stateless_seed(seed, "actions"), tf.int32)

    @property
    def uniform_mix(self) -> float:
        """Share of uniform actions mixed into `collect_policy`, in [0, 1]; set it before the loop is compiled."""
        return self.collect_policy.uniform_mix

    @uniform_mix.setter
    def uniform_mix(self, uniform_mix: float) -> None:
        if not 0 <= uniform_mix <= 1:
            raise ConfigError(f"uniform_mix {uniform_mix}: expected in [0, 1]")
        self.collect_policy.uniform_mix = uniform_mix
        self.learner.uniform_mix = uniform_mix

    def _train(self, experience: trajectory.Trajectory, weights: Any = None) -> tf_agent.LossInfo:
        if weights is not None:
            raise ValueError("bandit learners take no example weights")
        flat = tf.nest.map_structure(lambda x: tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], 0)), experience)
        loss = self.learner.update(read_observation(flat.observation), flat.action, flat.reward)
        self.train_step_counter.assign_add(1)
        return tf_agent.LossInfo(loss, extra=())
