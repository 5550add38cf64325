"""Read and write aliases.json of a registry: the version numbers of the aliases and the traffic fractions.

One rename replaces the file, so readers see one state. Files of the first version
lack some of the keys; they have no challenger, and exploration is on.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.files import Migration, read_versioned_json, rename_keys, write_json

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
ALIASES = (CHAMPION, PREVIOUS, CHALLENGER)
STATE = "aliases.json"
NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_FORMAT, _FORMAT_VERSION = "recpolicy registry", 2


_VERSION_1 = {"share": "traffic_fraction"}


def migrate_change(change: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of the audit with the current names; lines have no version, so every line passes here."""
    renamed = dict(rename_keys(change, _VERSION_1))
    if renamed.get("change") == "set_share":
        renamed["change"] = "set_traffic_fraction"
    return renamed


def _from_version_1(body: dict[str, Any]) -> dict[str, Any]:
    change = body.get("change")
    return {**rename_keys(body, _VERSION_1), "change": None if change is None else migrate_change(change)}


_MIGRATIONS: Mapping[int, Migration] = {1: _from_version_1}


@dataclass(frozen=True, kw_only=True)
class Routing:
    """The versions that serve, and their traffic fractions."""

    champion: int | None = None
    challenger: int | None = None
    traffic_fraction: float = 0.0
    """Fraction of the users that the challenger serves, 0..1; 0 without one."""
    shadow: bool = False
    """The challenger's lists are computed and compared, but the champion serves."""
    exploration: bool = True
    """True if a fraction of the slates may be drawn at random (inference/slate_selection.py)."""


@dataclass(frozen=True, kw_only=True)
class State(Routing):
    """The content of aliases.json."""

    previous: int | None = None
    """The champion before this one."""
    change: Mapping[str, Any] | None = None
    """The change that made the state what it is: the line that the audit has of it, or is due."""

    def routing(self) -> Routing:
        """Return the routing of a server."""
        return Routing(
            champion=self.champion,
            challenger=self.challenger,
            traffic_fraction=self.traffic_fraction,
            shadow=self.shadow,
            exploration=self.exploration,
        )

    def aliases(self) -> dict[str, int | None]:
        """Return the version number of each alias, or None."""
        return {CHAMPION: self.champion, PREVIOUS: self.previous, CHALLENGER: self.challenger}


def read_state(folder: Path) -> State:
    """Read aliases.json; raises ArtifactError where the folder is no registry or the file says what cannot be."""
    path = folder / STATE
    if not path.is_file():
        raise ArtifactError(f"{folder}: not a registry: it has no {STATE}")
    body = read_versioned_json(path, _FORMAT, _FORMAT_VERSION, _MIGRATIONS)
    for name in ALIASES:
        number = body.get(name)
        if number is not None and (type(number) is not int or not NUMBER.fullmatch(str(number))):
            raise ArtifactError(f"{path}: {name} is {number!r}; expected the number of a version or null")
    for name in ("shadow", "exploration"):
        if type(body.get(name, False)) is not bool:
            raise ArtifactError(f"{path}: {name} is {body[name]!r}; expected true or false")
    try:
        fraction = checked_fraction(body.get("traffic_fraction", 0.0))
    except ConfigError as error:
        raise ArtifactError(f"{path}: {error}") from None
    return State(
        champion=body.get(CHAMPION),
        previous=body.get(PREVIOUS),
        challenger=body.get(CHALLENGER),
        traffic_fraction=fraction,
        shadow=body.get("shadow", False),
        exploration=body.get("exploration", True),
        change=body.get("change"),
    )


def write_state(folder: Path, state: State) -> None:
    """Write aliases.json, atomically."""
    write_json(folder / STATE, {"format": _FORMAT, "version": _FORMAT_VERSION, **asdict(state)})


def checked_fraction(fraction: float) -> float:
    """Return the fraction as a float; raises ConfigError unless it is a number in 0..1."""
    if type(fraction) not in (int, float) or not 0 <= fraction <= 1:  # NaN is refused, too
        raise ConfigError(f"traffic_fraction is {fraction!r}; it must be 0..1, such as 0.1 for a tenth of the users")
    return float(fraction)
