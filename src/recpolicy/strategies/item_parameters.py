"""The parameters of a strategy as weights of a list of items, for catalogs such as MovieLens.

MovieLens has no energy. Energy stands for the share of the genres Action and Thriller among the genres of an item: high
energy prefers such movies, low energy avoids them. Diversity becomes the weight of maximal marginal relevance, and
novelty the penalty on popular items (inference/guardrails.py). All weights are clipped.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

from recpolicy.inference.guardrails import GuardrailConfig

ENERGY_GENRES = ("Action", "Thriller")
MAX_TILT, MAX_DIVERSITY, MAX_NOVELTY = 0.1, 0.3, 0.3
"""Largest weights; beyond them lists lose more likes than a strategy can win (benchmarks/guardrails)."""
_FEW_GENRES, _MORE_GENRES = 2.0, 40.0
"""diversity = (genre_count - 2) / 40."""
_POPULAR, _LESS_POPULAR = 0.8, 2.5
"""novelty = (0.8 - middle of the popularity band) / 2.5."""


@dataclass(frozen=True)
class ItemParameters:
    """The weights of a list."""

    diversity: float
    novelty: float
    energy_tilt: float
    """Added to the relevance of an item, times the share of Action and Thriller among its genres."""

    def guardrails(self, genres: Collection[str] | None = None) -> GuardrailConfig:
        """Return the weights as guardrails of a list.

        Args:
            genres: Names of the catalog's genres; tilts to others are left out. None: all are known.
        """
        known = [name for name in ENERGY_GENRES if genres is None or name in genres]
        tilt = dict.fromkeys(known, self.energy_tilt) if self.energy_tilt else {}
        return GuardrailConfig(diversity=self.diversity, novelty=self.novelty, category_tilt=tilt)

    def as_dict(self) -> dict[str, float]:
        """Return plain values for answers and logs."""
        return asdict(self)


def item_parameters(parameters: Mapping[str, float]) -> ItemParameters:
    """Return the weights of a list for the parameters of a strategy (strategies/config.py).

    Args:
        parameters: min_energy, max_energy, genre_count, min_popularity and max_popularity; one that is missing, or a
            pair of which one is, has no effect.
    """
    energy = _middle(parameters, "energy", 0.5)
    popularity = _middle(parameters, "popularity", _POPULAR)
    diversity = (parameters.get("genre_count", _FEW_GENRES) - _FEW_GENRES) / _MORE_GENRES
    return ItemParameters(
        diversity=_clipped(diversity, 0.0, MAX_DIVERSITY),
        novelty=_clipped((_POPULAR - popularity) / _LESS_POPULAR, 0.0, MAX_NOVELTY),
        energy_tilt=_clipped((energy - 0.5) / 3, -MAX_TILT, MAX_TILT),
    )


def _middle(parameters: Mapping[str, float], name: str, default: float) -> float:
    low, high = parameters.get(f"min_{name}"), parameters.get(f"max_{name}")
    return default if low is None or high is None else (low + high) / 2


def _clipped(value: float, low: float, high: float) -> float:
    return round(min(max(value, low), high), 6)
