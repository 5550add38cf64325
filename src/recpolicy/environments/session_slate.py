"""SlateEnvironment: the agent shows several items at once; the user reads from the top and likes at most one.

The observation is that of session.py; the action is a slate [B, K] of items, which the mask then excludes. After an
item without a like, the user reads on with probability `continuation_probability`; they stop at the first like:

    P(position k is read) = continuation_probability^(k-1) prod_{j<k} (1 - P(like j | items read before))

A read item changes the session as in session_dynamics.py (a miss, its genres, the interest on a like), so higher
positions affect lower ones. A slate's reward is that of its liked item, or 0 without a like, times reward_decay^slates.
The user then stays with the log-odds of the last item read. `steps` of the world and `max_episode_steps` count slates.
The user skips a position whose item was already shown or appears higher up in the same slate; it pays nothing. If all
positions are skipped, the user stays with the log-odds of no repeat and the misses so far. Sources: the cascade,
Craswell et al. 2008; reading on with a probability, Chapelle & Zhang 2009.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.core.config import PositiveFraction, Size, config_dataclass
from recpolicy.environments.observation_encoders import ShownItem
from recpolicy.environments.session_base import Session, SessionConfig, SessionEnvironmentBase, Step, choose
from recpolicy.environments.session_dynamics import SessionState, SessionTables, stay_base, transition
from recpolicy.models.session_world import SessionWorld

PER_POSITION = 3
"""Number of uniform numbers per position: like, level, reading on. Next user and continuation precede them."""


@config_dataclass
class SlateConfig(SessionConfig):
    """Settings of the sessions of slates."""

    slate_size: Size = 5
    """Number K of items shown at once."""
    continuation_probability: PositiveFraction = 0.8
    """Probability of reading on after an item without a like, in (0, 1]."""


class SlateResponse(NamedTuple):
    """The response of a user to a slate."""

    like: tf.Tensor  # [B] bool, True if an item was liked
    level: tf.Tensor  # [B] int32, 0..4 of the liked item, 0 if none
    stays: tf.Tensor  # [B] bool, True if the session continues
    read: tf.Tensor  # [B, K] bool
    liked: tf.Tensor  # [B, K] bool, at most one per row


class SlateEnvironment(SessionEnvironmentBase):
    """A batch of sessions in one world, one slate per step."""

    def __init__(
        self,
        world: SessionWorld,
        context: NDArray[np.float32],  # [U, >= D], the embedding first
        embedding: NDArray[np.float32],  # [I, D]
        candidates: NDArray[np.int32],  # [A], item rows
        config: SlateConfig | None = None,
        seed: int = 0,
        replaceable: bool = False,
    ):
        self.slate_config = config = config or SlateConfig()
        noise_dims = 2 + PER_POSITION * config.slate_size
        super().__init__(
            world, context, embedding, candidates, config, seed, slate=config.slate_size, noise_dims=noise_dims,
            replaceable=replaceable,
        )  # fmt: skip

    def transition(self, session: Session, action: tf.Tensor, noise: tf.Tensor) -> Step:
        """Show the slates `action` [B, K]; nothing restarts."""
        user_state, response = browse_slate(
            self.tables, session.user_state, action, noise, self.slate_config.continuation_probability
        )
        history_state = session.history_state
        for k in range(self.slate_config.slate_size):
            item, liked = action[:, k], tf.cast(response.liked[:, k], tf.float32)
            shown = ShownItem(tf.gather(self._embedding, item), tf.gather(self.tables.genres, item), liked)
            history_state = choose(response.read[:, k], self.view.update(history_state, shown), history_state)
        paid = self.reward(response.like, response.level, session.user_state.step)
        return Step(
            session=Session(user_state, history_state),
            reward=tf.where(response.like, paid, 0.0),
            terminated=~response.stays,
            truncated=response.stays & (user_state.step >= self.config.max_episode_steps),
            response=response,
        )


def browse_slate(
    tables: SessionTables, state: SessionState, slate: tf.Tensor, noise: tf.Tensor, continuation_probability: float
) -> tuple[SessionState, SlateResponse]:
    """Show `slate` [B, K] int32 with `noise` [B, 2 + 3 K]; returns the state after the responses."""
    like, level = tf.zeros_like(state.user, tf.bool), tf.zeros_like(state.user)
    stays = noise[:, 1] < tf.sigmoid(stay_base(tables, state) + tables.stay_history[1] * state.misses)
    reading, now, reads, likes = ~like, state, [], []
    fresh = _fresh(state, slate)
    for k in range(slate.shape[1]):
        like_point, level_point, reads_on = tf.unstack(noise[:, 2 + PER_POSITION * k :][:, :PER_POSITION], axis=1)
        read = reading & fresh[:, k]
        points = tf.stack([noise[:, 0], like_point, level_point, noise[:, 1]], axis=1)
        after, response = transition(tables, now, slate[:, k], points)
        liked = read & response.like
        # The step counts slates, so all positions have the same step.
        now = choose(read, after._replace(step=state.step), now)
        stays = tf.where(read, response.stays, stays)
        like, level = like | liked, tf.where(liked, response.level, level)
        reading &= ~liked & (~read | (reads_on < continuation_probability))
        reads.append(read)
        likes.append(liked)
    shown = state.shown | tf.reduce_any(slate[:, :, tf.newaxis] == tf.range(tables.actions), axis=1)
    slate_response = SlateResponse(like, level, stays, tf.stack(reads, axis=1), tf.stack(likes, axis=1))
    return now._replace(step=state.step + 1, shown=shown), slate_response


def _fresh(state: SessionState, slate: tf.Tensor) -> tf.Tensor:
    """Return True for positions [B, K] whose item was not shown before and does not appear higher up."""
    same = tf.linalg.band_part(tf.cast(slate[:, :, tf.newaxis] == slate[:, tf.newaxis, :], tf.int32), -1, 0)
    higher = tf.reduce_sum(same, axis=2) > 1  # [B, K]; each equals itself once
    return ~(higher | tf.gather(state.shown, slate, batch_dims=1))
