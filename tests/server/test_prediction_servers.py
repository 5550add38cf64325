"""KServe and other prediction servers: the model's name, numbers written as floats, version 2 of the protocol."""

import pytest
from client_helpers import ask, refusal
from trained_policies import loaded, trained
from unlimited import UNLIMITED

from recpolicy.core.errors import ConfigError
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.server.app import make_app
from recpolicy.server.lifespan import stateless_state
from recpolicy.server.schemas.inference import InferenceResponse, ModelMetadata
from recpolicy.server.settings import PredictionConfig, Settings


def app_of(**prediction):
    settings = Settings(
        limits=UNLIMITED.limits, exploration=ExplorationConfig(share=0.0), prediction=PredictionConfig(**prediction)
    )
    return make_app(stateless_state(trained("linucb"), settings))


@pytest.fixture(scope="module")
def app():
    return app_of()


def tensor(name, *data, datatype="INT64", shape=None):
    return {"name": name, "shape": [len(data)] if shape is None else shape, "datatype": datatype, "data": [*data]}


def infer(app, *inputs, **more):
    return ask(app, "POST", "/v2/models/recpolicy/infer", {"inputs": [*inputs], **more})


@pytest.mark.parametrize("version", ["/v1/models", "/v2/models"])
def test_the_name_of_the_model_is_a_setting(app, version):
    named = app_of(model_name="my-recs")
    assert ask(named, "GET", f"{version}/my-recs").json()["name"] == "my-recs"
    refusal(ask(named, "GET", f"{version}/recpolicy"), 404, "not_found")
    body = {"instances": [{"user": 3, "k": 2}]}
    assert len(ask(named, "POST", "/v1/models/my-recs:predict", body).json()["predictions"][0]["items"]) == 2
    refusal(ask(named, "POST", "/v1/models/recpolicy:predict", body), 404, "not_found")
    assert ask(named, "GET", "/v1/models").json() == {"models": ["my-recs"]}
    assert ask(app, "GET", "/v1/models").json() == {"models": ["recpolicy"]}
    with pytest.raises(ConfigError, match="model_name"):
        PredictionConfig(model_name="a/b")


def test_whole_numbers_may_be_written_as_floats(app):
    path = "/v1/models/recpolicy:predict"
    floats = [{"user": 3.0, "items": [5.0, 6.0]}, {"user": 3.0, "k": 2.0}]
    integers = [{"user": 3, "items": [5, 6]}, {"user": 3, "k": 2}]
    found, expected = (ask(app, "POST", path, {"instances": body}).json()["predictions"] for body in (floats, integers))
    assert found[0] == expected[0]
    assert found[1]["items"] == expected[1]["items"]
    assert found[1]["user"] == 3
    for wrong in ({"user": 3.5}, {"user": 3, "k": 2.5}, {"user": True}, {"user": 3, "items": [1e300]}):
        refusal(ask(app, "POST", path, {"instances": [wrong]}), 422, "invalid_request")
    refusal(ask(app, "POST", "/v1/recommend", {"user": 3.0}), 422, "invalid_request")  # our own API stays strict


def test_metadata_and_readiness_of_version_2(app):
    assert ask(app, "GET", "/v2").json() == {"name": "recpolicy", "version": "2", "extensions": []}
    assert ask(app, "GET", "/v2/health/live").json() == {"live": True}
    assert ask(app, "GET", "/v2/health/ready").json() == {"ready": True}
    assert ask(app, "GET", "/v2/models/recpolicy/ready").json() == {"name": "recpolicy", "ready": True}
    metadata = ModelMetadata.model_validate(ask(app, "GET", "/v2/models/recpolicy").json())
    assert [(each.name, each.datatype, each.shape) for each in metadata.inputs] == [
        ("user", "INT64", [-1]), ("item", "INT64", [-1]), ("k", "INT64", [1])
    ]  # fmt: skip


def test_inference_estimates_ratings(app):
    answer = infer(app, tensor("user", 3, 7.0), tensor("item", 5, 6, 9), id="r1", parameters={"x": 1}).json()
    response = InferenceResponse.model_validate(answer)
    assert (response.model_name, response.model_version, response.id) == ("recpolicy", "0", "r1")
    expected = loaded("linucb").predict([3, 7], [5, 6, 9])
    assert [each.name for each in response.outputs] == ["rating", "std", "probability"]
    for output in response.outputs:
        assert (output.datatype, output.shape) == ("FP64", [2, 3])
        assert output.data == pytest.approx(expected[output.name].tolist(), rel=1e-5)


def test_inference_recommends(app):
    response = InferenceResponse.model_validate(infer(app, tensor("user", 3, 7), tensor("k", 2)).json())
    outputs = {each.name: each for each in response.outputs}
    alone = [ask(app, "POST", "/v1/recommend", {"user": user, "k": 2}).json()["items"] for user in (3, 7)]
    items = [item for each in alone for item in each]
    assert outputs["item_id"].shape == [2, 2]
    assert (outputs["item_id"].datatype, outputs["event_id"].datatype) == ("INT64", "BYTES")
    assert outputs["item_id"].data == [item["item_id"] for item in items]
    assert outputs["rating"].data == pytest.approx([item["rating"] for item in items])
    assert outputs["propensity"].data == pytest.approx([item["propensity"] for item in items])
    assert outputs["event_id"].data == ["", ""]  # no store
    assert len(InferenceResponse.model_validate(infer(app, tensor("user", 3)).json()).outputs[0].data) == 10


@pytest.mark.parametrize(
    ("inputs", "status", "message"),
    [
        ([tensor("user", "3", datatype="BYTES")], 404, "the ids are integers: 3 without quotes"),
        ([tensor("user", 3), tensor("item", 999)], 404, "no item with id 999"),
        ([tensor("user", 3), tensor("k", 79)], 422, "user 3 has only"),
        ([tensor("user", 3), tensor("k", 0)], 422, "k is 0; expected 1 to 100"),
        ([tensor("user", 3, shape=[2])], 422, "shape [2], but 1 values"),
        ([tensor("item", 3)], 422, "expected user, and item or k"),
        ([tensor("user", 3), tensor("user", 3)], 422, "expected user, and item or k"),
        ([tensor("user", 3), tensor("k", 3, 4)], 422, "2 values; expected at most 1"),
        ([tensor("user", *range(101))], 422, "101 values; expected at most 100"),
        ([tensor("users", 3)], 422, "name"),
    ],
)
def test_wrong_tensors_are_refused_in_one_line(app, inputs, status, message):
    code = "unknown_id" if status == 404 else ("invalid_value" if "only" in message else "invalid_request")
    assert message in refusal(infer(app, *inputs), status, code)
