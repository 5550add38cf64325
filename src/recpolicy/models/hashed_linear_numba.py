"""Learning and prediction of the hashed linear model, compiled with numba.

The order of features and of arithmetic is that of hashed_linear.py; tests/models/test_hashed_linear.py compares both.
"""

import math
from typing import Any

import numba
import numpy as np

from recpolicy.core.types import Array
from recpolicy.data.features.encoder import SparseRows
from recpolicy.data.features.hashing import CONSTANT, PAIR_MIX, PAIR_PRIME

_CONSTANT, _PRIME, _MIX = np.uint32(CONSTANT), np.uint32(PAIR_PRIME), np.uint32(PAIR_MIX)
_WEIGHT, _GRADIENT, _SCALE = 0, 1, 2
_HIGH, _LOW = np.uint32(15), np.uint32(13)


def _compiled(function: Any) -> Any:
    """Compile a function when it is first called; keep the code on disk where there is a folder for it."""
    try:
        return numba.njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(error_model="numpy")(function)


def learn(
    table: Array, totals: Array, bits: int, interactions: bool, context: SparseRows, action: SparseRows,
    context_row: Any, action_row: Any, target: Array, importance: Array, learning_rate: float, adaptive: bool,
    normalized: bool,
) -> Array:  # fmt: skip
    """Learn rounds in order into the table [2^bits, 3] and the totals [2]; see HashedLinear.learn."""
    prediction = np.empty(len(target))
    _learn(
        table, totals, *_plain(bits, interactions, context, action), context_row, action_row, target, importance,
        learning_rate, adaptive, normalized, prediction,
    )  # fmt: skip
    return prediction


def predict(
    table: Array, bits: int, interactions: bool, context: SparseRows, action: SparseRows, context_row: Any,
    action_row: Any,
) -> Array:  # fmt: skip
    """Return predicted rewards [K]; see HashedLinear.predict."""
    prediction = np.empty(len(context_row))
    _predict(table, *_plain(bits, interactions, context, action), context_row, action_row, prediction)
    return prediction


def _plain(bits: int, interactions: bool, context: SparseRows, action: SparseRows) -> tuple[Any, ...]:
    """Return what both kernels read of the model and of the features."""
    rows = (context.start, context.index, context.value, action.start, action.index, action.value)
    longest = (1 + int(np.diff(context.start).max(initial=0))) * (1 + int(np.diff(action.start).max(initial=0)))
    return np.uint32((1 << bits) - 1), interactions, longest, *rows


@_compiled
def _features(  # type: ignore[no-untyped-def]
    mask, interactions, c_start, c_index, c_value, a_start, a_index, a_value, context, action, index, x
):
    """Write index and value of the features of a pair; return their number."""
    c_first, c_last, a_first, a_last = c_start[context], c_start[context + 1], a_start[action], a_start[action + 1]
    index[0], x[0], count = np.int64(_CONSTANT & mask), 1.0, 1
    for i in range(c_first, c_last):
        index[count], x[count] = np.int64(c_index[i] & mask), c_value[i]
        count += 1
    for j in range(a_first, a_last):
        index[count], x[count] = np.int64(a_index[j] & mask), a_value[j]
        count += 1
    if interactions:
        for i in range(c_first, c_last):
            hashed, value = np.uint32(c_index[i] * _PRIME), np.float64(c_value[i])
            for j in range(a_last - a_first):
                pair = np.uint32(hashed ^ a_index[a_first + j])
                pair = np.uint32((pair ^ (pair >> _HIGH)) * _MIX)
                pair = np.uint32(pair ^ (pair >> _LOW))
                index[count + j], x[count + j] = np.int64(pair & mask), value * a_value[a_first + j]
            count += a_last - a_first
    return count


@_compiled
def _predict(  # type: ignore[no-untyped-def]
    table, mask, interactions, longest, c_start, c_index, c_value, a_start, a_index, a_value,
    context_row, action_row, prediction,
):  # fmt: skip
    index, x = np.empty(longest, np.int64), np.empty(longest, np.float64)
    for number in range(len(context_row)):
        count = _features(
            mask, interactions, c_start, c_index, c_value, a_start, a_index, a_value,
            context_row[number], action_row[number], index, x,
        )  # fmt: skip
        total = 0.0
        for k in range(count):
            total += table[index[k], _WEIGHT] * x[k]
        prediction[number] = total


@_compiled
def _learn(  # type: ignore[no-untyped-def]
    table, totals, mask, interactions, longest, c_start, c_index, c_value, a_start, a_index, a_value,
    context_row, action_row, target, importance, learning_rate, adaptive, normalized, prediction,
):  # fmt: skip
    index, x, direction = np.empty(longest, np.int64), np.empty(longest, np.float64), np.empty(longest, np.float64)
    for number in range(len(target)):
        count = _features(
            mask, interactions, c_start, c_index, c_value, a_start, a_index, a_value,
            context_row[number], action_row[number], index, x,
        )  # fmt: skip
        weight = importance[number]
        if normalized:
            for k in range(count):
                place, size = index[k], abs(x[k])
                if size > table[place, _SCALE]:
                    table[place, _WEIGHT] *= table[place, _SCALE] / size
                    table[place, _SCALE] = size
            norm = 0.0
            for k in range(count):
                scale = table[index[k], _SCALE]
                if scale > 0:
                    norm += (x[k] / scale) ** 2
            totals[0] += weight
            totals[1] += weight * norm
        guess = 0.0
        for k in range(count):
            guess += table[index[k], _WEIGHT] * x[k]
        prediction[number] = guess
        error = target[number] - guess
        if adaptive:
            square = weight * error * error
            for k in range(count):
                table[index[k], _GRADIENT] += square * x[k] * x[k]
        total = 0.0
        for k in range(count):
            place = index[k]
            rate = 1.0
            if adaptive:
                gradient = table[place, _GRADIENT]
                rate = 1.0 / math.sqrt(gradient) if gradient > 0 else 0.0
            if normalized:
                scale = table[place, _SCALE]
                divisor = scale if adaptive else scale * scale
                rate = rate / divisor if scale > 0 else 0.0
            direction[k] = x[k] * rate
            total += x[k] * direction[k]
        if total > 0 and weight > 0:
            eta = learning_rate
            if normalized and totals[1] > 0:
                mean = totals[0] / totals[1]
                eta *= math.sqrt(mean) if adaptive else mean
            move = error * (1.0 - math.exp(-weight * eta * total)) / total
            for k in range(count):
                table[index[k], _WEIGHT] += move * direction[k]
