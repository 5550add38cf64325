"""Every number in every config class has a lower and an upper bound, and a value beyond one is refused in one line."""

import dataclasses
import importlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.fields import FieldInfo

import recpolicy
from recpolicy.core.config import build
from recpolicy.core.errors import ConfigError

UNBOUNDED = {
    ("EstimationConfig", "weight_bound"): "infinity: no bound on the weights is known",
    (
        "OffPolicyConfig",
        "settings",
    ): "thresholds of weights; infinity leaves them as they are",
}
"""Numbers without bounds, with the reason."""


def config_classes() -> list[type[Any]]:
    """Return all config classes of the package, found by their decorator."""
    folder = Path(recpolicy.__file__).parent
    found = []
    for path in sorted(folder.rglob("*.py")):
        if "\n@config_dataclass\n" not in path.read_text(encoding="utf-8"):
            continue
        name = ".".join(("recpolicy", *path.relative_to(folder).with_suffix("").parts))
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and is_pydantic_dataclass(value) and value.__module__ == name:
                found.append(value)
    return found


def numbers_in(annotation: Any, constraints: tuple[Any, ...] = ()) -> Iterator[tuple[type, tuple[Any, ...]]]:
    """Yield each int and float type in an annotation with its constraints."""
    if annotation in (int, float):
        yield annotation, constraints
        return
    if hasattr(annotation, "__metadata__"):
        yield from numbers_in(annotation.__origin__, (*constraints, *flat(annotation.__metadata__)))
        return
    for part in get_args(annotation):
        yield from numbers_in(part)


def flat(metadata: tuple[Any, ...]) -> Iterator[Any]:
    for item in metadata:
        yield from flat(tuple(item.metadata)) if isinstance(item, FieldInfo) else (item,)


def bounds(constraints: tuple[Any, ...]) -> tuple[float, float]:
    """Return the tightest lower and upper bound."""
    low, high = -math.inf, math.inf
    for item in constraints:
        limits = [getattr(item, name, None) for name in ("ge", "gt", "le", "lt")]
        low = max([low, *(limit for limit in limits[:2] if limit is not None)])
        high = min([high, *(limit for limit in limits[2:] if limit is not None)])
    return low, high


def placed(annotation: Any, value: float) -> Any:
    """Return a setting of this type that holds the value wherever it has a number."""
    if annotation in (int, float):
        return value
    if hasattr(annotation, "__metadata__"):
        return placed(annotation.__origin__, value)
    if get_origin(annotation) is tuple:
        return [placed(part, value) for part in get_args(annotation) if part is not Ellipsis]
    if get_origin(annotation) is Mapping:
        return {"key": placed(get_args(annotation)[1], value)}
    return placed(next(part for part in get_args(annotation) if any(numbers_in(part))), value)


CLASSES = config_classes()
NUMBERS = [
    (config, name, kind, *bounds(constraints))
    for config in CLASSES
    for name, annotation in get_type_hints(config, include_extras=True).items()
    if name in {field.name for field in dataclasses.fields(config)}
    for kind, constraints in numbers_in(annotation)
]


def test_the_walk_finds_the_configs_of_every_layer():
    names = {config.__name__ for config in CLASSES}
    assert {"LinUCBConfig", "PPOConfig", "ItemBanditConfig", "BayesianFMConfig", "GateConfig", "TrainConfig"} <= names
    assert {"OffPolicyConfig", "IngestConfig", "ExplorationConfig", "LimitsConfig", "RolloutConfig"} <= names
    assert len(NUMBERS) > 150


def test_every_number_has_a_lower_and_an_upper_bound():
    open_ended = [
        f"{config.__name__}.{name} [{low}, {high}]"
        for config, name, _, low, high in NUMBERS
        if math.inf in (-low, high) and (config.__name__, name) not in UNBOUNDED
        and not any((parent.__name__, name) in UNBOUNDED for parent in config.__mro__)
    ]  # fmt: skip
    assert open_ended == []


@pytest.mark.parametrize(
    ("config", "name", "beyond"),
    [
        pytest.param(config, name, kind(beyond), id=f"{config.__name__}.{name}={beyond:g}")
        for config, name, kind, low, high in NUMBERS
        for beyond in (low - 1, high + max(1.0, abs(high)))
        if math.isfinite(beyond)
    ],
)
def test_a_value_beyond_a_bound_is_one_clear_line(config, name, beyond):
    value = placed(get_type_hints(config, include_extras=True)[name], beyond)
    with pytest.raises(ConfigError) as raised:
        build(config, {name: value}, "file.toml: [table]")
    message = str(raised.value)
    assert message.startswith(f"file.toml: [table]: {name}")
    assert "\n" not in message
    assert len(message) < 200


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_is_nan_or_infinite(value):
    for config, name, kind, _, high in NUMBERS:
        if kind is float and math.isfinite(high) and get_type_hints(config)[name] is float:
            with pytest.raises(ConfigError, match=name):
                build(config, {name: value})
