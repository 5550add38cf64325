"""The cells of the study `recomind`: one setting of the simulator, and the policies that learn or play in it.

N sessions, A items, W users of a world. A row is compiled once for all of its seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy.stats import spearmanr

from recpolicy.agents.behavior_cloning import BehaviorCloningConfig, make_behavior_cloning
from recpolicy.agents.dqn import DQNConfig, make_dqn
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.sequence import SessionAgent, SessionLearner
from recpolicy.agents.value_scale import ValueScale, match_value_scale
from recpolicy.core.tensorflow_random import uniform
from recpolicy.data.splits import Split
from recpolicy.environments.session import Session, SessionEnvironment
from recpolicy.evaluation.compiled_sessions import (
    Act,
    CompiledSessions,
    Scores,
    SessionSteps,
    greedy,
    random_scores,
    table_scores,
)
from recpolicy.evaluation.policy_scores import baseline_tables
from recpolicy.evaluation.sessions import SessionResults, fatigue_aware_scores
from recpolicy.models.session_world import SessionWorld
from recpolicy.training.imitation import imitate
from recpolicy.training.session_loop import SessionLoop
from recpolicy.workflows.recomind_cells import RANKER, ROWS, Cell, Key, Played, RecoMindConfig, StudyWorld, Trained
from recpolicy.workflows.recomind_ranker import Ranker
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds, session_environment
from recpolicy.workflows.training_data import Features, prepare_features

_CHUNK = 5_000
"""Sessions at once, about."""
_BLOCKS = 4
"""Blocks of training between two points of the curve."""
_COMPARED = 200
"""Observations on which rankings before and after updates are compared."""
_EARLY_UPDATES = 100
_EVALUATION_SEED, _SCALE_SEED = 1234, 77
_UNIFORM_TEMPERATURE = 1e9
_WORTHS = (2.0, 5.0)
"""Values of what is still to come that fatigue_aware tries."""


def study_features(split: Split, config: RecoMindConfig) -> Features:
    """Return the features of all policies of the study."""
    return prepare_features(split.train, SessionTrainConfig(items=config.items), seed=config.seed)


def make_cells(setting: "Setting", keys: Sequence[Key]) -> Iterator[tuple[Key, Cell]]:
    """Yield the cells of one setting, each when it is ready."""
    player, name = None, ""
    for key in keys:
        _, row, seed = key
        if row != name:
            player, name = (LearningRow if ROWS[row].start else FixedRow)(setting, row), row
        assert player is not None
        yield key, player.cell(seed)


@dataclass(frozen=True)
class Start:
    """Initial values of a network: the dot head's tables, or layers, or neither; and their scale."""

    arms: ItemFeatures | None
    """None is a plain head."""
    arrays: Mapping[str, Any] | None = None
    scale: ValueScale | None = None


