"""`recpolicy ope`: tables for people, JSON for programs, one line for what is wrong."""

import json

import pytest
from command_line import recpolicy, refused
from tiny_dataset import write_miniature
from tiny_logs import tiny_rounds
from tiny_policies import write_tiny
from tiny_session_policies import led_by, write_tiny_sessions

from recpolicy.data.bandit_log_files import IdVocabulary, write_events
from recpolicy.data.session_log_files import SESSIONS, write_sessions
from recpolicy.inference.predictor import load_policy

CONFIG = """
[benchmark]
sizes = [200, 500]
repetitions = 3
resamples = 20
clusters = 5

[train]
rating_model = "svd"
world = "item_knn"
rank = 5
items = 20
"""


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    return write_miniature(tmp_path_factory.mktemp("ratings"))


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Two policies and a file of rounds."""
    folder = tmp_path_factory.mktemp("policies")
    for seed, name in enumerate(("candidate", "incumbent")):
        write_tiny(folder / name, seed)
    rounds, _ = tiny_rounds(1_000)
    tables = IdVocabulary.from_policy(load_policy(folder / "candidate"))
    write_events(folder / "rounds.parquet", rounds, tables, with_rewards=True)
    return folder


@pytest.fixture(scope="module")
def sessions(policies):
    """The folder of the policies, with two of sessions and a log of the first."""
    for seed, name in enumerate(("leader", "follower")):
        write_tiny_sessions(policies / name, seed)
    leader = load_policy(policies / "leader")
    (policies / "log").mkdir()
    write_sessions(policies / "log" / SESSIONS, led_by(leader, 200), IdVocabulary.from_policy(leader))
    return policies


def benchmark(capsys, tmp_path, ratings, *words, config=CONFIG):
    (tmp_path / "benchmark.toml").write_text(config)
    return recpolicy(capsys, "ope", "benchmark", "--data", ratings, "--config", tmp_path / "benchmark.toml", *words)


def estimate(capsys, policies, *words):
    log = ("--log", policies / "rounds.parquet")
    return recpolicy(capsys, "ope", "estimate", policies / "candidate", *log, *words)


def test_benchmark_prints_errors_coverage_and_advice_and_writes_the_page(capsys, tmp_path, ratings):
    answer = benchmark(capsys, tmp_path, ratings, "--out", tmp_path / "out")
    assert answer.code == 0, answer
    for logging_policy in ("near", "far"):
        assert f"{logging_policy} logging policy: value" in answer.out
    assert answer.out.count("Relative error (%) by log size") == 2
    assert answer.out.count("3 logs of 500 rounds") == 2
    assert "Recommended estimator by kind of log" in answer.out
    assert str(tmp_path / "out" / "estimators.html") in answer.out
    assert (tmp_path / "out" / "estimators.html").is_file()


def test_benchmark_as_json_says_the_same_with_quick_under_the_file(capsys, tmp_path, ratings):
    answer = benchmark(capsys, tmp_path, ratings, "--json", "--quick")
    assert answer.code == 0, answer
    result = json.loads(answer.out)
    assert [cell["rounds"] for cell in result["cells"]] == [200, 500, 200, 500]  # the file is stronger than --quick
    assert {cell["repetitions"] for cell in result["cells"]} == {3}


def test_a_misspelt_setting_of_the_benchmark_is_one_line(capsys, tmp_path, ratings):
    answer = benchmark(capsys, tmp_path, ratings, config="[benchmark]\nsize = [100]\n")
    assert "no setting named 'size'" in refused(answer)


def test_estimate_prints_every_estimator(capsys, policies):
    answer = estimate(capsys, policies)
    assert answer.code == 0, answer
    lines = answer.out.splitlines()
    assert lines[0].startswith("linucb (greedy) on ")
    assert {line.split()[0] for line in lines[2:]} >= {"ips", "snips", "dr", "mrdr"}
    assert "Difference" not in answer.out


def test_estimate_against_a_policy_prints_the_difference(capsys, policies):
    answer = estimate(capsys, policies, "--baseline", policies / "incumbent", "--json")
    differences = json.loads(answer.out)["differences"]
    values = [differences["dr"][who]["value"] for who in ("candidate", "incumbent")]
    assert values[0] - values[1] == pytest.approx(differences["dr"]["value"])
    shown = estimate(capsys, policies, "--baseline", policies / "incumbent")
    assert f"Difference to {policies / 'incumbent'}" in shown.out
    assert f"{differences['dr']['value']:+.3f}" in shown.out


def test_settings_of_the_estimates_come_from_a_file(capsys, policies, tmp_path):
    (tmp_path / "ope.toml").write_text("[off_policy]\nlevel = 0.5\nresamples = 50\n")
    wide = json.loads(estimate(capsys, policies, "--json").out)["estimators"]["dr"]["intervals"]["t"]
    answer = estimate(capsys, policies, "--json", "--config", tmp_path / "ope.toml")
    narrow = json.loads(answer.out)["estimators"]["dr"]["intervals"]["t"]
    assert narrow["hi"] - narrow["lo"] < 0.5 * (wide["hi"] - wide["lo"])


def test_a_log_that_is_not_there_is_one_line(capsys, policies):
    answer = recpolicy(capsys, "ope", "estimate", policies / "candidate", "--log", policies / "none.parquet")
    assert "none.parquet: no such file" in refused(answer)


def of_sessions(capsys, sessions, policy, *words):
    log = ("--log", sessions / "log")
    return recpolicy(capsys, "ope", "estimate", sessions / policy, *log, *words)


def test_a_log_of_sessions_is_judged_session_by_session(capsys, sessions):
    answer = of_sessions(capsys, sessions, "leader", "--policy-mode", "exploring")
    assert answer.code == 0, answer
    lines = answer.out.splitlines()
    assert lines[0].startswith(f"topk_reinforce (exploring) on {sessions / 'log' / SESSIONS} (mean logged ")
    assert {line.split()[0] for line in lines[2:8]} == {
        "trajectory_is", "trajectory_wis", "per_decision_is", "per_decision_wis", "per_decision_dr", "fqe",
    }  # fmt: skip
    logged = lines[0].rpartition(" ")[2].strip(")")
    assert lines[2].split()[1] == logged  # its own log: all weights are 1
    assert answer.out.count("note:") == 1  # of too few users, whatever the policy
    assert "is left after step 0 (7)" in answer.out


def test_what_a_reader_must_know_is_said_below_the_table(capsys, sessions):
    answer = of_sessions(capsys, sessions, "leader")
    assert "\nnote: the policy: of 200 sessions an effective sample size below 50 is left after step " in answer.out
    assert "policy_mode 'exploring'" in answer.out


def test_sessions_take_an_incumbent_a_discount_and_settings(capsys, sessions, tmp_path):
    (tmp_path / "ope.toml").write_text("[off_policy]\nresamples = 20\nfolds = 3\n")
    words = ("--policy-mode", "exploring", "--gamma", 0.5, "--config", tmp_path / "ope.toml")
    answer = of_sessions(capsys, sessions, "follower", "--baseline", sessions / "leader", *words, "--json")
    body = json.loads(answer.out)
    assert (body["policy_mode"], body["gamma"], body["config"]["folds"], body["config"]["seed"]) == (
        "exploring",
        0.5,
        3,
        0,
    )
    assert body["differences"]["per_decision_is"]["incumbent"]["value"] == pytest.approx(body["logged_value"], abs=1e-5)
    shown = of_sessions(capsys, sessions, "follower", "--baseline", sessions / "leader", *words)
    assert f"Difference to {sessions / 'leader'}" in shown.out


def test_a_policy_of_rounds_is_estimated_on_sessions(capsys, sessions):
    answer = of_sessions(capsys, sessions, "candidate", "--baseline", sessions / "leader")
    assert answer.code == 0, answer
    assert answer.out.startswith("linucb (greedy) on ")
    assert f"Difference to {sessions / 'leader'}" in answer.out


def test_policies_and_logs_of_other_kinds_are_one_line(capsys, sessions):
    rounds = ("--log", sessions / "rounds.parquet")
    line = refused(recpolicy(capsys, "ope", "estimate", sessions / "leader", *rounds))
    assert "topk_reinforce is a session policy, but" in line
    line = refused(estimate(capsys, sessions, "--baseline", sessions / "leader"))
    assert "topk_reinforce is a session policy, but" in line
    line = refused(estimate(capsys, sessions, "--policy-mode", "greedy"))
    assert "policy_mode is only for logs of sessions" in line
    none = ("--log", sessions / "none.parquet")
    assert "no such file" in refused(recpolicy(capsys, "ope", "estimate", sessions / "leader", *none))


@pytest.mark.parametrize("command", ["benchmark", "estimate"])
def test_help_shows_an_example(capsys, command):
    answer = recpolicy(capsys, "ope", command, "--help")
    assert answer.code == 0
    assert f"Example: recpolicy ope {command}" in " ".join(answer.out.split())
