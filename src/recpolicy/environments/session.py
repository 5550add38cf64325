"""SessionEnvironment: the agent shows items one after the other, and the user responds until they leave.

Observation `global` [B, D + M] (the user's context and an encoding of the session, observation_encoders.py) and `mask`
[B, A] (0 for items already shown); the action is one of A candidate items; the reward is a like (0/1), the watch
fraction (0..1), the rating or a similarity of the embeddings, times reward_decay^step. A session that the user leaves
is terminated (discount 0). A session cut at `max_episode_steps` is truncated (discount 1: the later rewards must be
estimated).
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.environments.observation_encoders import ShownItem
from recpolicy.environments.session_base import Session, SessionConfig, SessionEnvironmentBase, Step
from recpolicy.environments.session_dynamics import NOISE_DIMS, transition
from recpolicy.models.session_world import SIMILARITIES, SessionWorld

__all__ = ["Session", "SessionConfig", "SessionEnvironment", "Step"]


class SessionEnvironment(SessionEnvironmentBase):
    """A batch of sessions in one world, one item per step."""

    def __init__(
        self,
        world: SessionWorld,
        context: NDArray[np.float32],  # [U, >= D], the embedding first
        embedding: NDArray[np.float32],  # [I, D]
        candidates: NDArray[np.int32],  # [A], item rows
        config: SessionConfig | None = None,
        seed: int = 0,
        *,
        replaceable: bool = False,
    ):
        config = config or SessionConfig()
        super().__init__(
            world, context, embedding, candidates, config, seed, slate=0, noise_dims=NOISE_DIMS, replaceable=replaceable
        )  # fmt: skip

    def transition(self, session: Session, action: tf.Tensor, noise: tf.Tensor) -> Step:
        """Show the items `action` [B]; nothing restarts."""
        user_state, response = transition(self.tables, session.user_state, action, noise)
        liked = tf.cast(response.like, tf.float32)
        shown = ShownItem(tf.gather(self._embedding, action), tf.gather(self.tables.genres, action), liked)
        before = session.user_state
        if self.config.reward in SIMILARITIES:
            reward = self.similarity(before.user, action, before.step)
        else:
            reward = self.reward(response.like, response.level, before.step)
        return Step(
            session=Session(user_state, self.view.update(session.history_state, shown)),
            reward=reward,
            terminated=~response.stays,
            truncated=response.stays & (user_state.step >= self.config.max_episode_steps),
            response=response,
        )
