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
