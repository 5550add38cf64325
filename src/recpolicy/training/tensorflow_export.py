"""The two SavedModels of an artifact.

`policy/` is written by TF-Agents' PolicySaver; loading it needs tf_agents. `action/` is a module of two functions for
plain `tf.saved_model.load`: `action(context, seed)` explores, `greedy(context)` does not. Both take contexts [n, D] and
return a dict with action [n], probability [n] and rating [n, A]. The functions of a session policy take observations
[n, O] and masks [n, A].
"""

from pathlib import Path
from typing import Any

import tensorflow as tf
from tf_agents.policies import policy_saver

from recpolicy.agents import action_distributions, categorical
from recpolicy.agents.learner import BanditAgent, BanditPolicy
from recpolicy.agents.observation import Observation
from recpolicy.agents.sequence import SessionAgent, SessionLearner
from recpolicy.core.tensorflow_random import uniform
from recpolicy.core.tensorflow_setup import silence_libraries


class ActionModule(tf.Module):
    """A module with two plain functions of a learner."""

    def __init__(self, agent: BanditAgent, width: int):
        super().__init__(name="action")
        self._learner = agent.learner
        collect: BanditPolicy = agent.collect_policy
        context = tf.TensorSpec([None, width], tf.float32, "context")
        seed = tf.TensorSpec([2], tf.int32, "seed")

        def answer(contexts: tf.Tensor, probabilities: tf.Tensor, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
            action = action_distributions.sample(probabilities, seeds)
            rating = agent.learner.estimate(Observation(contexts, None, None)).mean
            return {
                "action": action,
                "probability": tf.gather(probabilities, action, batch_dims=1),
                "probabilities": probabilities,
                "rating": rating,
            }

        def action(context: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
            return answer(context, collect.probabilities(context), seed)

        def greedy(context: tf.Tensor) -> dict[str, tf.Tensor]:
            exploit: BanditPolicy = agent.policy
            return answer(context, exploit.probabilities(context), tf.constant([0, 0]))

        self.action = tf.function(action, input_signature=[context, seed], autograph=False)
        self.greedy = tf.function(greedy, input_signature=[context], autograph=False)


class SessionActionModule(tf.Module):
    """A module with two plain functions of a session learner, of observations [n, O] and masks [n, A]."""

    def __init__(self, agent: SessionAgent, width: int, actions: int):
        super().__init__(name="session_action")
        self._learner = agent.learner
        learner: SessionLearner = agent.learner
        observation = tf.TensorSpec([None, width], tf.float32, "observation")
        mask = tf.TensorSpec([None, actions], tf.bool, "mask")
        seed = tf.TensorSpec([2], tf.int32, "seed")

        def action(observation: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
            logits = learner.logits(observation, mask)
            chosen, log_probability = categorical.draw(logits, uniform([tf.shape(logits)[0]], seed))
            return {
                "action": chosen,
                "probability": tf.exp(log_probability),
                "probabilities": tf.nn.softmax(logits),
                "value": learner.value(observation, mask),
            }

        def greedy(observation: tf.Tensor, mask: tf.Tensor) -> dict[str, tf.Tensor]:
            scores = learner.scores(observation, mask)
            return {"action": tf.argmax(scores, axis=1, output_type=tf.int32), "score": scores}

        self.action = tf.function(action, input_signature=[observation, mask, seed], autograph=False)
        self.greedy = tf.function(greedy, input_signature=[observation, mask], autograph=False)


def write_saved_models(agent: BanditAgent | SessionAgent, width: int, folder: Path) -> None:
    """Write `policy/` and `action/` below `folder`; width is that of a context, or of a session's observation."""
    silence_libraries()
    if isinstance(agent, SessionAgent):
        agent.learner.release()
    saver: Any = policy_saver.PolicySaver(agent.collect_policy, batch_size=None)
    saver.save(str(folder / "policy"))
    if isinstance(agent, SessionAgent):
        module: tf.Module = SessionActionModule(agent, width, int(agent.action_spec.maximum) + 1)
    else:
        module = ActionModule(agent, width)
    tf.saved_model.save(module, str(folder / "action"))
