"""Versions under an operator's hand: what is answered is in effect, and what is sent in is mistrusted."""

import io
import json
import shutil
import tarfile
import time
import zipfile

import pytest
from api_keys import bearing, key_for
from client_helpers import ask, refusal
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from trained_policies import trained

from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.db import admin, schema
from recpolicy.server.lifespan import open_state
from recpolicy.server.routes import admin_versions
from recpolicy.server.settings import LimitsConfig, Settings

IMPORT = "/v1/admin/versions/import"


class World:
    """An app over a registry, and an operator."""

    def __init__(self, folder, state):
        self.folder, self.app, self.state = folder, make_app(state), state
        self.headers = bearing(key_for(self.app, "operator", "olga"))

    def ask(self, method, path, body=None, **words):
        return ask(self.app, method, path, body, headers=self.headers, **words)

    def agent_that_answers(self, user=3):
        return ask(self.app, "POST", "/v1/recommend", {"user": user, "k": 1}).json()["policy"]["agent"]

    def audit(self):
        lines = self.ask("GET", "/v1/admin/audit").json()["audit"]
        return [(line["actor"], line["action"], line["detail"]) for line in lines]


@pytest.fixture
def first(tmp_path):
    """A registry of one version."""
    registry = Registry(tmp_path / "registry")
    gate = {"verdict": "pass", "criteria": [{"name": "gain", "value": 0.25, "passed": True}]}
    registry.register(trained("linucb"), gate=gate)
    registry.promote(1)
    return registry


@pytest.fixture
def lonely(tmp_path, first):
    """An app over one version."""
    yield from opened_world(tmp_path, first)


@pytest.fixture
def world(tmp_path, first):
    """An app over two versions, of which the first is the champion."""
    first.register(trained("random"), gate={"verdict": "pass"}, lineage={"metrics": {"regret": 1.5}})
    yield from opened_world(tmp_path, first)


def opened_world(tmp_path, registry):
    settings = Settings(limits=LimitsConfig(import_bytes=300_000))
    with open_state(registry.folder, tmp_path / "state", settings) as state:
        yield World(tmp_path, state)


def test_versions_are_listed_with_alias_verdict_lineage_and_metrics(world):
    answer = world.ask("GET", "/v1/admin/versions").json()
    assert answer["routing"] == {
        "champion": 1,
        "challenger": None,
        "previous": None,
        "traffic_fraction": 0.0,
        "shadow": False,
        "exploration": True,
    }
    first, second = answer["versions"]
    assert (first["number"], first["aliases"], first["agent"]) == (1, ["champion"], "linucb")
    assert (first["verdict"], first["metrics"]) == ("pass", {"gain": 0.25})
    assert first["lineage"] == dict(world.state.models.registry.version(1).lineage)
    assert (second["aliases"], second["verdict"], second["metrics"]) == ([], "pass", {"regret": 1.5})


def test_one_version_has_the_whole_record_of_its_gate(world):
    answer = world.ask("GET", "/v1/admin/versions/1").json()
    assert answer["gate"]["criteria"] == [{"name": "gain", "value": 0.25, "passed": True}]
    refusal(world.ask("GET", "/v1/admin/versions/7"), 404, "not_found")
    refusal(world.ask("GET", "/v1/admin/versions/0"), 422, "invalid_request")
    refusal(world.ask("GET", "/v1/admin/versions/champion"), 422, "invalid_request")


def test_a_promotion_is_in_effect_when_it_is_answered(world):
    assert world.agent_that_answers() == "linucb"
    answer = world.ask("POST", "/v1/admin/versions/2/promote").json()
    assert (answer["routing"]["champion"], answer["routing"]["previous"]) == (2, 1)
    assert world.agent_that_answers() == "random"
    assert world.audit()[0] == ("olga", "promote", {"number": 2, "from": 1})
    assert world.state.models.registry.audit()[-1]["note"] == {"by": "olga"}


def test_a_version_that_passed_no_gate_serves_only_if_the_operator_says_so(world):
    world.state.models.registry.register(trained("popular"))
    message = refusal(world.ask("POST", "/v1/admin/versions/3/promote"), 422, "invalid_value")
    assert "version 3 has no gate record; only a version that passed its gate serves" in message
    traffic = {"version": 3, "traffic_fraction": 0.5}
    refusal(world.ask("POST", "/v1/admin/traffic", traffic), 422, "invalid_value")
    assert world.agent_that_answers() == "linucb"
    assert world.ask("POST", "/v1/admin/traffic", traffic | {"ungated": True}).status_code == 200
    assert world.audit()[0][2]["ungated"] is True
    assert world.ask("POST", "/v1/admin/versions/3/promote?ungated=true").json()["routing"]["champion"] == 3
    assert world.agent_that_answers() == "popular"
    assert world.audit()[0] == ("olga", "promote", {"number": 3, "from": 1, "ungated": True})


