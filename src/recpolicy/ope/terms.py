"""Off-policy estimators as terms [N], one a row, whose mean is the estimate.

Single choices, all arrays [N] except where noted: w weight of the logged action (weights.py), r reward, q predicted
reward of the logged action (`logged_q`), d = sum_a pi(a|x) q(x, a), the expected prediction under the target
(`expected_q`). With w = pi / mu exact and mu > 0 wherever pi > 0:

- unbiased: ips; dr for any q that was not fitted on the same rounds; dm and dr if q is exact;
- consistent, biased by order 1/N: snips, sndr, beta_ips (ratios and fitted coefficients);
- biased by design, less variable: ips and dr with transformed weights (clipped and sub-Gaussian IPS, SWITCH-DR, DRos).

The terms of the consistent estimators are linearized: value + influence of each round. Their mean is the estimate
exactly, and their variance over N is the estimate's variance to first order.

Sessions and slates: Y_t = pi / mu of the logged item at step (or slot) t given the steps before it [N, T], W_t = Y_1
... Y_t, r_t reward of step t, gamma discount per step (1 for slates). If r_t does not depend on later choices, later
ratios only add noise to it, so the per-decision forms weight it with W_t. Steps after the end of a session have ratio
1, reward 0 and prediction 0.

Slates whose K slots are filled independently: R reward of the slate [N], G the pseudo-inverse weight. Control variates
with mean 0, G - 1 or Y_k - 1 for each slot, make G R less variable. Slots are independent, so each optimal coefficient
is found on its own: E[G R (Y_k - 1)] / E[(Y_k - 1)^2]. Fitted on the same slates it has a bias of order 1/N, fitted on
other slates none.

Sources: Horvitz & Thompson 1952; Dudik, Langford & Li 2011; Swaminathan & Joachims 2015; Thomas & Brunskill 2016
(SNDR); Owen 2013, chapter 8.9 (control variate); Precup, Sutton & Singh 2000 (per-decision); McInerney et al. 2020 (the
same for slates, RIPS); Jiang & Li 2016 (doubly robust); Kiyohara et al. 2022 (the same for slates, cascade-DR); Thomas
2015 (weighted per decision); Swaminathan et al. 2017 (pseudo-inverse); Vlassis, Chandrashekar, Amat Gil & Kallus 2021
(control variates of slates); Li et al. 2018 (IIPS).
"""

import numpy as np

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array, Floats, Ints


def ips_terms(weight: Array, reward: Floats) -> Array:
    """Return w r."""
    return weight * reward


def snips_terms(weight: Array, reward: Floats) -> Array:
    """Return V + w (r - V) / mean w with V = sum w r / sum w.

    V stays within the range of the rewards and shifts with them.

    Raises:
        DataError: all weights are 0.
    """
    mean = _mean_weight(weight)
    value = float(weight @ reward) / weight.sum()
    return value + weight * (reward - value) / mean


def beta_ips_terms(weight: Array, reward: Floats) -> Array:
    """Return w r - b (w - 1) with the b of minimum variance, Cov(w r, w) / Var(w); w r where all w are equal."""
    moments = np.array([weight.mean(), ips_terms(weight, reward).mean(), (weight**2).mean(), weight**2 @ reward])
    moments[3] /= len(weight)
    return weight * reward - control_coefficient(moments) * (weight - 1)


def control_coefficient(moments: Array) -> Array:
    """Return b = Cov(w r, w) / Var(w) from the means of w, w r, w^2, w^2 r [4, ...]; 0 where all w are equal."""
    w, wr, ww, wwr = moments
    variance = ww - w**2
    varies = variance > 1e-12 * ww
    return np.where(varies, (wwr - wr * w) / np.where(varies, variance, 1.0), 0.0)


def direct_terms(target_probs: Floats, q: Floats) -> Array:
    """Return the sum over actions of pi q, both [N, A]: the direct method (DM)."""
    return np.einsum("na,na->n", target_probs, q, dtype=np.float64)


def dr_terms(expected_q: Array, weight: Array, reward: Floats, logged_q: Array) -> Array:
    """Return d + w (r - q): doubly robust.

    SWITCH-DR and DRos are this with transformed weights, MRDR is this with a q fitted for it.
    """
    return expected_q + weight * (reward - logged_q)


