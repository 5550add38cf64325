"""A policy judged by the pages of another: what it would have done, what the estimators say, what is refused."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from tiny_policies import tiny_artifact

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.candidates import CandidateSets
from recpolicy.data.slate_log import SlateLog, open_to
from recpolicy.inference.predictor import Policy
from recpolicy.ope.engine import estimate_slates
from recpolicy.workflows.policy_estimation import estimate
from recpolicy.workflows.policy_feedback import slate_feedback

ITEMS, USERS, SLOTS = 11, 7, 2
SHELVES = np.arange(ITEMS, dtype=np.int16) % SLOTS


def tiny(seed: int = 0) -> Policy:
    return Policy(tiny_artifact(seed))


def drawn(shelves: np.ndarray | None, pages: int = 3_000, seed: int = 0, slots: int = SLOTS) -> np.ndarray:
    """ItemFeatures [N, K] drawn evenly."""
    rng = np.random.default_rng([seed, 8])
    if shelves is None:
        return rng.random((pages, ITEMS)).argsort(axis=1)[:, :slots]
    return np.stack([rng.choice(np.flatnonzero(shelves == slot), pages) for slot in range(slots)], axis=1)


def tiny_slates(shelves: np.ndarray | None = SHELVES, arm: np.ndarray | None = None, **changes) -> SlateLog:
    """Pages drawn evenly; an item is liked with a chance of its own, the same for all users."""
    arm = drawn(shelves) if arm is None else arm
    pages, slots = arm.shape
    rng = np.random.default_rng(9)
    liked = (rng.random(arm.shape) < worth()[arm]).astype(float)
    size = np.bincount(SHELVES)[:slots] if shelves is not None else ITEMS - np.arange(slots)
    columns = {
        "event_id": np.array([f"e{row}" for row in range(pages)], object), "time": np.arange(pages),
        "user": rng.integers(USERS, size=pages).astype(np.int32), "slate": arm.astype(np.int32),
        "log_propensity": np.tile(-np.log(size), (pages, 1)), "reward": liked.sum(axis=1), "slot_reward": liked,
        "policy": np.full(pages, "random", object), "version": np.full(pages, "aa", object),
        "action_items": np.arange(ITEMS, dtype=np.int32), "shelves": shelves, "scale": (0.0, float(slots)),
        "name": "tiny pages",
    }  # fmt: skip
    return SlateLog(**(columns | changes))


def worth() -> np.ndarray:
    return np.linspace(0.1, 0.9, ITEMS)


def own_page(policy: Policy, shelves: np.ndarray | None) -> np.ndarray:
    """The page [U, K] that the policy fills, slot by slot."""
    score = policy.scores()[0]
    if shelves is None:
        return np.argsort(-score, axis=1)[:, :SLOTS]
    return np.stack([np.where(shelves == slot, score, -np.inf).argmax(axis=1) for slot in range(SLOTS)], axis=1)


@pytest.mark.parametrize("shelves", [SHELVES, None])
def test_the_policy_fills_each_slot_with_its_best_item_of_those_left(shelves):
    log, policy = tiny_slates(shelves), tiny()
    slates, shown, wanted = slate_feedback(policy, log)
    score, rating = policy.scores()
    for row in range(50):
        above: list[int] = []
        for slot in range(SLOTS):
            open_arms, _ = open_to(slot, log.arm[:1], shelves, ITEMS)
            left = [arm for arm in open_arms if shelves is not None or arm not in above]
            best = max(left, key=lambda arm: score[log.user[row], arm])
            assert slates.target_prob[row, slot] == (log.arm[row, slot] == best)
            assert wanted[row, slot] == pytest.approx(rating[log.user[row], best])
            assert shown[row, slot] == pytest.approx(rating[log.user[row], log.arm[row, slot]])
            above.append(log.arm[row, slot])


@pytest.mark.parametrize("shelves", [SHELVES, None])
def test_the_policy_fills_slots_from_the_candidates_of_the_slate(shelves):
    log, policy = tiny_slates(shelves), tiny()
    rng = np.random.default_rng(4)
    eligible = rng.random((len(log), ITEMS)) < 0.5
    np.put_along_axis(eligible, log.arm, True, axis=1)
    sets, index = np.unique(np.packbits(eligible, axis=1), axis=0, return_inverse=True)
    candidates = CandidateSets.without_exclusions(sets, index.ravel(), ITEMS)
    slates, shown, wanted = slate_feedback(policy, replace(log, candidates=candidates))
    score, rating = policy.scores()
    for row in range(50):
        for slot in range(SLOTS):
            of_slot = range(ITEMS) if shelves is None else np.flatnonzero(shelves == slot)
            above = [] if shelves is not None else log.arm[row, :slot].tolist()
            left = [arm for arm in of_slot if eligible[row, arm] and arm not in above]
            best = max(left, key=lambda arm: score[log.user[row], arm])
            assert slates.target_prob[row, slot] == (log.arm[row, slot] == best)
            assert wanted[row, slot] == pytest.approx(rating[log.user[row], best])
            assert shown[row, slot] == pytest.approx(rating[log.user[row], log.arm[row, slot]])
    assert slates.pseudo_weight is None


def test_slates_are_the_independent_parts_where_the_log_names_nobody():
    log = tiny_slates()
    assert len(set(slate_feedback(tiny(), log)[0].user.tolist())) == USERS
    assert slate_feedback(tiny(), replace(log, unit="slate"))[0].user.tolist() == list(range(len(log)))


def test_items_of_equal_score_share_a_slot():
    artifact = tiny_artifact()
    flat = replace(artifact, policy={**artifact.policy, "theta": np.zeros_like(artifact.policy["theta"])})
    flat = replace(flat, offset=np.full(ITEMS, 3.0, np.float32))
    slates, *_ = slate_feedback(Policy(flat), tiny_slates())
    np.testing.assert_allclose(slates.target_prob, [[1 / 6, 1 / 5]] * len(slates))
    np.testing.assert_allclose(slates.ratio, 1)


@pytest.mark.parametrize("shelves", [SHELVES, None])
def test_what_the_policy_would_earn_is_found_from_pages_drawn_evenly(shelves):
    """Likes add up, so the truth is the mean worth of the policy's own items, over the users of the log."""
    log, policy = tiny_slates(shelves, drawn(shelves, 20_000)), tiny()
    truth = worth()[own_page(policy, shelves)].sum(axis=1)[log.user].mean()
    found = estimate(policy, log, config={"resamples": 200})
    assert found.logged_value == pytest.approx(log.reward.mean())
    assert {"ips", "snips", "rips", "cascade_dr", "pi", "wpi"} <= set(found.estimates)
    for name in ("snips", "rips", "cascade_dr", "wpi", "pi_single"):
        assert found.estimates[name].value == pytest.approx(truth, rel=0.1), name
    assert found.logged_value != pytest.approx(truth, rel=0.1)


