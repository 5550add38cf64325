"""The standard normal distribution function in NumPy, which has none; SciPy would triple the serving image."""

import math

import numpy as np
from numpy.typing import NDArray

_KNOTS = np.linspace(-8.5, 8.5, 4097)
_CDF_AT_KNOTS = np.array([0.5 * math.erfc(-z / math.sqrt(2.0)) for z in _KNOTS])


def normal_cdf(z: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the distribution function [...] by interpolation in a table; errors are below 1e-6."""
    return np.asarray(np.interp(z, _KNOTS, _CDF_AT_KNOTS), np.float64)