def sndr_terms(expected_q: Array, weight: Array, reward: Floats, logged_q: Array) -> Array:
    """Return d + snips_terms of the residual r - q. Raises DataError when all weights are 0."""
    return expected_q + snips_terms(weight, reward - logged_q)


def discounts(steps: int, gamma: float) -> Array:
    """Return gamma^t for t = 0..T-1, [T]."""
    return np.power(float(gamma), np.arange(steps))


def returns(reward: Floats, gamma: float) -> Array:
    """Return the discounted sums [N] of rewards [N, T]."""
    return reward.astype(np.float64) @ discounts(reward.shape[1], gamma)


def per_decision_terms(weight: Array, reward: Floats, gamma: float = 1.0) -> Array:
    """Return the sum over t of gamma^t W_t r_t; weight W and reward [N, T].

    Unbiased if no reward depends on a later choice. For slates this is RIPS.
    """
    return (weight * reward) @ discounts(reward.shape[1], gamma)


def weighted_per_decision_terms(weight: Array, reward: Floats, gamma: float = 1.0) -> Array:
    """Return the sum over t of gamma^t (sum_n W_t r_t / sum_n W_t), linearized as in snips_terms.

    Consistent, with a bias of order 1/N.

    Raises:
        DataError: all weights of a step are 0.
    """
    terms = np.zeros(len(reward))
    for step, discount in enumerate(discounts(reward.shape[1], gamma)):
        terms += discount * snips_terms(weight[:, step], reward[:, step])
    return terms


def per_decision_dr_terms(
    weight: Array, reward: Floats, logged_q: Array, expected_q: Array, gamma: float = 1.0
) -> Array:
    """Return the sum over t of gamma^t (W_{t-1} v_t + W_t (r_t - q_t)), with W_0 = 1; all arrays [N, T].

    Unbiased for any q that was not fitted on the same rows, and for any propensities if q and v are exact.

    Args:
        weight: W. reward: r.
        logged_q: q, value of the logged choice and of all that follows it under the target.
        expected_q: v, the same averaged over the target's choices at t.
        gamma: discount per step.
    """
    before = np.concatenate([np.ones((len(weight), 1)), weight[:, :-1]], axis=1)  # [N, T]
    return (before * expected_q + weight * (reward - logged_q)) @ discounts(reward.shape[1], gamma)


def independent_terms(ratio: Array, slot_reward: Floats) -> Array:
    """Return the sum over k of Y_k r_k (IIPS), both [N, K]; unbiased if a slot's reward depends on that slot alone."""
    return np.einsum("nk,nk->n", ratio, slot_reward, dtype=np.float64)


def control_weights(outcome: Array, variates: Array, squares: Array) -> Array:
    """Return mean(outcome variate) / mean(square) of each of C variates; 0 for one that never varies.

    Args:
        outcome: [N], G R. variates: [N, C], mean 0 in expectation. squares: [N, C], their means are the variances.
    """
    return control_ratio(outcome @ variates, squares.sum(axis=0))


def cross_fitted_weights(outcome: Array, variates: Array, squares: Array, fold: Ints) -> Array:
    """Return control weights [N, C], each row's from the rows of other folds; fold [N] counts from 0."""
    above, below = outcome[:, None] * variates, squares
    by_fold = [[side[fold == k].sum(axis=0) for side in (above, below)] for k in range(int(fold.max()) + 1)]
    total = np.sum(by_fold, axis=0)  # [2, C]
    other_folds = total - np.asarray(by_fold)  # [folds, 2, C]
    return control_ratio(other_folds[:, 0], other_folds[:, 1])[fold]


def controlled_terms(outcome: Array, variates: Array, weights: Array) -> Array:
    """Return outcome - sum_c weight_c variate_c; weights [C], or [N, C] where they differ between folds."""
    return outcome - (variates * weights).sum(axis=1)


def control_ratio(above: Array, below: Array) -> Array:
    """Return above / below, 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _mean_weight(weight: Array) -> float:
    mean = float(weight.mean())
    if mean == 0:
        raise DataError(
            "all importance weights are 0: the target never takes a logged action, so the log says nothing about it"
        )
    return mean
