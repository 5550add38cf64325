"""Guardrails of recommended lists: bounds that no list violates, and weights that tilt its choices.

A arms of the catalog, G categories (genres), D embedding. `GuardrailConfig` is the table [guardrails]; `bind` turns it
into `Guardrails`, arrays over the catalog of one policy. guarded_lists.py draws lists under them, from the state in
guarded_draw.py and, where it can, from shortlists (guarded_shortlists.py).

Bounds: blocked items and categories, the most items of a category, a quota of marked items such as paid ones, and a
lowest predicted rating. Weights: diversity (Carbonell & Goldstein 1998, maximal marginal relevance), novelty (a penalty
on popular items) and tilts towards categories.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict

from recpolicy.core.config import Fraction, Number, as_dict, build, config_dataclass, read_toml
from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.core.types import Array, Bools
from recpolicy.inference.catalog_features import CatalogFeatures

if TYPE_CHECKING:
    from recpolicy.inference.scorer import Scorer

MAX_PLACES = 100
"""Places of the longest list of a server; quotas count places."""
NO_CAP = 1 << 30
"""The cap of a category without one."""
_DIGEST_BYTES = 16

Quota = Annotated[int, Field(ge=0, le=MAX_PLACES)]
PositiveQuota = Annotated[int, Field(ge=1, le=MAX_PLACES)]
Tilt = Annotated[float, Field(ge=-1, le=1)]
Ids = tuple[Annotated[int, Strict(), Field(ge=-(2**63), lt=2**63)] | Annotated[str, Field(min_length=1)], ...]
Names = tuple[Annotated[str, Field(min_length=1)], ...]


@config_dataclass
class GuardrailConfig:
    """Guardrails by the names of items and categories."""

    max_per_category: PositiveQuota | None = None
    """Most items of each category in a list; an item of several categories counts in each. Absent: no bound."""
    category_caps: Mapping[str, Quota] = field(default_factory=dict)
    """Most items of the named categories in a list, in place of max_per_category."""
    blocked: Ids = ()
    """Ids of items that no list has."""
    blocked_categories: Names = ()
    """No list has an item of these categories."""
    marked: Ids = ()
    """Ids of marked items, such as paid ones."""
    marked_categories: Names = ()
    """Items of these categories are marked, too."""
    max_marked: Quota | None = None
    """Most marked items in a list. Absent: no bound."""
    min_marked: Quota = 0
    """Places of a list that only marked items may take."""
    min_rating: Number | None = None
    """Lowest predicted rating of an item, on the scale of the ratings. Absent: no bound."""
    min_reward: Number | None = None
    """Lowest expected reward of a ranked action (policies of features). Absent: no bound."""
    category_feature: str | None = None
    """Feature of ranked actions whose value, or values, are their categories (policies of features)."""
    marked_feature: str | None = None
    """Ranked actions for which this feature is true, or not 0, are marked (policies of features)."""
    diversity: Fraction = 0.0
    """Weight of the dissimilarity to the items at earlier places (maximal marginal relevance); 0: none."""
    novelty: Fraction = 0.0
    """Weight of the penalty on popular items; 0: none."""
    category_tilt: Mapping[str, Tilt] = field(default_factory=dict)
    """Added to the relevance of an item (0..1): this value times the share of its categories that have the name."""

    def __post_init__(self) -> None:
        if self.max_marked is not None and self.min_marked > self.max_marked:
            raise ConfigError(
                f"min_marked is {self.min_marked} and max_marked is {self.max_marked}; expected min_marked of at most"
                " max_marked"
            )
        for name in self.category_caps:
            if name in self.blocked_categories and self.category_caps[name]:
                raise ConfigError(f"category_caps: {name!r} is also in blocked_categories; name it once")

    @property
    def active(self) -> bool:
        """True if any setting bounds or tilts lists or ranks."""
        return self != GuardrailConfig(category_feature=self.category_feature, marked_feature=self.marked_feature)

    @property
    def categories(self) -> list[str]:
        """Names of all categories in the settings."""
        named = (self.category_caps, self.blocked_categories, self.marked_categories, self.category_tilt)
        return [name for names in named for name in names]

    @property
    def digest(self) -> str:
        """Digest of the settings that differ from the defaults; equal guardrails have equal digests."""
        default = as_dict(GuardrailConfig())
        plain = {name: value for name, value in as_dict(self).items() if value != default[name]}
        text = json.dumps(plain, sort_keys=True, ensure_ascii=True)
        return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()

    def quotas(self) -> dict[str, int]:
        """Return the quotas of places by name, those that are set."""
        named = {
            "max_per_category": self.max_per_category, "max_marked": self.max_marked,
            "min_marked": self.min_marked or None,
        }  # fmt: skip
        named |= {f"category_caps.{name}": cap for name, cap in self.category_caps.items()}
        return {name: value for name, value in named.items() if value is not None}


def read_guardrails(path: Path) -> GuardrailConfig:
    """Return the table [guardrails] of a TOML file, such as the settings of a server; raises ConfigError."""
    tables = read_toml(path)
    if "guardrails" not in tables:
        raise ConfigError(f"{path}: no table [guardrails]")
    return build(GuardrailConfig, tables["guardrails"], f"{path}: [guardrails]")


def check_places(config: GuardrailConfig, k: int) -> None:
    """Raise ConfigError for a quota of more places than the list of k items has."""
    for name, value in config.quotas().items():
        if value > k:
            raise ConfigError(f"guardrails: {name} is {value}, but the list has {k} places; expected at most {k}")


@dataclass(frozen=True)
class Guardrails:
    """Guardrails over the catalog of one policy."""

    catalog: CatalogFeatures
    digest: str
    blocked: Bools  # [A]
    cap: NDArray[np.int64]  # [G] most items of each category; NO_CAP: no bound
    marked: Bools  # [A]
    max_marked: int
    """NO_CAP: no bound."""
    min_marked: int
    min_rating: float | None
    diversity: float
    novelty: float
    bonus: Array | None  # [A] added to the relevance by category_tilt; None: no tilt
    tilt: Mapping[str, float] = field(default_factory=dict)
    unknown: tuple[Any, ...] = ()
    """Ids in the settings that the policy does not know."""

    @property
    def tilts(self) -> bool:
        """True if weights change the order of items."""
        return bool(self.diversity or self.novelty) or self.bonus is not None

    def of_arms(self, arms: NDArray[np.integer[Any]]) -> "Guardrails":
        """Return the guardrails over some arms of the catalog, in this order."""
        return replace(
            self, catalog=self.catalog.of_arms(arms), blocked=self.blocked[arms], marked=self.marked[arms],
            bonus=None if self.bonus is None else self.bonus[arms],
        )  # fmt: skip

    def base_mask(self, allowed: Bools, rating: Array | None) -> Bools:
        """Return the items that may take the first place.

        Args:
            allowed: [..., A] by the filters of the request.
            rating: [..., A] predicted ratings; read only with min_rating.
        """
        mask = allowed & ~self.blocked
        if self.min_rating is not None and rating is not None:
            mask &= rating >= self.min_rating
        shut = self.catalog.category[self.cap <= 0].any(axis=0)
        if self.max_marked <= 0:
            shut = shut | self.marked
        result: Bools = mask & ~shut
        return result


def bind(config: GuardrailConfig, scorer: "Scorer") -> Guardrails:
    """Return the guardrails over the catalog of a policy of ratings.

    Raises:
        ConfigError: An unknown category, a quota of marked items without any, or a lowest rating above the scale.
    """
    catalog = scorer.catalog_features
    for name in config.categories:
        if name not in catalog.names:
            raise ConfigError(f"guardrails: {unknown_name_error('category', name, catalog.names)}")
    _check_min_rating(config.min_rating, scorer.scale)
    marked, strange = _arms(scorer, config.marked)
    blocked, more = _arms(scorer, config.blocked)
    marked |= _of_categories(catalog, config.marked_categories)
    blocked |= _of_categories(catalog, config.blocked_categories)
    if (config.max_marked is not None or config.min_marked) and not (config.marked or config.marked_categories):
        raise ConfigError("guardrails: a quota of marked items needs `marked` or `marked_categories`")
    general = NO_CAP if config.max_per_category is None else config.max_per_category
    return Guardrails(
        catalog, config.digest, blocked,
        np.array([config.category_caps.get(name, general) for name in catalog.names], np.int64), marked,
        NO_CAP if config.max_marked is None else config.max_marked, config.min_marked, config.min_rating,
        config.diversity, config.novelty, _bonus(catalog, config.category_tilt), dict(config.category_tilt),
        tuple(dict.fromkeys([*strange, *more])),
    )  # fmt: skip


def tighten(operator: Guardrails | None, request: GuardrailConfig, scorer: "Scorer") -> Guardrails:
    """Return the guardrails of one request: those of the operator, made stricter by the request.

    A request lowers caps and raises floors; otherwise the operator's value holds. The larger weight counts, and a tilt
    of the operator holds against one of the request.

    Raises:
        ConfigError: What `bind` raises, or a quota that contradicts the operator's.
    """
    if operator is None:
        return bind(request, scorer)
    if request.marked or request.marked_categories:
        raise ConfigError("guardrails: the operator names the marked items; leave out `marked` in the request")
    quotas = {"max_marked": request.max_marked, "min_marked": request.min_marked}
    mine = bind(replace(request, max_marked=None, min_marked=0), scorer)
    if any(quotas.values()) and not operator.marked.any():
        raise ConfigError("guardrails: a quota of marked items needs `marked` or `marked_categories`")
    low = operator.max_marked if request.max_marked is None else min(operator.max_marked, request.max_marked)
    high = max(operator.min_marked, request.min_marked)
    if high > low:
        raise ConfigError(
            f"guardrails: at least {high} marked items contradict at most {low}; the operator has"
            f" {operator.min_marked} to {'any number' if operator.max_marked == NO_CAP else operator.max_marked}"
        )
    tilt = {**request.category_tilt, **operator.tilt}
    digest = hashlib.blake2b(f"{operator.digest}+{request.digest}".encode(), digest_size=_DIGEST_BYTES).hexdigest()
    return replace(
        operator, digest=digest, blocked=operator.blocked | mine.blocked, cap=np.minimum(operator.cap, mine.cap),
        max_marked=low, min_marked=high, min_rating=_highest(operator.min_rating, mine.min_rating),
        diversity=max(operator.diversity, mine.diversity), novelty=max(operator.novelty, mine.novelty),
        bonus=_bonus(operator.catalog, tilt), tilt=tilt, unknown=mine.unknown,
    )  # fmt: skip


def of_request(
    operator: Guardrails | None, request: GuardrailConfig | None, k: int, scorer: "Scorer"
) -> Guardrails | None:
    """Return the guardrails of a request for k items: the operator's, made stricter by the request; None without any.

    Raises:
        ConfigError: What `tighten` raises, or a quota larger than the list.
    """
    if request is None or not request.active:
        return operator
    check_places(request, k)
    return tighten(operator, request, scorer)


def unknown_ids_notice(unknown: Collection[Any]) -> str | None:
    """Return one line about ids in the guardrails that the policy does not know; None if it knows all."""
    if not unknown:
        return None
    first = ", ".join(map(repr, list(unknown)[:5]))
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    return f"guardrails: no item with id {first}{more} in this policy's catalog; such ids have no effect"


def _check_min_rating(value: float | None, scale: tuple[float, float]) -> None:
    low, high = scale
    if value is not None and not low <= value <= high:
        raise ConfigError(f"guardrails: min_rating is {value:g}; expected a rating on the scale, {low:g} to {high:g}")


def _highest(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else max(a, b)


def _arms(scorer: "Scorer", ids: Sequence[Any]) -> tuple[Bools, list[Any]]:
    """Return the mask [A] of items, and the ids that the policy does not know."""
    mask, unknown = np.zeros(len(scorer.action_items), bool), []
    for identity in ids:
        arm = scorer.arm(identity)
        if arm is not None:
            mask[arm] = True
        else:
            unknown.append(identity)
    return mask, unknown


def _of_categories(catalog: CatalogFeatures, names: Collection[str]) -> Bools:
    rows = [list(catalog.names).index(name) for name in names]
    return np.asarray(catalog.category[rows].any(axis=0), bool)


def _bonus(catalog: CatalogFeatures, tilt: Mapping[str, float]) -> Array | None:
    """Return what tilts add to the relevance of each item [A]; None without a tilt."""
    weights = np.array([tilt.get(name, 0.0) for name in catalog.names])
    return weights @ catalog.share if weights.any() else None
