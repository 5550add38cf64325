"""Requests become states: bins, numbers, names, and one line for every wrong request."""

import math

import numpy as np
import pytest
from strategy_worlds import CONFIG, PROFILE, request

from recpolicy.core.errors import DataError
from recpolicy.strategies.config import SITUATION, strategy_config
from recpolicy.strategies.state import (
    StrategyRequest,
    codes_of_states,
    profile_values,
    request_arrays,
    request_state,
    situation_code,
    state_codes,
    state_from_name,
    state_name,
    state_numbers,
    trait_bins,
)


def test_bins_are_equal_and_the_last_one_has_100():
    profile = np.array([[0, 19.999, 20, 59.9, 60], [80, 99, 100, 40, 39.9]])
    assert trait_bins(profile, 5).tolist() == [[0, 0, 1, 2, 3], [4, 4, 4, 2, 1]]
    assert trait_bins(profile, 1).max() == 0


def test_a_request_by_hand():
    codes = state_codes(*request_arrays(request(), CONFIG), CONFIG)
    assert codes.tolist() == [[4, 1, 2, 4, 0, 0, 2, 2]]  # 85, 20, 50, 100, 0; music, calm, evening
    assert state_name(codes[0], CONFIG) == "4-1-2-4-0|music|calm|evening"
    number = 4 * 5**4 + 1 * 5**3 + 2 * 5**2 + 4 * 5 + 0
    assert state_numbers(codes, CONFIG).tolist() == [number * 72 + 0 * 24 + 2 * 4 + 2]
    assert request_state(request(), CONFIG) == number * 72 + 0 * 24 + 2 * 4 + 2


@pytest.mark.parametrize("bins", [1, 3, 5, 7])
def test_the_state_of_a_request_is_that_of_its_arrays(bins):
    """Values at the edges of bins, too, where the last bit of the product decides."""
    config, rng = strategy_config({"profile": {"bins": bins}}), np.random.default_rng(bins)
    edges = [100 * number / bins for number in range(bins + 1)]
    for row in range(300):
        values = rng.uniform(0, 100, 5) if row % 2 else rng.choice(edges, 5)
        names = [str(rng.choice(config.situation.names(part))) for part in SITUATION]
        asked = StrategyRequest(dict(zip(config.profile.traits, values.tolist(), strict=True)), *names)
        codes = state_codes(*request_arrays(asked, config), config)
        assert request_state(asked, config) == state_numbers(codes, config)[0]


@pytest.mark.parametrize(
    "tables", [{}, {"profile": {"bins": 3, "traits": ["calm", "loud"]}}, {"situation": {"allow_other": True}}]
)
def test_numbers_codes_and_names_are_the_same_state(tables):
    config = strategy_config(tables)
    states = np.unique(np.random.default_rng(0).integers(config.states, size=500))
    codes = codes_of_states(states, config)
    assert (codes >= 0).all()
    assert (codes < np.array(config.sizes)).all()
    assert (state_numbers(codes, config) == states).all()
    assert [state_from_name(state_name(row, config), config) for row in codes[:50]] == states[:50].tolist()


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({**PROFILE, "openness": 101}, r"profile: openness is 101; expected 0\.\.100"),
        ({**PROFILE, "openness": -0.1}, r"openness is -0\.1; expected 0\.\.100"),
        ({**PROFILE, "openness": math.nan}, "openness is 'nan'; expected a number"),
        ({**PROFILE, "openness": "high"}, "openness is 'high'; expected a number"),
        ({**PROFILE, "openness": True}, "openness is 'True'; expected a number"),
        ({**PROFILE, "opennes": 3}, "no trait named 'opennes'. Did you mean 'openness'"),
        ({name: PROFILE[name] for name in list(PROFILE)[1:]}, "openness is missing; expected a number in 0..100"),
        ([1, 2, 3, 4, 5], "profile: found list; expected a number for each of openness"),
    ],
)
def test_a_wrong_profile_is_one_line(profile, message):
    with pytest.raises(DataError, match=message) as error:
        profile_values(profile, CONFIG)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", SITUATION)
@pytest.mark.parametrize("name", ["jazzy", "", None, 3])
def test_unknown_names_are_refused_unless_the_schema_says_other(part, name):
    with pytest.raises(DataError, match=part):
        request_arrays(request(**{part: name}), CONFIG)
    other = strategy_config({"situation": {"allow_other": True}})
    if isinstance(name, str):
        assert situation_code(part, name, other) == len(CONFIG.situation.names(part))
    else:
        with pytest.raises(DataError, match=part):
            situation_code(part, name, other)


def test_the_message_names_the_remedy():
    with pytest.raises(DataError, match=r"no mood named 'clam'. Did you mean 'calm'.*allow_other = true"):
        situation_code("mood", "clam", CONFIG)


@pytest.mark.parametrize(
    "name",
    ["", "4-1-2-4-0", "5-0-0-0-0|music|calm|night", "4-1-2-4|music|calm|night", "4-1-2-4-0|music|calm|noon",
     "4-1-2-4-0|music|calm|night|x", "4-1-2-4--1|music|calm|night", None],
)  # fmt: skip
def test_other_texts_are_no_states(name):
    with pytest.raises(DataError, match=r"such as 0-0-0-0-0|music|happy|morning"):
        state_from_name(name, CONFIG)
