"""The prior of items by type-II maximum likelihood, from finished traces of past items.

I items, N traces, J days, P columns of a design matrix. Trace t of item a is Y ~ Normal(theta_a, V), and
theta_a ~ Normal(x_a B, Sigma), where x_a is 1 for a prior without attributes. EM maximizes the likelihood of all traces
over B, Sigma and V; it never falls. One pass costs as much as a few products of [J, J] matrices and of [I, J] ones,
because a basis in which V is the identity and Sigma is diagonal serves all items.

A penalty `ridge` shrinks the effects of attributes, in the metric of Sigma; EM then maximizes the likelihood minus it.
Sources: Dempster, Laird & Rubin 1977; Zhang et al. 2025 (arXiv 2501.07761), where theta = phi(X)^T beta.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.coldstart.filter import Array, ExactFilter, sum_by_item
from recpolicy.core.errors import DataError

_LOG_TAU = float(np.log(2 * np.pi))
Basis = tuple[Array, Array]
"""T [J, J] and variances [J] with T V T^T = I and T Sigma T^T = diag(variances)."""
_TINY = 1e-10
"""Smallest variance of a day that counts as varying."""


@dataclass(frozen=True)
class ItemPrior:
    """The distribution of an item's expected outcomes and of the traces around them."""

    coefficients: Array  # [P, J]; row 0 is the intercept, the others are effects of attributes
    item_covariance: Array  # [J, J], Sigma
    trace_covariance: Array  # [J, J], V

    @property
    def days(self) -> int:
        """Return the horizon J."""
        return len(self.item_covariance)

    def means(self, design: Array) -> Array:
        """Return prior means [I, J] of items with a design matrix [I, P]."""
        return np.asarray(design, np.float64) @ self.coefficients

    def filter(self) -> ExactFilter:
        """Return the exact filter of this prior."""
        return ExactFilter.from_covariances(self.item_covariance, self.trace_covariance)


@dataclass(frozen=True)
class ItemMoments:
    """Counts, means and the scatter of finished traces: all that the likelihood needs to know of them."""

    count: Array  # [I]
    mean: Array  # [I, J]
    scatter: Array  # [J, J], sum over traces of the products of deviations from the mean of their item

    @classmethod
    def from_traces(
        cls, item: NDArray[np.integer], outcomes: Array, items: int, weight: Array | None = None
    ) -> "ItemMoments":
        """Return the moments of N finished traces.

        Args:
            item: [N], rows of the items. Every item has a trace.
            outcomes: [N, J].
            items: Number of items.
            weight: [N], number of equal traces that a row stands for; None is 1.
        """
        outcomes = np.asarray(outcomes, np.float64)
        weight = np.ones(len(item)) if weight is None else np.asarray(weight, np.float64)
        count = np.bincount(item, weight, minlength=items).astype(np.float64)
        mean = sum_by_item(item, outcomes * weight[:, np.newaxis], items) / count[:, np.newaxis]
        deviation = outcomes - mean[item]
        return cls(count, mean, (deviation * weight[:, np.newaxis]).T @ deviation)


@dataclass(frozen=True)
class FittedPrior:
    """A prior with the path of its objective: the log likelihood of the traces, minus the penalty."""

    prior: ItemPrior
    objective: Array  # [passes + 1]
    converged: bool


def fit_prior(
    moments: ItemMoments, design: Array | None = None, *, ridge: float = 1.0, max_passes: int = 2_000,
    tolerance: float = 0.005,
) -> FittedPrior:  # fmt: skip
    """Fit the prior by EM, started at the moments of the traces.

    Args:
        moments: Moments of the traces of I finished items.
        design: [I, P], attributes of the items; column 0 is 1. None is a prior without attributes.
        ridge: Penalty of the effects of attributes; it does not touch the intercept.
        max_passes: Limit of passes.
        tolerance: EM ends when a pass raises the objective by less, in units of the log likelihood. The default leaves
            a few units in directions in which items hardly differ.

    Raises:
        DataError: There are too few items or traces, or a day on which no trace, or every trace, is active.
    """
    design = np.ones((len(moments.count), 1)) if design is None else np.asarray(design, np.float64)
    _check_moments(moments, design)
    prior = _initial_prior(moments, design, ridge)
    basis = _joint_basis(prior)
    objective = [log_likelihood(prior, moments, design, basis) - _penalty(prior, ridge)]
    converged = False
    for _ in range(max_passes):
        prior = em_pass(prior, moments, design, ridge, basis)
        basis = _joint_basis(prior)
        objective.append(log_likelihood(prior, moments, design, basis) - _penalty(prior, ridge))
        if objective[-1] - objective[-2] <= tolerance:
            converged = True
            break
    return FittedPrior(prior, np.array(objective), converged)


