"""Encode the last n items of sessions with a policy's GRU or Transformer in NumPy.

The formulas are those of recpolicy/agents/sequence_encoders.py. n sessions, P places, F item features, H units.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_VARIANCE = np.float32(1e-6)


def encode_sequence(arrays: Mapping[str, Any], x: Array, prefix: str = "") -> Array:
    """Return observations [n, C + H + 1] in which an encoding replaces the items; x [n, O] itself without an encoder.

    Args:
        arrays: The policy's arrays.
        x: Observations [context, items, share of steps].
        prefix: Start of the names of the network's arrays.
    """
    start = f"{prefix}encoder/"
    if start + "kind" not in arrays:
        return x
    weights = {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
    places, features = int(weights["places"]), (len(weights["input"]) - 1) // 2
    context = x.shape[1] - places * (features + 2) - 1
    tokens = x[:, context:-1].reshape(len(x), places, features + 2)
    liked, filled = tokens[:, :, features : features + 1], tokens[:, :, -1:]
    items = tokens[:, :, :features]
    inputs = _dense(weights, np.concatenate([items, liked * items, liked], axis=2), "input")
    encoding = _ENCODERS[str(weights["kind"])](weights, inputs, filled)
    return np.concatenate([x[:, :context], encoding, x[:, -1:]], axis=1)


def _gru(weights: Mapping[str, Any], inputs: Array, filled: Array) -> Array:
    """Return the state [n, H] after the newest item; inputs [n, P, 3 H], filled [n, P, 1]."""
    kernel, bias = weights["recurrent"], weights["recurrent_bias"]
    state = np.zeros((len(inputs), len(kernel)), inputs.dtype)
    for place in reversed(range(inputs.shape[1])):
        present = filled[:, place]
        if not present.any():
            continue
        update, reset, change = np.split(inputs[:, place], 3, axis=1)
        own_update, own_reset, own_change = np.split(state @ kernel + bias, 3, axis=1)
        new = np.tanh(change + _sigmoid(reset + own_reset) * own_change)
        state = state + present * (1 - _sigmoid(update + own_update)) * (new - state)
    return state


def _transformer(weights: Mapping[str, Any], inputs: Array, filled: Array) -> Array:
    """Return the output [n, H] of the newest place; inputs [n, P, H], filled [n, P, 1]."""
    places = inputs.shape[1]
    rows = inputs + weights["position"]
    visible = np.triu(np.ones((places, places), bool)) & (filled[:, np.newaxis, :, 0] > 0)  # [n, P, P]
    layers = sum(name.startswith("attention_") for name in weights)
    for layer in range(layers):
        keys, values = np.split(_dense(weights, _normalized(rows), f"memory_{layer}", bias=False), 2, axis=2)
        if layer == layers - 1:  # the newest place alone is read
            rows, visible = rows[:, :1], visible[:, :1]
        queries = _dense(weights, _normalized(rows), f"query_{layer}", bias=False)
        seen = _attention(queries, keys, values, visible, int(weights["heads"]))
        rows = rows + _dense(weights, seen, f"attention_{layer}", bias=False)
        hidden = np.maximum(_dense(weights, _normalized(rows), f"hidden_{layer}"), 0)
        rows = rows + _dense(weights, hidden, f"output_{layer}")
    return _normalized(rows)[:, 0] * filled[:, 0]


_ENCODERS = {"gru": _gru, "transformer": _transformer}


def _attention(queries: Array, keys: Array, values: Array, visible: NDArray[np.bool_], heads: int) -> Array:
    """Return the attention [n, Q, H] of queries [n, Q, H] to keys and values [n, P, H]; visible [n, Q, P]."""
    count, size = len(queries), queries.shape[2] // heads
    query, key, value = (
        part.reshape(count, -1, heads, size).transpose(0, 2, 1, 3) for part in (queries, keys, values)
    )  # [n, heads, Q or P, size]
    odds = query @ key.transpose(0, 1, 3, 2) / np.sqrt(np.float32(size))
    odds = np.where(visible[:, np.newaxis], odds, np.float32(-1e9))
    share = np.exp(odds - odds.max(axis=-1, keepdims=True))
    share /= share.sum(axis=-1, keepdims=True)
    return (share @ value).transpose(0, 2, 1, 3).reshape(queries.shape)


def _dense(weights: Mapping[str, Any], rows: Array, name: str, *, bias: bool = True) -> Array:
    """Apply a dense layer to rows [n, P, K] as one matrix product."""
    kernel = weights[name]
    flat = rows.reshape(-1, len(kernel)) @ kernel
    if bias:
        flat += weights[f"{name}_bias"]
    return flat.reshape(*rows.shape[:2], -1)


def _normalized(rows: Array) -> Array:
    """Return rows [..., H] of mean 0 and variance 1."""
    centered = rows - rows.mean(axis=-1, keepdims=True)
    return centered / np.sqrt(np.square(centered).mean(axis=-1, keepdims=True) + _VARIANCE)


def _sigmoid(x: Array) -> Array:
    """Return 1 / (1 + e^-x), by a form that does not overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))
