"""The influence of the history on tiny policies, against what `predict` says of one user; a bandit has none."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from tiny_policies import tiny_artifact
from tiny_session_policies import chances, tiny_session_artifact

from recpolicy.core.errors import ConfigError
from recpolicy.evaluation.history_influence import LIKED, SKIPPED, history_influence
from recpolicy.inference.predictor import Policy

ITEMS = 12
DRAMA = np.arange(ITEMS) % 3 == 0  # items 0, 3, 6 and 9; the others are comedies, and 11 is neither


def with_genres(artifact):
    genres = np.where(DRAMA, "Drama", "Comedy").astype(object)
    genres[11] = ""
    return Policy(replace(artifact, items=artifact.items.assign(genres=genres)))


@cache
def of_sessions() -> Policy:
    return with_genres(tiny_session_artifact(items=ITEMS, rated=2))


def test_a_change_is_that_of_the_probabilities_on_the_remaining_items():
    """Of user 0 after two dramas, the most rated ones: probabilities by `predict`, without those of these two."""
    policy = of_sessions()
    result = history_influence(policy, items_shown=2, users=7)
    drama = next(genre for genre in result.genres if genre.genre == "Drama")
    count = np.bincount(policy.artifact.rated_item, minlength=ITEMS)
    shown = sorted(np.flatnonzero(DRAMA), key=lambda row: -count[row])[:2]
    left = ~np.isin(np.arange(ITEMS), shown)
    empty = chances(policy, 0, [], []) * left
    empty = empty / empty.sum()
    assert drama.empty[1, 0] == pytest.approx(empty[DRAMA].sum(), abs=1e-6)
    for name, liked in ((LIKED, True), (SKIPPED, False)):
        now = chances(policy, 0, shown, [liked, liked])
        assert drama.change[name][1, 0] == pytest.approx((now - empty)[DRAMA].sum(), abs=1e-6)
        assert drama.distance[name][1, 0] == pytest.approx(np.abs(now - empty).sum() / 2, abs=1e-6)
    assert result.distance > 0.01
    row = result.intervals()["Drama"]["liked minus skipped"]
    assert row.value == pytest.approx((drama.change[LIKED] - drama.change[SKIPPED])[1].mean())
    assert row.lo < row.value < row.hi
    assert result.users == len(drama.empty[0]) == 7


@pytest.mark.parametrize("mode", ["exploring", "greedy"])
def test_a_policy_of_single_rounds_has_no_influence_at_all(mode):
    result = history_influence(with_genres(tiny_artifact(items=ITEMS)), items_shown=2, users=7, mode=mode)
    assert result.distance == 0
    for genre in result.genres:
        for name in (LIKED, SKIPPED):
            assert (genre.change[name] == 0).all()
    assert result.as_dict()["genres"]["Drama"]["change, all liked"] == {"value": 0, "lo": 0, "hi": 0}


def test_the_plot_has_a_line_for_each_genre_and_response():
    from recpolicy.evaluation.plots import history_influence_figure

    axes = history_influence_figure(history_influence(of_sessions(), items_shown=2, users=5)).axes[0]
    labels = {line.get_label() for line in axes.lines if not line.get_label().startswith("_")}
    assert labels == {f"{genre}, {name}" for genre in ("Comedy", "Drama") for name in (LIKED, SKIPPED)}


@pytest.mark.parametrize(("items", "message"), [(4, "can choose after at most 3"), (3, None), (11, "at most 3")])
def test_histories_are_no_longer_than_sessions(items, message):
    if message is None:
        assert history_influence(of_sessions(), items_shown=items, users=3).genres
        return
    with pytest.raises(ConfigError, match=message):
        history_influence(of_sessions(), items_shown=items)


def test_an_unknown_mode_is_one_line():
    with pytest.raises(ConfigError, match="no mode named 'wild'"):
        history_influence(of_sessions(), items_shown=2, mode="wild")


def test_without_genres_there_is_one_line():
    with pytest.raises(ConfigError, match="no genre has more than 2 items in the catalog of topk_reinforce"):
        history_influence(Policy(tiny_session_artifact(items=ITEMS)), items_shown=2)
