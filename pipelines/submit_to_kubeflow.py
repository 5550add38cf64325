"""Upload a pipeline of this folder to Kubeflow Pipelines and run it, once or on a schedule. Experimental.

RECPOLICY_KFP_TOKEN=... python pipelines/submit_to_kubeflow.py train --host https://kubeflow.example.com/pipeline
"""

import sys
from argparse import Namespace
from pathlib import Path

from command_line import FOLDER, main, new_parser

from recpolicy.pipelines.compile import checked_parameters
from recpolicy.pipelines.submit import read_token, submit_to_kubeflow


def submit(arguments: Namespace, parameters: dict[str, str]) -> None:
    """Submit the pipeline and print the address of the run."""
    submitted = submit_to_kubeflow(
        FOLDER / f"{arguments.name}.yaml",
        checked_parameters(arguments.name, parameters),
        host=arguments.host,
        name=f"recpolicy-{arguments.name}",
        namespace=arguments.namespace,
        cron=arguments.cron,
        caching=arguments.cron is None,  # a schedule reads new data at the same addresses
        token=read_token(arguments.token_file),
        ca=arguments.ca,
    )
    print(submitted.url)


if __name__ == "__main__":
    parser = new_parser("Run a pipeline on Kubeflow Pipelines. Experimental: never run on a real cluster.")
    parser.add_argument("--host", required=True, help="address of Kubeflow Pipelines")
    parser.add_argument("--namespace", help="namespace in a multi-user cluster")
    parser.add_argument("--cron", help='run on a schedule, such as "0 1 * * 1"')
    parser.add_argument("--token-file", type=Path, help="file with the token; default RECPOLICY_KFP_TOKEN")
    parser.add_argument("--ca", type=Path, help="certificates (PEM) to check the host's against")
    sys.exit(main(parser, submit))
