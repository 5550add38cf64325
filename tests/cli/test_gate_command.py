"""`recpolicy gate` and `recpolicy report --log`: the exit code is the verdict, the files say why."""

import json
import shutil

import pytest
from command_line import recpolicy, refused
from ingested_logs import ingested_log
from tiny_dataset import write_miniature
from trained_policies import loaded, trained

from recpolicy.data.log_ingest import EVALUATION

LENIENT = """
[gate]
margin = -1000
relative_gain = -1000
held_out_margin = -5
min_effective_sample_size = 0
max_mean_weight_z = 100
max_tail_index = 100
group_loss = "off"
calibration_bias = 2
calibration_error = 2
min_diversity = 0
latency_ms = "off"
"""


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    return ingested_log(tmp_path_factory.mktemp("log"), rounds=4_000)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_miniature(tmp_path_factory.mktemp("data"))


def gate(capsys, tmp_path, rounds, *words, config=LENIENT):
    (tmp_path / "gate.toml").write_text(config)
    return recpolicy(
        capsys, "gate", trained("linucb"), "--log", rounds, "--config", tmp_path / "gate.toml", *words
    )  # fmt: skip


def test_a_policy_that_passes_ends_in_0_and_leaves_its_record(capsys, tmp_path, rounds, data):
    out = tmp_path / "out"
    answer = gate(
        capsys, tmp_path, rounds, "--baseline", trained("rating_model"), "--data", data, "--out", out
    )  # fmt: skip
    assert answer.code == 0, answer
    assert "NOT KEPT" not in answer.out
    assert "coverage of the ten best" in answer.out
    assert "gain over incumbent" in answer.out
    assert f"PASS: {trained('linucb')}, written to {out}" in answer.out
    record = json.loads((out / "gate.json").read_text())
    assert (record["format"], record["verdict"]) == ("recpolicy gate", "pass")
    assert record["inputs"]["candidate"] == loaded("linucb").metadata["policy_digest"]
    assert None not in record["inputs"].values()
    assert (out / "gate.html").is_file()
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["inputs"] == record["inputs"]


def test_a_policy_that_fails_ends_in_1_and_says_by_what(capsys, tmp_path, rounds):
    answer = gate(
        capsys, tmp_path, rounds, "--log-only", "--json", config=LENIENT.replace("margin = -1000", "margin = 4", 1)
    )
    assert answer.code == 1
    record = json.loads(answer.out)
    assert record["verdict"] == "fail"
    assert [reason.startswith("gain over the logging policy") for reason in record["reasons"]] == [True]
    assert record["inputs"]["test"] is None


def test_no_verdict_ends_in_1(capsys, tmp_path, rounds):
    config = LENIENT.replace("effective_sample_size = 0", "effective_sample_size = 1e6")
    answer = gate(capsys, tmp_path, rounds, "--log-only", config=config)
    assert answer.code == 1
    assert "NO VERDICT" in answer.out


def test_one_file_of_rounds_is_as_good_as_their_folder(capsys, tmp_path, rounds):
    whole, file = (
        gate(capsys, tmp_path, path, "--log-only", "--json") for path in (rounds, rounds / EVALUATION)
    )  # fmt: skip
    assert json.loads(whole.out)["criteria"][0] == json.loads(file.out)["criteria"][0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[gate]\nmargine = 0.1", "Did you mean 'margin'"),
        ("[gates]\nmargin = 0.1", "Did you mean 'gate'"),
        ("[gate]\nlatency_ms = -1", "latency_ms is -1"),
        ("[gate]\nlatency_ms = 'of'", "latency_ms"),
    ],
)
def test_limits_that_make_no_sense_are_one_line(capsys, tmp_path, rounds, config, message):
    assert message in refused(gate(capsys, tmp_path, rounds, "--log-only", config=config))


def test_bad_inputs_are_one_line_and_write_nothing(capsys, tmp_path, rounds):
    out = tmp_path / "out"
    assert "no evaluation.parquet" in refused(gate(capsys, tmp_path, tmp_path, "--log-only", "--out", out))
    assert "give them with --data" in refused(gate(capsys, tmp_path, rounds, "--out", out))
    damaged = shutil.copytree(trained("rating_model"), tmp_path / "damaged")
    (damaged / "arrays.npz").write_bytes(b"damaged")
    assert "arrays.npz" in refused(gate(capsys, tmp_path, rounds, "--log-only", "--baseline", damaged, "--out", out))
    broken = tmp_path / "broken.parquet"
    broken.write_bytes((rounds / EVALUATION).read_bytes()[:1_000])
    assert "broken.parquet" in refused(gate(capsys, tmp_path, broken, "--log-only", "--out", out))
    assert not out.exists()
    taken = tmp_path / "taken"
    taken.write_text("a file")
    line = refused(gate(capsys, tmp_path, rounds, "--log-only", "--out", taken))
    assert "taken: is a file; expected a folder" in line
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions" / "sessions.parquet").write_bytes(b"")
    line = refused(gate(capsys, tmp_path, tmp_path / "sessions", "--log-only"))
    assert "sessions.parquet: not a readable Parquet file" in line


def test_a_like_model_is_for_simulated_sessions(capsys, tmp_path, rounds, data):
    words = ("--like-model", "my_model:like")
    assert "that of simulated sessions" in refused(gate(capsys, tmp_path, rounds, "--log-only", *words))
    assert "there are none here: leave it out" in refused(gate(capsys, tmp_path, rounds, "--data", data, *words))


def test_report_with_a_log_shows_gate_overlap_and_estimators(capsys, tmp_path, rounds, data):
    folder = shutil.copytree(trained("linucb"), tmp_path / "policy")
    words = ("--data", data, "--log", rounds, "--baseline", trained("rating_model"), "--user", 7)
    answer = recpolicy(capsys, "report", folder, *words)
    assert answer.code == 0, answer
    page = (folder / "report.html").read_text(encoding="utf-8")
    for text in ("Gate: ", "Estimators side by side", "switch_dr", "Overlap: ", "Gain over incumbent", "gender F"):
        assert text in page
    assert page.count("<svg") >= 10  # four of the log beside the six of every report
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"linucb", "incumbent", "random"} <= set(metrics["policies"])
    assert metrics["policies"]["random"]["genre_diversity"] > metrics["policies"]["random"]["gini"]


def test_report_against_somebody_needs_a_log(capsys):
    answer = recpolicy(capsys, "report", trained("linucb"), "--baseline", trained("rating_model"))
    assert answer.code == 2
    assert "--log" in answer.err


def test_help_shows_an_example(capsys):
    answer = recpolicy(capsys, "gate", "--help")
    assert "recpolicy gate runs/linucb2 --baseline runs/linucb --log rounds/week1" in " ".join(answer.out.split())
