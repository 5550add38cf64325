"""Snapshots of a training: which rounds have one, what it holds, and that a resumed training writes the same."""

import numpy as np
import pytest
from test_trainer import played

from recpolicy.agents.learner import ExportedPolicy
from recpolicy.training import snapshots as module
from recpolicy.training import trainer
from recpolicy.training.snapshots import Snapshots, read_snapshots


def exported(theta=1.0):
    return ExportedPolicy(
        "linear", "greedy", {}, {"theta": np.full((2, 3), theta), "covariance": np.ones((2, 3, 3)), "bias": np.bool_(1)}
    )


def test_snapshots_double_and_leave_out_what_only_exploration_reads(tmp_path):
    snapshots = Snapshots(tmp_path, 640, 8, exported)
    snapshots.start()
    for done in range(1, 641):
        snapshots.look(done - 1, done)
    read = read_snapshots(tmp_path)
    assert list(read) == [8 * rounds for rounds in (0, 10, 20, 40, 80, 160, 320)]
    estimator, arrays = read[80]
    assert estimator == "linear"
    assert set(arrays) == {"theta", "bias"}
    np.testing.assert_array_equal(arrays["theta"], np.ones((2, 3)))


@pytest.mark.parametrize(
    ("total", "row", "steps"),
    [(1, 1, [0, 1]), (5, 5, [0, 5]), (100, 30, [0, 30, 60]), (100, 1, [0, 2, 4, 7, 13, 25, 50])],
)
def test_long_rows_of_metrics_delay_a_snapshot_to_their_end(tmp_path, total, row, steps):
    """Due are total / 64, 32, ..., 2 rounds; 100 / 64 = 1.6 is first reached by round 2."""
    snapshots = Snapshots(tmp_path, total, 1, exported)
    snapshots.start()
    for before in range(0, total, row):
        snapshots.look(before, min(before + row, total))
    assert list(read_snapshots(tmp_path)) == steps


def test_policy_too_large_for_snapshots_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 40)  # theta has 48 bytes
    Snapshots(tmp_path, 4, 1, exported).start()
    assert read_snapshots(tmp_path) == {}
    assert not (tmp_path / "snapshots").exists()


def _die_after_80(row, step, *_):
    if step > 80:
        raise RuntimeError("killed")


def test_training_in_two_parts_writes_the_snapshots_of_the_unbroken_one(tmp_path, monkeypatch):
    played("linucb", tmp_path / "whole", total_timesteps=320, log_rows=4)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_check_row", _die_after_80)
        with pytest.raises(RuntimeError, match="killed"):
            played("linucb", tmp_path / "parts", total_timesteps=320, log_rows=4)
    assert list(read_snapshots(tmp_path / "parts")) == [0, 80]
    played("linucb", tmp_path / "parts", total_timesteps=320, log_rows=4)
    whole, parts = (read_snapshots(tmp_path / name) for name in ("whole", "parts"))
    assert list(whole) == list(parts) == [0, 80, 160]
    for step, (_, arrays) in whole.items():
        np.testing.assert_array_equal(parts[step][1]["theta"], arrays["theta"])
    assert (whole[0][1]["theta"] != whole[160][1]["theta"]).any()
