"""The validation card: a known generator passes, a shifted one fails, the real MovieLens keeps its band."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from synthetic_responses import STEPS, planted_responses

from recpolicy.core.errors import DataError
from recpolicy.data.rating_sessions import split_into_sessions
from recpolicy.data.splits import split
from recpolicy.evaluation.plots import (
    engagement_figure,
    like_calibration_figure,
    policy_figure,
    session_length_figure,
)
from recpolicy.evaluation.session_rollout import SessionSimulator
from recpolicy.evaluation.simulator_card import CardConfig, real_sessions, validate_world
from recpolicy.models.user_model import SessionWorldConfig

PLAIN = SessionWorldConfig(max_steps=STEPS, rank=4, drift=0.0, fatigue_genre=0.0, fatigue_misses=0.0)
QUICK = CardConfig(replicates=5, bayesian=False, resamples=20)


@cache
def parts():
    return split(planted_responses().ratings, "random", seed=0)


@cache
def card():
    return validate_world(parts(), PLAIN, QUICK)


@cache
def shifted():
    return validate_world(parts(), PLAIN, replace(QUICK, shift_like=1.5, shift_stay=-1.0))


def verdicts(result):
    return {gate.name: gate.passed for gate in result.gates}


def test_ratings_of_a_known_generator_pass_every_gate():
    assert all(verdicts(card()).values()), card().table()
    assert card().passed
    assert len(card().policies) >= 8


def test_a_shifted_simulator_fails():
    """Wrong odds of likes do not change their order, but their level, the lengths and the engagement."""
    assert not shifted().passed
    failed = {name for name, passed in verdicts(shifted()).items() if not passed}
    assert {"like ECE", "session length KS", "engagement KS"} <= failed
    assert shifted().gates[0].value == pytest.approx(card().gates[0].value)


def test_biases_without_tastes_fail_the_first_gate():
    assert card().figures["bias-only AUC (negative control)"] < card().gates[0].limit


def test_the_same_seed_gives_the_same_card():
    again = validate_world(parts(), PLAIN, QUICK)
    assert again.as_dict() == card().as_dict()


def test_test_ratings_of_held_out_users_change_only_what_is_judged_by_them():
    """Turned upside down they cannot be foreseen any more; sessions and simulation stay as they are."""
    test = parts().test
    turned = validate_world(replace(parts(), test=replace(test, rating=6 - test.rating)), PLAIN, QUICK)
    figure = {gate.name: gate.value for gate in turned.gates}
    before = {gate.name: gate.value for gate in card().gates}
    assert figure["like AUC"] < 0.3
    for name in ("session length KS", "engagement KS", "genre transition TV"):
        assert figure[name] == before[name]
    assert [w.simulated for w in turned.policies.values()] == [w.simulated for w in card().policies.values()]


def test_exposure_goes_on_with_the_users_next_items_and_begins_again_after_the_last():
    ratings = parts().train.take(np.isin(parts().train.user, [3, 8]))
    real = real_sessions(ratings, PLAIN)
    sessions = split_into_sessions(ratings)
    assert real.responses.length.tolist() == np.minimum(sessions.length, STEPS).tolist()
    mine = ratings.item[sessions.rows[ratings.user[sessions.rows] == 8]]
    first = np.flatnonzero(sessions.user == 8)[0]
    np.testing.assert_array_equal(real.item[first], mine[:STEPS])
    last = sessions.length[-1]
    np.testing.assert_array_equal(real.item[-1], np.concatenate([mine[-last:], mine[: STEPS - last]])[:STEPS])


def test_played_sessions_are_geometric_where_going_on_is_constant():
    """Mean (1 - c^S) / (1 - c); all that is counted stops where the session ends."""
    world = planted_responses(seed=3, stay=0.8).world
    many = 20_000
    item = np.tile(np.arange(STEPS), (many, 1))
    responses = SessionSimulator(world).simulate(np.arange(many) % len(world.users), item, seed=1)
    assert responses.length.mean() == pytest.approx((1 - 0.8**STEPS) / 0.2, abs=4 * 3.3 / np.sqrt(many))
    assert (responses.length == 1).mean() == pytest.approx(0.2, abs=0.012)
    assert responses.shown.sum(axis=1).tolist() == responses.length.tolist()
    assert responses.likes.max() <= responses.length.max()
    row = int(np.argmax(responses.length))
    assert responses.engagement[row] == responses.level[row, : responses.length[row]].sum() / 4


def test_figures_show_both_sides():
    lengths = session_length_figure(card()).axes[0]
    assert [text.get_text().split(" (")[0] for text in lengths.get_legend().get_texts()] == ["real", "simulated"]
    assert lengths.lines[0].get_ydata()[-1] == pytest.approx(100)
    assert "engagement" in engagement_figure(card()).axes[0].get_xlabel()
    bins = like_calibration_figure(card()).axes[0].lines[1]
    assert len(bins.get_xdata()) == 10
    texts = [text.get_text() for text in policy_figure(card()).axes[0].texts]
    assert {text.split("  ")[0] for text in texts if "  " in text} == set(card().policies)
    best = max(card().policies.values(), key=lambda worth: worth.held_out)
    assert texts[0].endswith(f"{best.held_out:.2f}")  # the best in reality is drawn first, on top


def test_a_split_without_test_ratings_of_held_out_users_is_refused():
    none = replace(parts(), test=parts().test.take(np.zeros(len(parts().test), bool)))
    with pytest.raises(DataError, match="no test ratings"):
        validate_world(none, PLAIN, QUICK)


@pytest.mark.band
def test_u1_passes_every_gate_within_its_band(u1):
    real = validate_world(u1, card_config=replace(QUICK, replicates=10))
    figure = {gate.name: gate.value for gate in real.gates}
    assert real.passed, real.table()
    assert 0.795 < figure["like AUC"] < 0.815
    assert figure["like ECE"] < 0.03
    assert figure["session length KS"] < 0.08
    assert figure["engagement KS"] < 0.1
    assert 0.76 < real.figures["bias-only AUC (negative control)"] < 0.785
