"""Choosing while a challenger is tried: what it fails to answer the champion answers, and both are counted.

A request fails only where the champion fails: then it is the caller's fault, or the champion's, and not counted against
the challenger. The champion's answer in place of a challenger's is no part of the comparison: its event names no
rollout, for its user is one of the challenger's.
"""

import logging
from dataclasses import replace
from time import perf_counter

from recpolicy.server.db.events import key_of
from recpolicy.server.deps import AppState
from recpolicy.server.json_logging import exception_location
from recpolicy.server.live_models import CHALLENGER, CHAMPION, LiveState
from recpolicy.server.recommend import Chosen, choose
from recpolicy.server.rollout.stage_metrics import VariantHealth
from recpolicy.server.schemas.requests import RecommendRequest

logger = logging.getLogger(__name__)


def choose_safely(here: AppState, asked: RecommendRequest, live: LiveState) -> Chosen:
    """As `choose`, whatever the challenger does; raises what the champion raises."""
    exploration = here.settings.exploration
    if live.challenger is None:
        return choose(live, asked, exploration)
    begun = perf_counter()
    try:
        chosen = choose(live, asked, exploration)
    except Exception as error:
        took = perf_counter() - begun
        if live.variant_for(key_of(asked.user))[1] == CHAMPION:
            raise
        chosen = choose(replace(live, challenger=None, rollout=None), asked, exploration)
        _count(here, live, CHALLENGER, took, failed=True)
        logger.warning("the challenger failed, the champion answered", extra={"fields": exception_location(error)})
        return chosen
    _count(here, live, chosen.row["variant"], perf_counter() - begun)
    here.rollout_counters.shadow.offer(live, asked, chosen, here.settings.rollout.shadow_sample)
    return chosen


def _count(here: AppState, live: LiveState, variant: str, seconds: float, *, failed: bool = False) -> None:
    """Count one answer of a variant."""
    slow = 1e3 * seconds > here.settings.rollout.slow_ms
    health = VariantHealth(1, int(failed), int(slow), seconds)
    here.metrics.chose(variant, health.failures, seconds)
    if live.rollout is not None:
        here.rollout_counters.counts.add(live.rollout, variant, health)
