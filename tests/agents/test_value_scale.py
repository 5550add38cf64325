"""The scale at which values start from a ranker: by hand, on planted steps, and what it refuses."""

import numpy as np
import pytest

from recpolicy.agents.value_scale import match_value_scale
from recpolicy.core.errors import DataError


def steps(count: int = 20_000, seed: int = 0):
    """Scores in stars whose likes have the probability (score - 1) / 5, sessions that end with probability .1."""
    rng = np.random.default_rng(seed)
    score, following = rng.uniform(2, 5, (2, count))
    return score, (rng.random(count) < (score - 1) / 5).astype(float), rng.random(count) < 0.1, following


def test_it_finds_the_line_of_rewards_and_the_constant_by_hand():
    """r = .5 + .25 (s - 2), all go on to a step worth r' = 1: V_0 = 1 / (1 - .5) = 2, offset 0 + .5 * 2."""
    score = np.linspace(0, 4, 100)
    scale = match_value_scale(score, 0.25 * score, np.zeros(100, bool), np.full(100, 4.0), gamma=0.5)
    assert scale.temperature == pytest.approx(4.0)
    assert scale.value == pytest.approx(2.0)
    assert scale.value_offset == pytest.approx(1.0)


@pytest.mark.parametrize("gamma", [0.0, 0.75, 0.99])
def test_first_errors_have_mean_0_and_are_as_small_as_the_noise_of_a_reward(gamma):
    score, reward, over, following = steps()
    scale = match_value_scale(score, reward, over, following, gamma)
    start = score / scale.temperature + scale.value_offset
    target = reward + gamma * ~over * (following / scale.temperature + scale.value_offset)
    assert np.mean(target - start) == pytest.approx(0, abs=1e-9)
    assert scale.error == pytest.approx(np.sqrt(np.mean((target - start) ** 2)))
    assert 1 / scale.temperature == pytest.approx(0.2, abs=0.02)
    assert scale.error < 1.5
    assert gamma > 0 or scale.error < scale.unmatched_error / 3
    assert (np.argsort(start) == np.argsort(score)).all()


def test_a_ranker_against_the_rewards_too_few_steps_and_endless_sessions_are_refused():
    score, reward, over, following = steps(500)
    with pytest.raises(DataError, match="do not rise with the rewards"):
        match_value_scale(-score, reward, over, following, 0.5)
    with pytest.raises(DataError, match="do not rise with the rewards"):
        match_value_scale(np.ones_like(score), reward, over, following, 0.5)
    with pytest.raises(DataError, match="99 steps; expected at least 100"):
        match_value_scale(score[:99], reward[:99], over[:99], following[:99], 0.5)
    with pytest.raises(DataError, match="no session ends and gamma is 1"):
        match_value_scale(score, reward, np.zeros_like(over), following, 1.0)
