"""The answer of a request's variant during a rollout, for lists and for ranks.

The unit of a request, such as its user, decides the variant. If the challenger fails, the champion answers, so a
rollout fails no request that the champion would answer.
"""

import logging
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from recpolicy.core.errors import SessionError
from recpolicy.server.deps import AppState
from recpolicy.server.json_output import exception_location
from recpolicy.server.live_models import CHALLENGER, CHAMPION, LiveState, without_challenger
from recpolicy.server.rollout.stage_metrics import VariantHealth

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")


def answer_by_variant(state: AppState, live: LiveState, unit: str, answer: Callable[[LiveState], Answer]) -> Answer:
    """Return the answer of the unit's variant, or the champion's if the challenger fails; count both in a rollout.

    An answer in place of the challenger's is not part of the comparison: it comes from a state without a rollout.

    Args:
        state: The state of the server.
        live: The live versions.
        unit: The key that `live.variant_for` takes.
        answer: Returns the answer of a state of the live versions.

    Raises:
        Exception: What the champion raises. Then the caller or the champion is at fault, and nothing counts against the
            challenger.
    """
    if live.challenger is None:
        return answer(live)
    variant, start = live.variant_for(unit)[1], perf_counter()
    try:
        result = answer(live)
    except SessionError:  # the caller is at fault, whatever the variant
        raise
    except Exception as error:
        seconds = perf_counter() - start
        if variant == CHAMPION:
            raise
        result = answer(without_challenger(live))
        _count(state, live, CHALLENGER, seconds, failed=True)
        logger.warning("the challenger failed, the champion answered", extra={"fields": exception_location(error)})
        return result
    _count(state, live, variant, perf_counter() - start)
    return result


def _count(state: AppState, live: LiveState, variant: str, seconds: float, *, failed: bool = False) -> None:
    """Count one answer of a variant."""
    slow = 1e3 * seconds > state.settings.rollout.slow_ms
    health = VariantHealth(1, int(failed), int(slow), seconds)
    state.metrics.observe_choice(variant, health.failures, seconds)
    if live.rollout is not None:
        state.rollout_counters.counts.add(live.rollout, variant, health)
