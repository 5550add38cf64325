"""The gate on simulated logs: policies that are truly worse, in situations that once let them pass."""

from collections.abc import Callable

import numpy as np
import pytest

from recpolicy.evaluation.gate import GateConfig, gate
from recpolicy.ope.config import OffPolicyConfig
from recpolicy.ope.feedback import BanditFeedback, TargetPolicy
from recpolicy.workflows.log_evaluation import LogComparison


def comparison_of(action, reward, prob, user, candidate, incumbent=None, scale=(0.0, 1.0), q=None) -> LogComparison:
    """The comparison of two policies [N, A] on a log [N]; q is the candidate's own reward model."""
    feedback = BanditFeedback(action, reward, prob, user, candidate.shape[1])
    targets = [None if table is None else TargetPolicy.from_table(feedback, table) for table in (candidate, incumbent)]
    return LogComparison(feedback, targets[0], targets[1], q, OffPolicyConfig(reward_range=scale), user)


def verdict_of(comparison: LogComparison, interval="t") -> str:
    config = GateConfig(interval=interval, group_loss=None, min_diversity=None, latency_ms=None)
    return gate({"policy": {}, "off_policy": comparison.figures("the incumbent")}, config).verdict


def always(action: int, rounds: int, actions=10):
    return np.tile(np.eye(actions)[action], (rounds, 1))


def uniform_log(rng, rounds, mean, reward: Callable, copies=1):
    """A uniform log of ten actions and the candidate that always takes the first; each round `copies` times."""
    action = np.repeat(rng.integers(10, size=rounds), copies)
    earned = np.repeat(reward(mean[action[::copies]]), copies)
    user = np.repeat(np.arange(rounds), copies)
    return comparison_of(action, earned, np.full(len(action), 0.1), user, always(0, len(action)))


def unsupported_incumbent(seed):
    """The candidate's sharp softmax logged; a better incumbent acts where a quarter of the users have no data."""
    rng = np.random.default_rng(seed)
    rare = rng.random(1_000) < 0.25
    probs = np.full((1_000, 10), 0.05)
    probs[rare, 1] = 2e-5
    probs[:, 0] = 1 - probs[:, 1:].sum(axis=1)
    action = (rng.random((1_000, 1)) < probs.cumsum(axis=1)).argmax(axis=1)
    mean = np.full(10, 0.6)
    mean[1] = 0.615
    reward = rng.binomial(4, mean[action]) / 4
    own = np.full((1_000, 10), 0.2)
    own[:, 0] = 0.9  # the candidate's opinion of itself
    return comparison_of(
        action, reward, probs[np.arange(1_000), action], np.arange(1_000), always(0, 1_000), always(1, 1_000),
        q=lambda part: own[part],
    )  # fmt: skip


def missing_mass(seed, missing=0.2, hated=0.3):
    """The log lacks what the candidate shows to a share of the users, who dislike it; it calls that the best."""
    rng = np.random.default_rng(seed)
    lacking = rng.random(1_000) < missing
    action = rng.choice(10, 1_000, p=[0.3, *[0.7 / 8] * 8, 0])
    mean = np.where(action == 0, 0.6, 0.55)
    reward = rng.binomial(4, mean) / 4
    candidate = np.where(lacking[:, None], np.eye(10)[9], np.eye(10)[0])
    own = np.full((1_000, 10), 0.5)
    own[:, 9] = 1.0
    prob = np.where(action == 0, 0.3, 0.7 / 8)
    return comparison_of(action, reward, prob, np.arange(1_000), candidate, q=lambda part: own[part])


def rare_failures(seed, rounds=700):
    """Nearly all rewards are 1: .99 of the others, .985 of the candidate."""
    rng = np.random.default_rng(seed)
    mean = np.append(0.985, np.full(9, 0.99))
    return uniform_log(rng, rounds, mean, lambda p: (rng.random(len(p)) < p).astype(float))


@pytest.mark.parametrize("situation", [unsupported_incumbent, missing_mass, rare_failures])
def test_a_worse_policy_hardly_ever_passes(situation):
    """100 logs each."""
    assert sum(verdict_of(situation(seed)) == "pass" for seed in range(100)) <= 3


def test_the_value_of_actions_that_the_log_lacks_is_charged():
    """Truth: .2 * (.3 - .5625) + .8 * (.6 - .565) = -.025; the plain interval lies above it."""
    truth = 0.2 * 0.3 + 0.8 * 0.6 - (0.3 * 0.6 + 0.7 * 0.55)
    gains = [missing_mass(seed).gain for seed in range(30)]
    assert sum(one.intervals["t"].lo > truth for one in gains) > 15  # so that the test could fail
    assert all(one.limits["t"].lo <= truth <= one.limits["t"].hi for one in gains)
    assert all(one.verdict() != "better" for one in gains)


def test_rare_failures_are_covered_in_every_interval():
    """200 logs of 700 rounds, true gain -.0045; in a third of them the candidate's rounds show no failure."""
    truth = 0.985 - (0.9 * 0.99 + 0.1 * 0.985)
    gains = [rare_failures(seed).gain for seed in range(200)]
    for kind in ("t", "sequence"):
        found = [one.intervals[kind] for one in gains]
        assert min(one.hi - one.lo for one in found) > 0.1
        assert np.mean([one.lo <= truth <= one.hi for one in found]) >= 0.95


def test_the_worse_supported_of_both_policies_decides():
    figures = unsupported_incumbent(0).figures("the incumbent")
    details = figures["details"]
    assert figures["effective_sample_size"] == details["incumbent"]["diagnostics"]["effective_sample_size"] < 100
    assert details["candidate"]["diagnostics"]["effective_sample_size"] > 500


def test_copies_of_rounds_are_no_evidence():
    rng = np.random.default_rng(0)
    mean = np.append(0.6, np.full(9, 0.5))
    copied = uniform_log(rng, 300, mean, lambda p: (rng.random(len(p)) < p).astype(float), copies=10)
    assert copied.gain.candidate.diagnostics.effective_rounds > 200
    assert copied.gain.candidate.diagnostics.effective_sample_size < 50
    assert verdict_of(copied) == "no_verdict"


def test_a_better_policy_passes():
    """40 logs of 5,000 rounds, true gain .09."""
    passed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        mean = np.append(0.6, np.full(9, 0.5))
        log = uniform_log(rng, 5_000, mean, lambda p, rng=rng: rng.binomial(4, p) / 4)
        passed += verdict_of(log) == "pass"
    assert passed >= 30
