"""What a process does beside its requests while it runs: write its counts, and compare what a shadow would show."""

import asyncio
import logging

from sqlalchemy.exc import SQLAlchemyError

from recpolicy.core.errors import RecpolicyError
from recpolicy.server.deps import AppState
from recpolicy.server.live_models import CHALLENGER
from recpolicy.server.rollout.shadow import compare_shadow

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
LOOK_SECONDS = 0.05


async def run_background(state: AppState) -> None:
    """Until cancelled; what was counted is then written."""
    try:
        await asyncio.gather(_flush_for_ever(state), _compare_for_ever(state))
    finally:
        await asyncio.to_thread(flush, state)


def flush(state: AppState) -> None:
    """Write the counts; while the database does not answer they are kept."""
    live = state.policies.live
    if state.store is None:
        return
    try:
        state.rollout_counters.counts.flush(state.store.engine)
        if live.challenger is not None and live.rollout is None:
            state.policies.refresh()  # the database may not have told the rollout when the challenger was loaded
    except (SQLAlchemyError, RecpolicyError, OSError) as error:
        logger.warning("the counts of the variants wait: %s", type(error).__name__)


def compare_next(state: AppState) -> bool:
    """Compare the pair that has waited longest; returns whether there was one."""
    pair = state.rollout_counters.shadow.next()
    if pair is None:
        return False
    health = compare_shadow(pair, state.settings.rollout.slow_ms)
    if pair.live.rollout is not None:
        state.rollout_counters.counts.add(pair.live.rollout, CHALLENGER, health)
    state.metrics.shadowed(health.failures, health.seconds, health.agreement, health.gap)
    return True


async def _flush_for_ever(state: AppState) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        await asyncio.to_thread(flush, state)


async def _compare_for_ever(state: AppState) -> None:
    while True:
        if not state.policies.live.shadow:
            await asyncio.sleep(1.0)
        elif not await asyncio.to_thread(compare_next, state):
            await asyncio.sleep(LOOK_SECONDS)
