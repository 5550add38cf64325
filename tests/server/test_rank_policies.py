"""Trained feature policies behind the server: the registry, the model routes of Personalizer, killed processes, TLS."""

import io
import subprocess
import zipfile

import pytest
from api_keys import bearing, key_for, listening
from client_helpers import ask, refusal
from processes import ServerProcess
from tiny_feature_log import tiny_actions, trained_case
from unlimited import UNLIMITED
from waiting import PATIENCE, wait_until

from recpolicy.inference.feature_artifact import read_feature_policy, write_feature_policy
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.lifespan import open_state

CONTEXT = {"hour": 0.4, "device": "mobile", "member": True}
REQUEST = {"context": CONTEXT, "actions": [{"id": name, "features": features} for name, features in tiny_actions()]}
KEY = "Ocp-Apim-Subscription-Key"


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path / "registry")
    for agent in ("squarecb", "linucb_shared"):
        write_feature_policy(trained_case(agent), tmp_path / agent)
        registry.register(tmp_path / agent)
    registry.promote(1, ungated=True)
    return registry


@pytest.fixture
def app(registry):
    with open_state(registry.folder, None, UNLIMITED) as state:
        yield make_app(state)


def rank(app, **changes):
    answer = ask(app, "POST", "/v1/rank", REQUEST | changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_champion_of_a_registry_ranks_as_the_policy_does(app):
    answer = rank(app, event_id="e")
    policy = trained_case("squarecb")
    probability, _ = policy.probabilities(CONTEXT, tiny_actions())
    expected = dict(zip([name for name, _ in tiny_actions()], probability, strict=True))
    assert {each["id"]: each["probability"] for each in answer["ranking"]} == pytest.approx(expected, abs=1e-12)
    assert answer["policy"]["version"] == 1
    ranking = policy.rank(CONTEXT, tiny_actions(), seed="e")
    assert answer["action"] == tiny_actions()[ranking.chosen][0]


def test_a_single_trained_policy_is_served_and_a_promotion_takes_over(app, tmp_path, registry):
    with open_state(tmp_path / "squarecb", tmp_path / "state", UNLIMITED) as state:
        assert rank(make_app(state))["policy"]["agent"] == "squarecb"
    operator = bearing(key_for(app, "operator"))
    assert ask(app, "POST", "/v1/admin/versions/2/promote?ungated=true", headers=operator).status_code == 200
    assert rank(app)["policy"]["agent"] == "linucb_shared"
    assert ask(app, "POST", "/v1/admin/roll-back", headers=operator).status_code == 200
    assert rank(app)["policy"]["agent"] == "squarecb"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": CONTEXT | {"color": "red"}}, "color"),
        ({"context": CONTEXT | {"hour": "noon"}}, "hour"),
        ({"actions": [{"id": "a0", "features": {"unheard": 1}}]}, "unheard"),
    ],
)
def test_features_that_do_not_fit_the_policy_are_one_line(app, changes, message):
    answer = refusal(ask(app, "POST", "/v1/rank", REQUEST | changes), 422, "invalid_value")
    assert message in answer
    assert "\n" not in answer


def test_personalizer_ignores_features_that_the_policy_does_not_know(app):
    body = {
        "contextFeatures": [CONTEXT, {"color": "red"}],
        "actions": [{"id": str(name), "features": [features, {"new": 1}]} for name, features in tiny_actions()],
    }
    assert ask(app, "POST", "/personalizer/v1.0/rank", body).status_code == 201


def test_traffic_set_by_hand_reaches_ranks(app):
    operator = bearing(key_for(app, "operator"))
    body = {"version": 2, "traffic_fraction": 1.0, "ungated": True}
    assert ask(app, "POST", "/v1/admin/traffic", body, headers=operator).status_code == 200
    assert rank(app)["policy"] | {"policy_digest": ""} == {
        "version": 2, "agent": "linucb_shared", "policy_digest": "", "variant": "challenger"
    }  # fmt: skip


@pytest.fixture
def operator(app):
    """The administration client of Personalizer."""
    personalizer = pytest.importorskip("azure.ai.personalizer", reason="the client is not installed")
    credentials = pytest.importorskip("azure.core.credentials")
    with listening(app) as (host, port):
        key = credentials.AzureKeyCredential(key_for(app, "operator"))
        with personalizer.PersonalizerAdministrationClient(f"http://{host}:{port}", key) as client:
            yield client


def test_a_model_is_exported_reset_and_imported(app, operator, registry, tmp_path):
    from azure.core.exceptions import HttpResponseError

    archive = b"".join(operator.export_model())
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        packed.extractall(tmp_path / "unpacked")
    assert read_feature_policy(tmp_path / "unpacked" / "policy").policy_digest == trained_case("squarecb").policy_digest
    assert operator.get_model_properties()["creationTime"]
    assert operator.reset_model() is None
    assert rank(app)["policy"]["agent"] == "uniform"
    with pytest.raises(HttpResponseError) as caught:
        operator.get_model_properties()
    assert caught.value.status_code == 404
    write_feature_policy(trained_case("lints"), tmp_path / "lints")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        for path in (tmp_path / "lints").iterdir():
            out.write(path, path.name)
    assert operator.import_model(io.BytesIO(packed.getvalue())) is None
    assert rank(app)["policy"] | {"policy_digest": ""} == {
        "version": 3, "agent": "lints", "policy_digest": "", "variant": "champion"
    }  # fmt: skip
    assert operator.import_model(io.BytesIO(archive)) is None  # the first one again
    assert rank(app)["policy"]["version"] == 1
    with pytest.raises(HttpResponseError) as caught:
        operator.import_model(io.BytesIO(b"no archive"))
    assert caught.value.status_code == 422
    assert rank(app)["policy"]["version"] == 1


def test_ranks_survive_a_killed_process(registry, tmp_path):
    server = ServerProcess(registry.folder, registry.folder)
    try:
        status, answer = server.post("/v1/rank", REQUEST | {"event_id": "kept"})
        assert status == 200
        assert server.post("/v1/events/kept/reward", {"value": 0.5})[0] == 200
    finally:
        server.stop()
    again = ServerProcess(registry.folder, registry.folder)
    try:
        assert again.post("/v1/rank", REQUEST | {"event_id": "kept"})[1] == answer
    finally:
        again.stop()


def test_the_retired_clients_work_over_tls(app, tmp_path):
    """A certificate for loopback that the client trusts, and the server's own protocol behind uvicorn's TLS."""
    pytest.importorskip("azure.ai.personalizer", reason="the client is not installed")
    import uvicorn
    from azure.ai.personalizer import PersonalizerClient
    from azure.core.credentials import AzureKeyCredential

    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    import threading

    config = uvicorn.Config(app, port=0, log_config=None, ssl_certfile=certificate, ssl_keyfile=key)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started and server.servers, "the start")
        port = server.servers[0].sockets[0].getsockname()[1]
        credential = AzureKeyCredential(key_for(app, "client"))
        with PersonalizerClient(f"https://127.0.0.1:{port}", credential, connection_verify=str(certificate)) as client:
            actions = [{"id": str(name), "features": [features]} for name, features in tiny_actions()]
            assert client.rank({"actions": actions, "contextFeatures": [CONTEXT]})["rewardActionId"]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
