"""Check the arrays of a mistrusted session policy that say what it sees: view, sizes, genres, sequence encoders.

I items, D embedding, G genres, H units of an encoder. Each fault is an ArtifactError of one line, as in
artifact_checks.py. The shapes of an encoder follow from its own units and from the sizes that were checked before.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import NDArray

from recpolicy.core.errors import ArtifactError, unknown_name_error
from recpolicy.inference.history_state import HISTORY_ENCODERS
from recpolicy.models.sequence_layout import MAX_PLACES, SEQUENCE_VIEWS, SequenceLayout, encoder_shapes

MAX_REMEMBERED = 10_000
"""Steps of a session, and items that a session policy remembers."""
MAX_UNITS, MAX_LAYERS = 1_024, 32
"""Units of an encoder, and blocks of a Transformer."""
_MAX_NAME = 64
_TRAINED = "train it again"
_NETWORKS = ("", "value/")
"""Starts of the names of a policy's networks; each reads sequences by an encoder of its own."""
_UNITS_OF = {"gru": "recurrent", "transformer": "position"}
"""The array by encoder whose size gives the units: the first axis of `recurrent`, the last one of `position`."""

Arrays = Mapping[str, NDArray[Any]]


def check_session(policy: Arrays, items: int, rank: int) -> None:
    """Check what a session policy sees; nothing for other policies.

    Args:
        policy: The arrays of the policy by name.
        items: Number I of items.
        rank: Width D of the items' embeddings.

    Raises:
        ArtifactError: An array is missing, of another shape or type, or too many.
    """
    if "view" not in policy:
        return
    view = policy["view"]
    if view.shape or str(view) not in HISTORY_ENCODERS:
        fault = unknown_name_error("view", str(view)[:_MAX_NAME], HISTORY_ENCODERS)
        raise ArtifactError(f"policy/view: {fault} Read it with a newer recpolicy")
    for name in ("steps", "last_n"):
        _check_number(policy, name, MAX_REMEMBERED)
    genres = policy.get("genres")
    if genres is None or genres.ndim != 2 or len(genres) != items or genres.dtype.kind != "f":
        raise ArtifactError(f"policy/genres: expected a row of numbers for each of {items} items: {_TRAINED}")
    features = rank + genres.shape[1]
    for network in _NETWORKS:
        _check_encoder(policy, f"{network}encoder/", str(view), f"{network}kernel_0" in policy, features)


def _check_encoder(policy: Arrays, start: str, view: str, wanted: bool, features: int) -> None:
    """Check the encoder whose arrays begin with `start`; `wanted` is True if there is such a network."""
    found = {name.removeprefix(start): array for name, array in policy.items() if name.startswith(start)}
    if view not in SEQUENCE_VIEWS or not wanted:
        _check_names(start, found, (), "of a policy without such an encoder")
        return
    kind = found.get("kind")
    if kind is None or kind.shape or kind.dtype.kind != "U" or str(kind) != view:
        raise ArtifactError(f"policy/{start}kind: expected the view, {view}: {_TRAINED}")
    places = policy[f"{start}places"] if "places" in found else None
    last_n = int(policy["last_n"])
    if places is None or places.shape or places.dtype.kind not in "iu" or not int(places) == last_n <= MAX_PLACES:
        raise ArtifactError(f"policy/{start}places: expected last_n, at most {MAX_PLACES}: {_TRAINED}")
    sized, axis = _UNITS_OF[view], 0 if view == "gru" else 1
    shape = found[sized].shape if sized in found else ()
    units = shape[axis] if len(shape) == 2 else 0
    if not 1 <= units <= MAX_UNITS:
        raise ArtifactError(f"policy/{start}{sized}: expected 2 axes, and 1 to {MAX_UNITS:,} units: {_TRAINED}")
    heads = _check_number(policy, f"{start}heads", MAX_UNITS)
    if view == "transformer" and units % heads:
        raise ArtifactError(f"policy/{start}heads: {heads}; expected a divisor of {units} units: {_TRAINED}")
    layers = sum(name.startswith("attention_") for name in found)
    if view == "transformer" and not 1 <= layers <= MAX_LAYERS:
        raise ArtifactError(f"policy/{start}attention_0: {layers} blocks; expected 1 to {MAX_LAYERS}: {_TRAINED}")
    shapes = encoder_shapes(SequenceLayout(view, last_n, features), units, layers)
    _check_names(start, found, ("kind", "places", "heads", *shapes), f"of a {view} of {layers} blocks")
    for name, expected in shapes.items():
        array = found.get(name)
        if array is None:
            raise ArtifactError(f"policy/{start}{name}: missing; expected floats {list(expected)}: {_TRAINED}")
        if array.shape != expected or array.dtype.kind != "f" or array.itemsize not in (4, 8):
            raise ArtifactError(
                f"policy/{start}{name}: {array.dtype} {list(array.shape)}; expected floats {list(expected)}: {_TRAINED}"
            )


def _check_names(start: str, found: Iterable[str], known: Iterable[str], what: str) -> None:
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise ArtifactError(f"policy/{start}{unknown[0][:_MAX_NAME]}: no array {what}: {_TRAINED}")


def _check_number(policy: Arrays, name: str, largest: int) -> int:
    value = policy.get(name)
    if value is None or value.shape or value.dtype.kind not in "iu" or not 1 <= int(value) <= largest:
        raise ArtifactError(f"policy/{name}: expected one number of 1 to {largest:,}: {_TRAINED}")
    return int(value)
