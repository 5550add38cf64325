"""Policies on logs under guardrails: the choice at each place by hand, bounds of the log, notes and refusals."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from guardrail_cases import open_items, scores_by_hand
from tiny_policies import tiny_artifact

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary, write_events
from recpolicy.data.candidates import CandidateSets
from recpolicy.evaluation.gate import gate
from recpolicy.inference.guardrails import GuardrailConfig, bind
from recpolicy.inference.predictor import Policy
from recpolicy.workflows.candidate_evaluation import evaluate_candidate
from recpolicy.workflows.interaction_logs import read_rounds
from recpolicy.workflows.log_evaluation import compare_on_log
from recpolicy.workflows.policy_estimation import estimate

GENRES = ["Drama", "Comedy|Drama", "", "Action", "Comedy", "Drama", "Action|Comedy", "Drama", "", "Action", "Comedy"]
ITEMS, PLACES, LISTS = 11, 3, 60
OTHER = "ab" * 16


def policy(seed=0):
    artifact = tiny_artifact(seed)
    years = pd.array([2000] * ITEMS, dtype="Int64")
    items = artifact.items.assign(genres=GENRES, year=years)
    return Policy(replace(artifact, items=items, metadata={**artifact.metadata, "config": {"agent": {}}}))


def log(lists=LISTS, guardrails=None, seed=0):
    """Return lists of three random items out of nine candidates, a round for each place."""
    rng = np.random.default_rng(seed)
    possible = np.ones((lists, ITEMS), bool)
    for row in possible:
        row[rng.choice(ITEMS, 2, replace=False)] = False
    shown = np.array([rng.choice(np.flatnonzero(row), PLACES, replace=False) for row in possible])
    place = np.tile(np.arange(PLACES), lists)
    earlier = [shown[number, :at].astype(np.int32) for number in range(lists) for at in range(PLACES)]
    start = np.concatenate([[0], np.cumsum(place)]).astype(np.int64)
    sets = CandidateSets(
        ITEMS, np.packbits(possible, axis=1), np.repeat(np.arange(lists), PLACES).astype(np.int32), start,
        np.concatenate(earlier),
    )  # fmt: skip
    count = lists * PLACES
    return BanditLog(
        event_id=np.array([f"e{number}:{at}" for number in range(lists) for at in range(PLACES)], object),
        time=1_767_571_200_000 + np.repeat(np.arange(lists), PLACES), user=np.repeat(np.arange(lists) % 7, PLACES)
        .astype(np.int32),
        item=shown.ravel().astype(np.int32), log_propensity=-np.log(9.0 - place), reward=rng.uniform(1, 5, count),
        action_items=np.arange(ITEMS, dtype=np.int32), scale=(1.0, 5.0), name="log",
        policy=np.full(count, "uniform", object), version=np.full(count, "aa", object), candidates=sets,
        guardrails=guardrails,
    )  # fmt: skip


CASES = {
    "none": {},
    "caps": {"max_per_category": 1},
    "a category that no list has": {"category_caps": {"Drama": 0}},
    "blocked": {"blocked": (103, 104)},
    "marked": {"marked": (102, 105, 106, 108), "max_marked": 1},
    "a lowest rating": {"min_rating": 2.8},
    "diversity": {"diversity": 0.5},
    "novelty": {"novelty": 0.6},
    "a tilt": {"category_tilt": {"Action": 0.8, "Drama": -0.5}},
    "everything": {"max_per_category": 2, "blocked": (101,), "diversity": 0.3, "novelty": 0.1, "min_rating": 1.5},
}


@pytest.mark.parametrize("case", CASES)
def test_the_choice_at_each_place_is_the_best_item_by_hand(case):
    """Relevance is scaled over the items of the first place; bounds and similarity count the earlier items."""
    rounds, one, config = log(), policy(), GuardrailConfig(**CASES[case])
    comparison = compare_on_log(one, None, rounds, guardrails=config)
    score, rating = one.scores()[0], one.ratings()[0]
    rails, kept, scores = bind(config, one.scorer), comparison.log, 0
    table = comparison.candidate.table(slice(0, len(kept)))
    for row, event in enumerate(kept.event_id):
        number, place = map(int, event[1:].split(":"))
        before = rounds.item[PLACES * number : PLACES * number + place].tolist()
        user, allowed = (
            rounds.user[PLACES * number],
            rounds.candidates.mask(slice(PLACES * number, PLACES * number + 1))[0],
        )
        items = open_items(rails, rating[user], allowed, before, 10**6)
        values = scores_by_hand(rails, score[user], rating[user], allowed, before, 10**6)
        best = max(items, key=lambda item: values[item])
        assert table[row].argmax() == best
        assert table[row].sum() == pytest.approx(1)
        scores += len(before)
    assert scores > 0
    if case in ("none", "caps", "diversity"):
        assert len(kept) == len(rounds)


def test_a_round_without_an_item_is_left_out_and_counted():
    config = GuardrailConfig(max_per_category=1, min_rating=3.2)
    comparison = compare_on_log(policy(), None, log(), guardrails=config)
    missing = LISTS * PLACES - len(comparison.log)
    assert 0 < missing < LISTS * PLACES
    note = f"{missing} of 180 rounds are left out: the guardrails leave no item there"
    assert comparison.notes == (note,)
    with pytest.raises(DataError, match="the guardrails leave no item in any of its 180 rounds"):
        compare_on_log(policy(), None, log(), guardrails=GuardrailConfig(blocked=tuple(range(101, 112))))


def test_an_estimate_under_guardrails_is_that_of_their_choices():
    """With uniform propensities, IPS is the mean of the rewards where the choices agree, times 9, 8 or 7."""
    rounds, config = log(600), GuardrailConfig(diversity=0.6, blocked=(103,))
    plain, under = (
        estimate(policy(), rounds, guardrails=rails, config={"resamples": 0}).estimates["ips"].value
        for rails in (None, config)
    )
    comparison = compare_on_log(policy(), None, rounds, guardrails=config)
    agree = comparison.candidate.table(slice(0, len(rounds))).argmax(axis=1) == rounds.item
    expected = float((agree * rounds.reward / rounds.propensity).mean())
    assert under == pytest.approx(expected)
    assert plain != pytest.approx(expected)


def test_both_policies_choose_under_the_guardrails():
    rounds, config = log(400), GuardrailConfig(category_caps={"Drama": 0})
    result = compare_on_log(policy(), policy(1), rounds, guardrails=config)
    drama = np.array(["Drama" in name for name in GENRES])
    for target in (result.candidate, result.incumbent):
        assert not target.table(slice(0, len(result.log)))[:, drama].any()


def digests(*names):
    return np.array([names[number % len(names)] for number in range(LISTS * PLACES)], object)


def test_notes_say_under_what_the_rounds_were_logged():
    config = GuardrailConfig(diversity=0.2)
    plain = estimate(policy(), log(guardrails=digests(OTHER, "")), config={"resamples": 0})
    assert plain.notes == (
        "90 of 180 rounds were logged under guardrails (abababab): the value is that of the policy's best items among"
        " those that they left; name guardrails to evaluate it under them (--guardrails)",
    )
    same = estimate(policy(), log(guardrails=digests(config.digest)), guardrails=config, config={"resamples": 0})
    assert same.notes == ()
    other = estimate(
        policy(), log(guardrails=digests(OTHER, config.digest)), guardrails=config, config={"resamples": 0}
    )
    assert other.notes == (
        f"90 of 180 rounds were logged under other guardrails (abababab) than those of the evaluation"
        f" ({config.digest[:8]}): what they closed stays closed",
    )
    assert estimate(policy(), log(), config={"resamples": 0}).notes == ()


def test_the_record_of_a_gate_has_the_note():
    evaluation = evaluate_candidate(policy(), None, log(guardrails=digests(OTHER)))
    result = gate(evaluation.as_dict())
    assert "180 of 180 rounds were logged under guardrails (abababab)" in result.notes[0]
    assert result.as_dict()["notes"] == list(result.notes)
    rails = GuardrailConfig(blocked=(101,))
    under = evaluate_candidate(policy(), None, log(guardrails=digests(OTHER)), guardrails=rails)
    assert "other guardrails" in under.as_dict()["notes"][0]
    assert not under.log_comparison.candidate.table(slice(0, 100))[:, 0].any()


def test_files_keep_the_digests_of_guardrails(tmp_path):
    tables = IdVocabulary.from_policy(policy())
    for rounds in (log(guardrails=digests(OTHER, "")), log()):
        write_events(tmp_path / "rounds.parquet", rounds, tables, with_rewards=True)
        again = read_rounds(tmp_path / "rounds.parquet", tables)
        if rounds.guardrails is None:
            assert again.guardrails is None
        else:
            assert again.guardrails.tolist() == rounds.guardrails.tolist()
        assert again.digest == rounds.digest
    part = log(guardrails=digests(OTHER, ""))
    assert part.select(np.array([1, 3]), "part").guardrails is None
    assert part.take(0, 2, "part").guardrails.tolist() == [OTHER, ""]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"min_marked": 1, "marked": (101,)}, "min_marked reserves places, and a log of single places does not say"),
        ({"category_caps": {"Dramma": 1}}, "no category named 'Dramma'. Did you mean 'Drama'?"),
        ({"min_rating": 9.0}, "min_rating is 9; expected a rating on the scale, 1 to 5"),
    ],
)
def test_guardrails_that_cannot_be_evaluated_get_one_line(config, message):
    with pytest.raises(ConfigError) as caught:
        estimate(policy(), log(), guardrails=GuardrailConfig(**config))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