def test_weights_of_pages_without_shelves_average_to_the_truth_over_all_pages():
    """Every page once: no sampling, so the pseudo-inverse is exact for likes that add up."""
    pages = np.array(list(itertools.permutations(range(ITEMS), SLOTS)))
    arm = np.tile(pages, (USERS, 1))
    user = np.repeat(np.arange(USERS, dtype=np.int32), len(pages))
    earned = worth()[arm]
    log = tiny_slates(None, arm, user=user, slot_reward=earned, reward=earned.sum(axis=1))
    policy = tiny()
    found = estimate_slates(slate_feedback(policy, log)[0], ["pi", "ips", "wpi"])
    truth = worth()[own_page(policy, None)].sum(axis=1).mean()
    for result in found.values():
        assert result.value == pytest.approx(truth, rel=1e-9)


def test_weights_are_made_only_for_pages_drawn_evenly():
    log = tiny_slates(None)
    uneven = np.array(log.log_propensity)
    uneven[5, 0] = np.log(0.5)
    assert slate_feedback(tiny(), log)[0].pseudo_weight is not None
    assert slate_feedback(tiny(), replace(log, log_propensity=uneven))[0].pseudo_weight is None
    found = estimate(tiny(), replace(log, log_propensity=uneven), config={"resamples": 20})
    assert set(found.estimates) == {"ips", "snips", "rips", "cascade_dr"}


