"""Warnings of a session training: none of healthy trainings, one of each planted fault, with what to try."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.metrics import read_csv
from recpolicy.training.health import HealthWatch, collapsed

TRACES = Path(__file__).parent / "health_traces"
"""Rows of trainings on MovieLens 100K (u1, 200 items, likes, sessions of at most 20 items): see its README."""
MAX_RETURN = 20.0


def warnings_of(watch, rows, caplog):
    caplog.clear()
    with caplog.at_level(logging.WARNING, "recpolicy"):
        for number, row in enumerate(rows, start=1):
            watch.look(row, 1000 * number)
    return [record.getMessage() for record in caplog.records]


def rows_of(reward, **columns):
    columns = {"sessions/reward": reward, "sessions/ended": [100.0] * len(reward)} | {
        f"update/{name}": values for name, values in columns.items()
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


ASLEEP = rows_of([2.0] * 12, entropy=[4.0] * 5 + [0.1] * 7)
"""Entropy falls to a fortieth after the fifth row; with the tenth there are two windows of reward to compare."""
SWINGS = [3.0 + 1.5 * (-1) ** (number // 3) for number in range(24)]
"""A reward that jumps between 1.5 and 4.5 every three rows."""


@pytest.mark.parametrize("path", sorted(TRACES.glob("healthy_*.csv")), ids=lambda path: path.stem)
def test_a_healthy_training_causes_no_warning(path, caplog):
    rows = read_csv(path)
    assert len(rows) >= 30
    assert warnings_of(HealthWatch(MAX_RETURN), rows, caplog) == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("diverges_dqn", "divergence: update/max_q_value grows to"),
        ("oscillates_dqn", "oscillation: update/value_mean"),
        ("collapses_a2c", "collapse:"),
        ("collapses_ppo", "collapse:"),
    ],
)
def test_a_spoilt_training_is_named(name, fault, caplog):
    warnings = warnings_of(HealthWatch(MAX_RETURN), read_csv(TRACES / f"{name}.csv"), caplog)
    assert any(f": {fault}" in warning and ". Try " in warning for warning in warnings), warnings


@pytest.mark.parametrize(
    ("rows", "warning"),
    [
        (ASLEEP, "step 10,000: collapse: the policy's entropy is 0.100 nats (4.00 at first) and the reward stays at"
         " 2.000. Try a larger ent_coef, a smaller learning_rate, or a higher temperature"),
        (rows_of([3.0] * 20, max_q_value=np.geomspace(4, 4000, 20)), "divergence: update/max_q_value grows to"),
        (rows_of([3.0] * 20, value_loss=np.geomspace(4, 4e6, 20)), "divergence: update/value_loss grows to"),
        (rows_of(SWINGS), "step 12,000: oscillation: sessions/reward swings between 1.5 and 4.5 and does not grow."),
        (rows_of([3.0] * 24, value_mean=SWINGS), "oscillation: update/value_mean swings"),
        (rows_of([4.0] * 8 + [1.0] * 8), "collapse of the reward: it was 4.000 and is"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_named_once_with_what_to_try(rows, warning, caplog):
    (found,) = warnings_of(HealthWatch(MAX_RETURN), rows, caplog)
    assert warning in found
    assert ". Try " in found


@pytest.mark.parametrize(
    "rows",
    [
        rows_of([2.0] * 12, entropy=np.geomspace(4, 0.5, 12)),  # surer, but not sure
        rows_of(np.linspace(2, 3, 12), entropy=[4.0] * 5 + [0.1] * 7),  # sure, and better for it
        rows_of(np.linspace(3, 2, 12), entropy=[4.0] * 12),  # worse, but exploring
        ASLEEP[:9],
        rows_of([2.0] * 12, loss=[0.0] * 12),  # an agent without entropy
        rows_of([3.0] * 30, max_q_value=np.geomspace(0.01, 19, 30)),  # growth to what a session can earn
        rows_of([3.0] * 30, max_q_value=[50.0] * 30),  # too large from the start, and not growing
        rows_of(np.linspace(1, 6, 30)),
        [row | {"sessions/ended": 4.0} for row in rows_of(SWINGS)],  # four sessions a row: noise
        rows_of([4.0] * 8 + [2.5] * 8),
        rows_of([-3.0] * 20),  # rewards below 0, as those of a similarity can be
        rows_of([-3.0] * 24, value_mean=[0.01 * (-1) ** (number // 3) for number in range(24)]),
    ],
)  # fmt: skip
def test_what_only_looks_like_a_fault_causes_no_warning(rows, caplog):
    assert warnings_of(HealthWatch(MAX_RETURN), rows, caplog) == []


def test_sessions_of_the_same_policy_are_noise_and_no_oscillation(caplog):
    rng = np.random.default_rng(0)
    for ended in (3, 30, 300):
        for _ in range(30):
            reward = [rng.geometric(0.3, ended).mean() for _ in range(100)]
            rows = [row | {"sessions/ended": float(ended)} for row in rows_of(reward)]
            assert warnings_of(HealthWatch(MAX_RETURN), rows, caplog) == []


def test_rewards_of_both_signs_cause_no_warning(caplog):
    rng = np.random.default_rng(1)
    for level in (-2.0, 0.0):
        rows = rows_of((level + rng.normal(0, 2, (100, 100)).mean(axis=1)).tolist(), value_loss=[3.0] * 100)
        assert warnings_of(HealthWatch(MAX_RETURN), rows, caplog) == []


def test_rows_in_which_no_session_ended_do_not_count(caplog):
    nothing = {"update/entropy": 0.0, "sessions/reward": float("nan")}
    rows = [row for one in ASLEEP for row in (one, nothing)]
    assert len(warnings_of(HealthWatch(), rows, caplog)) == 1


@pytest.mark.parametrize(("kept", "warnings"), [(7, 1), (9, 1), (10, 0), (11, 0)])
def test_a_resumed_run_compares_with_its_first_rows_and_repeats_no_warning(caplog, kept, warnings):
    assert len(warnings_of(HealthWatch(past=ASLEEP[:kept]), ASLEEP[kept:], caplog)) == warnings


@given(entropy=st.floats(0.01, 5), steps=st.lists(st.floats(0.01, 1), min_size=10, max_size=20))
def test_growing_reward_is_no_collapse(entropy, steps):
    assert not collapsed(5.0, entropy, np.cumsum(steps).tolist())
