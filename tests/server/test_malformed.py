"""A thousand requests, made up from what the OpenAPI page says and from its opposite: no answer may be a 5xx."""

import json

import pytest
import schemathesis
import schemathesis.specs.openapi.schemas
from client_helpers import served
from hypothesis import HealthCheck, Phase, given, settings
from ranking import ValuePolicy, ranking
from schemathesis import GenerationMode

from recpolicy.server.settings import LimitsConfig, OnlineConfig, Settings

PUBLIC = (
    "/v1/predict", "/v1/recommend", "/v1/recommend/batch", "/v1/feedback", "/v1/feedback/batch",
    "/v1/models/recpolicy:predict", "/v2/models/recpolicy/infer", "/v1/console/users", "/v1/console/items",
    "/v1/console/estimates",
)  # fmt: skip
EACH = 60
"""Of each kind at each path."""


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    # Learning would read arrays in its thread while hypothesis parses lambdas: CPython 3.11 cannot do both at once.
    settled = OnlineConfig(enabled=False)
    patient = Settings(limits=LimitsConfig(rate=1e6, burst=10**6), online=settled)
    with served(tmp_path_factory.mktemp("state"), settings=patient) as app:
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


RANKS = (
    "/v1/rank", "/v1/events/{event_id}/reward", "/v1/events/{event_id}/activate", "/personalizer/rank",
    "/personalizer/multislot/rank", "/personalizer/events/{event_id}/reward",
    "/personalizer/multislot/events/{event_id}/reward",
)  # fmt: skip


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """The schema of a server that ranks."""
    with ranking(tmp_path_factory.mktemp("ranks") / "registry", ValuePolicy()) as app:
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("path", RANKS)
@pytest.mark.parametrize("kind", [GenerationMode.NEGATIVE, GenerationMode.POSITIVE])
def test_no_rank_makes_the_server_fail(ranks, path, kind):
    call_all(ranks, path, kind, 20)


@pytest.mark.parametrize("path", PUBLIC)
@pytest.mark.parametrize("kind", [GenerationMode.NEGATIVE, GenerationMode.POSITIVE])
def test_no_request_makes_the_server_fail_and_every_refusal_has_the_shape(schema, path, kind):
    call_all(schema, path, kind)


def call_all(schema, path, kind, number=EACH):
    """Send requests of one kind to a path and check the answers."""
    asked = []

    @given(schema[path]["POST"].as_strategy(generation_mode=kind))
    @settings(
        max_examples=number, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def each(case):
        response = case.call()
        asked.append(response.status_code)
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert set(json.loads(response.content)["error"]) == {"code", "message"}

    each()
    assert len(asked) >= 0.95 * number  # in all more than a thousand