def test_without_slot_rewards_the_forms_that_need_them_are_left_out():
    found = estimate(tiny(), tiny_slates(slot_reward=None), config={"resamples": 20})
    assert {"ips", "pi", "pi_slots"} <= set(found.estimates)
    assert not {"iips", "rips", "cascade_dr"} & set(found.estimates)


def test_the_gain_is_paired_page_by_page():
    log, one, other = tiny_slates(), tiny(), tiny(1)
    found = estimate(one, log, other, config={"resamples": 100})
    apart = estimate(other, log, config={"resamples": 100})
    for name in ("snips", "pi", "cascade_dr"):
        expected = found.estimates[name].value - apart.estimates[name].value
        assert found.differences[name].value == pytest.approx(expected, abs=1e-12)
    same = estimate(one, log, one, config={"resamples": 100}).differences["pi"]
    assert (same.value, same.intervals["bootstrap"].lo, same.intervals["bootstrap"].hi) == (0, 0, 0)
    assert estimate(tiny(), log, tiny(), config={"resamples": 100}).differences["pi"].limits == same.limits
    assert "pi" in found.difference_table().index


def test_a_catalog_that_the_policy_does_not_have_is_refused():
    few = Policy(tiny_artifact(arms=6))
    with pytest.raises(DataError, match=r"tiny pages: 5 of the 11 items of its slates are not in the catalog"):
        estimate(few, tiny_slates())
    with pytest.raises(DataError, match="not in the catalog"):
        estimate(tiny(), tiny_slates(), few)


def test_a_policy_of_a_larger_catalog_is_judged_among_the_items_of_the_log():
    arms = np.arange(0, ITEMS, 2)
    rng = np.random.default_rng(4)
    arm = arms[rng.random((500, len(arms))).argsort(axis=1)[:, :SLOTS]]
    log = tiny_slates(
        None, arm, action_items=arms.astype(np.int32), log_propensity=np.tile(-np.log([6.0, 5.0]), (500, 1))
    )
    slates, *_ = slate_feedback(tiny(), log)
    best = arms[tiny().scores()[0][:, arms].argmax(axis=1)]
    np.testing.assert_array_equal(slates.target_prob[:, 0], log.slate[:, 0] == best[log.user])


@pytest.mark.parametrize(
    "metadata", [{"slate_digest": True}, {"log": True}, {"log": "other", "parents": [{"slate_digest": True}]}]
)
def test_pages_that_a_policy_or_one_before_it_has_learnt_from_are_refused(metadata):
    log = tiny_slates()
    own = {name: log.digest if value is True else value for name, value in metadata.items()}
    if "parents" in own:
        own["parents"] = [{"policy_digest": "aa", "slate_digest": log.digest}]
    artifact = tiny_artifact()
    guilty = Policy(replace(artifact, metadata={**artifact.metadata, **own}))
    with pytest.raises(DataError, match="tiny pages: the policy has learned from this log"):
        estimate(guilty, log)
    with pytest.raises(DataError, match="tiny pages: the incumbent has learned from this log"):
        estimate(tiny(), log, guilty)


def test_a_policy_that_rates_all_items_alike_and_a_log_of_few_pages_are_judged_as_well():
    artifact = tiny_artifact()
    flat = replace(artifact, policy={**artifact.policy, "theta": np.zeros_like(artifact.policy["theta"])})
    flat = Policy(replace(flat, offset=np.full(ITEMS, 3.0, np.float32)))
    assert "cascade_dr" in estimate(flat, tiny_slates(), config={"resamples": 20}).estimates
    few = tiny_slates(arm=drawn(SHELVES, 6))
    assert "cascade_dr" in estimate(tiny(), few, config={"resamples": 20}).estimates


def test_settings_unknown_are_refused():
    with pytest.raises(ConfigError, match="resample"):
        estimate(tiny(), tiny_slates(), config={"resample": 3})