def test_a_roll_back_takes_less_than_a_second_and_is_in_effect_when_it_is_answered(world):
    world.ask("POST", "/v1/admin/versions/2/promote")
    begun = time.perf_counter()
    answer = world.ask("POST", "/v1/admin/roll-back").json()
    took = 1e3 * (time.perf_counter() - begun)
    assert world.agent_that_answers() == "linucb"
    assert 0 < answer["ms"] <= took < 5_000  # a tenth of a second where nothing else runs
    assert answer["routing"]["champion"] == 1
    assert world.audit()[0] == ("olga", "roll_back", {"number": 1, "from": 2, "challenger": None})
    refusal(world.ask("POST", "/v1/admin/roll-back"), 422, "invalid_value")
    assert world.agent_that_answers() == "linucb"


def test_a_roll_back_does_not_need_the_database(world, monkeypatch):
    world.ask("POST", "/v1/admin/versions/2/promote")

    def down(*_):
        raise OperationalError("BEGIN", {}, Exception("no connection"))

    monkeypatch.setattr("recpolicy.server.registry_actions.transaction", down)
    assert world.ask("POST", "/v1/admin/roll-back").json()["routing"]["champion"] == 1
    assert world.agent_that_answers() == "linucb"
    assert world.state.models.registry.audit()[-1]["note"] == {"by": "olga"}


def test_a_damaged_version_is_refused_and_nothing_moves(world):
    manifest = world.state.models.registry.resolve(2) / "arrays.npz"
    manifest.chmod(0o644)
    manifest.write_bytes(b"damaged")
    refusal(world.ask("POST", "/v1/admin/versions/2/promote"), 409, "conflict")
    refusal(world.ask("POST", "/v1/admin/traffic", {"version": 2, "traffic_fraction": 0.5}), 409, "conflict")
    assert world.agent_that_answers() == "linucb"
    assert world.ask("GET", "/v1/admin/versions").json()["routing"]["champion"] == 1


def test_a_registry_that_cannot_be_read_is_503_with_the_reason_and_the_server_goes_on(world):
    aliases = world.state.models.registry.folder / "aliases.json"
    good = aliases.read_text()
    for damaged in ("", good[:20], "[]", good.replace(": 1", ': "x"', 1)):
        aliases.write_text(damaged)
        message = refusal(world.ask("GET", "/v1/admin/versions"), 503, "registry_damaged")
        assert "aliases.json" in message or "the registry" in message
        assert str(world.folder.name) not in message
        refusal(world.ask("POST", "/v1/admin/exploration/pause"), 409, "conflict")
        assert ask(world.app, "POST", "/v1/recommend", {"user": 1}).status_code == 200
    aliases.write_text(good)
    assert world.ask("GET", "/v1/admin/versions").status_code == 200


def test_traffic_is_divided_changed_and_withdrawn(world):
    answer = world.ask("POST", "/v1/admin/traffic", {"version": 2, "traffic_fraction": 1.0}).json()
    assert (answer["routing"]["challenger"], answer["routing"]["traffic_fraction"]) == (2, 1.0)
    assert world.agent_that_answers() == "random"
    world.ask("POST", "/v1/admin/traffic", {"shadow": True})
    assert world.agent_that_answers() == "linucb"
    answer = world.ask("POST", "/v1/admin/traffic", {"traffic_fraction": 0.5, "shadow": False}).json()
    routing = answer["routing"]
    assert (routing["challenger"], routing["traffic_fraction"], routing["shadow"]) == (2, 0.5, False)
    assert {world.agent_that_answers(user) for user in range(1, 40)} == {"linucb", "random"}
    answer = world.ask("DELETE", "/v1/admin/challenger").json()
    assert answer["routing"]["challenger"] is None
    assert {world.agent_that_answers(user) for user in range(1, 40)} == {"linucb"}
    assert [action for _, action, _ in world.audit()[:4]] == ["clear_challenger", "traffic", "traffic", "traffic"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"traffic_fraction": 0.5}, 422, "invalid_value"),
        ({"version": 1, "traffic_fraction": 0.5}, 422, "invalid_value"),
        ({"version": 9, "traffic_fraction": 0.5}, 404, "not_found"),
        ({"version": 2, "traffic_fraction": 1.5}, 422, "invalid_request"),
        ({"version": "2"}, 422, "invalid_request"),
        ({"version": 2, "shares": 0.5}, 422, "invalid_request"),
        (None, 422, "invalid_request"),
    ],
)
def test_traffic_that_cannot_be_divided_so_is_refused(world, body, status, code):
    refusal(world.ask("POST", "/v1/admin/traffic", body), status, code)
    assert world.ask("GET", "/v1/admin/versions").json()["routing"]["challenger"] is None


def test_a_roll_back_withdraws_the_challenger_first(world):
    world.ask("POST", "/v1/admin/traffic", {"version": 2, "traffic_fraction": 1.0})
    answer = world.ask("POST", "/v1/admin/roll-back").json()
    assert (answer["routing"]["champion"], answer["routing"]["challenger"]) == (1, None)
    assert world.agent_that_answers() == "linucb"


