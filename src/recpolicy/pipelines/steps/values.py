"""Figures, ids and files that several steps share."""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from recpolicy.core.errors import ConfigError
from recpolicy.core.files import write_json

Figures = dict[str, Any]
MODEL, SETTINGS = "rating_model", "features.json"
"""Files of the folder that `fit_embeddings_step` writes."""


def write_metrics(artifact: Any, figures: Figures) -> None:
    """Store figures in a Metrics artifact of Kubeflow: as metadata, and in its file, which the local cache needs."""
    artifact.metadata.update(figures)
    write_json(Path(artifact.path), figures)


def load_features(folder: str) -> tuple[Any, dict[str, Any]]:
    """Return the rating model and the settings (of FeatureConfig) that `fit_embeddings` wrote."""
    import json

    from recpolicy.models.rating_model_io import load_rating_model

    settings: dict[str, Any] = json.loads((Path(folder) / SETTINGS).read_text(encoding="utf-8"))
    return load_rating_model(Path(folder) / MODEL), settings


def optional_path(text: str | None) -> Path | None:
    """Return the path, or None for None."""
    return None if text is None else Path(text)


def parse_ids(text: str, known: "pd.Series[Any]") -> list[Any] | None:
    """Return the ids, separated by commas, with the type of the table's ids; None for all."""
    if not text.strip():
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if known.dtype.kind not in "iu":
        return list(words)
    invalid = [word for word in words if not re.fullmatch(r"-?\d+", word)]
    if invalid:
        raise ConfigError(f"id {invalid[0]!r}: expected integers, separated by commas")
    return [int(word) for word in words]
