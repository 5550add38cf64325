"""`recpolicy study`: experiments that answer one question each, in simulated sessions."""

import typer

app = typer.Typer(help="Run a study: policies, baselines and controls under one protocol.", no_args_is_help=True)
