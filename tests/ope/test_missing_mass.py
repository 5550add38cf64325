"""The range of a value whatever the actions earn that the log never shows, against enumeration of small worlds.

A log that holds every logged action as often as its probability says is the population, so estimates have no error.
"""

import numpy as np
import pytest

from recpolicy.ope.config import MultiStepConfig, OffPolicyConfig
from recpolicy.ope.engine import value_difference, value_limits_from_inputs
from recpolicy.ope.estimators import ESTIMATORS
from recpolicy.ope.feedback import BanditFeedback, SlateFeedback, TargetPolicy, TrajectoryFeedback
from recpolicy.ope.inputs import BanditInputs
from recpolicy.ope.missing_mass import MissingMass
from recpolicy.ope.multi_step_inputs import SlateInputs, TrajectoryInputs
from recpolicy.ope.point_estimates import point_estimates, reward_scale
from recpolicy.ope.resampling import Resamples

LOW, HIGH = -1.0, 2.0
NO_RESAMPLES = Resamples(np.empty(0), np.empty(0))


def world(seed):
    """Return the log of a world of 4 contexts and 3 actions, of which the last is never shown in some, and the target.

    The third and fourth value are the lowest and highest value of the target.
    """
    rng = np.random.default_rng(seed)
    contexts, actions, rounds = 4, 3, 60
    reward = rng.uniform(LOW, HIGH, (contexts, actions))
    target = rng.dirichlet(np.ones(actions), contexts)
    counts = np.array([[20, 40, 0], [30, 30, 0], [12, 12, 36], [60, 0, 0]])
    logged = counts / rounds
    context, action = (np.repeat(axis.ravel(), counts.ravel()) for axis in np.indices(counts.shape))
    feedback = BanditFeedback(action, reward[context, action], logged[context, action], np.arange(len(action)), actions)
    policy = TargetPolicy.from_table(feedback, target[context])
    shown = np.where(counts > 0, target * reward, 0.0).sum() / contexts
    mass = np.where(counts > 0, 0.0, target).sum() / contexts
    return feedback, policy, shown + LOW * mass, shown + HIGH * mass


def ends(name, seed):
    feedback, policy, lowest, highest = world(seed)
    inputs = BanditInputs(feedback, policy, OffPolicyConfig(resamples=0, reward_range=(LOW, HIGH)))
    found = point_estimates({name: ESTIMATORS[name]}, inputs)[name]
    missing = MissingMass.from_estimate(found, NO_RESAMPLES, NO_RESAMPLES, reward_scale(inputs))
    value = found.statistic.value
    return value + missing.lower.terms.mean(), value + missing.upper.terms.mean(), lowest, highest


@pytest.mark.parametrize("name", ["ips", "snips", "beta_ips", "dr", "sndr", "mrdr"])
@pytest.mark.parametrize("seed", range(5))
def test_the_range_equals_enumeration(name, seed):
    lower, upper, lowest, highest = ends(name, seed)
    assert lower == pytest.approx(lowest, abs=1e-12)
    assert upper == pytest.approx(highest, abs=1e-12)


def unseen_half(action):
    """Return the probabilities [N, 3] of a policy: action 0 as logged with .5, an action that the log lacks with .5."""
    table = np.zeros((40, 3))
    table[:, 0] = table[:, action] = 0.5
    return table


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_policies_that_differ_only_where_the_log_is_silent_have_wide_limits(name):
    """Both take the logged action with .5; one takes action 1, the other action 2, whose rewards nobody knows."""
    feedback = BanditFeedback(np.zeros(40, int), np.full(40, 0.5), np.ones(40), np.arange(40), 3)
    first, second = (TargetPolicy.from_table(feedback, unseen_half(action)) for action in (1, 2))
    config = OffPolicyConfig(resamples=0, reward_range=(0.0, 1.0))
    for kind, ends in value_difference(feedback, first, second, name, config).limits.items():
        assert ends.lo <= -0.5 + 1e-9, kind
        assert ends.hi >= 0.5 - 1e-9, kind
    again = TargetPolicy.from_table(feedback, unseen_half(1))
    for kind, ends in value_difference(feedback, first, again, name, config).limits.items():
        if kind != "bernstein":  # it knows nothing of the tables
            assert (ends.lo, ends.hi) == (0.0, 0.0), kind


@pytest.fixture
def even():
    """Rows [400] of the first half of a population of two kinds."""
    return np.arange(400) % 2 == 0


def test_the_missing_mass_of_slots_is_that_of_the_slot_that_lacks_most(even):
    """Slot 1 has the weights 1.9 and .1, of mean 1; slot 2 has .5: the log lacks half of the target's choices there."""
    behavior = np.stack([np.full(400, 0.5), np.ones(400)], axis=1)
    target = np.stack([np.where(even, 0.95, 0.05), np.full(400, 0.5)], axis=1)
    feedback = SlateFeedback(behavior, target, np.zeros(400), np.arange(400), np.zeros((400, 2)))
    inputs = SlateInputs(feedback, MultiStepConfig(resamples=0, reward_range=(0.0, 1.0)))
    assert inputs.worst_slot_weight.mean() == pytest.approx(1)  # the smallest effective sample size is that of slot 1
    for kind, ends in value_limits_from_inputs(inputs, "iips").items():
        assert ends.hi >= 0.5, kind


@pytest.mark.parametrize("name", ["per_decision_is", "per_decision_wis"])
def test_the_missing_mass_of_steps_is_that_of_the_step_that_lacks_most(even, name):
    """Weights 1.9 and .1 up to step 1, of mean 1; .475 and .5 up to step 2, which has the larger effective sample."""
    behavior = np.stack([np.full(400, 0.5), np.where(even, 1.0, 0.2)], axis=1)
    target = np.stack([np.where(even, 0.95, 0.05), np.where(even, 0.25, 1.0)], axis=1)
    feedback = TrajectoryFeedback(np.zeros((400, 2)), behavior, target, np.full(400, 2), np.arange(400))
    inputs = TrajectoryInputs(feedback, MultiStepConfig(resamples=0, reward_range=(0.0, 1.0)))
    assert inputs.worst_step_weight.mean() == pytest.approx(1)
    for kind, ends in value_limits_from_inputs(inputs, name).items():
        assert ends.hi >= 0.51, kind
