"""Two problems whose answers are known, as worlds of sessions, and how each agent is set up for them.

    bandit   sessions of one item; ten items are liked with known probabilities, one clearly more than the others
    chain    sessions of two items; the one liked most at first spoils the second step, another opens it

In the chain a like turns the interest fully (keep 0), so that the second response depends on the first item:

    item     first    second, after a liked opener   second, after a liked bait
    bait      .8       .00                            (shown)
    opener    .5       (shown)                        .00
    jackpot   .018     .982                           .00
    dud       .018     .018                           .018

Opening with the opener and going on with the jackpot if it was liked, else with the bait, earns
.5 + .5 .982 + .5 .8 = 1.391; opening with the bait .8 + .2 .5 = .9. Whoever looks no step ahead opens with the bait.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents import SESSION_AGENTS
from recpolicy.agents.sequence import SessionAgent
from recpolicy.core.tensorflow_random import fold_in, uniform
from recpolicy.environments.session import SessionConfig, SessionEnvironment
from recpolicy.models.session_world import SessionWorld
from recpolicy.training.session_loop import SessionLoop

ARMS = np.array([0.2, 0.3, 0.25, 0.5, 0.35, 0.4, 0.8, 0.3, 0.1, 0.45])
"""P(like) of the bandit's items."""
BEST_ARM = int(ARMS.argmax())
BAIT, OPENER, JACKPOT, DUD = range(4)
SWING = 8.0
"""Log-odds that a fully turned interest adds or takes."""
SESSIONS = 64
ROUNDS_APART = 1_000_000
BLOCKS: Mapping[str, int] = {"bandit": 1000, "chain": 600}
"""Blocks that agents learn from."""


def logit(probability: Any) -> NDArray[np.float32]:
    return np.log(probability / (1 - np.asarray(probability))).astype(np.float32)


JACKPOT_LIKED = float(1 / (1 + np.exp(-SWING / 2)))
BEST_RETURN = 0.5 + 0.5 * JACKPOT_LIKED + 0.5 * 0.8
"""Mean likes per session of the chain's best policy."""


@dataclass(frozen=True)
class Problem:
    """A world, and what its policies see."""

    world: SessionWorld
    view: str
    cells: Mapping[str, Any]
    """Columns and edges of tabular Q-learning: the distinct_contexts that matter."""

    def environment(self, seed: int, sessions: int = SESSIONS) -> SessionEnvironment:
        """Items are told apart by unit vectors; the user has none of them."""
        items = self.world.like.shape[1]
        config = SessionConfig(
            batch_size=sessions, view=self.view, last_n=1, max_episode_steps=self.world.steps, reward="like"
        )
        context, embedding = np.zeros((1, items), np.float32), np.eye(items, dtype=np.float32)
        return SessionEnvironment(self.world, context, embedding, np.arange(items, dtype=np.int32), config, seed)


def _world(name: str, like: NDArray[np.float32], direction: list[float], stay: list[float]) -> SessionWorld:
    """One user; nobody tires."""
    items = len(like)
    return SessionWorld(
        name=name,
        users=np.zeros(1, np.int32),
        like=like[np.newaxis],
        slope=SWING,
        interest=np.zeros((1, 1), np.float32),
        direction=np.array(direction, np.float32)[:, np.newaxis],
        like_history=np.zeros(2, np.float32),
        stay=np.array([stay], np.float32),
        stay_history=np.zeros(2, np.float32),
        fatigue=(0.0, 0.0),
        levels=np.zeros((3, 2), np.float32),
        genres=np.zeros((items, 1), np.float32),
        interest_decay=0.0,
    )


def bandit() -> Problem:
    """The user leaves after one item."""
    world = _world("known bandit", logit(ARMS), [0.0] * len(ARMS), [-30.0])
    return Problem(world, "last_item", {"columns": (-1,), "edges": ((0.5,),)})


