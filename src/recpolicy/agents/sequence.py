"""The parts of a session agent: a SessionLearner inside TF-Agents' TFPolicy and TFAgent.

B sessions, A actions, T steps. A learner scores the items for an observation, explores, estimates the observation's
value and learns from a block of experience from any source. SessionPolicy makes it a TFPolicy that reports the true
log-probability of its action; SessionAgent makes it a TFAgent.
"""

import abc
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tf_agents.agents import tf_agent
from tf_agents.policies import tf_policy
from tf_agents.policies import utils as policy_utilities
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.trajectories import time_step as ts

from recpolicy.agents import categorical
from recpolicy.agents.experience import Experience
from recpolicy.agents.learner import ExportedPolicy
from recpolicy.agents.observation import read_observation
from recpolicy.agents.reward_normalizer import RewardNormalizer
from recpolicy.core.errors import ConfigError
from recpolicy.core.seeds import stateless_seed
from recpolicy.core.tensorflow_random import as_stateless_seed, fold_in, uniform

Figures = dict[str, tf.Tensor]
"""The scalars that one update reports, keyed by the names in `figures`."""


class SessionLearner(tf.Module, abc.ABC):
    """An algorithm for sessions."""

    figures: tuple[str, ...] = ()
    """Names of the scalars that an update reports."""
    n_steps = 5
    """Number T of steps per block of experience."""
    whole_sessions = False
    """True if blocks must start with fresh sessions, as Monte Carlo returns require."""
    wants_next_mask = False
    """True if it needs the masks of the next observations."""

    learns_from_slates = False
    """True if it learns from steps that show several items."""

    def __init__(self, name: str, *, normalize_reward: bool = False):
        super().__init__(name=name)
        self._rewards = RewardNormalizer(normalize_reward)

    @property
    def reward_std(self) -> float:
        """The unit in which it learns: the standard deviation of rewards so far, or 1 if they are not normalized."""
        return float(self._rewards.std)

    @property
    def stopped(self) -> bool:
        """True if the policy no longer changes (reference_policy.py)."""
        return False

    def prepare(self, block: int) -> None:
        """Make ready for blocks of `block` steps in all; called before anything is compiled, again changes nothing."""

    def release(self) -> None:
        """Free the variables that only learning needs, before the policy is saved."""

    def start_from(self, arrays: Mapping[str, Any]) -> None:  # noqa: ARG002 - networks override it
        """Copy the networks of an exported policy of the same kind; raises ConfigError for one of another shape."""
        raise ConfigError(f"{self.name} has no network that could start from a policy")

    @abc.abstractmethod
    def scores(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return the order of preference [B, A]: log-odds or values; MASKED where not allowed."""

    @abc.abstractmethod
    def value(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return the expected discounted return [B] from here."""

    @abc.abstractmethod
    def update(self, experience: Experience, seed: tf.Tensor) -> Figures:
        """Update from a block; `seed` int32 [2]."""

    @abc.abstractmethod
    def export(self) -> ExportedPolicy:
        """Return the policy as plain arrays."""

    def logits(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return the log-probabilities [B, A] of exploration, up to a constant; the default is the scores.

        A server uses this policy, too, unless it is set to be greedy.
        """
        return self.scores(observation, mask)

    def sample_action(self, observation: tf.Tensor, mask: tf.Tensor, point: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw actions [B] at uniform points [B]; return them and their log-probabilities [B]."""
        return categorical.draw(self.logits(observation, mask), point)


class SessionPolicy(tf_policy.TFPolicy):
    """A learner as a TFPolicy; `info` carries log_probability [B]."""

    def __init__(self, time_step_spec: Any, action_spec: Any, learner: SessionLearner, *, explores: bool, seed: int):
        super().__init__(
            time_step_spec, action_spec, info_spec=policy_utilities.PolicyInfo(), emit_log_probability=True, clip=False
        )
        self._learner, self._explores = learner, explores
        self._seed = tf.constant(stateless_seed(seed, "policy"), tf.int32)

    def logits(self, observation: Any) -> tf.Tensor:
        """Return log-probabilities [B, A] up to a constant."""
        read = read_observation(observation)
        if self._explores:
            return self._learner.logits(read.context, read.mask)
        scores = self._learner.scores(read.context, read.mask)
        best = scores >= tf.reduce_max(scores, axis=1, keepdims=True)
        return tf.where(best, 0.0, categorical.MASKED)

    def _distribution(self, time_step: ts.TimeStep, policy_state: Any) -> policy_step.PolicyStep:
        import tensorflow_probability as tfp

        logits = self.logits(time_step.observation)
        distribution = tfp.distributions.Categorical(logits=logits, dtype=self._action_spec.dtype)
        return policy_step.PolicyStep(distribution, policy_state, policy_utilities.PolicyInfo())

    def _action(self, time_step: ts.TimeStep, policy_state: Any, seed: Any = None) -> policy_step.PolicyStep:
        logits = self.logits(time_step.observation)
        point = uniform([tf.shape(logits)[0]], as_stateless_seed(seed, self._seed))
        action, log_probability = categorical.draw(logits, point)
        info = policy_utilities.PolicyInfo(log_probability=log_probability)
        return policy_step.PolicyStep(tf.cast(action, self._action_spec.dtype), policy_state, info)


class SessionAgent(tf_agent.TFAgent):
    """A learner as a TFAgent: `collect_policy` explores, `policy` is greedy in its scores."""

    def __init__(self, time_step_spec: Any, action_spec: Any, learner: SessionLearner, *, seed: int = 0):
        spec, actions = tensor_spec.from_spec(time_step_spec), tensor_spec.from_spec(action_spec)
        self.learner = learner
        super().__init__(
            spec, actions, policy=SessionPolicy(spec, actions, learner, explores=False, seed=seed),
            collect_policy=SessionPolicy(spec, actions, learner, explores=True, seed=seed),
            train_sequence_length=None,
            train_step_counter=tf.Variable(0, dtype=tf.int64, trainable=False, name="train_step"),
        )  # fmt: skip
        self.action_seed = tf.constant(stateless_seed(seed, "actions"), tf.int32)
        self.learn_seed = tf.constant(stateless_seed(seed, "learn"), tf.int32)

    def _train(self, experience: trajectory.Trajectory, weights: Any = None) -> tf_agent.LossInfo:
        """Learn from a Trajectory [B, T + 1, ...] of one driver run; of the last step only the observation is used."""
        if weights is not None:
            raise ValueError("session agents take no example weights")
        block = experience_from_trajectory(experience)
        with tf.init_scope():  # tensors that the learner keeps must outlive the traced function
            self.learner.prepare(block.action.shape.num_elements())
        figures = self.learner.update(block, fold_in(self.learn_seed, self.train_step_counter))
        self.train_step_counter.assign_add(1)
        return tf_agent.LossInfo(figures["loss"], extra=figures)


def experience_from_trajectory(steps: trajectory.Trajectory) -> Experience:
    """Return the Experience of a TF-Agents Trajectory, batch first; needs `mask` observations and log-probabilities.

    A trajectory's boundary steps lead from the last observation of a session to the first of the next. They are not
    steps of a session, but the block must keep its shape. So the previous step, or else the next one, counts twice.
    """
    now = tf.nest.map_structure(lambda x: tf.transpose(x, [1, 0, *range(2, len(x.shape))]), steps)
    here = tf.nest.map_structure(lambda x: x[:-1], now)
    following = read_observation(tf.nest.map_structure(lambda x: x[1:], now.observation))
    read = read_observation(here.observation)
    boundary = tf.equal(here.step_type, ts.StepType.LAST)  # [T, B]
    last = tf.equal(here.next_step_type, ts.StepType.LAST)
    terminated = last & tf.equal(here.discount, 0.0)
    block = Experience(
        observation=read.context, mask=read.mask, action=tf.cast(here.action, tf.int32),
        log_probability=here.policy_info.log_probability, reward=here.reward, terminated=terminated,
        truncated=last & ~terminated, next_observation=following.context, next_mask=following.mask,
    )  # fmt: skip
    return Experience(*(_beside(part, boundary) for part in block))


def _beside(part: tf.Tensor, boundary: tf.Tensor) -> tf.Tensor:
    """Return `part` [T, B, ...] with `boundary` steps [T, B] replaced by the previous ones (the first by the next)."""
    neighbor = tf.concat([part[1:2], part[:-1]], axis=0)[: part.shape[0]]
    return tf.where(tf.reshape(boundary, [*boundary.shape, *[1] * (len(part.shape) - 2)]), neighbor, part)
