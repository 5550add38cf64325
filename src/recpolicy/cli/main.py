"""`recpolicy`: the commands, and the one place where errors become a line on stderr and exit code 2."""

import logging
import sys
from typing import Annotated

import typer

from recpolicy.cli import data, policy, training
from recpolicy.core.errors import RecpolicyError

_INTERRUPTED = 130

app = typer.Typer(
    name="recpolicy",
    help="From a table of ratings to a recommendation policy that can be trusted.",
    epilog="Start here:  recpolicy data fetch  &&  recpolicy train linucb --split u1 --out runs/linucb",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
for command in (*training.COMMANDS, *policy.COMMANDS):
    app.command(epilog=command.example)(command.function)


@app.callback()
def common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what happens, on stderr.")] = False,
) -> None:
    """From a table of ratings to a recommendation policy that can be trusted."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("recpolicy").setLevel(logging.INFO if verbose else logging.WARNING)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except RecpolicyError as error:
        print(f"recpolicy: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:  # typer has turned Ctrl-C into it
            print("recpolicy: interrupted; a training is taken up by the same command", file=sys.stderr)
        raise
