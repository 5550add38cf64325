"""Behavior cloning inside the compiled loop of sessions: one agent acts, another one learns to act like it."""

import tensorflow as tf

from recpolicy.agents.experience import Experience
from recpolicy.agents.learner import ExportedPolicy
from recpolicy.agents.sequence import Figures, SessionAgent, SessionLearner
from recpolicy.environments.session import SessionEnvironment
from recpolicy.training.session_loop import LoopMetrics, SessionLoop


class Imitation(SessionLearner):
    """A learner whose actions are the teacher's and whose updates are the student's."""

    def __init__(self, teacher: SessionLearner, student: SessionLearner):
        super().__init__("imitation")
        self._teacher, self._student = teacher, student
        self.figures, self.n_steps = student.figures, student.n_steps

    def scores(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return the teacher's scores [B, A]."""
        return self._teacher.scores(observation, mask)

    def logits(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return the teacher's log-probabilities [B, A]."""
        return self._teacher.logits(observation, mask)

    def value(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return the student's values [B]."""
        return self._student.value(observation, mask)

    def update(self, experience: Experience, seed: tf.Tensor) -> Figures:
        """Update the student from a block of the teacher's sessions."""
        return self._student.update(experience, seed)

    def export(self) -> ExportedPolicy:
        """Return the student."""
        return self._student.export()


def imitate(
    environment: SessionEnvironment, teacher: SessionAgent, student: SessionAgent, total_timesteps: int, seed: int
) -> LoopMetrics:
    """Train the student on the teacher's sessions.

    Args:
        environment: The sessions.
        teacher: The agent that acts, exploration included.
        student: The agent that learns from the actions, such as behavior cloning.
        total_timesteps: Items to show; rounded up to whole blocks.
        seed: Seed of the actions.

    Returns:
        The metrics of the training.
    """
    learner = Imitation(teacher.learner, student.learner)
    agent = SessionAgent(environment.time_step_spec(), environment.action_spec(), learner, seed=seed)
    loop = SessionLoop(environment, agent)
    return loop.run(-(-total_timesteps // loop.block_size))