def test_exploration_is_paused_and_resumed(world):
    assert world.state.models.live.exploring
    answer = world.ask("POST", "/v1/admin/exploration/pause").json()
    assert answer["routing"]["exploration"] is False
    assert not world.state.models.live.exploring
    assert world.ask("POST", "/v1/admin/exploration/resume").json()["routing"]["exploration"] is True
    assert world.state.models.live.exploring
    refusal(world.ask("POST", "/v1/admin/exploration/stop"), 404, "not_found")


def archive_of(policy, kind="w:gz", top="policy"):
    """The policy as a .tar.gz."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode=kind) as tar:
        tar.add(policy, arcname=top)
    return held.getvalue()


def test_an_archive_becomes_a_version_that_serves_nobody_yet(lonely):
    world = lonely
    sent = archive_of(trained("random"))
    answer = world.ask("POST", IMPORT, content=sent)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["number"], answer.json()["agent"], answer.json()["aliases"]) == (2, "random", [])
    assert answer.json()["note"] == {"by": "olga"}
    assert world.agent_that_answers() == "linucb"
    assert world.audit()[0][:2] == ("olga", "import")
    again = world.ask("POST", IMPORT, content=sent)
    assert again.json()["number"] == 2
    assert world.ask("POST", "/v1/admin/versions/2/promote?ungated=true").status_code == 200
    assert world.agent_that_answers() == "random"


def evil_tar(name, kind=tarfile.REGTYPE, link=""):
    """A sound policy with one more entry."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, link
        entry.size = 4 if kind == tarfile.REGTYPE else 0
        tar.addfile(entry, io.BytesIO(b"evil"))
        tar.add(trained("random"), arcname="policy")
    return held.getvalue()


def evil_zip(name):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as zipped:
        zipped.writestr(name, "evil")
    return held.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: evil_tar("../evil"),
        lambda folder: evil_tar("policy/../../../evil"),
        lambda folder: evil_tar(str(folder / "evil")),
        lambda folder: evil_tar("policy/evil", tarfile.SYMTYPE, str(folder)),
        lambda folder: evil_tar("policy/evil", tarfile.LNKTYPE, "/etc/passwd"),
        lambda folder: evil_tar("policy/evil", tarfile.FIFOTYPE),
        lambda folder: evil_zip("../evil"),
        lambda folder: evil_zip(str(folder / "evil")),
        lambda folder: evil_zip("nothing of ours"),
        lambda folder: archive_of(trained("random"))[:2000],
        lambda folder: b"",
        lambda folder: b"neither one nor the other",
    ],
)
def test_an_archive_that_tries_to_break_out_or_is_none_is_refused_and_leaves_nothing(
    world, make, tmp_path, monkeypatch
):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = sorted(world.folder.rglob("*"))
    said = refusal(world.ask("POST", IMPORT, content=make(world.folder)), 422, "invalid_value")
    assert str(scratch) not in said
    assert [
        path for path in sorted(world.folder.rglob("*")) if path not in before and "server.db" not in path.name
    ] == []
    assert len(world.ask("GET", "/v1/admin/versions").json()["versions"]) == 2


def test_a_policy_that_was_changed_after_it_was_saved_is_refused(world, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(trained("random"), changed)
    manifest = next(changed.glob("*.json"))
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"agent": "linucb"}))
    (changed / "arrays.npz").write_bytes(b"changed")
    refusal(world.ask("POST", IMPORT, content=archive_of(changed)), 422, "invalid_value")


def test_an_archive_that_is_too_large_is_not_read_to_its_end(world):
    sent = 0

    async def pieces():
        nonlocal sent
        for _ in range(100):
            sent += 50_000
            yield b"x" * 50_000

    said = refusal(world.ask("POST", IMPORT, content=pieces()), 413, "too_large")
    assert "import_bytes" in said
    assert sent <= 400_000


def test_one_import_at_a_time(world):
    with admin_versions._importing:
        refusal(world.ask("POST", IMPORT, content=b"x"), 429, "overloaded")
    assert world.ask("POST", IMPORT, content=b"x").status_code == 422


def test_the_store_knows_every_version_of_the_registry(lonely):
    world = lonely
    world.ask("POST", IMPORT, content=archive_of(trained("random")))
    engine, registry = world.state.store.engine, world.state.models.registry
    with engine.connect() as connection:
        rows = connection.execute(select(schema.versions).order_by(schema.versions.c.number)).mappings().all()
    known = [
        (one.number, one.digest, one.policy_digest, one.agent, one.lineage, one.gate) for one in registry.versions()
    ]
    fields = ("number", "digest", "policy_digest", "agent")
    as_json = [
        (*(row[name] for name in fields), json.loads(row["lineage"]), json.loads(row["gate"] or "null")) for row in rows
    ]
    assert as_json == known
    assert len(rows) == 2
    assert admin.add_versions(engine, registry.versions()) == 0
