"""How far rating estimates are from the ratings that users gave: RMSE and MAE over N test ratings.

Both weigh every rating equally (not every user), on the scale of the ratings, computed in float64. Estimates are taken
as they are: nothing is rounded (rounding costs about 0.04 RMSE on MovieLens 100K) and nothing is clipped to the scale.
"""

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError


def rmse(predicted: NDArray[np.floating], actual: NDArray[np.floating]) -> float:
    """Return sqrt(mean((predicted - actual)^2)); both [N].

    Raises DataError when they are empty, unequal in length or not finite.
    """
    return float(np.sqrt(np.mean(np.square(_errors(predicted, actual)))))


def mae(predicted: NDArray[np.floating], actual: NDArray[np.floating]) -> float:
    """Return mean(|predicted - actual|); both [N]; never above the RMSE. Raises DataError as rmse does."""
    return float(np.mean(np.abs(_errors(predicted, actual))))


def _errors(predicted: NDArray[np.floating], actual: NDArray[np.floating]) -> NDArray[np.float64]:
    if predicted.shape != actual.shape or predicted.ndim != 1:
        raise DataError(
            f"rating accuracy: {predicted.shape} estimates for {actual.shape} ratings; expected one each, [N]"
        )
    if not len(actual):
        raise DataError("rating accuracy: there are no ratings to compare with; the test part of the split is empty")
    errors = predicted.astype(np.float64) - actual.astype(np.float64)  # [N]
    if not np.isfinite(errors).all():
        count = np.count_nonzero(~np.isfinite(errors))
        raise DataError(f"rating accuracy: {count} of {len(errors)} estimates or ratings are not finite numbers")
    return errors
