"""Run a pipeline on this machine with Kubeflow's local runner, without a cluster and without Docker.

python pipelines/run_locally.py train --param agent=lints
"""

import sys
from argparse import Namespace
from pathlib import Path

from command_line import main, new_parser

from recpolicy.core.errors import DataError
from recpolicy.pipelines.local import run_pipeline


def run(arguments: Namespace, parameters: dict[str, str]) -> None:
    """Run the pipeline and print the states and outputs of its steps."""
    result = run_pipeline(arguments.name, parameters, root=arguments.root)
    for step in result.steps:
        print(step.name, step.state, *(f"{name}={path}" for name, path in step.artifacts.items()), sep="  ")
    if result.state != "done":
        raise DataError(result.failure)


if __name__ == "__main__":
    parser = new_parser("Run a pipeline on this machine, without a cluster and without Docker.")
    parser.add_argument("--root", type=Path, default=Path("runs/pipelines"), help="folder of runs, artifacts and cache")
    sys.exit(main(parser, run))
