"""The command line that the scripts of this folder share: NAME, --param name=value, errors of one line."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from recpolicy.core.errors import RecpolicyError
from recpolicy.pipelines.parameters import read_parameters

FOLDER = Path(__file__).parent
NAMES = ("train", "predict", "retrain", "sweep")


def new_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all scripts have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("name", choices=NAMES, help="the pipeline: the file NAME.yaml in this folder")
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE", help="repeat; JSON for lists")
    return parser


def main(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace, dict[str, str]], None]) -> int:
    """Parse the command line and call `run` with the parameters; print an error as one line, with exit code 2."""
    arguments = parser.parse_args()
    try:
        run(arguments, read_parameters(arguments.param))
    except RecpolicyError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0
