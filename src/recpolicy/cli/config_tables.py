"""Read the TOML file of --config with its table [data], the options for reading ratings."""

from pathlib import Path
from typing import Any


def read_config_with_data(config: Path | None, names: tuple[str, ...] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tables of a TOML file, and the options of its table [data].

    Args:
        config: The file, if there is one.
        names: Other tables that the file may have; None allows all, for a command that reads [data] only.

    Raises:
        ConfigError: The file has another table, or a wrong option.
    """
    from recpolicy.core.config import read_toml, reject_unknown_tables
    from recpolicy.data.loaders import data_options

    tables = read_toml(config) if config else {}
    if names is not None:
        reject_unknown_tables(tables, ("data", *names), str(config))
    return tables, data_options(tables.get("data", {}), f"{config}: data")
