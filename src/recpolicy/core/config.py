"""Configs: small frozen dataclasses next to the component they configure, built from TOML files and the command line.

A TOML file has one table per component (`[linucb]`, `[rating_model]`, ...). Unknown keys, wrong types and values out of
range raise ConfigError with the file, the key, the value and the allowed values.
"""

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, dataclass_transform, get_args, get_type_hints

import pydantic.dataclasses
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from recpolicy.core.errors import ConfigError, unknown_name_error

T = TypeVar("T")

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Number = Annotated[float, Field(ge=-1e6, le=1e6)]
NonNegativeNumber = Annotated[float, Field(ge=0, le=1e6)]
PositiveNumber = Annotated[float, Field(gt=0, le=1e6)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
"""Step size of a gradient method whose weights are of the order of 1."""
Temperature = Annotated[float, Field(ge=1e-9, le=1e9)]
"""Divisor of scores; scores of the order of 1 stay finite in float32."""
Precision = Annotated[float, Field(ge=1e-6, le=1e9)]
"""Prior precision; it and its inverse leave room for sums in float32."""
Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
Size = Annotated[int, Field(ge=1, le=10**6)]
"""Length of an axis of an array in memory."""
SizeOrZero = Annotated[int, Field(ge=0, le=10**6)]
Folds = Annotated[int, Field(ge=2, le=1000)]
Bytes = Annotated[int, Field(ge=1, le=2**40)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,))
def config_dataclass(cls: type[T]) -> type[T]:
    """Turn a class of annotated settings into a frozen, keyword-only dataclass that checks itself.

    Constraints stand in the annotation: `alpha: NonNegativeNumber = 1.0`. Every number has a lower and an upper bound
    (tests/core/test_bounds.py), and NaN and infinity are refused.
    A check across settings goes into `__post_init__` and raises ConfigError. The constructor raises ConfigError with
    the class, the setting, the value and the allowed values.
    """
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    checked: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(cls)
    construct = checked.__init__

    @functools.wraps(construct)
    def init(self: T, *args: Any, **values: Any) -> None:
        try:
            construct(self, *args, **values)
        except ValidationError as error:
            raise _config_error(error, checked, cls.__name__) from None

    checked.__init__ = init
    return cast("type[T]", checked)


def build(config_type: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Return `config_type(**values)`, checked and with plain types coerced (1 -> 1.0); raises ConfigError.

    Args:
        config_type: A dataclass, by preference one made by `config_dataclass`.
        values: Settings by name; a nested config may be a mapping.
        where: The file and table that errors name.
    """
    _check_known_settings(config_type, values, where)
    try:
        return TypeAdapter(config_type).validate_python(dict(values))
    except ValidationError as error:
        raise _config_error(error, config_type, where) from None


def _config_error(error: ValidationError, config_type: type[Any], where: str) -> ConfigError:
    """Return the first fault of a validation as one line."""
    first = error.errors()[0]
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, ConfigError):  # by the config's own __post_init__
        return ConfigError(f"{where}: {raised}")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "unexpected_keyword_argument":
        known = [field.name for field in dataclasses.fields(config_type)]
        return ConfigError(f"{where}: {unknown_name_error('setting', key, known)}")
    if first["type"] == "missing":
        return ConfigError(f"{where}: {key} is missing")
    expected = first["msg"].replace("Input should be", "expected", 1)
    return ConfigError(f"{where}: {key or 'config'} is {first['input']!r}: {expected}")


def _check_known_settings(config_type: type[Any], values: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for an unknown setting, in nested configs, too."""
    types = get_type_hints(config_type)
    known = [field.name for field in dataclasses.fields(config_type)]
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{where}: {unknown_name_error('setting', key, known)}")
        if isinstance(value, Mapping):
            for inner in {types[key], *get_args(types[key])}:  # a config, or a config or None
                if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                    _check_known_settings(inner, value, f"{where}: {key}")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises ConfigError that names the file and the line."""
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def as_dict(config: Any) -> dict[str, Any]:
    """Return the config as plain JSON-able values."""
    plain: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return plain


def reject_unknown_tables(tables: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Raise ConfigError for an unknown table; a misspelled one would otherwise be ignored silently."""
    for name, table in tables.items():
        if name not in known:
            raise ConfigError(f"{where}: {unknown_name_error('table', name, known)}")
        if not isinstance(table, Mapping):
            raise ConfigError(f"{where}: {name}: expected a table, found {table!r}")
