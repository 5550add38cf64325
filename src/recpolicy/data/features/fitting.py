"""Fit the features of a schema on the training part, and restore them from what was saved."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from recpolicy.data.features.columns import Column, as_flags, as_labels, as_numbers, as_tags
from recpolicy.data.features.fitted import (
    FittedBoolean,
    FittedFeature,
    FittedNumber,
    FittedNumbers,
    FittedTimestamp,
    FittedVocabulary,
    feature_location,
)
from recpolicy.data.features.fitted_labels import FittedCategory, FittedJson, FittedTags
from recpolicy.data.features.schema import (
    BooleanFeature,
    CategoryFeature,
    Feature,
    JsonFeature,
    NumberFeature,
    TagsFeature,
    TimestampFeature,
)


def fit_feature(name: str, feature: Feature, column: Column) -> FittedFeature[Any]:
    """Return the feature with the statistics of the column of the training part."""
    if isinstance(feature, NumberFeature):
        return FittedNumber(name, feature, _fit_numbers(name, feature, column))
    if isinstance(feature, CategoryFeature):
        labels = as_labels(column, feature_location(name, feature))
        counts = Counter(labels)
        missing = counts.pop(None, 0) > 0 and feature.encoding == "one_hot"
        hashed = feature.encoding == "hashed"
        values = () if hashed else _frequent(counts, feature.max_values, feature.min_count)
        return _with_vocabulary(name, feature, FittedVocabulary(values=values, missing=missing))
    if isinstance(feature, TagsFeature):
        _, tags = as_tags(column, feature_location(name, feature))
        hashed = feature.encoding == "hashed"
        values = () if hashed else _frequent(Counter(tags), feature.max_values, feature.min_count)
        return _with_vocabulary(name, feature, FittedVocabulary(values=values))
    if isinstance(feature, BooleanFeature):
        flags = as_flags(column, feature_location(name, feature))
        return FittedBoolean(name, feature, FittedVocabulary(missing=bool(np.isnan(flags).any())))
    unfitted = FittedTimestamp(name, feature) if isinstance(feature, TimestampFeature) else FittedJson(name, feature)
    unfitted.sparse(column)  # checks the values
    return unfitted


def restore_feature(name: str, feature: Feature, values: Any) -> FittedFeature[Any]:
    """Return a fitted feature from the record that `fitted_values` gave."""
    if isinstance(feature, NumberFeature):
        return FittedNumber(name, feature, values)
    if isinstance(feature, BooleanFeature):
        return FittedBoolean(name, feature, values)
    if isinstance(feature, CategoryFeature | TagsFeature):
        return _with_vocabulary(name, feature, values)
    return FittedTimestamp(name, feature) if isinstance(feature, TimestampFeature) else FittedJson(name, feature)


def fitted_type(feature: Feature) -> type[Any] | None:
    """Return the class of the record that fitting this type of feature gives; None if nothing is fitted."""
    if isinstance(feature, NumberFeature):
        return FittedNumbers
    return None if isinstance(feature, TimestampFeature | JsonFeature) else FittedVocabulary


def _with_vocabulary(name: str, feature: Any, fitted: FittedVocabulary) -> FittedFeature[Any]:
    places: dict[str | None, int] = {value: place for place, value in enumerate(fitted.values)}
    if fitted.missing:
        places[None] = len(fitted.values)
    return (FittedTags if isinstance(feature, TagsFeature) else FittedCategory)(name, feature, fitted, places)


def _fit_numbers(name: str, feature: NumberFeature, column: Column) -> FittedNumbers:
    numbers = as_numbers(column, feature_location(name, feature))
    missing = bool(np.isnan(numbers).any())
    numbers = numbers[~np.isnan(numbers)]
    if feature.clip is not None:
        numbers = np.clip(numbers, *feature.clip)
    if feature.scale == "bins":
        edges = feature.edges
        if not edges and len(numbers):
            steps = np.arange(1, feature.bins) / feature.bins
            edges = tuple(np.unique(np.quantile(numbers, steps)).tolist())
        return FittedNumbers(edges=edges, missing=missing)
    if feature.scale == "none" or not len(numbers):
        return FittedNumbers(missing=missing)
    std = float(numbers.std())
    floor = 1e-9 * max(1.0, float(np.abs(numbers).max()))  # a constant column has no scale
    return FittedNumbers(mean=float(numbers.mean()), std=std if std > floor else 1.0, missing=missing)


def _frequent(counts: Mapping[Any, int], max_values: int, min_count: int) -> tuple[str, ...]:
    """Return the most frequent values; ties in alphabetical order."""
    ordered = sorted((-count, value) for value, count in counts.items() if count >= min_count)
    return tuple(value for _, value in ordered[:max_values])
