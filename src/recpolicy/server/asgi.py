"""One server process: workers start in new processes and read their options as JSON from an environment variable."""

import json
import logging
import os
import signal
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from fastapi import FastAPI

from recpolicy.server import freeze_startup_objects
from recpolicy.server.allocator import limit_arenas
from recpolicy.server.app import make_app
from recpolicy.server.json_output import JsonFormatter
from recpolicy.server.lifespan import open_state, stateless_state
from recpolicy.server.log_output import BackgroundHandler
from recpolicy.server.processes import end_with_parent
from recpolicy.server.settings import read_settings

OPTIONS_VARIABLE = "RECPOLICY_SERVE"


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The source, folder and settings of a server process."""

    source: str
    """Folder of a run or a registry."""
    state: str | None = None
    config: str | None = None
    store: bool = True
    host: str | None = None
    """Address that the server listens on."""

    def to_environment(self) -> None:
        """Write the options to the environment, where the workers read them."""
        os.environ[OPTIONS_VARIABLE] = json.dumps(asdict(self))


def app() -> FastAPI:
    """Return the app of a worker; the state closes with the app. The parent process ends its workers by SIGTERM, so a
    terminal that closes does not end them first.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    what = ServeOptions(**json.loads(os.environ[OPTIONS_VARIABLE]))
    end_with_parent()
    log_as_json()
    with freeze_startup_objects():
        return open_app(what)


def open_app(what: ServeOptions) -> FastAPI:
    """Open the state and make an app that closes it at shutdown; raises what `open_state` raises."""
    # Event loop and writer hand over the interpreter at each commit; by default, each hand-over waits 5 ms.
    sys.setswitchinterval(0.0005)
    limit_arenas()
    settings = read_settings(None if what.config is None else Path(what.config))
    source = Path(what.source)
    with ExitStack() as stack:
        if what.store:
            state = stack.enter_context(open_state(source, None if what.state is None else Path(what.state), settings))
        else:
            state = stateless_state(source, settings)
        app = make_app(state, listening_on=what.host)
        app.state.scheduler.crons()  # a wrong schedule is reported before the server starts
        app.state.close = stack.pop_all().close
    return app


def log_as_json() -> None:
    """Log requests and failures as one JSON object per line, to stderr by a thread; other log handlers stay."""
    # A line has none of these; to look them up takes longer than to write it (Python's logging HOWTO, Optimization).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler:  # the command line's; it would wait for a reader of stderr
            root.removeHandler(handler)
    if not root.handlers:
        root.addHandler(BackgroundHandler())
    for handler in root.handlers:
        handler.setFormatter(JsonFormatter())
    logging.getLogger("recpolicy").setLevel(logging.INFO)