def chain() -> Problem:
    """The user stays for the second item and leaves after it."""
    like = np.array([*logit([0.8, 0.5]), -SWING / 2, -SWING / 2], np.float32)
    world = _world("two-step chain", like, [-1.0, 1.0, 1.0, 0.0], [30.0, -30.0])
    # The observation: 4 columns of context, 4 that tell the last item, whether it was liked, the share of steps done.
    return Problem(world, "last_n", {"columns": (4 + OPENER, -2, -1), "edges": ((0.5,), (0.5,), (0.25,))})


PROBLEMS = {"bandit": bandit, "chain": chain}

_NETWORK = {"layers": (16,), "head": "plain", "learning_rate": 0.01}
_ENTROPY = {"ent_coef": 0.05}
"""A softmax that is best with this bonus takes an action .3 worse e^6 times less often."""
_EPSILON = {"exploration_initial_eps": 1.0, "exploration_final_eps": 0.02, "exploration_decay": 0.985}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "a2c": _NETWORK | _ENTROPY | {"n_steps": 4},
    "ppo": _NETWORK | _ENTROPY | {"n_steps": 4, "n_epochs": 4, "minibatch_size": 128},
    "reinforce": _NETWORK | _ENTROPY,
    "topk_reinforce": _NETWORK | _ENTROPY | {"n_epochs": 2},
    "offpolicy_actor_critic": _NETWORK | _ENTROPY | {"tau": 0.05, "actor": "all_actions"},
    "dqn": _NETWORK | _EPSILON | {"tau": 0.05, "batch_size": 256, "gradient_steps": 2, "learning_rate": 0.003},
    "q_learning": _EPSILON | {"learning_rate": 0.1},
}


def make_agent(name: str, problem: Problem, gamma: float, seed: int) -> SessionAgent:
    """A fresh agent that knows nothing of the items."""
    environment, entry = problem.environment(seed), SESSION_AGENTS[name]
    settings = dict(SETTINGS[name]) | {"gamma": gamma} | (dict(problem.cells) if name == "q_learning" else {})
    return entry.make(environment.time_step_spec(), environment.action_spec(), entry.config(**settings), None, seed)


def opening(agent: SessionAgent, problem: Problem) -> NDArray[np.float32]:
    """Probability [A] with which the exploring policy shows each item first: exact, for all users are alike."""
    game = problem.environment(0, sessions=1)
    features, mask = game.observe(game.restart(None, None, game.noise(tf.constant(0))))
    probability: NDArray[np.float32] = tf.nn.softmax(agent.learner.logits(features, mask)).numpy()[0]
    return probability


def mean_return(agent: SessionAgent, problem: Problem, sessions: int = 20_000, seed: int = 99) -> float:
    """Mean likes per session of the exploring policy, by playing."""
    game = problem.environment(seed, sessions)
    session, total = game.restart(None, None, game.noise(tf.constant(0))), 0.0
    for step in range(problem.world.steps):
        features, mask = game.observe(session)
        point = uniform([sessions], fold_in(tf.constant([seed, 1]), step))
        action, _ = agent.learner.sample_action(features, mask, point)
        played = game.transition(session, action, game.noise(tf.constant(step + 1)))
        session, total = played.session, total + float(tf.reduce_mean(played.reward))
    return total


def trained(
    name: str, problem: Problem, gamma: float, seeds: Sequence[int], blocks: int
) -> Iterator[tuple[int, SessionAgent]]:
    """Each seed, and the agent trained with it; the loop is compiled once, and the agent is the same object each time.

    Seed s plays the blocks from s times ROUNDS_APART on: other responses and draws, from weights of its own.
    """
    agent = make_agent(name, problem, gamma, seeds[0])
    loop = SessionLoop(problem.environment(0), agent)
    for seed in seeds:
        fresh = make_agent(name, problem, gamma, seed)
        fresh.learner.prepare(loop.block_size)
        with tempfile.TemporaryDirectory() as folder:
            path = tf.train.Checkpoint(learner=fresh.learner).write(f"{folder}/learner")
            tf.train.Checkpoint(learner=agent.learner).read(path).assert_consumed()
        loop.block.assign(seed * ROUNDS_APART)
        loop.run(blocks)
        yield seed, agent
