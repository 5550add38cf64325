"""Two worlds share no user, no rating and no model class."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from synthetic_responses import STEPS, planted_responses

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.splits import split
from recpolicy.models.session_worlds import fit_evaluation_worlds, fit_two_worlds, halves, joined, of_users
from recpolicy.models.user_model import SessionWorldConfig

CONFIG = SessionWorldConfig(max_steps=STEPS, rank=4)


@cache
def parts():
    return split(planted_responses(seed=1, users=80, items=110).ratings, "random", seed=0)


@cache
def worlds():
    return fit_two_worlds(parts(), CONFIG, seed=0)


def test_halves_are_disjoint_and_hold_every_user_with_ratings():
    one, other = halves(parts().train, seed=3)
    assert sorted([*one, *other]) == np.unique(parts().train.user).tolist()
    assert len(other) - len(one) in (0, 1)
    assert one.tolist() == halves(parts().train, seed=3)[0].tolist()
    assert one.tolist() != halves(parts().train, seed=4)[0].tolist()


def test_worlds_have_different_users_and_model_classes():
    assert not set(worlds().training_world.users) & set(worlds().evaluation_world.users)
    assert worlds().training_world.name.startswith("svd on ")
    assert worlds().evaluation_world.name.startswith("item_knn on ")
    assert worlds().training_world.known is None


def test_the_judge_pays_the_levels_of_real_test_ratings_of_its_users_and_nothing_else():
    judge, test = worlds().evaluation_world, parts().test
    expected = np.full(judge.like.shape, -1)
    for user, item, rating in zip(test.user, test.item, test.rating, strict=True):
        if user in judge.users:
            expected[np.flatnonzero(judge.users == user)[0], item] = rating - 1
    np.testing.assert_array_equal(judge.known, expected)


def test_the_training_world_sees_no_test_rating_and_nobody_of_the_other_half():
    """Turning all those ratings upside down must leave it as it is."""
    half, _ = halves(parts().train, seed=0)
    fit, test = parts().train, parts().test
    outside = ~np.isin(fit.user, half)
    turned = replace(
        parts(),
        train=replace(fit, rating=np.where(outside, 6 - fit.rating, fit.rating).astype(np.float32)),
        test=replace(test, rating=6 - test.rating),
    )
    assert fit_two_worlds(turned, CONFIG, seed=0).training_world.digest == worlds().training_world.digest


def test_the_judge_sees_nobody_of_the_training_half():
    half, _ = halves(parts().train, seed=0)
    turned = [
        replace(part, rating=np.where(np.isin(part.user, half), 6 - part.rating, part.rating).astype(np.float32))
        for part in (parts().train, parts().test)
    ]
    again = fit_two_worlds(replace(parts(), train=turned[0], test=turned[1]), CONFIG, seed=0)
    assert again.evaluation_world.digest == worlds().evaluation_world.digest
    assert again.training_world.digest != worlds().training_world.digest


def test_the_same_seed_gives_the_same_worlds():
    again = fit_two_worlds(parts(), CONFIG, seed=0)
    assert (again.training_world.digest, again.evaluation_world.digest) == (
        worlds().training_world.digest,
        worlds().evaluation_world.digest,
    )
    assert fit_two_worlds(parts(), CONFIG, seed=1).training_world.digest != worlds().training_world.digest


def test_no_fatigue_is_what_the_settings_say():
    plain = fit_two_worlds(parts(), replace(CONFIG, fatigue_genre=0.0, fatigue_misses=0.0), seed=0)
    assert plain.training_world.fatigue == (0.0, 0.0)
    np.testing.assert_allclose(
        plain.training_world.stay_history - worlds().training_world.stay_history, (4, 2), atol=1e-5
    )


def test_tables_without_times_or_with_too_few_users_are_refused():
    fit = parts().train
    with pytest.raises(DataError, match="need timestamps"):
        fit_two_worlds(replace(parts(), train=replace(fit, timestamp=None)), CONFIG)
    with pytest.raises(DataError, match="at least four"):
        halves(of_users(fit, np.arange(3), "three"), seed=0)


def test_joined_ratings_are_fit_then_test():
    every = joined(parts().train, parts().test, "both")
    assert len(every) == len(parts().train) + len(parts().test)
    np.testing.assert_array_equal(every.rating[len(parts().train) :], parts().test.rating)
    np.testing.assert_array_equal(every.timestamp[: len(parts().train)], parts().train.timestamp)


def test_half_samples_are_worlds_of_one_shape_with_half_of_the_evaluation_users():
    several = fit_evaluation_worlds(parts(), 3, CONFIG, seed=0)
    everyone = set(worlds().evaluation_world.users)
    assert len(everyone) == 40
    for world in several:
        assert len(set(world.users)) == 20
        assert set(world.users) < everyone
        assert world.known is not None
        assert (world.interest.shape, world.stay.shape) == (several[0].interest.shape, several[0].stay.shape)
    assert len({world.digest for world in several}) == 3
    assert len({tuple(world.users) for world in several}) == 3
    shared = np.intersect1d(several[0].users, several[1].users)  # the same users, another fitted world
    rows = [np.searchsorted(world.users, shared) for world in several[:2]]
    assert (several[0].like[rows[0]] != several[1].like[rows[1]]).any()
    again = fit_evaluation_worlds(parts(), 2, CONFIG, seed=0)  # the first worlds do not depend on how many follow
    assert [world.digest for world in again] == [world.digest for world in several[:2]]


def test_one_world_has_no_spread():
    with pytest.raises(ConfigError, match="worlds is 1; an interval needs 2 or more"):
        fit_evaluation_worlds(parts(), 1, CONFIG)
