"""Chains of sessions of one user: after each session the user comes back in 1 to 10 days.

B chains, A candidate items, W users, K items in a slate, H heads, O observation. An action is a weight for each head
of a ranking formula, which shows the K best items of the sum; the user reads them as in session_slate.py. A session
ends when the user leaves, or after `requests` requests. Then a return day D is drawn (models/return_time.py), with

    logit p = personal[u] + influence (like_weight (like - like_center) + novelty_weight (novelty - novelty_center))

`like` and `novelty` are exponential moving averages over the requests of the chain: 1 if an item was liked, and the
mean over the read items of (1 - genre repeat + novelty of the item) / 2. `personal` is fitted on real gaps; the
influence is ASSUMED, since MovieLens does not show it, and 0 switches it off. With a novelty weight, likes and return
conflict; without one they are aligned. Items may be shown again in the next session. Everything random about a
request is a function of (seed, session, request), so policies meet the same random numbers. Template: the retention
environment of GFN4Retention (Liu et al. 2024), whose moving average counts the whole session.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.core.config import Fraction, NonNegativeNumber, PositiveFraction, Size, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.tensorflow_random import fold_in, uniform
from recpolicy.environments.session_base import choose
from recpolicy.environments.session_dynamics import SessionState, SessionTables, begin
from recpolicy.environments.session_slate import PER_POSITION, browse_slate
from recpolicy.environments.slate_ranking import best_items, utility
from recpolicy.models.return_time import RETURN_DAYS
from recpolicy.models.session_world import SessionWorld

SESSION_FEATURES = 5
"""Numbers of an observation that change within a chain; the user's context follows them."""
_HIDDEN = -1e9
MIN_PROBABILITY = 0.001


@config_dataclass
class RetentionConfig:
    """Settings of chains of sessions."""

    slate_size: Size = 6
    """Number K of items shown at once."""
    requests: Size = 5
    """Requests after which a session ends."""
    continuation_probability: PositiveFraction = 0.8
    """Probability of reading on after an item without a like."""
    decay: Fraction = 0.7
    """Share of the moving averages that remains after a request."""
    influence: NonNegativeNumber = 1.0
    """ASSUMED: multiplies both effects on the log-odds of a return; 0 switches them off."""
    like_weight: NonNegativeNumber = 1.0
    """ASSUMED: change of the log-odds per unit of the moving average of likes."""
    novelty_weight: NonNegativeNumber = 4.0
    """ASSUMED: change of the log-odds per unit of the moving average of novelty; 0 aligns likes and return."""
    like_center: Fraction = 0.5
    """Moving average of likes at which the return probability is the personal one, and at the start of a chain."""
    novelty_center: Fraction = 0.5
    """The same of novelty."""


class ChainState(NamedTuple):
    """The state of B chains."""

    user_state: SessionState
    like: tf.Tensor  # [B] moving average
    novelty: tf.Tensor  # [B] moving average
    days_since: tf.Tensor  # [B] days between this session and the one before
    session: tf.Tensor  # [B] int32, 0 for the first one
    request: tf.Tensor  # [B] int32, within the session


class Outcome(NamedTuple):
    """The results of a request."""

    like: tf.Tensor  # [B] float, 1 if an item was liked
    novelty: tf.Tensor  # [B] mean over the read items
    last: tf.Tensor  # [B] bool, True if the session ended with this request
    day: tf.Tensor  # [B] float, days until the next session; 0 unless `last`


