"""The gates of a tuned formula: values worked out by hand, no verdict without hits, and controls that must fail."""

from dataclasses import replace

import numpy as np
import pytest

from recpolicy.core.errors import DataError
from recpolicy.data.tuning_log import TuningFeatures, TuningLog
from recpolicy.evaluation.hit_values import HitValue, action_hits
from recpolicy.evaluation.tuning_gates import TuningGates, rounds_needed, tuning_gates


def make_log(action, reward, actions, fallback=None, propensity=None):
    action, reward = np.asarray(action), np.asarray(reward, np.float64)
    count = len(action)
    features = TuningFeatures(np.zeros((count, 0), np.int32), np.zeros((count, 1), np.float32), ())
    fallback = np.zeros(count, bool) if fallback is None else np.asarray(fallback)
    propensity = np.full(count, 1 / actions) if propensity is None else propensity
    return TuningLog(features, action, propensity, reward, reward[:, np.newaxis], ("reward",), fallback, actions)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_hits_by_hand(rng):
    # Actions 1, 2, 1, 3, 2, 1 and a policy that serves 1, 1, 1, 3, 3, 2: hits are rounds 1, 3 and 4, worth 2/3. The
    # static action 2 has rounds 2 and 5, worth 1/2. All rounds: 2/3. So the relative gain is 0, the lift 1/6 of 1/2.
    log = make_log([1, 2, 1, 3, 2, 1], [1, 0, 0, 1, 1, 1], 4)
    action = np.array([1, 1, 1, 3, 3, 2])
    assert HitValue.of_hits(log, action_hits(log, action)).value == pytest.approx(2 / 3)
    assert HitValue.of_hits(log, action_hits(log, 2)).value == 0.5
    gates = tuning_gates(log, action, 2, rng)
    assert gates.relative_gain.value == pytest.approx(0)
    assert gates.lift.value * 0.5 == pytest.approx(1 / 6)
    assert (gates.hits, gates.static_hits) == (3, 2)
    assert gates.verdict == "fail" or gates.verdicts["lift"] == "cannot tell"
    assert gates.verdicts["lift"] == gates.verdicts["relative_gain"] == "cannot tell"


def test_a_static_policy_has_no_lift_over_itself_and_the_least_diversity(rng):
    action = rng.integers(60, size=5_000)
    log = make_log(action, 1 + (action == 7) + rng.normal(size=5_000), 60)
    gates = tuning_gates(log, np.full(5_000, 7), 7, rng)
    assert gates.diversity.value == pytest.approx(1 / 60)
    assert (gates.lift.value, gates.lift.lo, gates.lift.hi) == (0, 0, 0)
    assert gates.relative_gain.lo > 0  # the gate that a constant passes
    assert gates.verdicts == {"diversity": "fail", "relative_gain": "pass", "lift": "fail"}


def test_a_policy_that_personalizes_passes_and_one_for_other_requests_does_not(rng):
    count, best = 40_000, rng.integers(20, size=40_000)  # each request has its own best action
    action = rng.integers(20, size=count)
    log = make_log(action, 1 + (action == best) + rng.normal(size=count), 20)
    assert tuning_gates(log, best, 3, rng).verdict == "pass"
    permuted = tuning_gates(log, rng.permutation(best), 3, rng)
    assert permuted.verdicts["diversity"] == "pass"
    assert permuted.verdicts["lift"] == "fail"
    assert permuted.lift.lo < 0 < permuted.lift.hi


def test_fallbacks_count_for_the_point_that_was_logged(rng):
    # Point 0 falls back in the poor half of the requests. Its value contains these; leaving them out would double it.
    action, poor = rng.integers(2, size=4_000), np.arange(4_000) % 2 == 0
    fallback = poor & (action == 0)
    gates = tuning_gates(make_log(action, np.where(poor, 0.0, 1.0), 2, fallback), np.zeros(4_000, int), 1, rng)
    assert (gates.hits, gates.fallbacks) == (int((action == 0).sum()), int(fallback.sum()))
    assert gates.lift.lo < 0 < gates.lift.hi
    assert gates.lift.value == pytest.approx(0, abs=0.1)


def test_few_hits_give_no_verdict_but_a_failed_gate_still_fails(rng):
    action = rng.integers(1_000, size=2_000)
    served = rng.integers(1_000, size=2_000)
    gates = tuning_gates(make_log(action, np.ones(2_000), 1_000), served, 5, rng)
    assert gates.hits < 30
    assert gates.verdict == "cannot tell"
    assert gates.reason().startswith("cannot tell: ")
    assert gates.reason().endswith(" effective hits, at least 30 are needed; log more")
    assert tuning_gates(make_log(action, np.ones(2_000), 1_000), np.zeros(2_000, int), 5, rng).verdict == "fail"


def test_intervals_cover_the_truth(rng):
    inside = 0
    for _ in range(200):
        action = rng.integers(10, size=2_000)
        log = make_log(action, (rng.random(2_000) < 0.3 + 0.2 * (action == 4)).astype(float), 10)
        gates = tuning_gates(log, np.full(2_000, 4), 0, rng)
        inside += gates.lift.lo <= 0.2 / 0.3 <= gates.lift.hi
    assert inside / 200 >= 0.91  # nominal 0.95, standard error 0.015


def test_users_with_many_requests_are_resampled_as_a_whole(rng):
    user = np.repeat(np.arange(40), 100)
    action, served = rng.integers(4, size=4_000), user % 4
    gain = 3 * rng.normal(size=40)[user] ** 2  # of the user's own action; it differs between users only
    log = make_log(action, 1 + np.where(action == served, gain, 0.0), 4)
    alone, by_user = (tuning_gates(part, served, 0, rng) for part in (log, replace(log, unit=user)))
    assert by_user.lift.value == alone.lift.value
    assert by_user.lift.hi - by_user.lift.lo > 2 * (alone.lift.hi - alone.lift.lo)
    assert by_user.relative_gain.hi - by_user.relative_gain.lo > 1.3 * (alone.relative_gain.hi - alone.relative_gain.lo)


def test_equal_rewards_of_few_hits_still_leave_an_interval(rng):
    action = np.arange(200) % 4
    reward = np.where(action == 1, 0.0, 1.0)
    gates = tuning_gates(make_log(action, reward, 4), np.full(200, 2), 3, rng)
    assert gates.relative_gain.lo < gates.relative_gain.value < gates.relative_gain.hi
    assert gates.lift.lo < 0 < gates.lift.hi


def test_gates_survive_json(rng):
    action = np.arange(200) % 4
    gates = tuning_gates(make_log(action, action.astype(float), 4), np.full(200, 3), 2, rng)
    assert isinstance(gates, TuningGates)
    assert gates.as_dict()["lift"]["value"] == pytest.approx(0.5)


def test_a_log_that_is_not_uniform_is_one_line(rng):
    log = make_log([0, 1], [1, 0], 2, propensity=np.array([0.9, 0.5]))
    with pytest.raises(
        DataError, match=r"^the gate needs a log of uniform weights: request 0 has propensity 0\.9, not"
    ):
        tuning_gates(log, np.zeros(2, int), 0, rng)


def test_rounds_needed_for_power():
    # 1,000 actions, coefficient of variation 1: 7.8e5 rounds for a gain of 0.10, 3.1e6 for 0.05; 49 actions: 3.8e4.
    assert rounds_needed(1_000, 1, 0.10) == pytest.approx(7.849e5)
    assert rounds_needed(1_000, 1, 0.05) == pytest.approx(3.14e6, rel=1e-3)
    assert rounds_needed(49, 1, 0.10) == pytest.approx(3.85e4, rel=1e-2)
