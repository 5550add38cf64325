"""Events for tests: what was shown to whom, without a policy behind it."""

from recpolicy.server.db.events import Event, new_event_id


def event(user=1, items=(7, 8), **words):
    """An event of some items."""
    given = {
        "id": new_event_id(), "time": 1_000_000, "user": user, "version": 1, "content": "c" * 64, "agent": "linucb",
        "variant": "champion", "rollout": None, "explored": False, "items": items,
        "propensities": [0.1 + 0.2] * len(items), "ratings": [4.25] * len(items),
    }  # fmt: skip
    return Event(**(given | words))
