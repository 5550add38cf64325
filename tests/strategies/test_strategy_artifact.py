"""Artifacts and JSON of strategy policies: nothing is lost, and nothing damaged or foreign is read."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from strategy_worlds import CONFIG, random_rounds, request

from recpolicy.core.errors import ArtifactError
from recpolicy.inference.feature_artifact import read_feature_policy
from recpolicy.registry.artifact_kinds import check_answers, read_manifest, verify
from recpolicy.registry.model_registry import Registry
from recpolicy.strategies.artifact import is_strategy_policy, read_strategy_policy, write_strategy_policy
from recpolicy.strategies.config import strategy_config
from recpolicy.strategies.policy import StrategyPolicy
from recpolicy.strategies.table_json import export_table, import_table


@pytest.fixture(scope="module")
def policy():
    return replace(
        StrategyPolicy(CONFIG).updated(random_rounds(300, session_length=3)), metadata={"data": "tést", "seed": 3}
    )


def test_the_artifact_is_the_policy(policy, tmp_path):
    write_strategy_policy(policy, tmp_path / "policy")
    again = read_strategy_policy(tmp_path / "policy")
    assert again.policy_digest == policy.policy_digest
    assert again.config == policy.config
    assert (again.table.q == policy.table.q).all()
    assert (again.learned_events == policy.learned_events).all()
    assert again.metadata["seed"] == 3
    assert again.recommend(request(), "e") == policy.recommend(request(), "e")
    assert is_strategy_policy(tmp_path / "policy")
    assert not is_strategy_policy(tmp_path)


def test_the_registry_holds_it(policy, tmp_path):
    write_strategy_policy(policy, tmp_path / "policy")
    assert read_manifest(tmp_path / "policy")["agent"] == "strategy_q_learning"
    check_answers(tmp_path / "policy")
    verify(tmp_path / "policy")
    registry = Registry(tmp_path / "registry")
    version = registry.register(tmp_path / "policy")
    assert version.policy_digest == policy.policy_digest
    assert read_strategy_policy(registry.resolve(version.number)).policy_digest == policy.policy_digest


def test_another_kind_of_reader_says_what_it_is(policy, tmp_path):
    write_strategy_policy(policy, tmp_path / "policy")
    with pytest.raises(ArtifactError, match=r"holds a recpolicy strategy policy.*`recpolicy strategy` uses it"):
        read_feature_policy(tmp_path / "policy")


@pytest.mark.parametrize("name", ["arrays.npz", "learned_events.npy", "recpolicy.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_file_is_named(policy, tmp_path, name, damage):
    write_strategy_policy(policy, tmp_path / "policy")
    path = tmp_path / "policy" / name
    body = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(body[: len(body) // 2] if damage == "cut" else body[:-9] + b"x" + body[-8:])
    with pytest.raises(ArtifactError, match=str(tmp_path)) as error:
        read_strategy_policy(tmp_path / "policy")
    assert "\n" not in str(error.value)


def rewritten(policy, folder, **changes):
    """Write an artifact with a table of other arrays, past the check of the writer."""
    import recpolicy.strategies.artifact as module

    table = replace(policy.table, **changes)
    original = module._policy
    module._policy = lambda *_: None
    try:
        write_strategy_policy(replace(policy, table=table), folder)
    finally:
        module._policy = original


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: {"states": table.states[::-1].copy()}, "not ascending"),
        (lambda table: {"states": table.states + 225_000}, "not ascending numbers below 225,000"),
        (lambda table: {"states": table.states.astype(np.int32)}, "64-bit whole numbers"),
        (lambda table: {"q": table.q[:, :26]}, "expected .* states and 27 actions"),
        (lambda table: {"q": table.q * np.nan}, "not finite"),
        (lambda table: {"visits": -table.visits}, "visits must be counts"),
        (lambda table: {"visits": np.zeros_like(table.visits)}, "cells without a visit 0"),
    ],
)
def test_a_table_that_no_training_wrote_is_refused(policy, tmp_path, change, message):
    changes = change(policy.table)
    rewritten(policy, tmp_path / "policy", **changes)
    with pytest.raises(ArtifactError, match=message):
        read_strategy_policy(tmp_path / "policy")
    with pytest.raises(ArtifactError, match=message):
        write_strategy_policy(replace(policy, table=replace(policy.table, **changes)), tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_export_and_import_are_byte_for_byte_the_same(policy, tmp_path):
    export_table(policy, tmp_path / "a.json")
    again = import_table(tmp_path / "a.json")
    export_table(again, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert again.policy_digest == policy.policy_digest
    assert (again.learned_events == policy.learned_events).all()
    write_strategy_policy(again, tmp_path / "policy")
    export_table(read_strategy_policy(tmp_path / "policy"), tmp_path / "c.json")
    body = json.loads((tmp_path / "c.json").read_text())
    assert body["states"] == json.loads((tmp_path / "a.json").read_text())["states"]


def test_an_empty_policy_can_be_exported(tmp_path):
    export_table(StrategyPolicy(CONFIG), tmp_path / "a.json")
    assert import_table(tmp_path / "a.json").policy_digest == StrategyPolicy(CONFIG).policy_digest


def changed(body, keys, value):
    inner = body
    for key in keys[:-1]:
        inner = inner[key]
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return body


STATE = "4-1-2-4-0|music|calm|evening"


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["format"], "other", "not a recpolicy Q-table"),
        (["version"], 9, "format version 9"),
        (["states"], None, "lacks states"),
        (["states"], [], "states: expected an object"),
        (["states"], {"9-1-2-4-0|music|calm|evening": {}}, r"expected 5 bins in 0\.\.4"),
        (["states"], {STATE: {"loud/focused/familiar": {"q": 1, "visits": 1}}}, "no action 'loud/focused/familiar'"),
        (["states"], {STATE: {"low/focused/familiar": {"q": "1", "visits": 1}}}, "expected a number q"),
        (["states"], {STATE: {"low/focused/familiar": {"q": 1, "visits": 0}}}, "visits of 1 or more"),
        (["states"], {STATE: {"low/focused/familiar": 3}}, "expected a number q"),
        (["states"], {STATE: 3}, "expected an object of actions"),
        (["schema", "bins"], 4, "schema: differs from that of its config"),
        (["config", "learning", "gamma"], 7, "gamma is 7"),
        (["config", "energy"], {}, "energy: expected a list of levels"),
        (["sessions"], -1, "sessions is -1"),
        (["learned_events"], ["x"], "16 hexadecimal digits"),
        (["learned_events"], ["f" * 16, "0" * 16], "not sorted"),
    ],
)
def test_a_wrong_table_is_one_line(policy, tmp_path, keys, value, message):
    export_table(policy, tmp_path / "a.json")
    body = changed(json.loads((tmp_path / "a.json").read_text()), keys, value)
    (tmp_path / "a.json").write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match=message) as error:
        import_table(tmp_path / "a.json")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "a.json") in str(error.value)


def test_a_table_of_another_schema_is_refused_and_other_settings_are_taken(policy, tmp_path):
    export_table(policy, tmp_path / "a.json")
    with pytest.raises(ArtifactError, match="another schema: bins is 5; expected 3"):
        import_table(tmp_path / "a.json", strategy_config({"profile": {"bins": 3}}))
    other = import_table(tmp_path / "a.json", strategy_config({"learning": {"gamma": 0.5}}))
    assert other.config.learning.gamma == 0.5
    assert (other.table.q == policy.table.q).all()


def test_the_package_needs_neither_pandas_nor_tensorflow():
    code = (
        "import sys, recpolicy.strategies.table_json, recpolicy.strategies.artifact, recpolicy.strategies.policy\n"
        "assert not {'pandas', 'tensorflow', 'numba'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
