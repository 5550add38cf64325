"""`recpolicy pipeline`: compile pipelines, run them on this machine, submit them to Kubeflow or Vertex AI."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from recpolicy.cli.output import print_frame, print_json, print_text

app = typer.Typer(help="Kubeflow pipelines: train, train_features, predict, retrain, sweep.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="train, train_features, predict, retrain or sweep.")]
Params = Annotated[
    list[str] | None, typer.Option("--param", "-p", help="name=value; repeatable. Lists and mappings as JSON.")
]
Image = Annotated[str | None, typer.Option("--image", help="Image of the steps on a cluster.")]
Volumes = Annotated[
    list[str] | None,
    typer.Option("--volume", help="CLAIM:/path: mount an existing PersistentVolumeClaim in every step; repeatable."),
]
Caching = Annotated[bool, typer.Option("--cache/--no-cache", help="Reuse the results of unchanged steps.")]
_FAILED = 1
_MAIN_ARTIFACTS = ("policy", "best", "predictions", "table", "registered")
"""Artifacts whose paths are printed."""


@app.command("list", epilog="Example:  recpolicy pipeline list train")
def list_pipelines(
    name: Annotated[str | None, typer.Argument(help="A pipeline, to list its parameters.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the pipelines, or the parameters of one."""
    import json
    from dataclasses import asdict

    import pandas as pd

    from recpolicy.pipelines.compile import pipeline_descriptions, pipeline_parameters

    if name is None:
        known = pipeline_descriptions()
        if as_json:
            print_json(known)
            return
        frame = pd.DataFrame({"description": list(known.values())}, index=pd.Index(list(known), name="pipeline"))
        print_frame(frame)
        return
    parameters = pipeline_parameters(name)
    if as_json:
        print_json([asdict(parameter) for parameter in parameters])
        return
    rows = [(item.name, "(required)" if item.required else json.dumps(item.default), item.description)
            for item in parameters]  # fmt: skip
    print_frame(pd.DataFrame(rows, columns=["parameter", "default", "description"]))


@app.command("compile", epilog="Example:  recpolicy pipeline compile train -o train.yaml")
def compile_(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="The YAML file to write.")],
    image: Image = None,
    volume: Volumes = None,
) -> None:
    """Compile a pipeline to YAML for Kubeflow and Vertex AI; the same input gives the same bytes.

    With --volume the file is for Kubeflow only: Vertex AI mounts buckets by itself, as /gcs/BUCKET.
    """
    from recpolicy.pipelines.compile import compile_pipeline
    from recpolicy.pipelines.volumes import read_volumes

    compile_pipeline(name, out, image, read_volumes(volume or []))
    print_text(f"written: {out}")


