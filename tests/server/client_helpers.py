"""Asking an app in this process, and opening one over a tiny policy."""

import asyncio
from contextlib import contextmanager

import httpx
from trained_policies import trained
from unlimited import UNLIMITED

from recpolicy.server.app import make_app
from recpolicy.server.lifespan import open_state
from recpolicy.server.schemas.responses import ErrorResponse


def ask(app, method, path, body=None, **words):
    """One request, answered in this process; an exception that the app lets out fails the test."""

    async def one():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.request(method, path, json=body, **words)

    return asyncio.run(one())


def refusal(answer, status, code):
    """The message of a refusal, which must have the documented shape."""
    assert answer.status_code == status, answer.text
    error = ErrorResponse.model_validate(answer.json(), extra="forbid").error
    assert error.code == code
    return error.message


@contextmanager
def served(folder, agent="linucb", settings=None):
    """The app of a tiny policy over a new store."""
    with open_state(trained(agent), folder, settings or UNLIMITED) as state:
        yield make_app(state)