def em_pass(
    prior: ItemPrior, moments: ItemMoments, design: Array, ridge: float = 0.0, basis: Basis | None = None
) -> ItemPrior:
    """Return the prior after one pass of EM; arguments as in `fit_prior`, and the basis of the prior if it is known."""
    transform, spread = _joint_basis(prior) if basis is None else basis
    items, traces = len(moments.count), moments.count.sum()
    shrink = _shrinkage(spread, moments.count)  # [I, J]
    # In the joint basis the posterior of each direction is a scalar one.
    expected = prior.means(design)
    back = np.linalg.inv(transform)
    surprise = (moments.mean - expected) @ transform.T
    theta = expected + (surprise * shrink) @ back.T  # [I, J] posterior means
    variance = spread * (1 - shrink)  # [I, J] posterior variances
    coefficients = _regress(design, theta, ridge)
    residual = theta - design @ coefficients
    effects = _ridge_of(design, ridge)[:, np.newaxis] * coefficients
    item_covariance = residual.T @ residual + (back * variance.sum(axis=0)) @ back.T + coefficients.T @ effects
    deviation = moments.mean - theta
    around = (deviation * moments.count[:, np.newaxis]).T @ deviation
    spare = (back * (moments.count @ variance)) @ back.T
    trace_covariance = (moments.scatter + around + spare) / traces
    return ItemPrior(coefficients, _symmetric(item_covariance / items), _symmetric(trace_covariance))


def log_likelihood(prior: ItemPrior, moments: ItemMoments, design: Array, basis: Basis | None = None) -> float:
    """Return the log likelihood of all traces of I items with a design matrix [I, P], exactly."""
    transform, spread = _joint_basis(prior) if basis is None else basis
    days, count = prior.days, moments.count
    log_det = -2 * float(np.linalg.slogdet(transform)[1])  # of V
    surprise = (moments.mean - prior.means(design)) @ transform.T  # [I, J]
    variance = spread + 1 / count[:, np.newaxis]
    of_means = -0.5 * (len(count) * (days * _LOG_TAU + log_det) + (np.log(variance) + surprise**2 / variance).sum())
    inside = count.sum() - len(count)
    quadratic = float(((transform @ moments.scatter) * transform).sum())
    of_traces = -0.5 * (inside * (days * _LOG_TAU + log_det) + days * np.log(count).sum() + quadratic)
    return float(of_means + of_traces)


def _joint_basis(prior: ItemPrior) -> Basis:
    """Return T [J, J] and variances [J] with T V T^T = I and T Sigma T^T = diag(variances)."""
    inverse = prior.filter().whitening.inverse
    whitened = inverse @ prior.item_covariance @ inverse.T
    spread, vectors = np.linalg.eigh((whitened + whitened.T) / 2)
    return vectors.T @ inverse, np.maximum(spread, 0.0)


def _shrinkage(spread: Array, count: Array) -> Array:
    """Return the weights [I, J] of the items' own means against the prior's."""
    return spread / (spread + 1 / count[:, np.newaxis])


def _initial_prior(moments: ItemMoments, design: Array, ridge: float) -> ItemPrior:
    """Return the moment estimates, with a covariance of items that is positive definite."""
    items, traces = len(moments.count), moments.count.sum()
    trace_covariance = moments.scatter / max(traces - items, 1.0)
    coefficients = _regress(design, moments.mean, ridge)
    residual = moments.mean - design @ coefficients
    between = residual.T @ residual / items - trace_covariance * float(np.mean(1 / moments.count))
    values, vectors = np.linalg.eigh(_symmetric(between))
    floor = 1e-3 * float(np.trace(trace_covariance)) / len(trace_covariance) / float(np.mean(moments.count))
    return ItemPrior(
        coefficients, _symmetric((vectors * np.maximum(values, floor)) @ vectors.T), _symmetric(trace_covariance)
    )


def _regress(design: Array, target: Array, ridge: float) -> Array:
    """Return the coefficients [P, J] of a ridge regression of targets [I, J]; with ridge 0 the shortest solution."""
    gram = design.T @ design + np.diag(_ridge_of(design, ridge))
    return np.asarray(np.linalg.lstsq(gram, design.T @ target, rcond=None)[0], np.float64)


def _ridge_of(design: Array, ridge: float) -> Array:
    return np.array([0.0, *[ridge] * (design.shape[1] - 1)])


def _penalty(prior: ItemPrior, ridge: float) -> float:
    """Return half of ridge times the squared effects of attributes, in the metric of Sigma."""
    effects = prior.coefficients[1:]
    if not ridge or not len(effects):
        return 0.0
    return 0.5 * ridge * float(np.einsum("pj,jp->", effects, np.linalg.solve(prior.item_covariance, effects.T)))


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


def _check_moments(moments: ItemMoments, design: Array) -> None:
    """Raise DataError for traces from which no prior can be learned."""
    items, days, traces = len(moments.count), len(moments.scatter), moments.count.sum()
    if items < 2 + design.shape[1] - 1:
        needed = 1 + design.shape[1]
        raise DataError(f"{items} finished items; expected at least {needed} to learn a prior from")
    if (moments.count <= 0).any():
        raise DataError("an item has no trace; expected at least one of each")
    if traces - items < days:
        raise DataError(
            f"{traces:g} finished traces of {items} items; a horizon of {days} days needs at least {items + days}: give"
            " more traces or a shorter horizon"
        )
    flat = np.flatnonzero(np.diag(moments.scatter) <= _TINY * traces)
    if len(flat):
        raise DataError(
            f"on day {flat[0] + 1} all traces of each item have the same outcome; choose a horizon of {flat[0]} days or"
            " give more traces"
        )