@app.command(epilog="Example:  recpolicy pipeline run train --param agent=lints --param log_rounds=50000")
def run(
    name: Name,
    param: Params = None,
    root: Annotated[Path, typer.Option("--root", help="Folder of runs, artifacts and cache.")] = Path("runs/pipelines"),
    cache: Caching = True,
    inline: Annotated[
        bool, typer.Option("--inline", help="Run the steps in this process, in order, for a debugger; without cache.")
    ] = False,
    fail_on_gate: Annotated[
        bool, typer.Option("--fail-on-gate", help="Exit code 1 also if the gate does not say pass.")
    ] = False,
    volume: Annotated[list[str] | None, typer.Option("--volume", hidden=True)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as JSON.")] = False,
) -> int:
    """Run a pipeline on this machine, without a cluster and without Docker; exit code 1 if a step fails."""
    from recpolicy.core.errors import ConfigError
    from recpolicy.pipelines.inline import run_inline
    from recpolicy.pipelines.local import run_pipeline
    from recpolicy.pipelines.parameters import read_parameters

    if volume:
        raise ConfigError("run: the steps see the folders of this machine; --volume is for compile and submit --host")
    if fail_on_gate and name == "predict":
        raise ConfigError("run predict: --fail-on-gate is for a pipeline with a gate, which predict has not")
    parameters = read_parameters(param or [])
    result = (
        run_inline(name, parameters, root=root) if inline else run_pipeline(name, parameters, root=root, caching=cache)
    )
    if as_json:
        print_json(result.as_dict())
    else:
        _print_run(result)
    if result.state == "done":
        return _FAILED if fail_on_gate and result.outcome.verdict != "pass" else 0
    print_text(f"recpolicy: {result.failure}", file=sys.stderr)
    return _FAILED


def _print_run(result: Any) -> None:
    import pandas as pd

    title = f"{result.pipeline}: {result.state} in {result.seconds:.1f} s, {result.folder}"
    if sys.stdout.isatty() and sys.stderr.isatty():  # the live table has shown the steps
        print_text(title)
    else:
        rows = [(step.state, f"{step.seconds:.1f}", ", ".join(step.artifacts)) for step in result.steps]
        names = pd.Index([step.name for step in result.steps], name="step")
        print_frame(pd.DataFrame(rows, columns=["state", "seconds", "artifacts"], index=names), title)
    if result.note:
        print_text(f"no step was reused: {result.note}")
    for step in result.steps:
        for artifact, path in step.artifacts.items():
            if artifact in _MAIN_ARTIFACTS:
                print_text(f"{step.name}/{artifact}: {path}")
    for page in result.pages:
        print_text(f"page: {page}")
    for line in result.outcome.lines():
        print_text(line)


@app.command(epilog="Example:  recpolicy pipeline submit train --host https://kubeflow.example.com/pipeline")
def submit(
    name: Name,
    host: Annotated[str | None, typer.Option("--host", help="Address of Kubeflow Pipelines.")] = None,
    vertex: Annotated[str | None, typer.Option("--vertex", help="Google Cloud project of Vertex AI.")] = None,
    param: Params = None,
    image: Image = None,
    volume: Volumes = None,
    cron: Annotated[
        str | None,
        typer.Option("--cron", help='Run on a schedule, such as "0 1 * * 1"; replaces the schedule of the same name.'),
    ] = None,
    display_name: Annotated[
        str | None, typer.Option("--name", help="Name of the pipeline and schedule; default recpolicy-NAME.")
    ] = None,
    pipeline_root: Annotated[
        str | None, typer.Option("--pipeline-root", help="Where artifacts go (gs://, s3://).")
    ] = None,
    experiment: Annotated[str, typer.Option("--experiment", help="Kubeflow's group of runs.")] = "recpolicy",
    namespace: Annotated[str | None, typer.Option("--namespace", help="Namespace in a multi-user Kubeflow.")] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with the token; default RECPOLICY_KFP_TOKEN.")
    ] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="Certificates (PEM) to check the host's against.")] = None,
    location: Annotated[str | None, typer.Option("--location", help="Region of Vertex AI.")] = None,
    service_account: Annotated[
        str | None, typer.Option("--service-account", help="Account that Vertex AI runs the pipeline as.")
    ] = None,
    cache: Annotated[
        bool | None,
        typer.Option("--cache/--no-cache", help="Reuse the results of unchanged steps; off by default with --cron."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the submitted run as JSON.")] = False,
) -> None:
    """Run a pipeline on Kubeflow or Vertex AI, once or on a schedule, without waiting for its end.

    Experimental: never run on a real cluster or on Google Cloud; the tests check every request against a local server.
    """
    import tempfile
    from dataclasses import asdict

    from recpolicy.core.errors import ConfigError
    from recpolicy.pipelines.compile import checked_parameters, compile_pipeline
    from recpolicy.pipelines.parameters import read_parameters
    from recpolicy.pipelines.volumes import read_volumes, warn_of_lost_registry

    if (host is None) == (vertex is None):
        raise ConfigError("submit: give either --host (Kubeflow) or --vertex (a Google Cloud project)")
    if vertex is not None and volume:
        raise ConfigError(
            "submit --vertex: --volume is for Kubeflow; use a mounted bucket, such as --param"
            " registry=/gcs/BUCKET/registry"
        )
    volumes = read_volumes(volume or [])
    values = checked_parameters(name, read_parameters(param or []))
    caching = cron is None if cache is None else cache  # a schedule reads new data at the same addresses
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / f"{name}.yaml"
        compile_pipeline(name, package, image, volumes)
        if host is not None:
            from recpolicy.pipelines.submit import read_token, submit_to_kubeflow

            warn_of_lost_registry(str(values.get("registry", "")), volumes)
            submitted = submit_to_kubeflow(
                package, values, host=host, name=display_name or f"recpolicy-{name}", experiment=experiment,
                namespace=namespace, pipeline_root=pipeline_root, cron=cron, caching=caching,
                token=read_token(token_file), ca=ca,
            )  # fmt: skip
        else:
            from recpolicy.pipelines.vertex import submit_to_vertex

            if location is None or pipeline_root is None:
                raise ConfigError("submit --vertex: --location and --pipeline-root (gs://...) are required")
            submitted = submit_to_vertex(
                package, values, project=str(vertex), location=location, pipeline_root=pipeline_root, name=display_name,
                service_account=service_account, cron=cron, caching=caching,
            )  # fmt: skip
    if as_json:
        print_json(asdict(submitted))
        return
    print_text(f"{'scheduled' if submitted.recurring else 'submitted'} {submitted.name}: {submitted.url}")
    for id in submitted.replaced:
        print_text(f"replaced: {id}")
