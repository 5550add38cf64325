"""Configs are frozen dataclasses; this is the one place that builds them from files and words.

A TOML file has one table per component (`[linucb]`, `[rating_model]`, ...). Unknown keys, wrong types and values out of
range raise ConfigError with the file, the key and what is allowed.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from recpolicy.core.errors import ConfigError, unknown_name

T = TypeVar("T")


def build(config_type: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Return `config_type(**values)`, checked and with plain types coerced (1 -> 1.0); raises ConfigError."""
    _refuse_unknown_settings(config_type, values, where)
    try:
        return TypeAdapter(config_type).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        own = first.get("ctx", {}).get("error")  # what the config's own check raised
        if isinstance(own, ConfigError):
            raise ConfigError(f"{where}: {own}") from None
        key = ".".join(str(part) for part in first["loc"]) or "config"
        raise ConfigError(f"{where}: {key}: {first['msg']} (found {first['input']!r})") from None


def _refuse_unknown_settings(config_type: type[Any], values: Mapping[str, Any], where: str) -> None:
    """Those of configs within the config included, which pydantic would pass over."""
    types = get_type_hints(config_type)
    known = [field.name for field in dataclasses.fields(config_type)]
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{where}: {unknown_name('setting', key, known)}")
        if isinstance(value, Mapping):
            for inner in {types[key], *get_args(types[key])}:  # a config, or a config or None
                if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                    _refuse_unknown_settings(inner, value, f"{where}: {key}")


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
    """Raise ConfigError for a table that nobody reads: a misspelt one would otherwise be ignored silently."""
    for name, table in tables.items():
        if name not in known:
            raise ConfigError(f"{where}: {unknown_name('table', name, known)}")
        if not isinstance(table, Mapping):
            raise ConfigError(f"{where}: {name}: expected a table, found {table!r}")
