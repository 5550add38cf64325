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
from recpolicy.server.gc_freeze import loading
from recpolicy.server.json_logging import JsonLines
from recpolicy.server.lifespan import opened, without_store
from recpolicy.server.settings import read_settings

WHAT = "RECPOLICY_SERVE"


@dataclass(frozen=True, kw_only=True)
class What:
    """What a server process serves."""

    source: str
    """Folder of a run or a registry."""
    state: str | None = None
    config: str | None = None
    store: bool = True

    def to_environment(self) -> None:
        """Let workers that are started from here know."""
        os.environ[WHAT] = json.dumps(asdict(self))


def app() -> FastAPI:
    """The app of a worker; its state closes with it."""
    what = What(**json.loads(os.environ[WHAT]))
    log_as_json()
    with loading():
        return open_app(what)


def open_app(what: What) -> FastAPI:
    """Open the state and make the app, which closes it when it ends. Raises what `opened` raises."""
    # Event loop and writer hand the interpreter to and fro at each commit; every hand-over would wait Python's 5 ms.
    sys.setswitchinterval(0.0005)
    settings = read_settings(None if what.config is None else Path(what.config))
    stack, source = ExitStack(), Path(what.source)
    if what.store:
        state = stack.enter_context(opened(source, None if what.state is None else Path(what.state), settings))
    else:
        state = without_store(source, settings)
    return make_app(state, close=stack.close)


def log_as_json() -> None:
    """Log requests and failures to stderr, one JSON object a line, whatever was set up before."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    for handler in root.handlers:
        handler.setFormatter(JsonLines())
    logging.getLogger("recpolicy").setLevel(logging.INFO)
