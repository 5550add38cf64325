import numpy as np

from recpolicy.models.logistic import fit_logistic, sigmoid
from recpolicy.models.random_effects import fit_random_effects


def drawn(spread, groups=300, each=25, seed=0):
    """Rows of groups with normal effects around log-odds 0.4 - 0.8 x."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(groups), each))
    effect = rng.normal(0, spread, groups)
    columns = np.column_stack([np.ones(len(group)), rng.normal(size=len(group))])
    outcome = rng.random(len(group)) < sigmoid(columns @ [0.4, -0.8] + effect[group])
    return columns, outcome, group, effect


def fitted(columns, outcome, group):
    return fit_random_effects(columns, outcome, group, np.zeros(len(group)), np.zeros((2, 2)))


def test_weights_and_spread_are_recovered():
    columns, outcome, group, effect = drawn(spread=0.8)
    fit = fitted(columns, outcome, group)
    np.testing.assert_allclose(fit.weight, [0.4, -0.8], atol=0.15)
    assert 0.65 < fit.spread < 0.9
    assert np.corrcoef(fit.effect, effect)[0, 1] > 0.75
    assert fit.effect.std() < effect.std()  # drawn to 0


def test_groups_that_are_alike_get_no_effects():
    fit = fitted(*drawn(spread=0.0)[:3])
    assert fit.spread < 0.2
    assert np.abs(fit.effect).max() < 0.25


def test_the_steps_lead_to_the_penalised_maximum_of_the_full_regression():
    """With the spread that was found, indicator columns and a ridge on them must give the same weights."""
    columns, outcome, group, _ = drawn(spread=0.8, groups=30)
    fit = fitted(columns, outcome, group)
    full = np.column_stack([columns, group[:, None] == np.arange(30)]).astype(float)
    penalty = np.zeros((32, 32))
    penalty[2:, 2:] = np.eye(30) / fit.spread**2
    other = fit_logistic(full, outcome, penalty=penalty).weight
    np.testing.assert_allclose(np.concatenate([fit.weight, fit.effect]), other, atol=5e-3)


def test_numbers_of_groups_may_have_gaps():
    columns, outcome, group, _ = drawn(spread=0.8, groups=20)
    gaps = fitted(columns, outcome, 10 * group + 3)
    np.testing.assert_allclose(gaps.effect, fitted(columns, outcome, group).effect)


def test_an_offset_is_part_of_the_log_odds():
    columns, outcome, group, _ = drawn(spread=0.5, groups=60)
    shifted = fit_random_effects(columns, outcome, group, np.full(len(group), 2.0), np.zeros((2, 2)))
    np.testing.assert_allclose(shifted.weight - fitted(columns, outcome, group).weight, [-2, 0], atol=1e-3)
