"""Background work of a process during a rollout: write the counts, and compare the shadow challenger's answers."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from time import perf_counter

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from recpolicy.core.errors import RecpolicyError, UnknownIdError
from recpolicy.server.deps import AppState
from recpolicy.server.live_models import CHALLENGER, LiveState
from recpolicy.server.rank.slot_decisions import compare_ranks, decide_rank
from recpolicy.server.recommend import NO_EXPLORATION, choose
from recpolicy.server.rollout.counters import ShadowPair
from recpolicy.server.rollout.stage_metrics import VariantHealth

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
POLL_SECONDS = 0.05


def start_background(state: AppState) -> "list[asyncio.Task[None]]":
    """Start to write counts and to compare answers."""
    start = state.background.start
    return [
        start("rollout_counts", FLUSH_SECONDS, lambda: asyncio.to_thread(flush, state)),
        start("shadow_comparison", POLL_SECONDS, lambda: _compare_waiting(state)),
    ]


def flush(state: AppState) -> None:
    """Write the counts; keep them while the database does not answer."""
    live = state.models.live
    if state.store is None:
        return
    try:
        state.rollout_counters.counts.flush(state.store.engine)
        if live.challenger is not None and live.rollout is None:
            state.models.refresh()  # the database may not have answered when the challenger was loaded
    except (SQLAlchemyError, RecpolicyError, OSError) as error:
        logger.warning("the counts of the rollout are not written yet: %s", type(error).__name__)


def compare_next(state: AppState) -> bool:
    """Compare the oldest waiting pair; returns whether there was one."""
    pair = state.rollout_counters.shadow.next()
    if pair is None:
        return False
    health = compare_shadow(pair, state.settings.rollout.slow_ms)
    if pair.live.rollout is not None:
        state.rollout_counters.counts.add(pair.live.rollout, CHALLENGER, health)
    state.metrics.observe_shadow(health.failures, health.seconds, health.agreement, health.rating_difference)
    return True


def compare_shadow(pair: ShadowPair, slow_ms: float) -> VariantHealth:
    """Compare the challenger's answer with the champion's; a challenger that fails is counted."""
    answer = _rank_in_shadow if pair.live.champion.ranks else _list_in_shadow
    start = perf_counter()
    try:
        compare = answer(pair)
        seconds = perf_counter() - start
        agreement, difference = compare()
    except Exception:  # of any kind: no user waits for this answer
        return VariantHealth(1, 1, 0, perf_counter() - start)
    return VariantHealth(1, 0, int(1e3 * seconds > slow_ms), seconds, agreement, difference)


Comparison = Callable[[], tuple[float, float]]
"""Returns the agreement of two answers, and the difference of their estimates, challenger - champion."""


def _rank_in_shadow(pair: ShadowPair) -> Comparison:
    """Let the challenger rank the same actions; return the comparison."""
    shadow = decide_rank(_challenger_alone(pair.live), pair.request)
    return lambda: compare_ranks(pair.served, shadow)


def _list_in_shadow(pair: ShadowPair) -> Comparison:
    """Let the challenger make a list for the same request; return the comparison."""
    shadow = choose(_challenger_alone(pair.live), pair.request, NO_EXPLORATION, pair.users)

    def compare() -> tuple[float, float]:
        served, in_shadow = pair.served.item_ids, set(shadow.item_ids)
        agreement = sum(item in in_shadow for item in served) / max(len(served), 1)
        return agreement, _rating_difference(pair)

    return compare


def _challenger_alone(live: LiveState) -> LiveState:
    assert live.challenger is not None
    return replace(live, champion=live.challenger, challenger=None)


def _rating_difference(pair: ShadowPair) -> float:
    """Return the mean difference of the predicted ratings of the served items, challenger - champion.

    0 if the challenger knows none of the items.
    """
    assert pair.live.challenger is not None
    request, served, challenger = pair.request, pair.served, pair.live.challenger
    scorer, learned = challenger.scorer, pair.users.learned(challenger.trained, [request.user])
    context = None if request.context is None else np.array(request.context, np.float32)
    rating = scorer.predict_one(request.user, request.fold_in(), request.session(), context, learned).rating
    differences = []
    for item, champion_rating in zip(served.item_ids, served.ratings, strict=True):
        with suppress(UnknownIdError):
            baseline = np.nan if champion_rating is None else champion_rating
            differences.append(float(rating[scorer.item_row(item)]) - baseline)
    known = np.array(differences)[np.isfinite(differences)] if differences else np.empty(0)
    return float(known.mean()) if len(known) else 0.0


async def _compare_waiting(state: AppState) -> None:
    """Compare the pairs that wait; none can wait without a shadow challenger."""
    if not state.models.live.shadow:
        await asyncio.sleep(1.0)
        return
    while await asyncio.to_thread(compare_next, state):
        pass
