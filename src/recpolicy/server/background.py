"""The background tasks of a server process: readiness and liveness report them, and no error ends them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

WRITER = "writer"
"""Without this task, the process cannot answer recommendations."""


class BackgroundTasks:
    """The background tasks of a process by name."""

    def __init__(self) -> None:
        self._tasks: dict[str, Callable[[], bool]] = {}

    def add(self, name: str, is_alive: Callable[[], bool]) -> None:
        """Report a task; `is_alive` returns True while it runs."""
        self._tasks[name] = is_alive

    def ended(self) -> list[str]:
        """Return the names of the tasks that have ended."""
        return [name for name, is_alive in self._tasks.items() if not is_alive()]

    def start(self, name: str, seconds: float, step: Callable[[], Awaitable[object]]) -> "asyncio.Task[None]":
        """Start to call `step` every few seconds, as a task of the event loop, until it is cancelled.

        An error is logged, but not again until a call has succeeded.
        """
        task = asyncio.create_task(_repeat(name, seconds, step), name=f"recpolicy-{name}")
        self.add(name, lambda: not task.done())
        return task


async def _repeat(name: str, seconds: float, step: Callable[[], Awaitable[object]]) -> None:
    failing = False
    while True:
        await asyncio.sleep(seconds)
        try:
            await step()
            failing = False
        except Exception:
            if not failing:
                logger.exception("%s failed; it goes on", name)
            failing = True
