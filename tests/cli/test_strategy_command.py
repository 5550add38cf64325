"""`recpolicy strategy`: the whole way of a user, and one line for every wrong input."""

import json

import pytest
from command_line import recpolicy, refused


def printed(capsys, *words):
    """Return the output of a command that succeeded."""
    answer = recpolicy(capsys, *words)
    assert answer.code == 0, answer
    return answer.out


TRAITS = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")
REQUEST = {**dict.fromkeys(TRAITS, 60), "content_type": "music", "mood": "calm", "time_of_day": "evening"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from recpolicy.workflows.strategy_simulation import simulate_strategies
    from recpolicy.workflows.strategy_training import train_strategy

    folder = tmp_path_factory.mktemp("strategy")
    simulate_strategies(folder / "log", users=60, days=10)
    train_strategy(folder / "log", folder / "policy")
    (folder / "request.json").write_text(json.dumps(REQUEST))
    return folder


def test_the_way_of_a_user(capsys, tmp_path):
    log, policy = tmp_path / "log", tmp_path / "policy"
    out = printed(capsys, "strategy", "simulate", "--out", log, "--users", "60", "--days", "10")
    assert "synthetic personalities" in out
    assert f"next: recpolicy strategy train --log {log}" in out
    out = printed(capsys, "strategy", "train", "--log", log, "--out", policy)
    assert "learned" in out
    assert "left out:" in out
    assert "total_state_actions" in printed(capsys, "strategy", "stats", policy)
    later = tmp_path / "later"
    printed(
        capsys, "strategy", "simulate", "--out", later, "--users", "60", "--days", "6", "--first-day", "10",
        "--logging-policy", policy,
    )  # fmt: skip
    out = printed(capsys, "strategy", "evaluate", policy, "--log", later)
    assert "average reward" in out
    assert "rate of like" in out
    assert "trait-blind" in out
    body = json.loads(printed(capsys, "strategy", "evaluate", policy, "--log", later, "--json"))
    assert set(body["gains"]) == {"logging policy", "trait-blind", "static"}
    second = tmp_path / "second"
    body = json.loads(printed(capsys, "strategy", "train", "--log", later, "--from", policy, "--out", second, "--json"))
    assert body["interactions"] > 0
    assert body["table"]["rounds"] > body["interactions"]
    again = refused(recpolicy(capsys, "strategy", "train", "--log", later, "--from", second, "--out", tmp_path / "x"))
    assert "nothing new to learn" in again


def test_recommend_re_ranks_the_list_of_a_user(capsys, folder, tmp_path):
    """The list is that of the policy under the weights that the answer names; a catalog without genres has no tilt."""
    from tiny_policies import write_tiny

    from recpolicy.inference.guardrails import GuardrailConfig
    from recpolicy.inference.predictor import load_policy

    items = write_tiny(tmp_path / "items")
    words = ["strategy", "recommend", folder / "policy", "--request", folder / "request.json", "--event-id", "e"]
    body = json.loads(printed(capsys, *words, "--items", items, "--user", "3", "-k", "4", "--json"))
    weights = body["item_weights"]
    rails = GuardrailConfig(diversity=weights["diversity"], novelty=weights["novelty"])
    expected = load_policy(items).recommend(3, 4, guardrails=rails)
    assert [each["item_id"] for each in body["items"]] == expected["item_id"].tolist()
    out = printed(capsys, *words, "--items", items, "--user", "3", "-k", "4")
    assert "weights of items: diversity=" in out
    assert "Items for user 3" in out
    assert "go together" in recpolicy(capsys, *words, "--items", items).err


def test_recommend_prints_levels_parameters_propensity_and_source(capsys, folder):
    out = printed(
        capsys, "strategy", "recommend", folder / "policy", *(f"--trait={name}=60" for name in TRAITS),
        "--content-type", "music", "--mood", "calm", "--time-of-day", "evening", "--event-id", "e1",
    )  # fmt: skip
    assert "energy" in out
    assert "min_energy=" in out
    assert "propensity 0." in out
    file = ("--request", folder / "request.json", "--event-id", "e1", "--json")
    body = json.loads(printed(capsys, "strategy", "recommend", folder / "policy", *file))
    assert f"(action {body['action']})" in out
    assert body["source"] in ("cell", "factored", "trait_blind", "static")
    assert body == json.loads(printed(capsys, "strategy", "recommend", folder / "policy", *file))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trait", "openness=101"], "profile: openness is 101; expected 0..100"),
        (["--trait", "openness"], "expected NAME=VALUE, such as openness=80"),
        (["--trait", "openness=high"], "expected NAME=VALUE"),
        (["--trait", "charm=3"], "no trait named 'charm'"),
        (["--mood", "jazzy"], "no mood named 'jazzy'"),
        (["--content-type", "podcast"], "no content_type named 'podcast'"),
    ],
)
def test_a_wrong_request_is_one_line(capsys, folder, options, message):
    words = ("strategy", "recommend", folder / "policy", "--request", folder / "request.json", *options)
    assert message in refused(recpolicy(capsys, *words))


def test_wrong_files_are_one_line(capsys, folder, tmp_path):
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    for name, message in (("list", "found list"), ("broken", "not readable as JSON"), ("none", "no such file")):
        words = ("strategy", "recommend", folder / "policy", "--request", tmp_path / f"{name}.json")
        assert message in refused(recpolicy(capsys, *words))
    assert "mood is missing" in refused(
        recpolicy(capsys, "strategy", "recommend", folder / "policy", "--content-type=game")
    )
    assert "no such folder" in refused(recpolicy(capsys, "strategy", "stats", tmp_path / "none"))


def test_too_few_interactions_say_how_many_there_are(capsys, folder, tmp_path):
    words = ("strategy", "train", "--log", folder / "log", "--out", tmp_path / "p", "--min-interactions", "500")
    assert "no user has 500 interactions or more" in refused(recpolicy(capsys, *words))


def test_export_and_import(capsys, folder, tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    printed(capsys, "strategy", "export", folder / "policy", "--out", first)
    assert "already exists" in refused(recpolicy(capsys, "strategy", "export", folder / "policy", "--out", first))
    printed(capsys, "strategy", "import", first, "--out", tmp_path / "policy")
    printed(capsys, "strategy", "export", tmp_path / "policy", "--out", second)
    body = [json.loads(path.read_text()) for path in (first, second)]
    assert body[0]["states"] == body[1]["states"]
    (tmp_path / "three.toml").write_text("[profile]\nbins = 3\n")
    words = ("strategy", "import", first, "--config", tmp_path / "three.toml", "--out", tmp_path / "other")
    assert "another schema: bins is 5; expected 3" in refused(recpolicy(capsys, *words))
