"""Off-policy estimators of slates whose K slots were filled independently, as per-slate terms [N].

N slates, K slots; Y_k = pi_k / mu_k of the item logged in slot k [N, K]; R reward of the slate [N]; r_k reward of slot
k [N, K]. G = 1 + sum_k (Y_k - 1) is the pseudo-inverse weight: if the mean reward is a sum of what each slot adds,
E[G R] is the target's value, with a variance that grows with K and not with the number of possible slates. Once slots
interact it is biased. `stepwise.py` has the cascade forms (RIPS, cascade-DR).

G R is made less variable by control variates of mean 0: G - 1, or Y_k - 1 for each slot. Slots being independent, the
best coefficients are found one by one: E[G R (Y_k - 1)] / E[(Y_k - 1)^2]. Fitted on the same slates they bring a bias
of order 1/N; fitted on other slates none.
Sources: Swaminathan et al. 2017 (PI); Vlassis, Chandrashekar, Amat Gil & Kallus 2021 (control variates); Li et al. 2018
(IIPS).
"""

import numpy as np
from numpy.typing import NDArray

from recpolicy.ope.forms import Form
from recpolicy.ope.intervals import Bracket

Array = NDArray[np.float64]


def independent_terms(ratio: Array, slot_reward: NDArray[np.floating]) -> Array:
    """Sum over k of Y_k r_k (IIPS); unbiased if each slot's reward depends on that slot alone."""
    return np.einsum("nk,nk->n", ratio, slot_reward, dtype=np.float64)


def pseudo_inverse_weights(ratio: Array) -> Array:
    """Return G = 1 + sum_k (Y_k - 1) [N]; mean 1 in expectation, and below 0 where few logged items are wanted."""
    return 1 + (ratio - 1).sum(axis=1)


def pseudo_inverse_bracket(
    weight: Array, reward: Array, slots: int, span: tuple[float, float], largest: float
) -> Bracket:
    """Bounds by weights G [N] of K independent slots: m + G (R - m), m the middle of the range of rewards.

    Where rewards of slots add up, and the target shows nothing in a slot that is never logged there, E[G] = 1 makes its
    mean the target's value; as for `pi` itself, not where slots interact. |R - m| is at most half the range and G lies
    in 1-K..largest, so terms span max(largest, K - 1) times the range. `largest` may be that of the product of ratios:
    with y_k >= 1 the largest of slot k (its mean is 1), G <= 1 + sum_k (y_k - 1) <= prod_k y_k (Bernoulli), a product
    that independent slots reach.
    """
    low, high = span
    middle = (low + high) / 2
    terms = middle + weight * (reward - middle)
    return Bracket(terms, terms, max(largest, slots - 1.0) * (high - low), span)


def control_weights(outcome: Array, variates: Array, squares: Array) -> Array:
    """Return mean(outcome variate) / mean(square) of each of C variates; 0 for one that never varies.

    outcome [N] is G R; variates [N, C] have mean 0 in expectation; squares [N, C] average to their variances.
    """
    return _coefficients(outcome @ variates, squares.sum(axis=0))


def controlled_terms(outcome: Array, variates: Array, weights: Array) -> Array:
    """Return outcome - sum_c weight_c variate_c; weights [C], or [N, C] where they differ between folds."""
    return outcome - (variates * weights).sum(axis=1)


def cross_fitted_weights(outcome: Array, variates: Array, squares: Array, fold: NDArray[np.integer]) -> Array:
    """Return control weights [N, C], each row's from the rows of other folds; fold [N] counts from 0."""
    above, below = outcome[:, None] * variates, squares
    by_fold = [[side[fold == k].sum(axis=0) for side in (above, below)] for k in range(int(fold.max()) + 1)]
    total = np.sum(by_fold, axis=0)  # [2, C]
    outside = total - np.asarray(by_fold)  # [folds, 2, C]
    return _coefficients(outside[:, 0], outside[:, 1])[fold]


def controlled_form(outcome: Array, variates: Array, squares: Array) -> Form:
    """The estimate with coefficients fitted on the same slates, and anew on every resample."""
    count = variates.shape[1]

    def combine(means: Array) -> Array:
        variate, product, square = (means[1 + i * count : 1 + (i + 1) * count] for i in range(3))
        return np.asarray(means[0] - (_coefficients(product, square) * variate).sum(axis=0))

    terms = controlled_terms(outcome, variates, control_weights(outcome, variates, squares))
    parts = (outcome, *variates.T, *(outcome[:, None] * variates).T, *squares.T)
    return Form(terms, parts, combine)


def _coefficients(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
