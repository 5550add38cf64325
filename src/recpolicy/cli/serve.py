"""`recpolicy serve`: a trained policy, or the versions of a registry, behind HTTP."""

import atexit
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recpolicy.cli.command import Command
from recpolicy.cli.output import print_text
from recpolicy.core.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

_SECONDS_TO_FINISH = 10


def serve(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN|REGISTRY", envvar="RECPOLICY_RUN", help="Folder of a trained policy or registry."),
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 means all.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, envvar="AIP_HTTP_PORT", help="Port; 0 takes any free one.")
    ] = 8080,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Number of server processes.")] = 1,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            envvar="RECPOLICY_STATE",
            help="Folder for events and feedback (default: the registry, or RUN.server-state next to a run).",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", envvar="RECPOLICY_CONFIG", help="TOML file of settings.")
    ] = None,
    store: Annotated[
        bool,
        typer.Option(
            "--store/--no-store", envvar="RECPOLICY_STORE", help="Store events and feedback, or only recommend."
        ),
    ] = True,
) -> None:
    """Serve recommendations over HTTP and collect feedback, until SIGTERM, SIGHUP or Ctrl-C
    (docs/reference/serving.md).
    """
    from recpolicy.core.optional_deps import require_extra

    require_extra("serve", "recpolicy serve")
    # Before NumPy is imported: on busy cores, threads of one small product wait for each other (48 ms, not 5).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from recpolicy.server import freeze_startup_objects

    os.umask(0o077)  # nobody else reads events, keys' digests or checkpoints; the workers inherit it
    if not source.is_dir():
        raise ConfigError(f"{source}: the folder does not exist; expected a run or a registry")
    from recpolicy.server.processes import MetricsFolder, connection_bounds, raise_open_files

    _, backlog = connection_bounds(raise_open_files())
    with _listen(host, port, backlog) as listener:
        if workers > 1:
            folder = MetricsFolder()
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder.path)
            atexit.register(folder.remove)
        with freeze_startup_objects():
            from recpolicy.server.asgi import ServeOptions, log_as_json, open_app

            what = ServeOptions(
                source=str(source), state=None if state is None else str(state),
                config=None if config is None else str(config), store=store, host=host,
            )  # fmt: skip
            app = open_app(what)
            how = _config(app if workers == 1 else "recpolicy.server.asgi:app", workers, backlog)
        _greet(app, source, host, listener.getsockname()[1])
        log_as_json()
        if workers == 1:
            _run(how, listener)
        else:
            app.state.close()  # the check succeeded; each worker opens its own state
            what.to_environment()
            _run_many(how, listener)


def _greet(app: "FastAPI", source: Path, host: str, port: int) -> None:
    """Print the agent and the address, and notices for the operator."""
    from recpolicy.server.auth.keys import ensure_operator_key
    from recpolicy.server.lifespan import champion_mismatch_notice

    state = app.state.server
    new_key = ensure_operator_key(state.store)
    at = f"[{host}]" if ":" in host else host
    print_text(f"serving {state.models.live.champion.agent}: http://{at}:{port}", flush=True)
    notices = champion_mismatch_notice(state, source), state.models.fault
    for line in (new_key and f"operator key, shown only now: {new_key}", *notices):
        if line:
            print_text(line, flush=True)


def _config(app: object, workers: int, backlog: int) -> "uvicorn.Config":
    import uvicorn

    from recpolicy.server.protocol import BoundedProtocol

    return uvicorn.Config(
        app, factory=isinstance(app, str), workers=workers, access_log=False, log_config=None, server_header=False,  # type: ignore[arg-type]
        http=BoundedProtocol, proxy_headers=False, timeout_graceful_shutdown=_SECONDS_TO_FINISH, timeout_keep_alive=30,
        backlog=backlog,
    )  # fmt: skip


def _listen(host: str, port: int, backlog: int) -> socket.socket:
    """Bind the port first, so that a port in use gives one line and no log."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose others with --host and --port"
        ) from None


def _run(config: "uvicorn.Config", listener: socket.socket) -> None:
    """Serve until a signal arrives. uvicorn raises the signal again at its end; a requested stop is not a failure."""
    import uvicorn

    server = uvicorn.Server(config)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, server.handle_exit)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        sys.exit(0)


def _run_many(config: "uvicorn.Config", listener: socket.socket) -> None:
    """Serve with several processes; uvicorn restarts those that die. SIGHUP ends them as SIGTERM does."""
    from uvicorn.supervisors import Multiprocess

    hang_up = signal.getsignal(signal.SIGHUP)
    supervisor = Multiprocess(config, sockets=[listener])
    ignored = hang_up is signal.SIG_IGN  # nohup
    signal.signal(
        signal.SIGHUP, signal.SIG_IGN if ignored else lambda *_: supervisor.signal_queue.append(signal.SIGTERM)
    )
    supervisor.run()


COMMANDS = (Command(serve, "Example:  recpolicy serve runs/linucb --port 8080"),)
