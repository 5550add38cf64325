"""A server whose users learn, over tiny policies; no TensorFlow."""

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from api_keys import bearing, key_for
from client_helpers import ask
from sqlalchemy import select
from tiny_policies import write_tiny
from unlimited import UNLIMITED

from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.server.app import make_app
from recpolicy.server.db.schema import events, user_ratings
from recpolicy.server.lifespan import open_state
from recpolicy.server.settings import UsersConfig

QUIET = replace(UNLIMITED, exploration=ExplorationConfig(share=0.0))


def settings_of(mode="learn", **more):
    """Settings of a mode, without exploration."""
    return replace(QUIET, users=UsersConfig(mode=mode, **more))


@contextmanager
def learning(folder, mode="learn", source=None, **more):
    """The app of a tiny policy, or of a source, in a mode."""
    source = source or (folder / "run" if (folder / "run").exists() else write_tiny(folder / "run"))
    with open_state(source, folder / "state", settings_of(mode, **more)) as state:
        yield make_app(state)


class Client:
    """A caller with a key of the role client."""

    def __init__(self, app):
        self.app, self._headers = app, bearing(key_for(app, "client"))

    def recommend(self, user, **words):
        """The answer to a request for three items of a user."""
        answer = ask(self.app, "POST", "/v1/recommend", {"user": user, "k": 3, **words})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def send(self, event_id, item, value=None, type="rating"):
        """The answer to feedback on an item."""
        body = {"event_id": event_id, "item": item, "type": type}
        body |= {} if value is None else {"value": value}
        return ask(self.app, "POST", "/v1/feedback", body, headers=self._headers)

    def rate(self, user, *ratings):
        """Rate the items of the next lists of a user, each list's first one by the next rating; return the items."""
        items = []
        for rating in ratings:
            shown = self.recommend(user)
            items.append(shown["items"][0]["item_id"])
            assert self.send(shown["event_id"], items[-1], rating).json()["status"] == "accepted"
        return items


def contexts(engine, user):
    """The logged contexts of a user's events, oldest first; None where there is none."""
    with engine.connect() as connection:
        rows = connection.execute(select(events).where(events.c.user_key == json.dumps(user)).order_by(events.c.seq))
        return [None if row.context is None else np.frombuffer(row.context, np.float32) for row in rows]


def stored_ratings(engine, user):
    """The ratings in the store that move a user's posterior: (item, rating) in order."""
    with engine.connect() as connection:
        mine = select(user_ratings).where(user_ratings.c.user_key == json.dumps(user)).order_by(user_ratings.c.seq)
        return [(json.loads(row.item), row.rating) for row in connection.execute(mine)]


def shown(answer):
    """Everything that an answer says of its items."""
    return answer["items"], answer.get("posterior")