class RetentionEnvironment(tf.Module):
    """Chains of sessions in one world; all functions are pure."""

    def __init__(
        self,
        world: SessionWorld,
        context: NDArray[np.float32],  # [W, C] features of the world's users that a policy sees
        heads: NDArray[np.float32],  # [W, A, H] in 0..1
        item_novelty: NDArray[np.float32],  # [A] in 0..1
        personal: NDArray[np.floating],  # [W] logit of the personal return probability
        candidates: NDArray[np.int32],  # [A] item rows
        config: RetentionConfig | None = None,
    ):
        super().__init__(name="retention_environment")
        self.config = config = config or RetentionConfig()
        _check(world, context, heads, item_novelty, personal, candidates, config)
        self.tables = SessionTables(world, candidates)
        self.context, self.heads = tf.constant(context, tf.float32), tf.constant(heads.transpose(0, 2, 1))
        self.item_novelty, self.personal = tf.constant(item_novelty), tf.constant(personal, tf.float32)
        # Variables, so that worlds which differ only in them share a compiled program.
        effects = [config.influence, config.like_weight, config.novelty_weight]
        self.effects = tf.Variable(effects, dtype=tf.float32, trainable=False, name="effects")
        self.centers = tf.Variable(
            [config.like_center, config.novelty_center], dtype=tf.float32, trainable=False, name="centers"
        )
        self.users, self.head_count = context.shape[0], heads.shape[2]
        self.observation_width = SESSION_FEATURES + context.shape[1]
        self.noise_dims = 2 + PER_POSITION * config.slate_size

    def noise(self, chains: int, requests: int, seed: tf.Tensor) -> tf.Tensor:
        """Return the uniform numbers [requests, B, noise_dims]: those of session s begin at request s `requests`.

        The first number is that of the return day, the second that of leaving.
        """
        return uniform([requests, chains, self.noise_dims], fold_in(seed, tf.constant(0)))

    def begin(self, user: tf.Tensor) -> ChainState:
        """Return the start of the chains of users [B] int32, rows 0..W-1."""
        zero = tf.zeros_like(user, tf.float32)
        return ChainState(
            self._fresh(user), zero + self.centers[0], zero + self.centers[1], zero + 1.0, tf.zeros_like(user),
            tf.zeros_like(user),
        )  # fmt: skip

    def observe(self, state: ChainState) -> tf.Tensor:
        """Return the observation [B, O]."""
        user_state = state.user_state
        progress = tf.cast(state.request, tf.float32) / self.config.requests
        parts = [state.like, state.novelty, state.days_since / RETURN_DAYS, progress, user_state.misses]
        return tf.concat([tf.stack(parts, axis=1), tf.gather(self.context, user_state.user)], axis=1)

    def slate(self, state: ChainState, weights: tf.Tensor) -> tf.Tensor:
        """Return the K best items [B, K] not yet shown in the session, by head weights [B, H]."""
        heads = tf.gather(self.heads, state.user_state.user)  # [B, H, A]
        score = tf.where(state.user_state.shown, _HIDDEN, utility(heads, weights))
        return best_items(score, self.config.slate_size)

    def step(self, state: ChainState, weights: tf.Tensor, noise: tf.Tensor) -> tuple[ChainState, Outcome]:
        """Answer one request by head weights [B, H] with noise [B, noise_dims]; an ended session is followed by the
        next one."""
        config, slate = self.config, self.slate(state, weights)
        genres = tf.gather(self.tables.genres, slate)  # [B, K, G]
        recent = (1.0 - self.tables.genre_decay) * state.user_state.genres
        repeat = tf.reduce_sum(genres * recent[:, tf.newaxis], axis=2)
        fresh = 0.5 * (1.0 - repeat + tf.gather(self.item_novelty, slate))  # [B, K]
        after, response = browse_slate(self.tables, state.user_state, slate, noise, config.continuation_probability)
        read, like = tf.cast(response.read, tf.float32), tf.cast(response.like, tf.float32)
        count = tf.reduce_sum(read, axis=1)
        novelty = tf.where(count > 0, tf.reduce_sum(read * fresh, axis=1) / tf.maximum(count, 1.0), state.novelty)
        like_mean = config.decay * state.like + (1.0 - config.decay) * like
        novelty_mean = config.decay * state.novelty + (1.0 - config.decay) * novelty
        last = ~response.stays | (state.request + 1 >= config.requests)
        day = return_day(self.return_probability(state.user_state.user, like_mean, novelty_mean), noise[:, 0])
        day = tf.where(last, day, 0.0)
        following = ChainState(
            choose(last, self._fresh(state.user_state.user), after), like_mean, novelty_mean,
            tf.where(last, day, state.days_since), state.session + tf.cast(last, tf.int32),
            tf.where(last, 0, state.request + 1),
        )  # fmt: skip
        return following, Outcome(like, novelty, last, day)

    def return_probability(self, user: tf.Tensor, like: tf.Tensor, novelty: tf.Tensor) -> tf.Tensor:
        """Return the daily return probability p [B] at the moving averages [B]."""
        influence, like_weight, novelty_weight = tf.unstack(self.effects)
        effect = like_weight * (like - self.centers[0]) + novelty_weight * (novelty - self.centers[1])
        p = tf.sigmoid(tf.gather(self.personal, user) + influence * effect)
        return tf.clip_by_value(p, MIN_PROBABILITY, 1.0 - MIN_PROBABILITY)

    def _fresh(self, user: tf.Tensor) -> SessionState:
        point = tf.zeros_like(user, tf.float32)
        return begin(self.tables, point)._replace(user=user)


def return_day(probability: tf.Tensor, point: tf.Tensor) -> tf.Tensor:
    """Return days [B] 1..10 of the truncated geometric distribution at uniform numbers `point` [B]."""
    log_stay_away = tf.math.log1p(-probability)
    reached = point * -tf.math.expm1(RETURN_DAYS * log_stay_away)
    return tf.clip_by_value(tf.math.ceil(tf.math.log1p(-reached) / log_stay_away), 1.0, float(RETURN_DAYS))


def _check(
    world: SessionWorld, context: NDArray[np.floating], heads: NDArray[np.floating],
    item_novelty: NDArray[np.floating], personal: NDArray[np.floating], candidates: NDArray[np.int32],
    config: RetentionConfig,
) -> None:  # fmt: skip
    """Raise ConfigError for tables of other sizes, or more items than there are."""
    users, items = len(world.users), len(candidates)
    if len(context) != users or personal.shape != (users,) or heads.shape[:2] != (users, items):
        raise ConfigError(
            f"chains of sessions: the world has {users} users and {items} items; found context of {len(context)} users,"
            f" personal {personal.shape} and heads {heads.shape}"
        )
    if not np.isfinite(personal).all():
        raise ConfigError("chains of sessions: a personal return log-odds is not finite")
    inside = [np.isfinite(part).all() and part.min() >= 0 and part.max() <= 1 for part in (heads, item_novelty)]
    if item_novelty.shape != (items,) or not all(inside):
        raise ConfigError("chains of sessions: heads and item_novelty must be finite, in 0..1, for each candidate")
    if config.slate_size * config.requests > items or config.requests > world.steps:
        raise ConfigError(
            f"chains of sessions: {config.requests} requests of {config.slate_size} items; there are {items} items and"
            f" the world knows {world.steps} steps: choose less"
        )
