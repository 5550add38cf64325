"""Compute the probability of each action from estimates, in NumPy, as recpolicy/agents does in TensorFlow.

mean, width, the returned probabilities [n, A]; mask [n, A] bool or None. Masked arms get exactly 0, rows sum to 1.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.normal import normal_cdf
from recpolicy.inference.reward_estimators import Estimate

Array = NDArray[Any]
Mask = NDArray[np.bool_] | None
Settings = Mapping[str, float]

_TAIL = 5.0
_QUADRATURE = 64


def masked(scores: Array, mask: Mask) -> Array:
    """Return scores with -inf where an action is not allowed."""
    return scores if mask is None else np.where(mask, scores, -np.inf)


def uniform(like: Array, mask: Mask) -> Array:
    """Return equal probabilities for all allowed actions."""
    allowed = np.ones(like.shape) if mask is None else mask.astype(np.float64)
    return allowed / allowed.sum(axis=-1, keepdims=True)


def greedy(scores: Array, mask: Mask) -> Array:
    """Return probability 1 for the best-scored action; exact ties share it."""
    scores = masked(scores, mask)
    best = (scores >= scores.max(axis=-1, keepdims=True)).astype(np.float64)
    return best / best.sum(axis=-1, keepdims=True)


def with_uniform_mix(probabilities: Array, uniform_mix: float, mask: Mask) -> Array:
    """Mix with the uniform policy."""
    return (
        probabilities
        if not uniform_mix
        else (1.0 - uniform_mix) * probabilities + uniform_mix * uniform(probabilities, mask)
    )


def softmax(scores: Array, mask: Mask) -> Array:
    """Return the softmax over the allowed actions."""
    scores = masked(scores, mask)
    weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def squarecb(mean: Array, gamma: float | Array, mask: Mask) -> Array:
    """Return 1 / (allowed + gamma (best - mean)) for each action but the best, which gets the rest; ties share it.

    Args:
        mean: Predicted rewards [n, A].
        gamma: Weight of the gaps, 0 or larger, in units of 1 / reward; an array has the shape [n, 1].
        mask: [n, A], False where an action is not allowed.
    """
    scores = masked(mean, mask)
    gap = scores.max(axis=-1, keepdims=True) - scores  # infinite where masked
    best, allowed = gap <= 0, np.isfinite(gap)
    count = allowed.sum(axis=-1, keepdims=True)
    others = np.where(best | ~allowed, 0.0, 1.0 / (count + gamma * np.where(allowed, gap, 0.0)))
    rest = 1.0 - others.sum(axis=-1, keepdims=True)
    return np.where(best, rest / best.sum(axis=-1, keepdims=True), others)


def squarecb_gamma(rounds: float, scale: float, exponent: float) -> float:
    """Return SquareCB's gamma after `rounds` rounds, for rewards in [0, 1]: scale * rounds^exponent."""
    return scale * max(rounds, 1.0) ** exponent


def thompson_probabilities(mean: Array, width: Array, mask: Mask) -> Array:
    """Return P(arm has the largest draw) for independent normal draws; see
    recpolicy.agents.action_distributions.thompson."""
    width = np.maximum(width, 1e-6)
    low = masked(mean - _TAIL * width, mask).max(axis=-1, keepdims=True)
    high = masked(mean + _TAIL * width, mask).max(axis=-1, keepdims=True)
    steps = np.linspace(0.0, 1.0, _QUADRATURE + 1)
    edges = low + (high - low) * steps  # [n, G + 1]
    for _ in range(2):
        below = np.exp(_log_below(edges, mean, width, mask).sum(axis=1))
        inner = [np.interp(np.square(steps[1:-1]), *row) for row in zip(below, edges, strict=True)]
        edges = np.concatenate([low, np.array(inner), high], axis=-1)
    log_below = _log_below(edges, mean, width, mask)  # [n, A, G + 1]
    growth = np.diff(log_below, axis=-1)  # [n, A, G]
    total = growth.sum(axis=1)
    rise = np.diff(np.exp(log_below.sum(axis=1)), axis=-1)  # [n, G]
    per_growth = np.divide(rise, total, out=np.zeros_like(total), where=total > 0)
    mass = np.einsum("nag,ng->na", growth, per_growth)
    return mass / mass.sum(axis=-1, keepdims=True)


