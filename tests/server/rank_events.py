"""Ranked events for tests, without a server that ranked them."""

import json

import numpy as np

from recpolicy.server.db.events import id_key, new_event_id
from recpolicy.server.db.rank_events import RankEvent, row_digest


def rank_event(user=None, actions=("a", "b"), **fields):
    """Return the event of a rank of these actions; each has its id as a feature."""
    rows = tuple(json.dumps({"id": name, "features": {"name": name}}) for name in actions)
    count = len(rows)
    defaults = {
        "id": new_event_id(), "slot": 0, "slot_id": None, "time": 1_000_000,
        "user_key": None if user is None else id_key(user), "version": 1, "policy_digest": "c" * 64,
        "agent": "squarecb", "mode": "online", "context": json.dumps({"hour": 20}),
        "offers": b"".join(map(row_digest, rows)), "probabilities": np.full(count, 1 / count).tobytes(),
        "ranking": np.arange(count).astype("<u2").tobytes(), "imitated": None, "request_digest": "d" * 32,
        "online": True,
        "activated_at": 1_000_000, "variant": "champion", "rollout": None, "task": None,
        "guardrails": None, "rows": rows,
    }  # fmt: skip
    return RankEvent(**defaults | fields)
