"""A policy is mistrusted at every entrance; whatever a version does, the last good one serves."""

import asyncio
import io
import json
import shutil
import tarfile
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from api_keys import bearing, key_for
from client_helpers import ask, refusal
from hostile_policies import hostile_policies, seal
from tiny_policies import write_tiny
from unlimited import UNLIMITED

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.inference.artifact_files import MANIFEST
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.predictor import load_policy
from recpolicy.registry.aliases import read_state, write_state
from recpolicy.registry.artifact_kinds import manifest_digest, read_manifest
from recpolicy.registry.model_registry import Registry
from recpolicy.registry.version_files import POLICY, Version, copy_artifact, now, write_record
from recpolicy.server.app import make_app
from recpolicy.server.lifespan import open_state
from recpolicy.server.live_models import ModelManager
from recpolicy.server.routes.console import get_scorer_cache

IMPORT = "/v1/admin/versions/import"
BY_NAME = dict(hostile_policies())
SENT = (
    "agent is or has a surrogate", "policy digest is an absolute path", "policy/theta lacks a row",
    "arrays.npz has a member that claims 8 TiB", "rated_user has only rows of 2^31 - 1", "metadata is None",
    "files has a name of 5,000 letters", "title has a cell that is a surrogate",
)  # fmt: skip
"""Those that did most harm, sent over HTTP."""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A sound artifact."""
    return write_tiny(tmp_path_factory.mktemp("good") / "policy")


@pytest.fixture
def registry(tmp_path, good):
    """A registry whose first version is the champion; the second one is sound, too."""
    registry = Registry(tmp_path / "registry")
    for number in (1, 2):
        registry.register(good if number == 1 else write_tiny(tmp_path / "second", seed=9), gate={"verdict": "pass"})
    registry.promote(1)
    return registry


def hostile(good, folder, name):
    """A copy of the good artifact after the mutation of this name."""
    shutil.copytree(good, folder)
    BY_NAME[name](folder)
    return folder


def smuggle(registry, artifact, champion=True):
    """Register an artifact as a recpolicy without checks did, and make it the champion, also by hand."""
    number = len(list((registry.folder / "versions").iterdir())) + 1
    home = registry.folder / "versions" / str(number)
    names = (MANIFEST, *(str(path.relative_to(artifact)) for path in artifact.rglob("*.*") if path.name != MANIFEST))
    copy_artifact(artifact, home / POLICY, names)
    version = Version(
        number=number, digest=manifest_digest(artifact), agent="linucb", policy_digest="a" * 64, registered_at=now(),
        lineage=read_manifest(artifact)["metadata"], gate={"verdict": "pass"},
    )  # fmt: skip
    write_record(version, home)
    if champion:
        point_to(registry, number)
    return number


def point_to(registry, number):
    state = read_state(registry.folder)
    write_state(registry.folder, type(state)(champion=number, previous=state.champion))


def test_the_good_one_is_good(good, tmp_path):
    copy = shutil.copytree(good, tmp_path / "policy")
    seal(copy)  # correcting digests that are right changes none
    assert read_manifest(copy) == read_manifest(good)
    assert Registry(tmp_path / "registry").register(copy).number == 1
    load_policy(copy)


def test_every_hostile_policy_is_refused_and_leaves_nothing(good, tmp_path):
    registry, wrong = Registry(tmp_path / "registry"), {}
    assert len(BY_NAME) > 300
    for name in BY_NAME:
        folder = hostile(good, tmp_path / "policy", name)
        try:
            registry.register(folder)
            wrong[name] = "is accepted"
        except ArtifactError as error:
            if len(str(error)) > 2_000:
                wrong[name] = "an endless message"
        except Exception as error:
            wrong[name] = repr(error)
        if registry.folder.exists():
            wrong[name] = "a registry is left"
        shutil.rmtree(folder)
    assert wrong == {}


@pytest.mark.parametrize(
    "name", ["arrays.npz has a member that claims 8 TiB", "arrays.npz has a member of zeros, deflated"]
)
def test_a_claim_takes_no_memory(good, tmp_path, name):
    folder = hostile(good, tmp_path / "policy", name)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError):
            load_scorer(folder)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def archive(policy):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as tar:
        tar.add(policy, arcname="policy")
    return held.getvalue()


@pytest.fixture
def app(registry, tmp_path):
    """An app over the registry."""
    with open_state(registry.folder, tmp_path / "state", UNLIMITED) as state:
        yield make_app(state)


@pytest.fixture
def operator(app):
    return bearing(key_for(app, "operator"))


def test_an_import_of_a_hostile_policy_is_refused_in_one_line_without_a_path(app, operator, good, tmp_path):
    for name in SENT:
        sent = archive(hostile(good, tmp_path / "policy", name))
        message = refusal(ask(app, "POST", IMPORT, content=sent, headers=operator), 422, "invalid_value")
        assert str(tmp_path) not in message, name
        assert "/tmp" not in message, name
        assert "\n" not in message, name
        shutil.rmtree(tmp_path / "policy")
    assert len(ask(app, "GET", "/v1/admin/versions", headers=operator).json()["versions"]) == 2
    assert ask(app, "POST", "/v1/recommend", {"user": 3}).status_code == 200


@pytest.mark.parametrize("name", ["policy/theta lacks a row", "policy/theta holds nan", "uniform_mix is 1.1"])
def test_a_version_that_cannot_answer_gets_no_role(app, registry, operator, good, tmp_path, name):
    number = smuggle(registry, hostile(good, tmp_path / "policy", name), champion=False)
    before = registry.aliases()
    message = refusal(
        ask(app, "POST", f"/v1/admin/versions/{number}/promote?ungated=true", headers=operator), 409, "conflict"
    )
    assert f"version {number} cannot serve" in message
    assert str(tmp_path) not in message
    body = {"version": number, "traffic_fraction": 0.5, "ungated": True}
    refusal(ask(app, "POST", "/v1/admin/traffic", body, headers=operator), 409, "conflict")
    refusal(ask(app, "POST", "/v1/admin/rollouts", {"challenger": number}, headers=operator), 409, "conflict")
    for change in (registry.promote, lambda number: registry.set_challenger(number, 0.5), registry.promote_unattended):
        with pytest.raises(ArtifactError, match=f"version {number} cannot serve"):
            change(number)
    assert registry.aliases() == before
    assert ask(app, "POST", "/v1/recommend", {"user": 3}).json()["policy"]["version"] == 1
    compared = {"user": 3, "versions": [1, number], "k": 3}
    for _ in range(2):
        refusal(ask(app, "POST", "/v1/admin/compare", compared, headers=operator), 409, "conflict")


def test_a_server_goes_on_with_the_last_good_version_and_follows_the_next_one(registry, good, tmp_path, caplog):
    models = ModelManager.from_registry(registry)
    faults = []
    models.on_fault = faults.append
    bad = smuggle(registry, hostile(good, tmp_path / "policy", "policy/theta lacks a row"))
    for _ in range(2):
        models.refresh()
        assert models.live.champion.number == 1
    assert len(faults) == 1
    assert f"version {bad} of the registry does not load, version 1 still serves" in models.fault
    assert str(registry.folder) not in models.fault
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    registry.set_challenger(2, 0.5)
    models.refresh()  # other changes are followed meanwhile
    assert (models.live.champion.number, models.live.challenger.number) == (1, 2)
    registry.clear_challenger()
    registry.promote(2)
    assert models.refresh()
    assert (models.live.champion.number, models.fault) == (2, None)


def test_a_challenger_that_does_not_load_leaves_its_users_to_the_champion(registry, good, tmp_path):
    models = ModelManager.from_registry(registry)
    bad = smuggle(registry, hostile(good, tmp_path / "policy", "policy/theta lacks a row"), champion=False)
    state = read_state(registry.folder)
    write_state(registry.folder, type(state)(champion=2, challenger=bad, traffic_fraction=0.5))
    for loaded in (models, ModelManager.from_registry(registry)):
        loaded.refresh()
        assert (loaded.live.champion.number, loaded.live.challenger) == (2, None)
        assert "the champion serves its users" in loaded.fault


def test_a_fault_is_tried_again_in_time(registry, good, tmp_path, monkeypatch):
    models = ModelManager.from_registry(registry)
    smuggle(registry, hostile(good, tmp_path / "policy", "policy/theta lacks a row"))
    models.refresh()
    assert models._look() == models._stamp
    monkeypatch.setattr("time.monotonic", lambda: 1e9)
    assert models._look() != models._stamp


def test_a_restart_serves_the_last_good_version_and_says_so(registry, good, tmp_path, caplog):
    bad = smuggle(registry, hostile(good, tmp_path / "policy", "policy/theta lacks a row"))
    with open_state(registry.folder, tmp_path / "state", UNLIMITED) as state:
        app = make_app(state)
        ready = ask(app, "GET", "/readyz").json()
        assert (ready["status"], ready["policy"]["version"]) == ("ready", 1)
        assert f"version {bad} of the registry does not load" in ready["fault"]
        assert "version 1, a former champion, serves instead" in ready["fault"]
        assert ask(app, "POST", "/v1/recommend", {"user": 3}).json()["policy"]["version"] == 1
        headers = bearing(key_for(app, "operator"))
        audit = ask(app, "GET", "/v1/admin/audit", headers=headers).json()["audit"]
        assert "alert registry.version" in {line["action"] for line in audit}
        assert ask(app, "POST", "/v1/admin/versions/2/promote", headers=headers).status_code == 200
        assert "fault" not in ask(app, "GET", "/readyz").json()
    assert any(record.levelname == "ERROR" and "does not load" in record.message for record in caplog.records)


def test_without_any_version_that_loads_the_start_fails_with_one_line(tmp_path, good):
    registry = Registry(tmp_path / "registry")
    registry.register(good)
    registry.promote(1, ungated=True)
    path = registry.folder / "versions/1/policy/arrays.npz"
    path.chmod(0o644)
    path.write_bytes(b"")
    with (
        pytest.raises(ArtifactError, match=r"version 1 .* does not load.*no former champion loads either") as refused,
        open_state(registry.folder, tmp_path / "state", UNLIMITED),
    ):
        pass
    assert "\n" not in str(refused.value)


def test_a_record_that_no_list_can_show_is_left_out(registry, good):
    home = registry.folder / "versions" / "3"
    copy_artifact(good, home / POLICY, (MANIFEST,))
    sound = {"number": 3, "digest": "a" * 64, "policy_digest": "b" * 64, "registered_at": now(), "gate": None}
    for agent, lineage in (("lin\ud800", {}), ("a" * 65, {}), ("\x1b[2J", {}), ("linucb", {"a": "\ud800"})):
        write_record(Version(agent=agent, lineage=lineage, **sound), home)
        assert [version.number for version in registry.versions()] == [1, 2]
        with pytest.raises(ArtifactError):
            registry.version(3)
        (home / "version.json").unlink()


def test_a_lineage_that_is_not_utf8_is_refused(registry, good, tmp_path):
    artifact = write_tiny(tmp_path / "third", seed=3)
    for lineage in ({"a": "\ud800"}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="lineage"):
            registry.register(artifact, lineage=lineage)
    assert len(registry.versions()) == 2


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b'{"format": "recpolicy registry", "version": 2, "champion": "x"}']
)
def test_a_damaged_registry_is_named_and_users_are_served(app, registry, operator, content):
    (registry.folder / "aliases.json").write_bytes(content)
    message = refusal(ask(app, "GET", "/v1/admin/versions", headers=operator), 503, "registry_damaged")
    assert str(registry.folder) not in message
    assert ask(app, "POST", "/v1/recommend", {"user": 3}).json()["policy"]["version"] == 1


def test_previews_load_one_version_at_a_time(app, operator):
    with get_cache(app)._loading:
        compared = {"user": 3, "versions": [1, 2], "k": 3}
        refusal(ask(app, "POST", "/v1/admin/compare", compared, headers=operator), 429, "overloaded")
    assert ask(app, "POST", "/v1/admin/compare", compared, headers=operator).status_code == 200


def get_cache(app):
    return asyncio.run(get_scorer_cache(SimpleNamespace(app=app)))


def test_parquet_tables_that_do_not_match_are_refused(good, tmp_path):
    import pandas as pd

    wide = {"title": lambda items: ["a" * 20_000] * len(items), "item_id": lambda items: [[1]] * len(items)}
    changes = [
        *({"name": "items.parquet", "change": lambda t, c=c, f=f: t.assign(**{c: f(t)})} for c, f in wide.items()),
        {"name": "items.parquet", "change": lambda t: t.iloc[1:]},
        {"name": "users.parquet", "change": lambda t: t.drop(columns="user_id")},
        {"name": "users.parquet", "change": lambda t: t.assign(user_id=1)},
    ]
    for number, change in enumerate(changes):
        folder = shutil.copytree(good, tmp_path / str(number))
        table = change["change"](pd.read_parquet(folder / change["name"]))
        table.to_parquet(folder / change["name"], index=False)
        seal(folder)
        with pytest.raises(ArtifactError):
            load_policy(folder)
    (folder / "users.parquet").write_bytes(b"PAR1")
    seal(folder)
    with pytest.raises(ArtifactError):
        load_policy(folder)


def test_no_champion_is_a_config_error(tmp_path, good):
    registry = Registry(tmp_path / "registry")
    registry.register(good)
    with pytest.raises(ConfigError, match="no champion"):
        ModelManager.from_registry(registry)


def test_the_digest_is_that_of_the_arrays(good):
    manifest = json.loads((good / MANIFEST).read_text())
    artifact = load_policy(good).artifact
    assert manifest["metadata"]["policy_digest"] == artifact.metadata["policy_digest"]
    assert np.isfinite(artifact.context).all()
