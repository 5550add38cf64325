"""`recpolicy train --features` and `recpolicy rank`: from a log to a ranking, and one line for bad input."""

import json
from dataclasses import replace

import numpy as np
import pytest
from command_line import recpolicy, refused
from tiny_feature_log import tiny_actions, tiny_log, tiny_schema

from recpolicy.data.feature_log_files import write_feature_log
from recpolicy.training.feature_agents import FEATURE_AGENTS

SMALL = "[train]\nepochs = 1\n"


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """A directory with a log, its schema and a request."""
    monkeypatch.chdir(tmp_path)
    write_feature_log(tiny_log(300), tmp_path / "log")
    (tmp_path / "schema.toml").write_text(tiny_schema().to_toml())
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "context.json").write_text(json.dumps({"hour": 0.4, "device": "mobile"}))
    write_actions(tmp_path)
    return tmp_path


def write_actions(directory, actions=None):
    actions = (
        [{"id": identifier, "features": features} for identifier, features in tiny_actions()]
        if actions is None
        else actions
    )
    (directory / "actions.json").write_text(json.dumps(actions))


TRAIN = ("--log", "log", "--features", "schema.toml", "--out", "run")
RANK = ("rank", "run", "--context", "context.json", "--actions", "actions.json")


@pytest.mark.parametrize("agent", FEATURE_AGENTS)
def test_every_agent_is_trained_and_ranks(capsys, directory, agent):
    answer = recpolicy(capsys, "train", agent, *TRAIN, "--config", "small.toml", "--seed", 2)
    assert answer.code == 0, answer.err
    first, figures, following = answer.out.splitlines()
    assert first == f"trained {agent} on log (seed 2): run"
    assert figures.startswith("300 rounds: mean reward 0.4833, 48.3% positive, weighted squared error 0.")
    assert following == "next: recpolicy rank run --context context.json --actions actions.json"
    ranked = json.loads(recpolicy(capsys, *RANK, "--exclude", "a1", "--event-id", "e1", "--json").out)
    assert ranked["chosen"] == ranked["ranking"][0]["id"]
    assert ranked["ranking"][-1] | {"score": 0} == {"rank": 6, "id": "a1", "probability": 0.0, "score": 0}
    assert sum(row["probability"] for row in ranked["ranking"]) == pytest.approx(1)
    again = json.loads(recpolicy(capsys, *RANK, "--exclude", "a1", "--event-id", "e1", "--json").out)
    assert again == ranked
    metadata = json.loads((directory / "run" / "recpolicy.json").read_text())["metadata"]
    assert metadata["seed"] == 2
    assert metadata["config"]["train"]["epochs"] == 1
    assert metadata["training"]["share_positive"] == pytest.approx(
        float(figures.split()[5].strip("%,")) / 100, abs=1e-3
    )


def test_the_config_may_hold_schema_rewards_and_agent(capsys, directory):
    schema = tiny_schema().to_toml().replace("[context.", "[features.context.").replace("[action.", "[features.action.")
    top, tables = schema.split("\n\n", 1)
    reward = "[reward]\nmin_reward = -1\nmax_reward = 2\nnormalize = true\n"
    (directory / "all.toml").write_text(f"{SMALL}[features]\n{top}\n{tables}\n{reward}[agent]\nalpha = 0.25\n")
    words = ("train", "linucb_shared", "--log", "log", "--config", "all.toml", "--out", "run", "--json")
    metadata = json.loads(recpolicy(capsys, *words).out)
    assert metadata["config"]["agent"]["alpha"] == 0.25
    assert metadata["config"]["reward"]["max_reward"] == 2
    manifest = json.loads((directory / "run" / "recpolicy.json").read_text())
    assert manifest["reward_range"] == [-1, 2]
    assert manifest["reward_std"] == pytest.approx(metadata["training"]["std"])


