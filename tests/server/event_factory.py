"""Events for tests, without a policy that recommended them."""

import json

from recpolicy.server.db.events import Event, id_key, new_event_id


def event(user=1, items=(7, 8), **fields):
    """Return an event of some items."""
    defaults = {
        "id": new_event_id(), "time": 1_000_000, "user_key": id_key(user), "version": 1, "policy_digest": "c" * 64,
        "agent": "linucb", "variant": "champion", "rollout": None, "explored": False,
        "item_ids": list(items), "propensities": [0.1 + 0.2] * len(items), "ratings": [4.25] * len(items),
    }  # fmt: skip
    columns = defaults | fields
    texts = {name: json.dumps(list(columns[name])) for name in ("item_ids", "propensities", "ratings")}
    return Event(**(columns | texts))
