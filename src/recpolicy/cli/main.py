"""`recpolicy`: the commands. Errors become one line on stderr and exit code 2 here."""

import logging
import sys
from typing import Annotated, Any

import typer

import recpolicy
from recpolicy.cli import (
    admin,
    coldstart,
    data,
    evaluation,
    features,
    gate,
    log,
    log_export,
    log_import,
    log_ingest,
    ope,
    pipeline,
    policy,
    rank,
    registry,
    serve,
    session,
    simulator,
    strategy,
    study,
    study_drl_put,
    study_gain,
    study_recomind,
    study_retention,
    training,
    tuning,
)
from recpolicy.cli.output import print_text
from recpolicy.core.errors import RecpolicyError
from recpolicy.core.memory import out_of_memory
from recpolicy.core.optional_deps import name_missing_extra
from recpolicy.core.text import escape_controls

_INTERRUPTED = 130

app = typer.Typer(
    name="recpolicy",
    help="From a table of ratings to a recommendation policy that can be trusted.",
    epilog="Start here:  recpolicy data fetch  &&  recpolicy train linucb --split u1 --out runs/linucb",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(admin.app, name="admin")
app.add_typer(coldstart.app, name="coldstart")
app.add_typer(data.app, name="data")
app.add_typer(features.app, name="features")
app.add_typer(log.app, name="log")
app.add_typer(ope.app, name="ope")
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(registry.app, name="registry")
app.add_typer(session.app, name="session")
app.add_typer(simulator.app, name="simulator")
app.add_typer(strategy.app, name="strategy")
app.add_typer(study.app, name="study")
for command in (
    *training.COMMANDS,
    *tuning.COMMANDS,
    *evaluation.COMMANDS,
    *policy.COMMANDS,
    *rank.COMMANDS,
    *gate.COMMANDS,
    *serve.COMMANDS,
):
    app.command(epilog=command.example)(command.function)
log.app.command("import", epilog=log_import.EPILOG)(log_import.import_)
log.app.command(epilog=log_export.EPILOG)(log_export.export)
log.app.command(epilog=log_ingest.EPILOG)(log_ingest.ingest)
study.app.command("drl-put", epilog=study_drl_put.EPILOG)(study_drl_put.drl_put)
study.app.command(epilog=study_gain.EPILOG)(study_gain.gain)
study.app.command(epilog=study_recomind.EPILOG)(study_recomind.recomind)
study.app.command(epilog=study_retention.EPILOG)(study_retention.retention)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_text(f"recpolicy {recpolicy.__version__}")
        raise typer.Exit


class _EscapingFormatter(logging.Formatter):
    """A formatter of messages, which may quote files, without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message."""
        return escape_controls(super().format(record), keep="\n\t")


@app.callback()
def common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print more messages on stderr.")] = False,
    version: Annotated[  # noqa: ARG001 (its callback does the work)
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """From a table of ratings to a recommendation policy that can be trusted."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_EscapingFormatter("%(message)s"))
    logging.getLogger("recpolicy").setLevel(logging.INFO if verbose else logging.WARNING)


def main() -> None:
    """Run the command line."""
    try:
        # Not standalone: typer would draw a box of several lines around a usage error.
        code = app(standalone_mode=False)
    except RecpolicyError as error:
        sys.exit(_fail(str(error), 2))
    except MemoryError as error:
        sys.exit(_fail(out_of_memory(error), 1))
    except ModuleNotFoundError as error:
        missing = name_missing_extra(error)
        if missing is None:
            raise
        sys.exit(_fail(str(missing), 2))
    except Exception as error:
        # typer's errors share no public base class over its versions, but all can format a message.
        if not hasattr(error, "format_message"):
            raise
        sys.exit(_refuse(error))
    if code == _INTERRUPTED:  # typer has turned Ctrl-C into it
        _fail("interrupted; the same command continues a training", code)
    sys.exit(code if isinstance(code, int) else 0)


def _refuse(error: Any) -> int:
    """Print a usage error on one line; without a message, show the help."""
    message = error.format_message()
    if not message.strip() or "\n" in message:
        error.show()
        return int(error.exit_code)
    command = error.ctx.command_path if getattr(error, "ctx", None) else "recpolicy"
    return _fail(f"{message} See: {command} --help", int(error.exit_code))


def _fail(message: str, code: int) -> int:
    print_text(f"recpolicy: {' '.join(message.split())}", file=sys.stderr)
    return code
