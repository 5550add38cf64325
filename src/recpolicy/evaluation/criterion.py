"""One figure and the limit it must keep: what gates are made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Criterion:
    """One figure and the limit that it must keep."""

    name: str
    figure: float
    limit: float
    at_least: bool
    """Whether the figure must be at least the limit; else at most."""
    strict: bool = False
    """Whether the figure must be beyond the limit: keeping to it is not enough."""

    @property
    def passed(self) -> bool:
        """Whether the figure keeps the limit; a figure that is not a number does not."""
        if self.strict and self.figure == self.limit:
            return False
        return bool(self.figure >= self.limit if self.at_least else self.figure <= self.limit)

    def __str__(self) -> str:
        sign = {(True, False): "≥", (True, True): ">", (False, False): "≤", (False, True): "<"}
        return f"{self.name}: {self.figure:.4g}; expected {sign[self.at_least, self.strict]} {self.limit:.4g}"
