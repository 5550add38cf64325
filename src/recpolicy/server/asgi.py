"""One server process: what to serve comes as JSON in an environment variable, since workers are started afresh."""

import json
import logging
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from fastapi import FastAPI

from recpolicy.server.app import make_app
from recpolicy.server.gc_freeze import freeze_startup_objects
from recpolicy.server.json_logging import JsonFormatter
from recpolicy.server.lifespan import open_state, stateless_state
from recpolicy.server.settings import read_settings

OPTIONS_VARIABLE = "RECPOLICY_SERVE"


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What a server process serves."""

    source: str
    """Folder of a run or a registry."""
    state: str | None = None
    config: str | None = None
    store: bool = True

    def to_environment(self) -> None:
        """Let workers that are started from here know."""
        os.environ[OPTIONS_VARIABLE] = json.dumps(asdict(self))


def app() -> FastAPI:
    """The app of a worker; its state closes with it."""
    what = ServeOptions(**json.loads(os.environ[OPTIONS_VARIABLE]))
    log_as_json()
    with freeze_startup_objects():
        return open_app(what)


def open_app(what: ServeOptions) -> FastAPI:
    """Open the state and make the app, which closes it when it ends. Raises what `opened` raises."""
    # Event loop and writer hand the interpreter to and fro at each commit; every hand-over would wait Python's 5 ms.
    sys.setswitchinterval(0.0005)
    settings = read_settings(None if what.config is None else Path(what.config))
    stack, source = ExitStack(), Path(what.source)
    if what.store:
        state = stack.enter_context(open_state(source, None if what.state is None else Path(what.state), settings))
    else:
        state = stateless_state(source, settings)
    return make_app(state, close=stack.close)


def log_as_json() -> None:
    """Log requests and failures to stderr, one JSON object a line, whatever was set up before."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    for handler in root.handlers:
        handler.setFormatter(JsonFormatter())
    logging.getLogger("recpolicy").setLevel(logging.INFO)
