"""The sessions of worlds.py as a Gymnax environment, for a JAX peer.

It is the arithmetic of recpolicy's SessionEnvironment with rewards `like` and the observation encoder `interest`, one
session at a time: Gymnax batches it with vmap. A items, W users, D embedding, G genres. The peer has no mask, so an
item shown before earns 0.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment
from jax import numpy as jnp

LIKE_LEVEL, MISSES = 3, 5
INTEREST_DECAY = 0.9
"""Of the observation; the world has its own rates."""
GENRE_DECAY = 0.7


@struct.dataclass
class Tables:
    """The world, the policy's tables and the candidates, as arrays."""

    like: jax.Array  # [W, A]
    interest: jax.Array  # [W, D]
    direction: jax.Array  # [A, D]
    genres: jax.Array  # [A, G]
    stay: jax.Array  # [W, S]
    context: jax.Array  # [W, D]
    embedding: jax.Array  # [A, D]
    slope: jax.Array
    like_history: jax.Array  # [2]
    stay_history: jax.Array  # [2]
    interest_decay: jax.Array
    genre_decay: jax.Array
    max_steps_in_episode: int = struct.field(pytree_node=False, default=20)


@struct.dataclass
class State:
    """One session; `history` is the encoder's part of the observation."""

    user: jax.Array
    shift: jax.Array  # [D]
    genres: jax.Array  # [G]
    misses: jax.Array
    time: jax.Array
    shown: jax.Array  # [A] bool
    history: jax.Array  # [D + G + 2]


def read_tables(path: Path) -> Tables:
    """Read a file of worlds.write_world without recpolicy, which the peer's Python lacks."""
    with np.load(path, allow_pickle=False) as stored:
        world: dict[str, Any] = {name: stored[name] for name in stored.files}
    if "world_known" in world:
        raise SystemExit(f"{path}: the JAX environment pays no known ratings; write a world without them")
    rows, users = world["candidates"], world["world_users"]
    arrays = {
        "like": world["world_like"][:, rows], "interest": world["world_interest"],
        "direction": world["world_direction"][rows], "genres": world["world_genres"][rows],
        "stay": world["world_stay"], "context": world["context"][users], "embedding": world["embedding"][rows],
        "slope": world["world_slope"], "like_history": world["world_like_history"],
        "stay_history": world["world_stay_history"],
        "interest_decay": world["world_interest_decay"], "genre_decay": world["world_genre_decay"],
    }  # fmt: skip
    steps = int(world["world_stay"].shape[1])
    return Tables(**{name: jnp.asarray(part, jnp.float32) for name, part in arrays.items()}, max_steps_in_episode=steps)


class JaxSessions(Environment[State, Tables]):
    """Sessions in which the agent shows one item a step; the action is an item, the reward a like."""

    def __init__(self, tables: Tables):
        self._actions = tables.like.shape[1]
        self._width = tables.context.shape[1] + tables.embedding.shape[1] + tables.genres.shape[1] + 2

    @property
    def num_actions(self) -> int:
        """A."""
        return self._actions

    def action_space(self, params: Tables) -> spaces.Discrete:  # noqa: ARG002 - Gymnax's signature
        """Return the items."""
        return spaces.Discrete(self._actions)

    def observation_space(self, params: Tables) -> spaces.Box:  # noqa: ARG002
        """Return the space of [context, history]."""
        return spaces.Box(-jnp.inf, jnp.inf, (self._width,))

    def reset_env(self, key: jax.Array, params: Tables) -> tuple[jax.Array, State]:
        """Begin a session of a user drawn uniformly."""
        return self.begin(jax.random.randint(key, (), 0, len(params.like)), params)

    def begin(self, user: jax.Array, params: Tables) -> tuple[jax.Array, State]:
        """Begin a session of a user."""
        genres = params.genres.shape[1]
        start = params.context[user, : params.embedding.shape[1]]
        state = State(
            user=user, shift=jnp.zeros_like(params.interest[0]), genres=jnp.zeros(genres), misses=jnp.zeros(()),
            time=jnp.zeros((), jnp.int32), shown=jnp.zeros(self._actions, bool),
            history=jnp.concatenate([start, jnp.zeros(genres + 2)]),
        )  # fmt: skip
        return self.observe(state, params), state

    def observe(self, state: State, params: Tables) -> jax.Array:
        """Return the observation [2 D + G + 2]."""
        return jnp.concatenate([params.context[state.user], state.history])

    def step_env(self, key: jax.Array, state: State, action: Any, params: Tables) -> Any:
        """Show an item."""
        return self.respond(jax.random.uniform(key, (2,)), state, action, params)

    def respond(self, points: jax.Array, state: State, action: Any, params: Tables) -> Any:
        """Show an item; `points` [2] are uniform numbers for the like and for staying."""
        direction, genres, embedding = params.direction[action], params.genres[action], params.embedding[action]
        repeat = (1.0 - params.genre_decay) * jnp.dot(state.genres, genres)
        odds = (
            params.like[state.user, action]
            + params.slope * jnp.dot(state.shift, direction)
            + params.like_history[0] * repeat
            + params.like_history[1] * state.misses
        )
        like = points[0] < jax.nn.sigmoid(odds)
        liked = like.astype(jnp.float32)
        misses = jnp.where(like, 0.0, jnp.minimum(state.misses + 1.0 / MISSES, 1.0))
        stay = params.stay[state.user, jnp.minimum(state.time, params.max_steps_in_episode - 1)]
        stay += params.stay_history[0] * repeat + params.stay_history[1] * misses
        stays = points[1] < jax.nn.sigmoid(stay)
        turn = _unit(direction) - params.interest[state.user] - state.shift
        after = State(
            user=state.user, shift=state.shift + liked * (1.0 - params.interest_decay) * turn,
            genres=params.genre_decay * state.genres + genres, misses=misses, time=state.time + 1,
            shown=state.shown.at[action].set(True),
            history=self._encode(state.history, embedding, genres, liked, params),
        )  # fmt: skip
        repeated = state.shown[action]
        over = ~stays | (after.time >= params.max_steps_in_episode)
        return self.observe(after, params), after, jnp.where(repeated, 0.0, liked), over, {"repeated": repeated}

    def _encode(self, history: jax.Array, embedding: jax.Array, genres: jax.Array, liked: Any, params: Tables) -> Any:
        rank = embedding.shape[0]
        interest, remembered, misses, done = history[:rank], history[rank:-2], history[-2], history[-1]
        interest += liked * (1.0 - INTEREST_DECAY) * (_unit(embedding) - interest)
        remembered = GENRE_DECAY * remembered + (1.0 - GENRE_DECAY) * genres
        misses = (1.0 - liked) * jnp.minimum(misses + 1.0 / MISSES, 1.0)
        done += 1.0 / params.max_steps_in_episode
        return jnp.concatenate([interest, remembered, jnp.stack([misses, done])])


def _unit(vector: jax.Array) -> jax.Array:
    return vector * jax.lax.rsqrt(jnp.maximum(jnp.sum(vector * vector), 1e-12))
