"""Slots as rounds: who, what, what else could have been shown, and what came of it."""

import numpy as np
import pytest
from hand_logs import tables
from hand_slates import SHELVES, hand_slates, write_hand

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.log_ingest import IngestConfig
from recpolicy.data.slate_rounds import ingest_slates, rounds_from_slates


@pytest.mark.parametrize("shelved", [True, False])
def test_every_slot_is_a_round(shelved):
    log = hand_slates(shelved)
    rounds = rounds_from_slates(log, (1.0, 5.0))
    assert len(rounds) == 16
    assert rounds.event_id[:3].tolist() == ["e0:0", "e0:1", "e1:0"]
    for name in ("user", "time", "policy", "version"):
        np.testing.assert_array_equal(getattr(rounds, name)[1::2], getattr(log, name))
        np.testing.assert_array_equal(getattr(rounds, name)[::2], getattr(log, name))
    np.testing.assert_array_equal(rounds.item.reshape(8, 2), log.slate)
    np.testing.assert_array_equal(rounds.log_propensity.reshape(8, 2), log.log_propensity)
    np.testing.assert_array_equal(rounds.reward.reshape(8, 2), 1 + 4 * log.slot_reward)
    assert rounds.scale == (1.0, 5.0)


def test_the_candidates_of_a_slot_are_its_shelf():
    rounds = rounds_from_slates(hand_slates(), (0.0, 1.0))
    allowed = rounds.allowed(slice(0, 16))
    np.testing.assert_array_equal(allowed, np.tile([SHELVES == 0, SHELVES == 1], (8, 1)))


def test_without_shelves_the_candidates_are_what_does_not_stand_above():
    log = hand_slates(shelved=False)
    allowed = rounds_from_slates(log, (0.0, 1.0)).allowed(slice(0, 16))
    assert allowed[::2].all()
    expected = np.ones((8, 5), bool)
    expected[np.arange(8), log.arm[:, 0]] = False
    np.testing.assert_array_equal(allowed[1::2], expected)


def test_pages_that_do_not_say_what_their_slots_earned_are_refused():
    with pytest.raises(DataError, match=r"hand: no slot_reward"):
        rounds_from_slates(hand_slates(shelved=False, slot_reward=None), (1.0, 5.0))
    earned = np.zeros((8, 2))
    earned[3] = [2.0, -1.0]
    with pytest.raises(DataError, match=r"slate 3 \('e3'\): its slots earned \[2\.0, -1\.0\]; expected 0\.\.1 each"):
        rounds_from_slates(hand_slates(slot_reward=earned, reward=earned.sum(axis=1)), (1.0, 5.0))


def test_slots_of_shelves_have_the_reward_of_their_page_where_only_that_is_known():
    log = hand_slates(slot_reward=None)
    rounds = rounds_from_slates(log, (1.0, 5.0))
    np.testing.assert_array_equal(rounds.reward.reshape(8, 2), np.repeat(1 + 2 * log.reward[:, np.newaxis], 2, axis=1))


def test_the_latest_pages_are_for_evaluation_in_whatever_order_they_stand(tmp_path):
    log = hand_slates()
    mixed = log.taken(np.random.default_rng(0).permutation(8))
    learn, judge, report = ingest_slates(
        write_hand(tmp_path, **{name: getattr(mixed, name) for name in ("event_id", "time", "user", "slate")},
                   log_propensity=mixed.log_propensity, reward=mixed.reward, slot_reward=mixed.slot_reward,
                   policy=mixed.policy, version=mixed.version),
        tables(), IngestConfig(evaluation_share=0.25),
    )  # fmt: skip
    whole = rounds_from_slates(log, (1.0, 5.0))
    assert learn.digest == whole.take(0, 12, "").digest
    assert judge.digest == whole.take(12, 16, "").digest
    assert learn.slate_digest == judge.slate_digest == mixed.digest
    assert (report.events, report.joined, report.training, report.evaluation, report.left_out) == (16, 16, 12, 4, 0)


def test_a_default_reward_off_the_scale_is_refused_of_pages_too(tmp_path):
    with pytest.raises(ConfigError, match=r"default_reward is 99\.0; it must be in 1\.\.5"):
        ingest_slates(write_hand(tmp_path), tables(), IngestConfig(default_reward=99))
