"""Public names of a package that are imported at their first use, so that importing the package is quick."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def load_public_name(package: dict[str, Any], name: str, modules: Mapping[str, str]) -> Any:
    """Import a public name of a package and keep it there: what a module's `__getattr__` does.

    Args:
        package: Its `globals()`.
        name: The name that was asked for.
        modules: Full name of the module of each public name.

    Raises:
        AttributeError: There is no such name.
    """
    if name not in modules:
        raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
    package[name] = getattr(import_module(modules[name]), name)
    return package[name]