class Setting:
    """The two worlds of one setting of the simulator, with their environments."""

    def __init__(self, split: Split, features: Features, ranker: Ranker, config: RecoMindConfig, world: StudyWorld):
        self.split, self.features, self.ranker, self.config = split, features, ranker, config
        self._settings = SessionTrainConfig(items=config.items, simulator=world.simulator)
        both = make_worlds(split, self._settings, config.seed)
        worlds = (both.training_world, both.evaluation_world)
        if not world.history:
            worlds = (_without_history(worlds[0]), _without_history(worlds[1]))
        self.training = session_environment(worlds[0], features, self._settings, config.seed)
        self.played = tuple(self._evaluation_environment(each) for each in worlds)
        """Environments with large batches, in the training world and in the evaluation world."""

    def make(self, start: Start, seed: int, **settings: Any) -> SessionAgent:
        """Return a DQN agent that starts from `start`."""
        scale = start.scale
        if scale is not None:
            settings |= {"value_offset": scale.value_offset}
            settings |= {"temperature": scale.temperature} if start.arms is not None else {}
        config = DQNConfig(head="plain" if start.arms is None else "dot", **settings)
        environment = self.training
        agent = make_dqn(environment.time_step_spec(), environment.action_spec(), config, start.arms, seed)
        if start.arrays is not None:
            # A plain head has no temperature: its last layer takes the scale.
            unit = 1.0 / scale.temperature if scale is not None and start.arms is None else 1.0
            agent.learner.start_from(_scaled(start.arrays, unit))
        return agent

    @cache  # noqa: B019 - a setting lives as long as its rows
    def start(self, name: str) -> Start:
        """Return the scores of the ranker or of its clone, or a network that knows "nothing", without a scale."""
        if name == "nothing":
            return Start(None)
        if name == "ranker":
            return Start(self.ranker.arms, self.ranker.arrays)
        # The clone has imitated the ranker's sessions and knows none of its tables.
        config = BehaviorCloningConfig(head="plain", learning_rate=0.003)
        specs = self.training.time_step_spec(), self.training.action_spec()
        student = make_behavior_cloning(*specs, config, None, self.config.seed)
        imitate(self.training, self._exploring("ranker"), student, self.config.total_timesteps, self.config.seed)
        return Start(None, student.learner.export().arrays)

    def scale(self, name: str, gamma: float) -> ValueScale:
        """Return the scale at which the scores of a start are values in the training world."""
        steps = self._rollout(name)
        over = ~steps.stays
        known = steps.going & (over | (np.arange(len(over))[:, np.newaxis] < len(over) - 1))  # what follows is known
        following = np.vstack([steps.best_score[1:], steps.best_score[-1:]])
        return match_value_scale(
            steps.score[known].astype(np.float64), steps.reward[known].astype(np.float64), over[known],
            following[known].astype(np.float64), gamma,
        )  # fmt: skip

    @cache  # noqa: B019
    def _rollout(self, name: str) -> SessionSteps:
        """Return sessions of a start in the training world, with exploration."""
        learner = self._exploring(name).learner

        def act(_: Session, observation: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            action, _ = learner.sample_action(observation, mask, uniform([observation.shape[0]], seed))
            return action, learner.scores(observation, mask)

        return CompiledSessions(self.played[0], act).steps(_SCALE_SEED)

    def _exploring(self, name: str) -> SessionAgent:
        """Return the policy of a start with the exploration that a training begins with."""
        start = self.start(name)
        settings = {"exploration_top_k": self.config.exploration_top_k, "exploration_final_eps": 0.3}
        if start.arms is not None:
            settings |= {"temperature": 1.0}
        return self.make(start, self.config.seed, **settings)

    def _evaluation_environment(self, world: SessionWorld) -> SessionEnvironment:
        users = len(world.users)
        each = min(max(_CHUNK // users, 1), -(-self.config.episodes // users))
        return session_environment(world, self.features, self._settings, _EVALUATION_SEED, each * users)


class FixedRow:
    """A policy that does not learn."""

    def __init__(self, setting: Setting, row: str):
        self._players = [
            CompiledSessions(environment, _fixed_policy(setting, row, environment)) for environment in setting.played
        ]
        self._episodes = setting.config.episodes

    def cell(self, seed: int) -> Cell:
        """Return the figures of a seed."""
        training_world, evaluation = (_played(player.run(seed, self._episodes)) for player in self._players)
        return Cell(evaluation, training_world, None)


class LearningRow:
    """A policy that learns in the training world; its program starts anew for each seed."""

    def __init__(self, setting: Setting, row: str):
        self._setting, config, rules = setting, setting.config, ROWS[row]
        gamma = config.gamma if rules.looks_ahead else 0.0
        scale = None if rules.start == "nothing" else setting.scale(rules.start, gamma)
        if scale is not None and not rules.matched:
            scale = replace(scale, temperature=1.0, value_offset=0.0, error=scale.unmatched_error)
        self._start = replace(setting.start(rules.start), scale=scale)
        self._given: dict[str, Any] = {
            "gamma": gamma, "tau": config.tau, "exploration_top_k": config.exploration_top_k,
        }  # fmt: skip
        if rules.explores == "catalog":
            actions = setting.training.actions
            self._given |= {"exploration_top_k": actions, "exploration_temperature": _UNIFORM_TEMPERATURE}
        self._agent = setting.make(self._start, 0, **self._given)
        self._loop = SessionLoop(setting.training, self._agent)
        learner = self._agent.learner
        act = greedy(_learned(learner))
        self._players = [CompiledSessions(environment, act) for environment in setting.played]
        self._observations = self._look(act)

    def cell(self, seed: int) -> Cell:
        """Train with a seed, and return the figures."""
        trained = self._train(seed)
        episodes = self._setting.config.episodes
        training_world, evaluation = (_played(player.run(seed, episodes)) for player in self._players)
        return Cell(evaluation, training_world, trained)

    def _train(self, seed: int) -> Trained:
        config, loop, learner = self._setting.config, self._loop, self._agent.learner
        self._restart(seed)
        first = self._scores()
        calls = -(-config.total_timesteps // (_BLOCKS * loop.block_size))
        sessions, likes, correlation = [], [], 1.0
        for call in range(calls):
            metrics = loop.run(_BLOCKS)
            sessions.append(float(metrics.sessions))
            likes.append(metrics.reward * metrics.sessions if metrics.sessions else 0.0)
            updates = (call + 1) * _BLOCKS * learner.config.gradient_steps
            if updates - _BLOCKS * learner.config.gradient_steps < _EARLY_UPDATES <= updates:
                correlation = _mean_correlation(first, self._scores())
        counted = np.cumsum(sessions)
        begin = int(np.searchsorted(counted, min(config.first_episodes, counted[-1]))) + 1
        updates = calls * _BLOCKS * learner.config.gradient_steps
        scale = self._start.scale
        return Trained(
            counted.tolist(), likes, float(np.sum(likes[:begin]) / counted[begin - 1]), updates,
            (1.0 - config.tau) ** updates, learner.config.temperature, learner.config.value_offset,
            None if scale is None else scale.error, None if scale is None else scale.unmatched_error, correlation,
        )  # fmt: skip

    def _restart(self, seed: int) -> None:
        """Set everything to the start of a training with this seed."""
        loop, environment = self._loop, self._setting.training
        fresh = self._setting.make(self._start, seed, **self._given)
        fresh.learner.prepare(loop.block_size)
        for old, new in zip(self._agent.learner.variables, fresh.learner.variables, strict=True):
            old.assign(new)
        loop.block.assign(1_000_000 * seed)  # other users, other luck
        session = environment.restart(None, None, environment.noise(loop.block.read_value()))
        for variable, part in zip(loop.session, tf.nest.flatten(session), strict=True):
            variable.assign(part)
        loop.running.assign(tf.zeros_like(loop.running))

    def _look(self, act: Act) -> tf.Tensor:
        """Return observations in the middle of sessions of the untrained policy, [_COMPARED, O]."""
        environment = self._setting.played[0]

        def middle() -> tf.Tensor:
            even = (tf.range(environment.batch_size, dtype=tf.float32) + 0.5) / environment.batch_size
            session = environment.restart(None, None, even[:, tf.newaxis])
            for step in range(min(5, environment.config.max_episode_steps - 1)):
                observation, mask = environment.observe(session)
                action, _ = act(session, observation, mask, tf.constant([0, step]))
                session = environment.transition(
                    session, action, environment.noise(tf.constant(step, tf.int64))
                ).session
            return environment.observe(session)[0]

        seen = tf.function(middle, jit_compile=True, autograph=False)()
        return seen[:: max(1, len(seen) // _COMPARED)][:_COMPARED]

    def _scores(self) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._agent.learner.scores(self._observations, None).numpy()
        return scores


def _fixed_policy(setting: Setting, row: str, environment: SessionEnvironment) -> Act:
    """Return the policy of a row that does not learn."""
    world = environment.world
    if row == RANKER:
        learner = setting.make(setting.start("ranker"), setting.config.seed).learner
        return greedy(_learned(learner))
    if row == "random":
        return greedy(random_scores(environment.actions))
    if row == "fatigue_aware":
        return _best_informed(environment)
    table = baseline_tables(setting.split.train, None)[row].score
    return greedy(table_scores(table[world.users][:, setting.features.action_items]))


def _learned(learner: SessionLearner) -> Scores:
    """Return the scores of a learner, whose weights may change later."""
    return lambda _, observation, __: learner.scores(observation, None)


def _best_informed(environment: SessionEnvironment) -> Act:
    """Return the policy that knows the hidden state, with the better of two values of what is still to come."""

    def informed(worth: float) -> Act:
        known = fatigue_aware_scores(environment, worth)
        scores: Scores = lambda session, *_: known(session)  # noqa: E731
        return greedy(scores)

    policies = [informed(worth) for worth in _WORTHS]
    earned = [CompiledSessions(environment, act).run(_SCALE_SEED, 1).reward.mean() for act in policies]
    return policies[int(np.argmax(earned))]


def _played(results: SessionResults) -> Played:
    return Played(
        float(results.likes.mean()), float(results.length.mean()), float(results.watched.mean()),
        float((results.shown.sum(axis=0) > 0).mean()),
        [float(f"{value:.6g}") for value in results.by_user(results.likes.astype(np.float64))],
    )  # fmt: skip


def _mean_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return the mean Spearman correlation of the rows [n, A] of two tables."""
    return float(np.mean([spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]))


def _scaled(arrays: Mapping[str, Any], unit: float) -> dict[str, Any]:
    """Return layers whose outputs are `unit` times as large."""
    layers = dict(arrays)
    last = sum(name.startswith("kernel_") for name in arrays) - 1
    for name in (f"kernel_{last}", f"bias_{last}"):
        layers[name] = np.asarray(layers[name]) * np.float32(unit)
    return layers


def _without_history(world: SessionWorld) -> SessionWorld:
    """Return the world without any effect of the session on likes and leaving."""
    none = np.zeros_like(world.like_history)
    return replace(world, like_history=none, stay_history=none, slope=0.0, name=f"{world.name}, without history")
