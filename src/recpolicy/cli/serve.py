"""`recpolicy serve`: a trained policy behind HTTP."""

import logging
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recpolicy.cli.command import Command
from recpolicy.core.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn

_SECONDS_TO_FINISH = 10


def serve(
    folder: Annotated[
        Path,
        typer.Argument(metavar="RUN", envvar="RECPOLICY_RUN", help="Folder that `recpolicy train --out` wrote."),
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8080,
) -> None:
    """Answer /v1/predict and /v1/recommend over HTTP until SIGTERM or Ctrl-C; docs/serving.md has the requests."""
    from recpolicy.core.extras import require_extra

    require_extra("serve", "recpolicy serve")
    import uvicorn

    from recpolicy.serving.predictor import load_policy
    from recpolicy.serving.service import make_app

    policy = load_policy(folder)
    config = uvicorn.Config(
        make_app(policy), access_log=False, log_config=None, server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_FINISH,
    )  # fmt: skip
    with _listen(host, port) as listener:
        _log_as_json()
        at = f"[{host}]" if ":" in host else host
        print(f"serving {policy.about['agent']}: http://{at}:{listener.getsockname()[1]}", flush=True)
        _run(uvicorn.Server(config), listener)


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before anything is said, so that one that is taken is one line and not a log."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose others with --host and --port"
        ) from None


def _log_as_json() -> None:
    """Requests are logged here, whatever --verbose says of the other commands."""
    from recpolicy.serving.service_log import JsonLines

    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines())
    logging.getLogger("recpolicy.serving").setLevel(logging.INFO)


def _run(server: "uvicorn.Server", listener: socket.socket) -> None:
    """Serve until told to stop. The server raises its signal again when it is done: being told is no failure."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        sys.exit(0)


COMMANDS = (Command(serve, "Example:  recpolicy serve runs/linucb --port 8080"),)
