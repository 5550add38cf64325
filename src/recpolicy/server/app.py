"""The server as an ASGI app.

`make_app(state)` for any ASGI server; `recpolicy serve` opens the state (opening.py) and runs it. Every error has the
shape {"error": {"code", "message"}}. No page loads anything from elsewhere.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, suppress

from fastapi import FastAPI
from starlette.types import ASGIApp

from recpolicy.server.auth.keys import load_keys
from recpolicy.server.deps import AppState
from recpolicy.server.errors import handle_errors
from recpolicy.server.jobs.all_jobs import JOBS
from recpolicy.server.jobs.scheduler import Scheduler
from recpolicy.server.middleware import RequestMiddleware
from recpolicy.server.online.learner import learning
from recpolicy.server.rate_limit import LimitsConfig
from recpolicy.server.rollout.background import run_background
from recpolicy.server.routes import (
    admin_audit,
    admin_jobs,
    admin_keys,
    admin_rollouts,
    admin_versions,
    console,
    feedback,
    health,
    policy,
)
from recpolicy.server.routes.prediction_servers import prediction_routes
from recpolicy.server.schemas.admin import ADMIN_ERROR_RESPONSES

VERSION = "1"
BACKGROUND: tuple[Callable[[AppState], AbstractContextManager[None]], ...] = (learning,)
"""What runs beside the requests, one line each: begins with the app and ends with it, the last one first."""


class App(FastAPI):
    """FastAPI with the guard outermost: what is answered there does not pay for the layers within."""

    def build_middleware_stack(self) -> ASGIApp:
        """Build the layers, once, at the first request."""
        here: AppState = self.state.server
        inner = super().build_middleware_stack()
        return RequestMiddleware(
            inner, here.metrics.answered, self.state.keys, here.settings.limits, policy.fast_paths(here)
        )


def make_app(state: AppState, close: Callable[[], None] = lambda: None) -> FastAPI:
    """The app of an open state; `close` is called when it ends."""
    app = App(
        title="recpolicy", version=VERSION, summary="Recommendations of a trained policy, and what came of them.",
        docs_url=None, redoc_url=None, lifespan=_life,
    )  # fmt: skip
    app.state.server, app.state.close = state, close
    app.state.scheduler = Scheduler(state, JOBS)
    app.state.keys = load_keys(None if state.store is None else state.store.engine)
    for router in (health.router, policy.router, feedback.router, console.router, prediction_routes()):
        app.include_router(router)
    for admin in (admin_versions, admin_rollouts, admin_keys, admin_audit, admin_jobs):
        app.include_router(admin.router, responses=ADMIN_ERROR_RESPONSES)
    handle_errors(app)
    return app


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[dict[str, LimitsConfig]]:
    """While the app runs, changes of the registry are taken over, and counts of a rollout written.

    Yields what the protocol must know.
    """
    state: AppState = app.state.server
    watching = asyncio.gather(state.policies.watch(), run_background(state))
    with ExitStack() as stack:
        stack.callback(app.state.close)
        for begin in BACKGROUND:
            stack.enter_context(begin(state))
        stack.enter_context(app.state.scheduler.running())
        try:
            yield {"limits": state.settings.limits}
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await asyncio.to_thread(stack.close)
