"""Read the TOML file of --config with its table [data], the options for reading ratings."""

from pathlib import Path
from typing import Any


def read_config_with_data(config: Path | None, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tables of a TOML file, and the options of its table [data]; other tables than `names` are errors."""
    from recpolicy.core.config import as_dict, build, read_toml, reject_unknown_tables
    from recpolicy.data.loaders import DataConfig

    tables = read_toml(config) if config else {}
    reject_unknown_tables(tables, ("data", *names), str(config))
    options = as_dict(build(DataConfig, tables.get("data", {}), f"{config}: data"))
    return tables, {name: value for name, value in options.items() if value is not None}
