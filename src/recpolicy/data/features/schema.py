"""Feature schemas: the names, types and encodings of the features of contexts and actions.

A schema is a TOML file with one table per feature, `[context.NAME]` or `[action.NAME]`, or the same as Python records.
A name with points, such as "device.os", also finds the value `os` inside the nested object `device`. The feature
`id` of actions is the id of the action itself, so `[action.id]` lets a policy learn about single actions.
docs/reference/feature_schema.md lists all options.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from recpolicy.core.config import Count, Size, build, config_dataclass, read_toml
from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.data.features.hashing import MAX_BITS, MIN_BITS

PARTS = ("context", "action")
ACTION_ID = "id"
"""Name of the action feature that holds the id of the action."""
RawNumber = Annotated[float, Field(ge=-1e15, le=1e15)]
ColumnCount = Annotated[int, Field(ge=2, le=1 << 16)]
_DEFAULT_BITS = 18
_MAX_FEATURES = 10_000


@config_dataclass
class NumberFeature:
    """A number; a missing one counts as the mean, and has a column of its own if the training part misses some."""

    type: ClassVar[str] = "number"
    scale: Literal["standard", "none", "bins"] = "standard"
    """standard: minus the mean, over the standard deviation, from -10 to 10; none: as it is; bins: a column each."""
    clip: tuple[RawNumber, RawNumber] | None = None
    """Smallest and largest raw number; numbers beyond take these values."""
    bins: Annotated[int, Field(ge=2, le=1000)] = 10
    """Number of bins at the quantiles of the training part."""
    edges: tuple[RawNumber, ...] = ()
    """Fixed edges of the bins, in increasing order, instead of quantiles."""

    def __post_init__(self) -> None:
        """Raise ConfigError for bounds and edges that do not increase."""
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ConfigError(f"clip is {list(self.clip)}; expected [smallest, largest]")
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ConfigError(f"edges is {list(self.edges)}; expected increasing numbers")


@config_dataclass
class CategoryFeature:
    """A text or a whole number that names one of several classes."""

    type: ClassVar[str] = "category"
    encoding: Literal["one_hot", "hashed", "embedding"] = "one_hot"
    """one_hot: a column per value; hashed: `size` columns for any number of values; embedding: a vector per value
    that a neural network learns. Other models read the values of an embedding as one-hot columns."""
    size: ColumnCount = 64
    """Columns of the hashed encoding."""
    dim: Annotated[int, Field(ge=1, le=256)] = 8
    """Length of the learned vectors."""
    max_values: Size = 1000
    """Most frequent values that have a column; all others count as unseen."""
    min_count: Count = 1
    """Rows of the training part in which a value must occur to have a column."""


@config_dataclass
class BooleanFeature:
    """True or false, also as 1 or 0."""

    type: ClassVar[str] = "boolean"


@config_dataclass
class TimestampFeature:
    """A time: a number of milliseconds since 1970, or a text such as 2026-11-30T08:00:00."""

    type: ClassVar[str] = "timestamp"
    parts: tuple[Literal["hour", "weekday"], ...] = ("hour", "weekday")
    """Parts of the time that the model sees."""
    encoding: Literal["cyclic", "one_hot"] = "cyclic"
    """cyclic: sine and cosine; one_hot: a column per hour and per weekday."""
    unit: Literal["ms", "s"] = "ms"
    """Unit of times that are numbers."""
    utc_offset_hours: Annotated[float, Field(ge=-14, le=14)] = 0.0
    """Hours that local time is ahead of UTC; a text with an offset of its own does not change this."""

    def __post_init__(self) -> None:
        """Raise ConfigError without parts, or with one part twice."""
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise ConfigError(f"parts is {list(self.parts)}; expected hour, weekday or both")


@config_dataclass
class TagsFeature:
    """A list of texts, such as genres; their order does not matter."""

    type: ClassVar[str] = "tags"
    encoding: Literal["one_hot", "hashed"] = "one_hot"
    """one_hot: a column per tag; hashed: `size` columns for any number of tags."""
    size: ColumnCount = 64
    """Columns of the hashed encoding."""
    max_values: Size = 1000
    """Most frequent tags that have a column; all others count as unseen."""
    min_count: Count = 1
    """Rows of the training part in which a tag must occur to have a column."""


@config_dataclass
class JsonFeature:
    """A nested JSON object of any shape: each leaf becomes a feature, such as `session.page=home`, and is hashed."""

    type: ClassVar[str] = "json"
    size: ColumnCount = 256
    """Columns that models other than the hashed linear one see."""


Feature: TypeAlias = NumberFeature | CategoryFeature | BooleanFeature | TimestampFeature | TagsFeature | JsonFeature

FEATURE_TYPES: Mapping[str, type[Any]] = {
    "number": NumberFeature,
    "category": CategoryFeature,
    "boolean": BooleanFeature,
    "timestamp": TimestampFeature,
    "tags": TagsFeature,
    "json": JsonFeature,
}


@dataclasses.dataclass(frozen=True)
class FeatureSchema:
    """The features of contexts and of actions by name, and two settings of models that use them."""

    context: Mapping[str, Feature]
    action: Mapping[str, Feature]
    interactions: bool = True
    """Models see the product of each context column and each action column."""
    bits: int = _DEFAULT_BITS
    """The hashed linear model has 2^bits weights."""

    def __post_init__(self) -> None:
        """Raise ConfigError for names and settings out of range."""
        if type(self.bits) is not int or not MIN_BITS <= self.bits <= MAX_BITS:
            raise ConfigError(f"bits is {self.bits!r}; expected a whole number from {MIN_BITS} to {MAX_BITS}")
        if type(self.interactions) is not bool:
            raise ConfigError(f"interactions is {self.interactions!r}; expected true or false")
        for part in PARTS:
            _check_names(part, self.part(part))
        if not self.context and not self.action:
            raise ConfigError("the schema has no features; expected at least one table [context.NAME] or [action.NAME]")

    def part(self, part: str) -> Mapping[str, Feature]:
        """Return the features of "context" or "action" by name."""
        return self.context if part == "context" else self.action

    def as_dict(self) -> dict[str, Any]:
        """Return the schema as plain JSON-able values, without options that have their default."""
        plain: dict[str, Any] = {"bits": self.bits, "interactions": self.interactions}
        for part in PARTS:
            plain[part] = {name: _feature_as_dict(feature) for name, feature in self.part(part).items()}
        return plain

    def to_toml(self) -> str:
        """Return the text of a TOML file that `read_schema` reads."""
        lines = [f"bits = {self.bits}", f"interactions = {_toml(self.interactions)}"]
        for part in PARTS:
            for name, feature in self.part(part).items():
                lines += ["", f"[{part}.{_toml_key(name)}]"]
                lines += [f"{option} = {_toml(value)}" for option, value in _feature_as_dict(feature).items()]
        return "\n".join(lines) + "\n"


def read_schema(path: str | Path) -> FeatureSchema:
    """Read a feature schema from a TOML file; raise ConfigError that names the file, the table and the option."""
    return schema_from_dict(read_toml(Path(path)), str(path))


def schema_from_dict(plain: Mapping[str, Any], where: str = "feature schema") -> FeatureSchema:
    """Return the schema that `FeatureSchema.as_dict` or a TOML file describes.

    Args:
        plain: `bits`, `interactions`, and the tables `context` and `action`: name -> options with `type`.
        where: The file that errors name.
    """
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{where}: found {_short(plain)}; expected the tables context and action")
    for key in plain:
        if key not in (*PARTS, "bits", "interactions"):
            raise ConfigError(f"{where}: {unknown_name_error('setting', key, (*PARTS, 'bits', 'interactions'))}")
    features = {part: _features(plain.get(part, {}), part, where) for part in PARTS}
    try:
        return FeatureSchema(
            context=features["context"],
            action=features["action"],
            interactions=plain.get("interactions", True),
            bits=plain.get("bits", _DEFAULT_BITS),
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _features(tables: Any, part: str, where: str) -> dict[str, Feature]:
    """Return the features of one part by name."""
    if not isinstance(tables, Mapping):
        raise ConfigError(f"{where}: {part} is {_short(tables)}; expected tables [{part}.NAME]")
    features = {}
    for name, options in tables.items():
        table = f"{where}: [{part}.{name}]"
        if not isinstance(options, Mapping):
            raise ConfigError(f"{table} is {_short(options)}; expected a table with a type")
        if "type" not in options:
            hint = " A name with points needs quotes." if any(isinstance(v, Mapping) for v in options.values()) else ""
            raise ConfigError(f"{table}: type is missing; expected one of {', '.join(FEATURE_TYPES)}.{hint}")
        kind = options["type"]
        if not isinstance(kind, str) or kind not in FEATURE_TYPES:
            raise ConfigError(f"{table}: {unknown_name_error('type of feature', str(kind), FEATURE_TYPES)}")
        settings = {option: value for option, value in options.items() if option != "type"}
        features[name] = build(FEATURE_TYPES[kind], settings, table)
    return features


def _check_names(part: str, features: Mapping[str, Feature]) -> None:
    """Raise ConfigError for a name that no JSON object can hold as a key, or too many names."""
    if len(features) > _MAX_FEATURES:
        raise ConfigError(f"{part} has {len(features):,} features; expected at most {_MAX_FEATURES:,}")
    for name, feature in features.items():
        if not isinstance(name, str) or not name or len(name) > 200 or not name.isprintable():
            raise ConfigError(f"the {part} feature {_short(name)} needs a name of 1 to 200 printable characters")
        if not isinstance(feature, tuple(FEATURE_TYPES.values())):
            raise ConfigError(f"the {part} feature {name} is {_short(feature)}; expected a type of feature")


def _feature_as_dict(feature: Feature) -> dict[str, Any]:
    """Return the type and the options that differ from their defaults."""
    plain: dict[str, Any] = {"type": feature.type}
    for field in dataclasses.fields(feature):
        value = getattr(feature, field.name)
        if value != field.default:
            plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain


def _toml(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _toml_key(name: str) -> str:
    """Return a name as a TOML key, in quotes where it needs them."""
    plain = name.isascii() and all(character.isalnum() or character in "_-" for character in name)
    return name if plain else json.dumps(name, ensure_ascii=False)


def _short(value: Any) -> str:
    """Return a value as text of at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def raw_names(features: Iterable[str]) -> tuple[str, ...]:
    """Return the keys of JSON objects that the features read: their names, and the first parts of names with points."""
    return tuple(dict.fromkeys(key for name in features for key in (name, name.partition(".")[0])))


def unused_names(names: Iterable[str], features: Mapping[str, Feature]) -> list[str]:
    """Return the keys of a record that neither are features nor hold features inside nested objects."""
    return sorted(set(names) - set(raw_names(features)))
