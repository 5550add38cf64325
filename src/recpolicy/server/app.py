"""The ASGI app of the server.

`make_app(state)` suits any ASGI server; `recpolicy serve` opens the state (lifespan.py) and runs it. Every error has
the shape {"error": {"code", "message"}}. Pages load nothing from another host.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from functools import cached_property, partial
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from recpolicy.server.allocator import TRIM_SECONDS, release_free_memory
from recpolicy.server.allowed_hosts import default_hosts
from recpolicy.server.auth.keys import load_keys
from recpolicy.server.deps import AppState
from recpolicy.server.errors import handle_errors
from recpolicy.server.jobs import JOBS
from recpolicy.server.jobs.scheduler import Scheduler
from recpolicy.server.live_models import WATCH_SECONDS
from recpolicy.server.middleware import RequestMiddleware
from recpolicy.server.online.learner import learning
from recpolicy.server.online.rank_learner import rank_learning
from recpolicy.server.processes import connection_bounds, raise_open_files
from recpolicy.server.protocol import Connections
from recpolicy.server.rank.service import FOLLOW_SECONDS
from recpolicy.server.recommend import fast_path as recommend_fast_path
from recpolicy.server.recommend import router as recommend_router
from recpolicy.server.rollout.background import flush, start_background
from recpolicy.server.routes import (
    admin_jobs,
    admin_keys,
    admin_rollouts,
    admin_users,
    admin_versions,
    console,
    feedback,
    health,
    open_inference,
    personalizer,
    personalizer_admin,
    personalizer_evaluations,
    policy,
    rank,
    strategies,
)
from recpolicy.server.schemas.admin import ADMIN_ERROR_RESPONSES
from recpolicy.server.strategies.service import FOLLOW_SECONDS as STRATEGY_SECONDS

VERSION = "1"
GAUGE_SECONDS = 1.0
BACKGROUND: tuple[Callable[[AppState], AbstractContextManager[None]], ...] = (learning, rank_learning)
"""Services that start with the app and stop with it, in reverse order."""


class App(FastAPI):
    """FastAPI with RequestMiddleware outermost, so the middleware's answers skip all of FastAPI."""

    @cached_property
    def _request_middleware(self) -> RequestMiddleware:
        """The middleware, made at the first request."""
        state: AppState = self.state.server
        fast_paths = dict(recommend_fast_path(state))
        for routes in (policy, rank, strategies):
            fast_paths |= routes.fast_path(state)
        return RequestMiddleware(
            super().__call__,
            state.metrics.observe_request,
            self.state.keys,
            state.settings.limits,
            fast_paths,
            self.state.allowed_hosts,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._request_middleware(scope, receive, send)


def make_app(state: AppState, close: Callable[[], None] = lambda: None, listening_on: str | None = None) -> FastAPI:
    """Return the app of an open state.

    Args:
        state: The state.
        close: Called at shutdown.
        listening_on: Address of the server. On loopback, only requests to loopback's names are answered, unless
            the setting `allowed_hosts` has other names. None: requests to any name.
    """
    app = App(
        title="recpolicy", version=VERSION, summary="Recommend items by a trained policy, and collect feedback.",
        docs_url=None, redoc_url=None, lifespan=_life, redirect_slashes=False,
    )  # fmt: skip
    app.state.server, app.state.close = state, close
    default = () if listening_on is None else default_hosts(listening_on)
    app.state.allowed_hosts = state.settings.limits.allowed_hosts or default
    app.state.scheduler = Scheduler(state, JOBS)
    app.state.keys = load_keys(None if state.store is None else state.store.engine)
    for router in (
        health.router,
        recommend_router,
        policy.router,
        feedback.router,
        rank.router,
        strategies.router,
        console.router,
        policy.prediction_routes(state.settings.prediction.model_name),
        open_inference.open_inference_routes(state.settings.prediction.model_name),
    ):
        app.include_router(router)
    for prefix in personalizer.PREFIXES:
        for routes in (personalizer.router, personalizer_admin.router, personalizer_evaluations.router):
            app.include_router(routes, prefix=prefix, include_in_schema=prefix == personalizer.PREFIXES[-1])
    for admin in (admin_versions, admin_rollouts, admin_keys, admin_jobs, admin_users):
        app.include_router(admin.router, responses=ADMIN_ERROR_RESPONSES)
    handle_errors(app)
    return app


async def follow_settings(state: AppState) -> None:
    """Read the settings of ranks that an operator has set in any process."""
    if state.store is not None and not state.store.writer.down:
        await asyncio.to_thread(state.rank.load, state.store.engine)


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Run the background services while the app runs; yield what the protocol (protocol.py) needs: the
    limits, and a count of connections."""
    state: AppState = app.state.server
    follow, keep_gauges = state.models.follow_registry, partial(health.set_gauges, state)
    tasks = [
        state.background.start("registry_watch", WATCH_SECONDS, follow),
        state.background.start("gauges", GAUGE_SECONDS, keep_gauges),
        state.background.start("memory_release", TRIM_SECONDS, release_free_memory),
        state.background.start("rank_settings", FOLLOW_SECONDS, partial(follow_settings, state)),
        *start_background(state),
    ]
    if state.strategies is not None:
        tasks.append(state.background.start("strategies_watch", STRATEGY_SECONDS, state.strategies.follow))
    with ExitStack() as stack:
        stack.callback(app.state.close)
        stack.callback(flush, state)
        for begin in BACKGROUND:
            stack.enter_context(begin(state))
        stack.enter_context(app.state.scheduler.running())
        try:
            connections = Connections(state.settings.limits, connection_bounds(raise_open_files())[0])
            yield {"limits": state.settings.limits, "connections": connections}
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await asyncio.to_thread(stack.close)
