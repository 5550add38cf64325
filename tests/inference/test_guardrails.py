"""Settings of guardrails: what is refused, what a request may change, and recommendations in Python."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny_policies import tiny_artifact

from recpolicy.core.config import build
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.inference.guardrails import (
    NO_CAP,
    GuardrailConfig,
    bind,
    check_places,
    read_guardrails,
    tighten,
    unknown_ids_notice,
)
from recpolicy.inference.predictor import Policy

GENRES = ["Drama", "Comedy|Drama", "", "Action", "Comedy", "Drama"]


@pytest.fixture(scope="module")
def policy():
    """Six items, 101 to 106; the first was rated three times, the last once."""
    artifact = tiny_artifact(items=6)
    items = artifact.items.assign(genres=GENRES, year=pd.array([2000] * 6, dtype="Int64"))
    rated = {"rated_user": np.array([1, 2, 3, 3], np.int32), "rated_item": np.array([0, 0, 0, 5], np.int32)}
    return Policy(replace(artifact, items=items, **rated))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"diversity": 1.5}, "diversity is 1.5: expected less than or equal to 1"),
        ({"novelty": -0.1}, "novelty is -0.1: expected greater than or equal to 0"),
        ({"max_marked": -1}, "max_marked is -1: expected greater than or equal to 0"),
        ({"max_per_category": 0}, "max_per_category is 0: expected greater than or equal to 1"),
        ({"max_per_category": 101}, "max_per_category is 101: expected less than or equal to 100"),
        ({"category_caps": {"Drama": -1}}, "category_caps.Drama is -1: expected greater than or equal to 0"),
        ({"category_tilt": {"Drama": 2}}, "category_tilt.Drama is 2: expected less than or equal to 1"),
        ({"min_marked": 3, "max_marked": 2, "marked": [1]}, "min_marked is 3 and max_marked is 2; expected min_marked"),
        ({"category_caps": {"Drama": 1}, "blocked_categories": ["Drama"]}, "'Drama' is also in blocked_categories"),
        ({"min_rating": float("nan")}, "min_rating is nan"),
        ({"blocked": [1.5]}, "blocked.0"),
        ({"divresity": 0.1}, "no setting named 'divresity'. Did you mean 'diversity'?"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(settings, message):
    with pytest.raises(ConfigError) as caught:
        build(GuardrailConfig, settings, "[guardrails]")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"category_caps": {"Dramma": 1}}, "no category named 'Dramma'. Did you mean 'Drama'?"),
        ({"category_tilt": {"X": 0.1}}, "no category named 'X'. Known: Action, Comedy, Drama."),
        ({"blocked_categories": ["X"]}, "no category named 'X'"),
        ({"marked_categories": ["X"]}, "no category named 'X'"),
        ({"max_marked": 1}, "a quota of marked items needs `marked` or `marked_categories`"),
        ({"min_rating": 5.5}, "min_rating is 5.5; expected a rating on the scale, 1 to 5"),
    ],
)
def test_settings_that_the_policy_cannot_have_are_refused(policy, config, message):
    with pytest.raises(ConfigError) as caught:
        bind(GuardrailConfig(**config), policy.scorer)
    assert message in str(caught.value)


def test_quotas_of_more_places_than_the_list_are_refused():
    config = GuardrailConfig(max_per_category=3, category_caps={"Drama": 2}, marked=(1,), max_marked=3, min_marked=1)
    check_places(config, 3)
    for k, name in ((2, "max_per_category is 3"), (1, "max_per_category is 3")):
        with pytest.raises(ConfigError, match=f"{name}, but the list has {k} places"):
            check_places(config, k)
    with pytest.raises(ConfigError, match=r"category_caps\.Drama is 2, but the list has 1 places"):
        check_places(GuardrailConfig(category_caps={"Drama": 2}), 1)


def test_the_digest_is_that_of_the_settings_alone():
    digest = GuardrailConfig(diversity=0.3, category_caps={"A": 1, "B": 2}).digest
    assert digest == GuardrailConfig(category_caps={"B": 2, "A": 1}, diversity=0.3).digest
    assert digest != GuardrailConfig(diversity=0.3, category_caps={"A": 1, "B": 3}).digest
    assert len(digest) == 32
    assert not GuardrailConfig().active
    assert GuardrailConfig(min_rating=1.0).active


def test_names_become_arrays_over_the_catalog(policy):
    config = GuardrailConfig(
        max_per_category=2, category_caps={"Drama": 1}, blocked=(104, 999, "104"), blocked_categories=("Action",),
        marked=(101,), marked_categories=("Comedy",), max_marked=1, category_tilt={"Drama": 0.5, "Comedy": -0.5},
    )  # fmt: skip
    rails = bind(config, policy.scorer)
    assert rails.catalog.names == ["Action", "Comedy", "Drama"]
    assert rails.cap.tolist() == [2, 2, 1]
    assert rails.blocked.tolist() == [False, False, False, True, False, False]
    assert rails.marked.tolist() == [True, True, False, False, True, False]
    np.testing.assert_allclose(rails.bonus, [0.5, 0.0, 0.0, 0.0, -0.5, 0.5])  # the second has both: halves cancel
    np.testing.assert_allclose(rails.catalog.popularity, np.log1p([3, 0, 0, 0, 0, 1]) / np.log(4))
    assert rails.unknown == (999, "104")
    assert unknown_ids_notice(rails.unknown) == (
        "guardrails: no item with id 999, '104' in this policy's catalog; such ids have no effect"
    )
    assert unknown_ids_notice(()) is None


def test_a_request_makes_the_operators_guardrails_stricter_and_never_looser(policy):
    operator = bind(
        GuardrailConfig(
            max_per_category=2, category_caps={"Drama": 3}, blocked=(101,), marked=(102, 103), max_marked=2,
            min_marked=1, min_rating=3.0, diversity=0.3, novelty=0.2, category_tilt={"Action": -0.5},
        ),
        policy.scorer,
    )  # fmt: skip
    loose = GuardrailConfig(
        max_per_category=9, category_caps={"Drama": 9}, blocked=(105,), max_marked=9, min_rating=1.0,
        category_tilt={"Action": 1.0, "Comedy": 0.4},
    )  # fmt: skip
    both = tighten(operator, loose, policy.scorer)
    assert both.cap.tolist() == [2, 2, 3]
    assert both.blocked.tolist() == [True, False, False, False, True, False]
    assert (both.max_marked, both.min_marked, both.min_rating) == (2, 1, 3.0)
    assert (both.diversity, both.novelty) == (0.3, 0.2)
    assert both.tilt == {"Action": -0.5, "Comedy": 0.4}
    assert both.marked.tolist() == operator.marked.tolist()
    assert both.digest not in (operator.digest, loose.digest)
    strict = GuardrailConfig(max_per_category=1, max_marked=1, min_rating=4.0, diversity=0.9, novelty=0.8)
    both = tighten(operator, strict, policy.scorer)
    assert both.cap.tolist() == [1, 1, 1]
    assert (both.max_marked, both.min_marked, both.min_rating) == (1, 1, 4.0)
    assert (both.diversity, both.novelty) == (0.9, 0.8)


def test_a_request_may_not_mark_items_or_contradict_the_operators_quota(policy):
    operator = bind(GuardrailConfig(marked=(102,), max_marked=1), policy.scorer)
    with pytest.raises(ConfigError, match="the operator names the marked items"):
        tighten(operator, GuardrailConfig(marked=(101,), max_marked=1), policy.scorer)
    with pytest.raises(ConfigError, match="at least 2 marked items contradict at most 1; the operator has 0 to 1"):
        tighten(operator, GuardrailConfig(min_marked=2), policy.scorer)
    unmarked = bind(GuardrailConfig(diversity=0.1), policy.scorer)
    with pytest.raises(ConfigError, match="a quota of marked items needs"):
        tighten(unmarked, GuardrailConfig(min_marked=1), policy.scorer)
    assert tighten(None, GuardrailConfig(blocked=(101,)), policy.scorer).max_marked == NO_CAP


@pytest.mark.parametrize("sample", [False, True])
def test_recommendations_in_python_keep_the_guardrails(policy, sample):
    config = GuardrailConfig(max_per_category=1, blocked=(103,))
    table = policy.recommend([1, 2], k=6, exclude_rated=False, sample=sample, guardrails=config)
    for _, rows in table.groupby("user_id"):
        genres = [genre for item in rows["item_id"] for genre in GENRES[item - 101].split("|") if genre]
        assert len(genres) == len(set(genres))
        assert 103 not in rows["item_id"].tolist()
        assert rows["rank"].tolist() == list(range(1, len(rows) + 1))
    assert table.attrs["guardrails"] == config.digest
    assert "of 6 places are filled: 1 item is blocked; these categories are full: " in table.attrs["short"][1]


def test_guardrails_that_set_nothing_change_nothing(policy):
    plain = policy.recommend([1, 2], k=5)
    pd.testing.assert_frame_equal(policy.recommend([1, 2], k=5, guardrails=GuardrailConfig()), plain)


def test_guardrails_that_leave_nothing_say_so(policy):
    with pytest.raises(DataError, match="nothing to recommend under the guardrails: 0 of 2 places are filled: 6 items"):
        policy.recommend(1, k=2, guardrails=GuardrailConfig(blocked=tuple(range(101, 107))))


def test_unknown_blocked_ids_warn(policy):
    with pytest.warns(UserWarning, match="no item with id 7 in this policy's catalog"):
        policy.recommend(1, k=2, guardrails=GuardrailConfig(blocked=(7,)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.recommend(1, k=2, guardrails=GuardrailConfig(blocked=(101,)))


def test_guardrails_are_read_from_the_settings_of_a_server(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text('[limits]\nrate = 5\n[guardrails]\ndiversity = 0.2\nblocked = [1, "a"]\n')
    assert read_guardrails(path) == GuardrailConfig(diversity=0.2, blocked=(1, "a"))
    path.write_text("[guardrails]\ndiversity = 2\n")
    with pytest.raises(ConfigError, match=r"serve.toml: \[guardrails\]: diversity is 2"):
        read_guardrails(path)
    path.write_text("[limits]\n")
    with pytest.raises(ConfigError, match=r"serve.toml: no table \[guardrails\]"):
        read_guardrails(path)
