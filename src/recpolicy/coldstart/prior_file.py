"""The file of a prior: one JSON file with its numbers, the encoding of attributes, and its origin.

A changed, cut or foreign file raises ArtifactError. Numbers are written so that they are read again exactly.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.coldstart.attributes import AttributeEncoder, ItemTable
from recpolicy.coldstart.filter import Array, Whitening
from recpolicy.coldstart.prior import ItemPrior
from recpolicy.coldstart.traces import MAX_DAYS
from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import content_digest, read_versioned_json, write_text

FORMAT, VERSION = "recpolicy item prior", 1
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class PriorModel:
    """A prior, the encoding of attributes that it reads, and its origin."""

    prior: ItemPrior
    encoder: AttributeEncoder = field(default_factory=AttributeEncoder)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def means(self, items: Sequence[Any], table: ItemTable | None = None) -> Array:
        """Return the prior means [I, J] of items; raises as `AttributeEncoder.design` does."""
        return self.prior.means(self.encoder.design(items, table))

    @property
    def digest(self) -> str:
        """Return the SHA-256 of everything that determines beliefs."""
        return content_digest(self._words())

    def _words(self) -> dict[str, Any]:
        prior = self.prior
        return {
            "coefficients": prior.coefficients.tolist(), "item_covariance": prior.item_covariance.tolist(),
            "trace_covariance": prior.trace_covariance.tolist(), "attributes": self.encoder.as_list(),
        }  # fmt: skip


def write_prior(path: Path, model: PriorModel) -> None:
    """Write a prior, atomically."""
    body = {"format": FORMAT, "version": VERSION, **model._words(), "metadata": dict(model.metadata)}
    write_text(path, json.dumps({**body, "digest": content_digest(body)}, allow_nan=False) + "\n")


def read_prior(path: Path) -> PriorModel:
    """Read a prior; raise ArtifactError for a file that is damaged or foreign."""
    advice = "fit the prior again"
    body = read_versioned_json(path, FORMAT, VERSION, digest_key="digest", advice=advice, max_bytes=_MAX_BYTES)
    try:
        names = ("coefficients", "item_covariance", "trace_covariance")
        arrays = [np.array(body[name], np.float64) for name in names]
        model = PriorModel(ItemPrior(*arrays), AttributeEncoder.from_list(body["attributes"]), body["metadata"])
        _check(model)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path}: not a whole prior: {error or type(error).__name__}; {advice}") from None
    return model


def _check(model: PriorModel) -> None:
    prior, days = model.prior, len(model.prior.item_covariance)
    shapes = (prior.coefficients.shape, prior.item_covariance.shape, prior.trace_covariance.shape)
    if not 1 <= days <= MAX_DAYS or shapes != ((model.encoder.width, days), (days, days), (days, days)):
        raise ArtifactError(f"arrays of shapes {shapes} do not fit {model.encoder.width} columns and {days} days")
    if not all(
        np.isfinite(array).all() for array in (prior.coefficients, prior.item_covariance, prior.trace_covariance)
    ):
        raise ArtifactError("holds numbers that are not finite")
    if not np.allclose(prior.item_covariance, prior.item_covariance.T):
        raise ArtifactError("the covariance of items is not symmetric")
    if np.linalg.eigvalsh(prior.item_covariance)[0] < -1e-9 * max(float(np.trace(prior.item_covariance)), 1e-300):
        raise ArtifactError("the covariance of items is not positive semi-definite")
    Whitening.from_covariance(prior.trace_covariance)