def _log_below(z: Array, mean: Array, width: Array, mask: Mask) -> Array:
    """Return log Phi((z - mean) / width) [n, A, G] at z [n, G]; 0 for masked arms."""
    standard = (z[:, np.newaxis, :] - mean[..., np.newaxis]) / width[..., np.newaxis]
    log_below = np.log(normal_cdf(standard))
    return log_below if mask is None else np.where(mask[..., np.newaxis], log_below, 0.0)


def _greedy(estimate: Estimate, _: Settings, mask: Mask) -> Array:
    return greedy(estimate.score, mask)


def _upper_confidence(estimate: Estimate, settings: Settings, mask: Mask) -> Array:
    if settings["alpha"] == 0:
        return greedy(estimate.mean, mask)
    assert estimate.width is not None, "the upper-confidence head needs an estimator with widths"
    return greedy(estimate.mean + settings["alpha"] * estimate.width, mask)


def _thompson(estimate: Estimate, settings: Settings, mask: Mask) -> Array:
    assert estimate.width is not None, "the Thompson head needs an estimator with widths"
    return thompson_probabilities(estimate.mean, settings["scale"] * estimate.width, mask)


def _epsilon_greedy(estimate: Estimate, settings: Settings, mask: Mask) -> Array:
    return with_uniform_mix(greedy(estimate.mean, mask), settings["epsilon"], mask)


def _boltzmann(estimate: Estimate, settings: Settings, mask: Mask) -> Array:
    return softmax(estimate.mean / settings["temperature"], mask)


def _squarecb(estimate: Estimate, settings: Settings, mask: Mask) -> Array:
    return squarecb(estimate.mean.astype(np.float64), settings["gamma"], mask)


def _optimistic(estimate: Estimate, _: Settings, mask: Mask) -> Array:
    assert estimate.bound is not None, "the optimistic head needs an estimator with bounds"
    return greedy(estimate.bound, mask)


def _exponential_weights(estimate: Estimate, settings: Settings, mask: Mask) -> Array:
    return with_uniform_mix(softmax(estimate.score, mask), settings["gamma"], mask)


def _softmax(estimate: Estimate, _: Settings, mask: Mask) -> Array:
    return softmax(estimate.score.astype(np.float64), mask)


def _epsilon_top_k(estimate: Estimate, settings: Settings, mask: Mask) -> Array:
    scores = masked(estimate.score.astype(np.float64), mask)
    k = min(int(settings["top_k"]), scores.shape[-1])
    lowest = np.partition(scores, -k, axis=-1)[:, -k, np.newaxis]
    explored = softmax(scores / settings["temperature"], scores >= lowest)
    return settings["epsilon"] * explored + (1.0 - settings["epsilon"]) * greedy(scores, mask)


def _epsilon_greedy_score(estimate: Estimate, settings: Settings, mask: Mask) -> Array:
    return with_uniform_mix(greedy(estimate.score, mask), settings["epsilon"], mask)


HEADS: Mapping[str, Callable[[Estimate, Settings, Mask], Array]] = {
    "greedy": _greedy,
    "upper_confidence": _upper_confidence,
    "thompson": _thompson,
    "epsilon_greedy": _epsilon_greedy,
    "boltzmann": _boltzmann,
    "squarecb": _squarecb,
    "exponential_weights": _exponential_weights,
    "optimistic": _optimistic,
    "softmax": _softmax,
    "epsilon_top_k": _epsilon_top_k,
    "epsilon_greedy_score": _epsilon_greedy_score,
}
