"""The layout of the last n items in an observation: the input of the trainable sequence encoders.

    observation = [context, token of the newest item, ..., token of the oldest, share of the steps that are over]
    token       = [item features, 1 if it was liked, 1]     of an empty place: zeros

The item features are those that the dot head scores: embedding and genres.
"""

from dataclasses import dataclass

SEQUENCE_VIEWS = ("gru", "transformer")
"""Names of the views whose last items a trainable encoder reads."""
MAX_PLACES = 200
"""Largest number of items that such a view remembers."""


@dataclass(frozen=True)
class SequenceLayout:
    """The places of the last n items in an observation, and the encoder that reads them."""

    kind: str
    """The encoder: a name in SEQUENCE_VIEWS."""
    places: int
    """Number n of items."""
    features: int
    """Width D + G of the item features."""

    @property
    def token(self) -> int:
        """Width of a token."""
        return self.features + 2

    @property
    def width(self) -> int:
        """Width of the history state: n tokens and the share of steps."""
        return self.places * self.token + 1


def encoder_shapes(layout: SequenceLayout, units: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an encoder's weights by name.

    Args:
        layout: The items that it reads.
        units: Units H of the encoding.
        layers: Blocks of a Transformer; unused for a GRU.
    """
    width = 2 * layout.features + 1
    if layout.kind == "gru":
        return {"input": (width, 3 * units), "input_bias": (3 * units,), "recurrent": (units, 3 * units),
                "recurrent_bias": (3 * units,)}  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "input": (width, units), "input_bias": (units,), "position": (layout.places, units),
    }  # fmt: skip
    for layer in range(layers):
        shapes |= {
            f"query_{layer}": (units, units), f"memory_{layer}": (units, 2 * units),
            f"attention_{layer}": (units, units), f"hidden_{layer}": (units, 2 * units),
            f"hidden_{layer}_bias": (2 * units,), f"output_{layer}": (2 * units, units),
            f"output_{layer}_bias": (units,),
        }  # fmt: skip
    return shapes
