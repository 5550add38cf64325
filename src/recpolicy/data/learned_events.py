"""The events that a policy has learned from, as sorted 64-bit hashes, to refuse logs that share an event with them.

N events of a log. An event is known by its id, which every cut of a raw log keeps. Users, rewards and row numbers play
no part, since they depend on the tables and on the settings of the ingest. Only hashes are kept, so an artifact does
not contain the ids.

Hashes are uniform: n learned and m evaluated events that are all different share n m / 2^64 hashes on average. That is
5e-8 for a million each, so that one shared hash is proof; `min_matches` gives the count for larger logs.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.hashes import MAX_HASHES, Hashes, text_hashes
from recpolicy.core.types import Bools

if TYPE_CHECKING:
    from recpolicy.data.bandit_log import BanditLog
    from recpolicy.data.feature_log import FeatureLog
    from recpolicy.data.session_log import SessionLog
    from recpolicy.data.slate_log import SlateLog

FALSE_REFUSALS = 1e-6
"""Largest probability that a log without a learned event is refused."""
_SLOT = r":[0-9]+$"


def log_events(log: "BanditLog | SlateLog | SessionLog | FeatureLog") -> Hashes:
    """Return the hashes of a log's events, sorted, each once.

    The slots of a slate are rounds of one event: a policy that learned from one of them knows the slate.
    """
    from_slates = getattr(log, "slate_digest", None) is not None
    return np.unique(text_hashes(_without_slot(log.event_id) if from_slates else log.event_id))


def is_learned(log: "FeatureLog", learned: Hashes) -> Bools:
    """Return the mask [N] of the rounds whose event is among the learned ones, which are sorted."""
    if not len(learned):
        return np.zeros(len(log), bool)
    events = text_hashes(log.event_id)
    place = np.minimum(np.searchsorted(learned, events), len(learned) - 1)
    return np.asarray(learned[place] == events)


def file_events(path: Path) -> Hashes:
    """Return the hashes of the events in a file of rounds, sorted, each once."""
    import pyarrow.parquet as pq

    from recpolicy.data.log_metadata import read_metadata

    ids = pq.read_table(path, columns=["event_id"])["event_id"].to_numpy()
    from_slates = read_metadata(path).get("slate_digest") is not None
    return np.unique(text_hashes(_without_slot(ids) if from_slates else ids))


def merge(*parts: Hashes) -> Hashes:
    """Return all hashes, sorted, each once; raise DataError for more than an artifact may hold."""
    hashes: Hashes = np.sort(np.concatenate([np.empty(0, np.uint64), *parts]), kind="stable")  # quick for sorted parts
    hashes = hashes[np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]]
    if len(hashes) > MAX_HASHES:
        raise DataError(
            f"the policy and its ancestors have learned from {len(hashes):,} events; an artifact keeps at most"
            f" {MAX_HASHES:,}: train a new policy on the later events"
        )
    return hashes


def min_matches(learned: int, evaluated: int) -> int:
    """Return the smallest number of shared hashes that is proof: chance reaches it with at most FALSE_REFUSALS.

    Args:
        learned: Number of hashes of the policy.
        evaluated: Number of hashes of the log.
    """
    mean = learned * evaluated / 2.0**64
    matches, term = 1, mean * math.exp(-mean)  # P(Poisson(mean) = matches)
    while _tail(matches, term, mean) > FALSE_REFUSALS:
        matches += 1
        term *= mean / matches
    return matches


def _tail(matches: int, term: float, mean: float) -> float:
    """Return a bound of P(Poisson(mean) >= matches) for matches above the mean, by a geometric series; else 1."""
    ratio = mean / (matches + 1)
    return 1.0 if ratio >= 1 else term / (1 - ratio)


def _without_slot(ids: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return the ids [N] of the slates of rounds EVENT:SLOT."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.replace_substring_regex(pa.array(ids, pa.large_string()), _SLOT, "")
    return np.asarray(texts.to_numpy(zero_copy_only=False), object)
