"""Adapters of SessionEnvironment to Gymnasium's Env and VectorEnv, for agents of other libraries.

Observation: the features [D + M] of session.py, a Box with bounds computed from the tables. Action: Discrete(A).
sb3-contrib and Gymnasium read the mask from the method `action_masks()` (bool) and from `info["action_mask"]` (int8,
for `action_space.sample(mask=...)`). A repeated item is no error: the user responds as to any other item, but the
reward is 0, and `info["repeated"]` is True. `terminated` means that the user left, `truncated` that max_episode_steps
cut the session. `reset(seed=...)` determines all later steps. A step is one call of a compiled function for any number
of sessions. Needs the extra `gymnasium`.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, MissingExtraError
from recpolicy.environments.session import Session, SessionEnvironment

try:
    import gymnasium
    from gymnasium.error import ResetNeeded
    from gymnasium.spaces import Box, Discrete
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise MissingExtraError(
        "the Gymnasium adapter needs the extra 'gymnasium', which is not installed. Install it:"
        " pip install 'recpolicy[gymnasium]' (in a clone: poetry install --extras gymnasium)."
    ) from error

Features = NDArray[np.float32]
Info = dict[str, Any]
BOUND_MARGIN = 1.001
"""Margin of the observation space around its bounds, for rounding errors."""


class StepResults(NamedTuple):
    """The results of one step of B sessions, as arrays."""

    reward: NDArray[np.float32]  # [B], 0 where the item was repeated
    terminated: NDArray[np.bool_]  # [B]
    truncated: NDArray[np.bool_]  # [B]
    repeated: NDArray[np.bool_]  # [B]
    last: Features  # [B, D + M] before any restart
    features: Features  # [B, D + M] after it


class _Sessions:
    """The sessions of an adapter: state, seed and round in variables, with the compiled functions."""

    def __init__(self, environment: SessionEnvironment):
        self._environment = environment
        first = environment.restart(None, None, environment.noise(tf.constant(0, tf.int64)))
        self._session = tf.nest.map_structure(lambda part: tf.Variable(part, trainable=False), first)
        self._seed = tf.Variable(environment.noise_seed, trainable=False)
        self._round = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._begin = tf.function(self._begin_graph, autograph=False)
        # State in variables and a concrete function: a call with 8 input and output tensors would take three times as
        # long.
        self._step = tf.function(self._step_graph, autograph=False, jit_compile=True).get_concrete_function(
            tf.TensorSpec([environment.batch_size], tf.int32)
        )
        self._begun = False
        self.mask: NDArray[np.bool_] = np.ones((environment.batch_size, environment.actions), np.bool_)

    @property
    def space(self) -> gymnasium.Space[Features]:
        """The space of one session's features: embeddings, directions, genres and shares."""
        environment = self._environment
        width = environment.time_step_spec().observation["global"].shape[0]
        bound = BOUND_MARGIN * max(environment.largest_feature, 1.0)
        space: Any = Box(-bound, bound, (width,), np.float32)
        return space

    def begin(self, rng: np.random.Generator) -> Features:
        """Start fresh sessions from the generator's next two numbers; return features [B, D + M]."""
        self._seed.assign(rng.integers(0, 2**31, 2))
        features, mask = self._begin()
        self._begun, self.mask = True, mask.numpy()
        return features.numpy()

    def step(self, action: Any) -> StepResults:
        """Show an item [B] to each session; those that end restart."""
        if not self._begun:
            raise ResetNeeded("step() before reset(): call reset() first")
        outcome, last, features, mask = self._step(tf.constant(np.asarray(action, np.int32).reshape(-1)))
        self.mask = mask.numpy()
        reward, terminated, truncated, repeated = outcome.numpy()
        return StepResults(reward, terminated > 0, truncated > 0, repeated > 0, last.numpy(), features.numpy())

    def _begin_graph(self) -> tuple[tf.Tensor, tf.Tensor]:
        environment, seed = self._environment, self._seed.read_value()
        session = environment.restart(None, None, environment.noise(tf.constant(0, tf.int64), seed=seed))
        self._round.assign(0)
        self._keep(session)
        return environment.observe(session)

    def _step_graph(self, action: tf.Tensor) -> tuple[tf.Tensor, ...]:
        environment = self._environment
        session = tf.nest.map_structure(lambda part: part.read_value(), self._session)
        self._round.assign_add(1)
        noise = environment.noise(self._round.read_value(), seed=self._seed.read_value())
        repeated = tf.gather(session.user_state.shown, action, batch_dims=1)
        step = environment.transition(session, action, noise)
        last, _ = environment.observe(step.session)
        after = environment.restart(step.session, step.terminated | step.truncated, noise)
        self._keep(after)
        flags = tf.cast(tf.stack([step.terminated, step.truncated, repeated]), tf.float32)
        outcome = tf.concat([tf.where(repeated, 0.0, step.reward)[tf.newaxis], flags], axis=0)  # [4, B]
        return outcome, last, *environment.observe(after)

    def _keep(self, session: Session) -> None:
        for variable, part in zip(tf.nest.flatten(self._session), tf.nest.flatten(session), strict=True):
            variable.assign(part)


