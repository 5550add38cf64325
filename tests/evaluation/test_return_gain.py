"""Return rates on logged sessions: weights, windows that are wholly over, and the gate's criterion."""

import numpy as np
import pytest
from hand_sessions import hand_sessions

from recpolicy.data.session_returns import SessionReturns
from recpolicy.evaluation.gate import GateConfig, gate
from recpolicy.evaluation.return_gain import return_figures, return_gains, trajectory_weights


def test_rates_are_weighted_and_only_sessions_followed_so_long_count():
    """Sessions of days 0, 1, 2 and 3 of users 0, 3, 1 and 0; the last one was followed for 2 days only."""
    log = hand_sessions(returns=SessionReturns(np.array([2.5, 4.0, 3.0, 2.0]), np.array([True, False, False, False])))
    gains = return_gains(log, np.array([3.0, 1.0, 2.0, 50.0]), np.ones(4))
    assert set(gains) == {"1", "3"}  # no session was followed for 7 days
    assert gains["3"]["sessions"] == 3
    assert gains["3"]["rate"] == pytest.approx(3 / 6)
    assert gains["3"]["gain"]["value"] == pytest.approx(3 / 6 - 1 / 3)
    assert gains["3"]["effective_users"] == pytest.approx(36 / 14)
    assert gains["1"]["rate"] == 0
    assert return_gains(log, np.ones(4), np.ones(4))["3"]["gain"] == {"value": 0, "lo": 0, "hi": 0}
    none = return_gains(log, np.zeros(4), np.ones(4))["3"]
    assert (none["rate"], none["gain"]) == (None, None)
    assert np.isnan(return_figures({"3": none}, 3)[0])


def test_weights_are_the_products_over_the_items_of_a_session():
    target, behavior = np.array([[0.5, 0.4], [1.0, 0.0]]), np.array([[0.25, 0.8], [0.5, 0.0]])
    assert trajectory_weights(target, behavior).tolist() == [1.0, 2.0]


ONLY = dict.fromkeys(
    ("margin", "relative_gain", "max_mean_weight_z", "max_tail_index", "session_group_loss", "group_loss")
)
ONLY |= dict.fromkeys(("min_diversity", "latency_ms"))


@pytest.mark.parametrize(
    ("lo", "users", "verdict"),
    [(-0.01, 400.0, "pass"), (-0.03, 400.0, "fail"), (-0.01, 20.0, "no_verdict"), (None, None, "no_verdict")],
)
def test_the_gate_compares_return_rates_and_says_when_it_cannot_tell(lo, users, verdict):
    logged = {"baseline": "the logging policy", "unit": "session", "effective_sample_size": 400.0}
    if users is not None:
        logged["returns"] = {"3": {"gain": {"value": 0.0, "lo": lo, "hi": 0.1}, "effective_users": users}}
    evaluation = {"policy": {}, "off_policy": logged}
    result = gate(evaluation, GateConfig(**ONLY, return_days=3))
    assert result.verdict == verdict
    assert gate({**evaluation}, GateConfig(**ONLY)).verdict == "pass"  # off by default
