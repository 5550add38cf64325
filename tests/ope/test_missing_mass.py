"""The range of a value whatever the actions earn that the log never shows, against enumeration of small worlds.

A log that holds every logged action as often as its probability says is the population, so estimates have no error.
"""

import numpy as np
import pytest

from recpolicy.ope.config import OffPolicyConfig
from recpolicy.ope.estimators import ESTIMATORS
from recpolicy.ope.feedback import BanditFeedback, TargetPolicy
from recpolicy.ope.inputs import BanditInputs
from recpolicy.ope.missing_mass import MissingMass
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