class GymnasiumSession(gymnasium.Env[Features, np.int64]):
    """A Gymnasium Env of one session; `step` after the end of a session raises ResetNeeded."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - as the base declares it

    def __init__(self, environment: SessionEnvironment):
        """Wrap an environment with batch_size 1."""
        if environment.batch_size != 1:
            raise ConfigError(
                f"GymnasiumSession runs one session, but the environment has batch_size {environment.batch_size}:"
                " use batch_size 1 or GymnasiumSessions"
            )
        self._sessions = _Sessions(environment)
        self._over = False
        self.observation_space = self._sessions.space
        self.action_space = Discrete(environment.actions)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Features, Info]:  # noqa: ARG002
        """Begin a session; options are ignored."""
        super().reset(seed=seed)
        features = self._sessions.begin(self.np_random)[0]
        self._over = False
        return features, {"action_mask": self._mask().astype(np.int8), "repeated": False}

    def step(self, action: np.int64) -> tuple[Features, float, bool, bool, Info]:
        """Show item `action`; returns features, reward, terminated, truncated, info."""
        if self._over:
            raise ResetNeeded("the session has ended: call reset() before the next step()")
        mask = self._mask()
        results = self._sessions.step(action)
        terminated, truncated = bool(results.terminated[0]), bool(results.truncated[0])
        self._over = terminated or truncated
        # If the sessions have restarted internally, this is still the mask of the ended session.
        mask = np.where(np.arange(mask.size) == action, False, mask) if self._over else self._mask()
        info = {"action_mask": mask.astype(np.int8), "repeated": bool(results.repeated[0])}
        return results.last[0], float(results.reward[0]), terminated, truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Return True for the items [A] not shown yet in this session."""
        return self._mask()

    def _mask(self) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = self._sessions.mask[0].copy()
        return mask


class GymnasiumSessions(VectorEnv[Features, NDArray[np.int64], NDArray[Any]]):
    """A Gymnasium VectorEnv of B sessions; ended sessions restart in the same step.

    `infos["final_obs"]` then holds their last features (None for the others), and `infos["_final_obs"]` marks them.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, environment: SessionEnvironment):
        self._sessions = _Sessions(environment)
        self.num_envs = environment.batch_size
        self.single_observation_space, self.single_action_space = self._sessions.space, Discrete(environment.actions)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Features, Info]:
        """Begin all sessions; options are ignored."""
        super().reset(seed=seed, options=options)
        features = self._sessions.begin(self.np_random)
        return features, self._infos(np.zeros(self.num_envs, np.bool_))

    def step(self, actions: NDArray[np.int64]) -> tuple[Features, NDArray[Any], NDArray[Any], NDArray[Any], Info]:
        """Show each session its item; returns features, rewards, terminated, truncated, infos."""
        results = self._sessions.step(actions)
        infos = self._infos(results.repeated)
        over = results.terminated | results.truncated
        if over.any():
            final = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(over):
                final[row] = results.last[row]
            infos |= {"final_obs": final, "_final_obs": over}
        return results.features, results.reward, results.terminated, results.truncated, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Return True for the items [B, A] not shown yet in each session."""
        return self._sessions.mask.copy()

    def _infos(self, repeated: NDArray[np.bool_]) -> Info:
        everyone = np.ones(self.num_envs, np.bool_)
        masks = self._sessions.mask.astype(np.int8)
        return {"action_mask": masks, "_action_mask": everyone, "repeated": repeated, "_repeated": everyone.copy()}
