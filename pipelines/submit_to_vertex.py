"""Run a pipeline of this folder on Vertex AI, once or on a schedule. Experimental.

gcloud auth application-default login
python pipelines/submit_to_vertex.py train --project shop --location europe-west4 --pipeline-root gs://bucket/recpolicy
"""

import sys
from argparse import Namespace

from command_line import FOLDER, main, new_parser

from recpolicy.pipelines.compile import checked_parameters
from recpolicy.pipelines.vertex import submit_to_vertex


def submit(arguments: Namespace, parameters: dict[str, str]) -> None:
    """Submit the pipeline and print the address of the run."""
    submitted = submit_to_vertex(
        FOLDER / f"{arguments.name}.yaml",
        checked_parameters(arguments.name, parameters),
        project=arguments.project,
        location=arguments.location,
        pipeline_root=arguments.pipeline_root,
        service_account=arguments.service_account,
        cron=arguments.cron,
        caching=arguments.cron is None,  # a schedule reads new data at the same addresses
    )
    print(submitted.url)


if __name__ == "__main__":
    parser = new_parser("Run a pipeline on Vertex AI. Experimental: never run on Google Cloud.")
    parser.add_argument("--project", required=True, help="Google Cloud project")
    parser.add_argument("--location", required=True, help="region, such as europe-west4")
    parser.add_argument("--pipeline-root", required=True, help="folder of the artifacts: gs://BUCKET/FOLDER")
    parser.add_argument("--service-account", help="account that runs the pipeline")
    parser.add_argument("--cron", help='run on a schedule (UTC), such as "0 1 * * 1"')
    sys.exit(main(parser, submit))
