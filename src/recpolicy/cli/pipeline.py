"""`recpolicy pipeline`: the whole chain as a pipeline, here or on a cluster."""

from pathlib import Path
from typing import Annotated, Any

import typer

from recpolicy.cli.output import print_frame, print_json

app = typer.Typer(help="The chain as Kubeflow pipelines: train, predict, retrain, sweep.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="train, predict, retrain or sweep.")]
Params = Annotated[
    list[str] | None, typer.Option("--param", "-p", help="name=value; repeat. Lists and mappings as JSON.")
]
Image = Annotated[str | None, typer.Option("--image", help="Image that the steps run in on a cluster.")]
Volumes = Annotated[
    list[str] | None,
    typer.Option("--volume", help="CLAIM:/path, an existing PersistentVolumeClaim to mount in every step; repeat."),
]
Caching = Annotated[bool, typer.Option("--cache/--no-cache", help="Take the results of unchanged steps.")]
_FAILED = 1
_SHOWN = ("policy", "best", "predictions", "table", "registered")
"""Artifacts whose paths a user wants to know."""


@app.command("list", epilog="Example:  recpolicy pipeline list train")
def list_pipelines(
    name: Annotated[str | None, typer.Argument(help="A pipeline, to see its parameters.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the pipelines, or the parameters of one."""
    import json
    from dataclasses import asdict

    import pandas as pd

    from recpolicy.pipelines.compile import pipeline_names, pipeline_parameters

    if name is None:
        known = pipeline_names()
        if as_json:
            print_json(known)
            return
        frame = pd.DataFrame({"what it does": list(known.values())}, index=pd.Index(list(known), name="pipeline"))
        print_frame(frame)
        return
    parameters = pipeline_parameters(name)
    if as_json:
        print_json([asdict(one) for one in parameters])
        return
    rows = [(one.name, "(needed)" if one.required else json.dumps(one.default), one.description) for one in parameters]
    print_frame(pd.DataFrame(rows, columns=["parameter", "default", "what it is"]))


@app.command("compile", epilog="Example:  recpolicy pipeline compile train -o train.yaml")
def compile_(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="The YAML file to write.")],
    image: Image = None,
    volume: Volumes = None,
) -> None:
    """Compile a pipeline to the YAML that Kubeflow and Vertex take; the same input gives the same bytes.

    With --volume it is for Kubeflow alone: Vertex AI mounts buckets by itself, as /gcs/BUCKET.
    """
    from recpolicy.pipelines.compile import compile_pipeline
    from recpolicy.pipelines.volumes import read_volumes

    compile_pipeline(name, out, image, read_volumes(volume or []))
    print(f"written: {out}")


@app.command(epilog="Example:  recpolicy pipeline run train --param agent=lints --param interactions=50000")
def run(
    name: Name,
    param: Params = None,
    root: Annotated[Path, typer.Option("--root", help="Folder of runs, artifacts and cache.")] = Path("runs/pipelines"),
    cache: Caching = True,
    volume: Annotated[list[str] | None, typer.Option("--volume", hidden=True)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as JSON.")] = False,
) -> int:
    """Run a pipeline on this machine, without a cluster and without Docker; exit code 1 when a step fails."""
    from recpolicy.core.errors import ConfigError
    from recpolicy.pipelines.local import failure_of, run_pipeline
    from recpolicy.pipelines.parameters import read_parameters

    if volume:
        raise ConfigError("run: its steps see the folders of this machine; --volume is for compile and submit --host")
    made = run_pipeline(name, read_parameters(param or []), root=root, caching=cache)
    if as_json:
        print_json(made.as_dict())
    else:
        _print_run(made)
    if made.state == "done":
        return 0
    typer.echo(f"recpolicy: {failure_of(made)}", err=True)
    return _FAILED


def _print_run(made: Any) -> None:
    import sys

    import pandas as pd

    title = f"{made.pipeline}: {made.state} in {made.seconds:.1f} s, {made.folder}"
    if sys.stdout.isatty() and sys.stderr.isatty():  # then the live table has just been there
        print(title)
    else:
        rows = [(step.state, f"{step.seconds:.1f}", ", ".join(step.artifacts)) for step in made.steps]
        names = pd.Index([step.name for step in made.steps], name="step")
        print_frame(pd.DataFrame(rows, columns=["state", "seconds", "artifacts"], index=names), title)
    if made.note:
        print(f"no step was reused: {made.note}")
    for step in made.steps:
        for artifact, path in step.artifacts.items():
            if artifact in _SHOWN:
                print(f"{step.name}/{artifact}: {path}")
    for page in made.pages:
        print(f"page: {page}")


@app.command(epilog="Example:  recpolicy pipeline submit train --host https://kubeflow.example.com/pipeline")
def submit(
    name: Name,
    host: Annotated[str | None, typer.Option("--host", help="Address of Kubeflow Pipelines.")] = None,
    vertex: Annotated[str | None, typer.Option("--vertex", help="Google Cloud project, to run on Vertex AI.")] = None,
    param: Params = None,
    image: Image = None,
    volume: Volumes = None,
    cron: Annotated[
        str | None, typer.Option("--cron", help='Run by a schedule, such as "0 1 * * 1"; replaces the one before.')
    ] = None,
    called: Annotated[
        str | None, typer.Option("--name", help="What it is called there; recpolicy-NAME when left out.")
    ] = None,
    pipeline_root: Annotated[
        str | None, typer.Option("--pipeline-root", help="Where artifacts go (gs://, s3://).")
    ] = None,
    experiment: Annotated[str, typer.Option("--experiment", help="Kubeflow's group of runs.")] = "recpolicy",
    namespace: Annotated[str | None, typer.Option("--namespace", help="Of a Kubeflow with several users.")] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with the token; else RECPOLICY_KFP_TOKEN.")
    ] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="Certificates (PEM) to check the host's against.")] = None,
    location: Annotated[str | None, typer.Option("--location", help="Region of Vertex AI.")] = None,
    service_account: Annotated[str | None, typer.Option("--service-account", help="That Vertex AI runs as.")] = None,
    cache: Annotated[
        bool | None,
        typer.Option("--cache/--no-cache", help="Take the results of unchanged steps; not by default with --cron."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was submitted as JSON.")] = False,
) -> None:
    """Run a pipeline on Kubeflow Pipelines or on Vertex AI, once or by a schedule; does not wait for its end."""
    import tempfile
    from dataclasses import asdict

    from recpolicy.core.errors import ConfigError
    from recpolicy.pipelines.compile import checked_parameters, compile_pipeline
    from recpolicy.pipelines.parameters import read_parameters
    from recpolicy.pipelines.volumes import read_volumes, warn_of_what_is_lost

    if (host is None) == (vertex is None):
        raise ConfigError("submit: give either --host (Kubeflow) or --vertex (a Google Cloud project)")
    if vertex is not None and volume:
        raise ConfigError(
            "submit --vertex: no --volume there; buckets are mounted, as in --param registry=/gcs/BUCKET/registry"
        )
    volumes = read_volumes(volume or [])
    values = checked_parameters(name, read_parameters(param or []))
    caching = cron is None if cache is None else cache  # a schedule reads what is new at the same addresses
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / f"{name}.yaml"
        compile_pipeline(name, package, image, volumes)
        if host is not None:
            from recpolicy.pipelines.submit import read_token, submit_to_kubeflow

            warn_of_what_is_lost(str(values.get("registry", "")), volumes)
            made = submit_to_kubeflow(
                package, values, host=host, name=called or f"recpolicy-{name}", experiment=experiment,
                namespace=namespace, pipeline_root=pipeline_root, cron=cron, caching=caching,
                token=read_token(token_file), ca=ca,
            )  # fmt: skip
        else:
            from recpolicy.pipelines.vertex import submit_to_vertex

            if location is None or pipeline_root is None:
                raise ConfigError("submit --vertex: --location and --pipeline-root (gs://...) are needed")
            made = submit_to_vertex(
                package, values, project=str(vertex), location=location, pipeline_root=pipeline_root, name=called,
                service_account=service_account, cron=cron, caching=caching,
            )  # fmt: skip
    if as_json:
        print_json(asdict(made))
        return
    print(f"{'scheduled' if made.recurring else 'submitted'} {made.name}: {made.url}")
    for id in made.replaced:
        print(f"replaced: {id}")
