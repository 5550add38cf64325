"""The card on disk: JSON that says what the record says, and a page that needs nothing but itself."""

import json
import re
from functools import cache

import pytest
from synthetic_responses import STEPS, planted_responses

from recpolicy.core.errors import ConfigError
from recpolicy.data.splits import split
from recpolicy.workflows.simulator_validation import validate_simulator

SETTINGS = {"max_steps": STEPS, "rank": 4, "drift": 0, "fatigue_genre": 0, "fatigue_misses": 0}
QUICK = {"replicates": 3, "bayesian": False}


@cache
def parts():
    return split(planted_responses(seed=1, users=80, items=110).ratings, "random", seed=0)


def test_the_card_is_kept_as_json_and_as_one_page_that_loads_nothing(tmp_path):
    card = validate_simulator(parts(), SETTINGS, 0, tmp_path / "card", QUICK)
    assert sorted(path.name for path in (tmp_path / "card").iterdir()) == ["card.html", "card.json"]
    assert json.loads((tmp_path / "card" / "card.json").read_text()) == card.as_dict()
    page = (tmp_path / "card" / "card.html").read_text()
    assert page.count("<svg") == 4
    assert not re.search(r"""(?:src|href)\s*=\s*["']?[^"'#\s>]""", page)
    for gate in card.gates:
        assert gate.name in page
    assert "no click-through rate" in page


def test_a_card_that_is_not_kept_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card = validate_simulator(parts(), SETTINGS, seed=0, card=QUICK)
    assert list(tmp_path.iterdir()) == []
    assert card.config["max_steps"] == STEPS


@pytest.mark.parametrize(
    ("settings", "card", "message"),
    [({"fatigue": 1}, {}, "no setting named 'fatigue'"), ({}, {"replicate": 1}, "Did you mean 'replicates'")],
)
def test_misspelt_settings_are_named(settings, card, message):
    with pytest.raises(ConfigError, match=message):
        validate_simulator(parts(), settings, card=card)
