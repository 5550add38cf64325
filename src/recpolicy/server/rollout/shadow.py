"""A shadow challenger: what it would have shown is computed beside the answers, for some requests, and compared.

Nobody waits for it and nobody sees it. Few requests may wait for their comparison; more are dropped, and that is
counted. Lists that the champion drew to explore are not compared.
"""

import queue
import random
from contextlib import suppress
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from recpolicy.core.errors import UnknownIdError
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.server.live_models import CHALLENGER, LiveState
from recpolicy.server.recommend import Chosen, choose
from recpolicy.server.rollout.counters import VariantCounts
from recpolicy.server.rollout.stage_metrics import VariantHealth
from recpolicy.server.schemas.requests import RecommendRequest

WAITING = 32
"""Comparisons that may wait."""
_GREEDY = ExplorationConfig(share=0.0)


@dataclass(frozen=True)
class ShadowPair:
    """A request that the champion has answered."""

    live: LiveState
    asked: RecommendRequest
    answered: Chosen


class ShadowQueue:
    """The comparisons that wait in one process; safe to use from several threads."""

    def __init__(self, counts: VariantCounts):
        self._counts = counts
        self._waiting: queue.Queue[ShadowPair] = queue.Queue(WAITING)

    def offer(self, live: LiveState, asked: RecommendRequest, answered: Chosen, sample: float) -> None:
        """Have this share of the requests compared; returns at once and never raises."""
        if not live.shadow or live.challenger is None or answered.row["explored"] or random.random() >= sample:
            return
        try:
            self._waiting.put_nowait(ShadowPair(live, asked, answered))
        except queue.Full:
            if live.rollout is not None:
                self._counts.add(live.rollout, CHALLENGER, VariantHealth(dropped=1))

    def next(self) -> ShadowPair | None:
        """The pair that has waited longest; None where none waits."""
        with suppress(queue.Empty):
            return self._waiting.get_nowait()
        return None


def compare_shadow(pair: ShadowPair, slow_ms: float) -> VariantHealth:
    """What the challenger would have shown beside what the champion showed; a challenger that fails is counted."""
    assert pair.live.challenger is not None
    begun = perf_counter()
    try:
        chosen = choose(replace(pair.live, champion=pair.live.challenger, challenger=None), pair.asked, _GREEDY)
        took = perf_counter() - begun
        gap = _gap(pair)
    except Exception:  # whatever it is: nobody waits for this answer
        return VariantHealth(1, 1, 0, perf_counter() - begun)
    shown, would_show = pair.answered.item_ids, set(chosen.item_ids)
    agreement = sum(item in would_show for item in shown) / max(len(shown), 1)
    return VariantHealth(1, 0, int(1e3 * took > slow_ms), took, agreement, gap)


def _gap(pair: ShadowPair) -> float:
    """Mean difference of the predicted ratings of the items shown, challenger - champion; 0 where they share none."""
    assert pair.live.challenger is not None
    scorer, asked = pair.live.challenger.scorer, pair.asked
    context = None if asked.context is None else np.array(asked.context, np.float32)
    rating = scorer.predict_one(asked.user, asked.fold_in(), asked.session(), context).rating
    answered, gaps = pair.answered, []
    for item, its in zip(answered.item_ids, answered.ratings, strict=True):
        with suppress(UnknownIdError):
            gaps.append(float(rating[scorer.item_row(item)]) - (np.nan if its is None else its))
    known = np.array(gaps)[np.isfinite(gaps)] if gaps else np.empty(0)
    return float(known.mean()) if len(known) else 0.0
