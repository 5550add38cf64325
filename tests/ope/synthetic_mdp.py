"""A tiny decision process whose sessions can all be written down: 2 states, 2 actions, at most 3 steps."""

from itertools import product

import numpy as np

from recpolicy.ope.feedback import TrajectoryFeedback

T = 3
START = np.array([0.75, 0.25])
MOVE = np.array(  # [S, A, S + 1]: to state 0, to state 1, to the end; all multiples of a quarter
    [[[0.5, 0.25, 0.25], [0.0, 0.75, 0.25]], [[0.25, 0.25, 0.5], [0.5, 0.5, 0.0]]]
)
REWARD = np.array([[1.0, 0.0], [0.5, 2.0]])  # [S, A]
MU = np.array([[0.6, 0.4], [0.7, 0.3]])
ACTION_COUNTS = ((3, 2), (2, 3))  # [S][A], how often a log holds each action, in units of 4 transitions
PI = np.array([[0.2, 0.8], [0.4, 0.6]])


def exact_q(gamma: float, policy=PI, steps: int = T) -> np.ndarray:
    """Value of action a in state s with `steps`, ..., 1 steps to go, [steps, S, A]."""
    after, found = np.zeros(2), []
    for _ in range(steps):
        q = REWARD + gamma * MOVE[..., :2] @ after
        found.append(q)
        after = (policy * q).sum(axis=1)
    return np.array(found[::-1])


def value_of(policy, gamma: float) -> float:
    return float(START @ (policy * exact_q(gamma, policy)[0]).sum(axis=1))


def paths(behaviour=MU):
    """Every session: probability [N], state and action [N, T] (-1 after the end), length [N]."""
    rows = []

    def go_on(chance, state, action):
        for act, to in product(range(2), range(3)):
            now, taken = state[-1], [*action, act]
            likely = chance * behaviour[now, act] * MOVE[now, act, to]
            if likely == 0:
                continue
            if to == 2 or len(taken) == T:
                padding = [-1] * (T - len(taken))
                rows.append((likely, state + padding, taken + padding, len(taken)))
            else:
                go_on(likely, [*state, to], taken)

    for first in range(2):
        go_on(START[first], [first], [])
    chance, state, action, length = zip(*rows, strict=True)
    return np.array(chance), np.array(state), np.array(action), np.array(length)


def split_into_sessions(state, action, length, *, gamma=0.9, mu=MU, pi=PI, user=None, ended=None) -> TrajectoryFeedback:
    """Log of these paths; what lies after the end is NaN, so that reading it shows."""
    inside = np.arange(T) < length[:, None]

    def look_up(table):
        return np.where(inside, table[state, action], np.nan)

    user = np.arange(len(state)) if user is None else user
    return TrajectoryFeedback(look_up(REWARD), look_up(mu), look_up(pi), length, user, gamma, ended)


def sampled(sessions: int, seed: int, mu=MU):
    """State, action, length of sessions drawn from all paths."""
    chance, state, action, length = paths(mu)
    row = np.random.default_rng(seed).choice(len(chance), sessions, p=chance / chance.sum())
    return state[row], action[row], length[row]


def q_at(q, state, action, length, policy=PI):
    """Predictions of a table [T, S, A] along paths: of the logged action and on average over the policy's, [N, T]."""
    inside, step = np.arange(T) < length[:, None], np.arange(T)
    return tuple(
        np.where(inside, found, np.nan) for found in (q[step, state, action], (policy * q).sum(axis=2)[step, state])
    )
