"""Situations in which the gate must not pass a policy that is worse: cheap worlds with an exact gain.

Rewards lie in [0, 1]. A world has C kinds of users, A actions and mean rewards `mean` [C, A]. A log has N rounds; each
user has one kind. The true gain, the candidate's value minus the incumbent's (or the logging policy's), is set exactly.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = Callable[[slice], Floats]
KINDS = 20


@dataclass(frozen=True)
class Log:
    """One log, in order of time."""

    action: Ints  # [N]
    reward: Floats  # [N]
    prob: Floats  # [N]
    user: Ints  # [N]
    actions: int
    candidate: Rows
    incumbent: Rows | None
    """None is the logging policy."""

    def first(self, rounds: int) -> "Log":
        """Return the first rounds."""
        columns = {name: getattr(self, name)[:rounds] for name in ("action", "reward", "prob", "user")}
        return replace(self, **columns)


@dataclass(frozen=True)
class World:
    """Policies and mean rewards by kind of user, all [C, A]."""

    logging: Floats
    candidate: Floats
    incumbent: Floats | None
    mean: Floats

    @property
    def gain(self) -> float:
        """The candidate's value minus the incumbent's; all kinds of users are equally frequent."""
        other = self.logging if self.incumbent is None else self.incumbent
        return float(((self.candidate - other) * self.mean).sum(axis=1).mean())

    def with_gain(self, gain: float) -> "World":
        """Return the world with the reward of the candidate's actions raised or lowered to this gain."""
        other = self.logging if self.incumbent is None else self.incumbent
        share = self.candidate / self.candidate.max(axis=1, keepdims=True)
        raised = float(((self.candidate - other) * share).sum(axis=1).mean())
        world = replace(self, mean=self.mean + (gain - self.gain) / raised * share)
        return world.checked(gain)

    def checked(self, gain: float) -> "World":
        """Return the world, whose mean rewards must be in 0..1 and whose gain must be this."""
        assert self.mean.min() >= 0, self.mean
        assert self.mean.max() <= 1, self.mean
        assert abs(self.gain - gain) < 1e-12, self.gain
        return self


@dataclass(frozen=True)
class Situation:
    """One situation."""

    about: str
    gain: float
    draw: Callable[[float, int, np.random.Generator], Log]
    """True gain, rounds and generator to a log."""
    healthy: bool = False
    """The gate should have a verdict here, and pass a candidate with a gain of 0.1."""
    looks: int = 1
    """Looks at the log while it grows, by the sequence; 1 is a single look by t."""


def fixed(seed: int) -> np.random.Generator:
    """Return the generator of a world, the same for all logs."""
    return np.random.default_rng([seed, 19])


def softmax(score: Floats, temperature: float, floor: float = 0.0) -> Floats:
    """Return probabilities by softmax, mixed with a share of uniform choices."""
    probs = np.exp((score - score.max(axis=1, keepdims=True)) / temperature)
    probs /= probs.sum(axis=1, keepdims=True)
    return (1 - floor) * probs + floor / probs.shape[1]


def one_hot(action: Ints, actions: int) -> Floats:
    """Return a policy that always takes one action per kind of user."""
    return np.eye(actions)[action]


def draw_actions(probs: Floats, row: Ints, rng: np.random.Generator) -> Ints:
    """Return one action per round from the distribution of its row."""
    cumulative = np.cumsum(probs, axis=1)
    cumulative[:, -1] = 1.0
    return (rng.random(len(row))[:, None] < cumulative[row]).argmax(axis=1)


def bernoulli(mean: Floats, rng: np.random.Generator) -> Floats:
    """Return rewards 0 or 1."""
    return (rng.random(len(mean)) < mean).astype(np.float64)


def stars(mean: Floats, rng: np.random.Generator) -> Floats:
    """Return ratings of five levels on 0..1, binomial around their mean."""
    return rng.binomial(4, mean) / 4