def test_features_that_the_schema_leaves_out_are_noted_and_ignored(capsys, directory):
    lean = tiny_schema(context={"hour": {"type": "number"}})
    (directory / "schema.toml").write_text(lean.to_toml())
    metadata = json.loads(recpolicy(capsys, "train", "squarecb", *TRAIN, "--json").out)
    assert metadata["ignored_features"] == {"context": ["device", "member"], "action": []}
    assert recpolicy(capsys, *RANK).code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("squarecp", *TRAIN), "no agent of feature policies named 'squarecp'. Did you mean 'squarecb'?"),
        (("ppo", *TRAIN), "no agent of feature policies named 'ppo'"),
        (("squarecb", "--log", "log", "--out", "run"), "needs one schema, by --features or as the table [features]"),
        (("squarecb", *TRAIN, "--split", "u1"), "--split: does not apply to a log with features"),
        (("squarecb", *TRAIN, "--config", "wrong.toml"), "no table named 'rewards'. Did you mean 'reward'?"),
        (("squarecb", *TRAIN, "--config", "range.toml"), "rewards are 0 to 1, but [reward] says 0 to 0.5"),
        (("squarecb", *TRAIN, "--config", "agent.toml"), "no setting named 'gama_scale'. Did you mean 'gamma_scale'?"),
        (("squarecb", "--log", "log", "--features", "no.toml", "--out", "run"), "no.toml: no such config file"),
        (("squarecb", "--log", "log", "--features", "age.toml", "--out", "run"), "no context feature named 'age'"),
        (("squarecb", "--log", "log", "--features", "type.toml", "--out", "run"), "context feature 'device' (number)"),
        (("squarecb", "--log", "none", "--features", "schema.toml", "--out", "run"), "none"),
    ],
)  # fmt: skip
def test_a_faulty_training_has_one_line_and_leaves_nothing(capsys, directory, words, message):
    (directory / "wrong.toml").write_text("[rewards]\nmin_reward = 0\n")
    (directory / "range.toml").write_text("[reward]\nmin_reward = 0\nmax_reward = 0.5\n")
    (directory / "agent.toml").write_text("[agent]\ngama_scale = 3\n")
    (directory / "age.toml").write_text(tiny_schema(context={"age": {"type": "number"}}).to_toml())
    (directory / "type.toml").write_text(tiny_schema(context={"device": {"type": "number"}}).to_toml())
    before = sorted(directory.iterdir())
    assert message in refused(recpolicy(capsys, "train", *words))
    assert sorted(directory.iterdir()) == before


def test_faulty_requests_have_one_line(capsys, directory):
    recpolicy(capsys, "train", "squarecb", *TRAIN)
    for context, message in [
        ("{", "context.json: not readable as JSON"),
        ('{"hour": NaN}', "context.json: not readable as JSON: NaN is no number of JSON"),
        ("[1]", "context: found list; expected an object of features"),
        ('{"hour": "late"}', "context feature 'hour' (number): row 0 is 'late'; expected a number, or null"),
        ('{"huor": 3}', "no context feature named 'huor'. Did you mean 'hour'?"),
    ]:
        (directory / "context.json").write_text(context)
        assert message in refused(recpolicy(capsys, *RANK))
    assert "huor" not in recpolicy(capsys, *RANK, "--ignore-unknown").err
    (directory / "context.json").write_text("{}")
    for actions, message in [
        ({}, "actions.json: found dict; expected a list of actions"),
        ([], "actions: found 0; expected 1 to 1,000"),
        ([{"size": 3}], "actions.json: action 0 has no id"),
        ([{"id": "a", "size": 3}], "action 0 has the key 'size'; expected id and features"),
        ([{"id": "a"}, {"id": "a"}], "actions: the id 'a' occurs twice"),
        ([{"id": 1.5}], "the action id 1.5: expected a whole number or a text"),
        ([{"id": "a", "features": {"colour": "red"}}], "no action feature named 'colour'. Did you mean 'color'?"),
    ]:
        write_actions(directory, actions)
        assert message in refused(recpolicy(capsys, *RANK))
    write_actions(directory, [{"id": 1}, {"id": 2}])
    assert "3 is no id among the actions" in refused(recpolicy(capsys, *RANK, "--exclude", "3"))
    assert "actions: all 2 are excluded" in refused(recpolicy(capsys, *RANK, "--exclude", 1, "--exclude", 2))
    assert "no.json: no such file" in refused(recpolicy(capsys, "rank", "run", "--actions", "no.json"))
    assert "no such folder" in refused(recpolicy(capsys, "rank", "nothing", "--actions", "actions.json"))


def test_commands_on_rated_items_say_what_the_policy_is_for(capsys, directory):
    recpolicy(capsys, "train", "squarecb", *TRAIN)
    for words in (("recommend", "run", "--user", 3), ("predict", "run", "--user", 3), ("evaluate", "run")):
        assert "holds a recpolicy feature policy, not a recpolicy policy; `recpolicy rank` uses it" in refused(
            recpolicy(capsys, *words)
        )


def test_constant_and_sparse_rewards_are_reported(capsys, caplog, directory):
    for share, message in ((0.0, "all 300 rewards are 0: there is nothing"), (0.005, "only 2 of 300 (0.67 %) differ")):
        reward = (np.arange(300) < 300 * share).astype(float)
        write_feature_log(replace(tiny_log(300), reward=reward), directory / "sparse")
        words = ("--log", "sparse", "--features", "schema.toml", "--out", f"run{share}")
        answer = recpolicy(capsys, "train", "lints", *words)
        assert answer.code == 0
        assert f"{reward.mean():.1%} positive" in answer.out
        assert any(message in line for line in caplog.messages), caplog.messages
