"""Guardrails on the command line: a file, and options that replace its settings."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recpolicy.cli.output import print_text

if TYPE_CHECKING:
    from recpolicy.inference.guardrails import GuardrailConfig

EvaluatedGuardrails = Annotated[
    Path | None,
    typer.Option(
        "--guardrails",
        help="TOML file with the table \\[guardrails]: both policies choose under these (logs of rounds of items).",
    ),
]
"""The option of commands that evaluate on a log."""
ONLY_ITEMS = "a feature policy is evaluated among the actions that the logged guardrails left; leave it out"
"""Refusal of guardrails for the evaluation of a policy of features."""


def parse_guardrails(
    path: Path | None, diversity: float | None, novelty: float | None, tilts: list[str] | None
) -> "GuardrailConfig | None":
    """Return the guardrails of a command; None without any.

    Raises:
        ConfigError: A setting that is unknown or out of its range; names the file, or the option.
        DataError: A tilt that is not CATEGORY=WEIGHT.
    """
    from recpolicy.core.config import as_dict, build
    from recpolicy.inference.guardrails import GuardrailConfig, read_guardrails

    config = None if path is None else read_guardrails(path)
    options: dict[str, Any] = {"diversity": diversity, "novelty": novelty}
    options = {name: value for name, value in options.items() if value is not None}
    if tilts:
        options["category_tilt"] = dict(map(_parse_tilt, tilts))
    if not options:
        return config
    checked = build(GuardrailConfig, options, "options of the command")
    if config is None:
        return checked
    tilt = {**config.category_tilt, **checked.category_tilt}
    return build(GuardrailConfig, {**as_dict(config), **options, "category_tilt": tilt}, str(path))


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Print the warnings of the block on stderr, one line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        print_text(f"warning: {warning.message}", file=sys.stderr)


def _parse_tilt(text: str) -> tuple[str, float]:
    """Parse "Action=0.2"; raise DataError for anything else."""
    from recpolicy.core.errors import DataError

    name, _, weight = text.rpartition("=")
    try:
        value = float(weight)
    except ValueError:
        name, value = "", 0.0
    if not name:
        raise DataError(f"--tilt {text!r}: expected CATEGORY=WEIGHT, such as Action=0.2")
    return name, value