def spread_users(rounds: int, per_user: int, rng: np.random.Generator) -> Ints:
    """Return users who have about the same number of rounds, in random order."""
    return rng.permutation(np.arange(rounds) // per_user)


def unequal_users(rounds: int, users: int, rng: np.random.Generator) -> Ints:
    """Return users whose rounds fall with their rank to the power of -0.7."""
    share = np.arange(1, users + 1) ** -0.7
    return rng.choice(users, rounds, p=share / share.sum())


def play(
    world: World,
    user: Ints,
    rng: np.random.Generator,
    reward: Callable[[Floats, np.random.Generator], Floats] = bernoulli,
    taste: float = 0.0,
) -> Log:
    """Return a log; `taste` is a user's own deviation of each action's mean reward, up or down."""
    users, actions = int(user.max()) + 1, world.mean.shape[1]
    kind = rng.integers(len(world.mean), size=users)[user]
    action = draw_actions(world.logging, kind, rng)
    mean = world.mean[kind, action]
    if taste:
        sign = rng.integers(2, size=(users, actions)) * 2 - 1
        mean = mean + taste * sign[user, action]
    incumbent = None if world.incumbent is None else (lambda part: world.incumbent[kind[part]])  # type: ignore[index]
    return Log(
        action, reward(mean, rng), world.logging[kind, action], user, actions,
        lambda part: world.candidate[kind[part]], incumbent,
    )  # fmt: skip


@lru_cache
def uniform_world(gain: float, versus: str = "logging", base: float = 0.5, spread: float = 0.1) -> World:
    """Return a uniform log of 10 actions; the candidate and the incumbent take one action per kind of user."""
    rng = fixed(1)
    mean = base + spread * rng.uniform(-1, 1, (KINDS, 10))
    first, second = np.argsort(rng.random((KINDS, 10)), axis=1)[:, :2].T
    incumbent = None if versus == "logging" else one_hot(second, 10)
    return World(np.full((KINDS, 10), 0.1), one_hot(first, 10), incumbent, mean).with_gain(gain)


@lru_cache
def near_world(gain: float) -> World:
    """Return a log by softmax; the candidate is the same softmax, tilted towards or away from the reward."""
    rng = fixed(2)
    score, taste = rng.standard_normal((2, KINDS, 10))
    logging, candidate = softmax(score, 1.0, 0.1), softmax(score + np.tanh(taste), 1.0, 0.1)
    world = World(logging, candidate, None, np.tanh(taste))
    return replace(world, mean=0.5 + gain / world.gain * world.mean).checked(gain)


@lru_cache
def far_world(gain: float) -> World:
    """Return a log by softmax; the candidate takes the best action of another score."""
    rng = fixed(2)
    score = rng.standard_normal((KINDS, 10))
    best = (score + 0.7 * rng.standard_normal((KINDS, 10))).argmax(axis=1)
    mean = 0.5 + 0.08 * np.tanh(score + rng.standard_normal((KINDS, 10)))
    return World(softmax(score, 1.0, 0.1), one_hot(best, 10), None, mean).with_gain(gain)


@lru_cache
def rare_world(gain: float, base: float) -> World:
    """Return a uniform log in which nearly all rewards are equal; one action for all."""
    mean = np.full((1, 10), base)
    world = World(np.full((1, 10), 0.1), one_hot(np.zeros(1, int), 10), None, mean)
    return world.with_gain(gain)


@lru_cache
def unsupported_incumbent_world(gain: float) -> World:
    """Return a log by a sharp softmax of the candidate's; the incumbent's actions are rare, in a quarter of the users
    nearly absent."""
    rng = fixed(3)
    logging = np.full((KINDS, 10), 0.05)
    candidate, incumbent = np.zeros(KINDS, int), np.ones(KINDS, int)
    logging[np.arange(KINDS) % 4 == 0, 1] = 2e-5
    logging[:, 0] = 1 - logging[:, 1:].sum(axis=1)
    mean = 0.6 + 0.05 * rng.uniform(-1, 1, (KINDS, 10))
    return World(logging, one_hot(candidate, 10), one_hot(incumbent, 10), mean).with_gain(gain)


@lru_cache
def missing_world(gain: float, share: float, hated: float) -> World:
    """Return a log that lacks what the candidate shows to a share of the users, who hate it; others like the rest."""
    rng = fixed(4)
    logging = softmax(rng.standard_normal((KINDS, 9)), 1.0, 0.2)
    logging = np.concatenate([logging * (1 - 5e-6), np.full((KINDS, 1), 5e-6)], axis=1)
    action = rng.integers(9, size=KINDS)
    lacking = np.arange(KINDS) < round(share * KINDS)
    candidate = one_hot(np.where(lacking, 9, action), 10)
    mean = 0.55 + 0.05 * rng.uniform(-1, 1, (KINDS, 10))
    mean[:, 9] = hated
    world = World(logging, candidate, None, mean)
    raised = one_hot(action, 10) * ~lacking[:, None]
    step = (gain - world.gain) / float(((candidate - logging) * raised).sum(axis=1).mean())
    return replace(world, mean=mean + step * raised).checked(gain)


@lru_cache
def rare_items_world(gain: float) -> World:
    """Return a log of 100 items by popularity; the candidate shows each kind of user one of the 30 rarest half the
    time."""
    rng = fixed(5)
    popularity = np.arange(1, 101) ** -1.0
    logging = np.tile(0.8 * popularity / popularity.sum() + 0.2 / 100, (KINDS, 1))
    rare = one_hot(rng.integers(70, 100, KINDS), 100)
    mean = 0.5 + 0.05 * rng.uniform(-1, 1, (KINDS, 100))
    return World(logging, 0.8 * rare + 0.2 * logging, None, mean).with_gain(gain)


def heavy(gain: float, rounds: int, rng: np.random.Generator) -> Log:
    """Draw a log in which weights have no bound: softmax policies of Gaussian contexts."""
    level = heavy_levels(gain)
    context = rng.standard_normal((rounds, 3))
    logging, candidate, mean = heavy_tables(context, level)
    action = draw_actions(logging, np.arange(rounds), rng)
    each = np.arange(rounds)
    reward = bernoulli(mean[each, action], rng)
    return Log(action, reward, logging[each, action], each, 5, lambda part: candidate[part], None)


def heavy_tables(context: Floats, level: float) -> tuple[Floats, Floats, Floats]:
    """Return logging policy, candidate and mean rewards [N, 5] of contexts [N, 3]."""
    rng = fixed(6)
    first, second = rng.standard_normal((2, 3, 5))
    logging, candidate = softmax(1.2 * context @ first, 1.0), softmax(1.2 * context @ (0.5 * first + second), 1.0)
    mean = 0.5 + 0.15 * np.tanh(context @ rng.standard_normal((3, 5))) + level * (candidate - logging)
    return logging, candidate, mean


@lru_cache
def heavy_levels(gain: float) -> float:
    """Return the reward per difference of the policies that gives this gain, from 400,000 contexts."""
    context = fixed(7).standard_normal((400_000, 3))
    levels = np.linspace(-0.3, 0.3, 13)
    gains = []
    for level in levels:
        logging, candidate, mean = heavy_tables(context, level)
        gains.append(float(((candidate - logging) * mean).sum(axis=1).mean()))
    order = np.argsort(gains)
    assert min(gains) <= gain <= max(gains), gains
    return float(np.interp(gain, np.array(gains)[order], levels[order]))


def drifting(gain: float, rounds: int, rng: np.random.Generator) -> Log:
    """Draw a log in which the candidate's advantage falls from +.1 to -.1 around its mean, and the logging policy
    changes."""
    world = uniform_world(gain)
    user = spread_users(rounds, 5, rng)
    kind = rng.integers(KINDS, size=int(user.max()) + 1)[user]
    time = (np.arange(rounds) + 0.5) / rounds
    tilt = softmax(fixed(8).standard_normal((KINDS, 10)), 2.0, 0.1)
    probs = time[:, None] * tilt[kind] + (1 - time[:, None]) * world.logging[kind]
    action = draw_actions(probs, np.arange(rounds), rng)
    best = world.candidate.argmax(axis=1)[kind]
    drift = 0.1 * (1 - 2 * time)
    mean = world.mean[kind, action] + np.where(action == best, drift, 0.0)
    return Log(
        action, bernoulli(mean, rng), probs[np.arange(rounds), action], user, 10,
        lambda part: world.candidate[kind[part]], lambda part: np.full((len(kind[part]), 10), 0.1),
    )  # fmt: skip


def duplicated(gain: float, rounds: int, rng: np.random.Generator) -> Log:
    """Draw a log in which every round stands ten times, under the same user."""
    log = play(uniform_world(gain), np.arange(max(rounds // 10, 1)), rng)
    row = np.repeat(np.arange(len(log.action)), 10)
    candidate = log.candidate(slice(None))
    columns = {name: getattr(log, name)[row] for name in ("action", "reward", "prob", "user")}
    return replace(log, **columns, candidate=lambda part: candidate[row[part]])


def rare_users(gain: float, rounds: int, rng: np.random.Generator) -> Log:
    """Draw a log in which 3 % of the users give 0 to the candidate's action in all of their ten rounds."""
    world = rare_world(gain + 0.03 * 0.9, 0.97)
    log = play(world, spread_users(rounds, 10, rng), rng)
    hater = rng.random(int(log.user.max()) + 1) < 0.03 / world.mean[0, 0]
    return replace(log, reward=np.where(hater[log.user] & (log.action == 0), 0.0, log.reward))


SITUATIONS: Mapping[str, Situation] = {
    "uniform": Situation(
        "uniform log, one action per kind of user, against the logging policy", -0.005,
        lambda gain, n, rng: play(uniform_world(gain), np.arange(n), rng), healthy=True,
    ),
    "near": Situation(
        "softmax log, and the same softmax tilted towards the reward", -0.005,
        lambda gain, n, rng: play(near_world(gain), np.arange(n), rng), healthy=True,
    ),
    "far": Situation(
        "softmax log, best action of another score, ratings", -0.01,
        lambda gain, n, rng: play(far_world(gain), np.arange(n), rng, stars), healthy=True,
    ),
    "incumbent": Situation(
        "uniform log, two deterministic policies, ratings", -0.005,
        lambda gain, n, rng: play(uniform_world(gain, "incumbent"), np.arange(n), rng, stars), healthy=True,
    ),
    "clustered": Situation(
        "ten rounds of each user, users differ in each action's reward", -0.005,
        lambda gain, n, rng: play(uniform_world(gain), spread_users(n, 10, rng), rng, stars, taste=0.15), healthy=True,
    ),
    "few_users": Situation(
        "80 users, each with many rounds", -0.005,
        lambda gain, n, rng: play(uniform_world(gain), spread_users(n, -(-n // 80), rng), rng, stars, taste=0.15),
    ),
    "unequal_users": Situation(
        "a few users have most of the rounds", -0.005,
        lambda gain, n, rng: play(far_world(gain), unequal_users(n, 1_000, rng), rng, stars, taste=0.1),
    ),
    "rare_positives": Situation(
        "reward 1 in 1 % of the rounds, .5 % of the candidate's", -0.0045,
        lambda gain, n, rng: play(rare_world(gain, 0.01), np.arange(n), rng),
    ),
    "rare_negatives": Situation(
        "reward 1 in 99 % of the rounds, 98.5 % of the candidate's", -0.0045,
        lambda gain, n, rng: play(rare_world(gain, 0.99), np.arange(n), rng),
    ),
    "rare_failures": Situation(
        "the same with 99.9 and 98 %", -0.0171,
        lambda gain, n, rng: play(rare_world(gain, 0.999), np.arange(n), rng),
    ),
    "rare_users": Situation(
        "a few users hate the candidate's action, in all of their rounds", -0.005, rare_users,
    ),
    "duplicated": Situation("every round stands ten times", -0.005, duplicated),
    "heavy_tails": Situation("weights without a bound", -0.005, heavy),
    "drifting": Situation("advantage and logging policy drift; the truth is the mean", -0.005, drifting),
    "unsupported_incumbent": Situation(
        "the log hardly shows what a slightly better incumbent does", -0.0155,
        lambda gain, n, rng: play(unsupported_incumbent_world(gain), np.arange(n), rng, stars),
    ),
    "unsupported_incumbent_close": Situation(
        "the same, the incumbent just better", -0.002,
        lambda gain, n, rng: play(unsupported_incumbent_world(gain), np.arange(n), rng, stars),
    ),
    "missing_20": Situation(
        "the log lacks what the candidate shows to 20 % of the users, who dislike it", -0.04,
        lambda gain, n, rng: play(missing_world(gain, 0.2, 0.3), np.arange(n), rng, stars),
    ),
    "missing_10": Situation(
        "the same for 10 %, who hate it, while the others like the rest", -0.005,
        lambda gain, n, rng: play(missing_world(gain, 0.1, 0.0), np.arange(n), rng, stars),
    ),
    "missing_5": Situation(
        "the same for 5 %", -0.005,
        lambda gain, n, rng: play(missing_world(gain, 0.05, 0.0), np.arange(n), rng, stars),
    ),
    "missing_20_of_60_users": Situation(
        "missing_20 with few users", -0.04,
        lambda gain, n, rng: play(missing_world(gain, 0.2, 0.3), spread_users(n, -(-n // 60), rng), rng, stars),
    ),
    "rare_items": Situation(
        "100 items by popularity; the candidate likes rare ones", -0.01,
        lambda gain, n, rng: play(rare_items_world(gain), np.arange(n), rng, stars),
    ),
    "peeking": Situation(
        "uniform, looked at 10 times while the log grows", -0.002,
        lambda gain, n, rng: play(uniform_world(gain), np.arange(n), rng), looks=10,
    ),
    "peeking_rare": Situation(
        "rare_negatives, looked at 10 times", -0.0045,
        lambda gain, n, rng: play(rare_world(gain, 0.99), np.arange(n), rng), looks=10,
    ),
    "rare_one_stars": Situation(
        "reward 1 in 99 % of the rounds, 98 % of the candidate's", -0.009,
        lambda gain, n, rng: play(rare_world(gain, 0.99), np.arange(n), rng),
    ),
}  # fmt: skip
"""The situations by name; new ones stand last, because random streams follow their number."""
