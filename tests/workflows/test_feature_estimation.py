"""Feature policies on logs with features: planted truth, hand calculations, gates, refusals, retraining."""

from dataclasses import replace

import numpy as np
import pytest
from feature_world import ACTIONS, SCHEMA, FeatureWorld, planted_log
from hand_feature_logs import hand_feature_log
from tiny_feature_log import tiny_log, tiny_policy

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.data.feature_columns import object_array
from recpolicy.data.feature_log_files import write_feature_log
from recpolicy.data.features import schema_from_dict
from recpolicy.data.features.encoder import FeatureEncoder
from recpolicy.evaluation.gate import GateConfig, gate
from recpolicy.inference.feature_artifact import read_feature_policy, write_feature_policy
from recpolicy.models.feature_agent_configs import FeatureTrainConfig
from recpolicy.training.feature_training import feature_agent, learn_feature_policy
from recpolicy.workflows import cross_fitted_rewards as module
from recpolicy.workflows.cross_fitted_rewards import cross_fitted_rewards
from recpolicy.workflows.feature_comparison import (
    BASELINES,
    GREEDY,
    OfferTable,
    evenly_sampled,
    greedy_probabilities,
)
from recpolicy.workflows.feature_estimation import (
    estimate_features,
    evaluate_feature_candidate,
    load_policies,
    read_evaluation_log,
)
from recpolicy.workflows.feature_retraining import retrain_features
from recpolicy.workflows.gating import gate_feature_candidate

ROUNDS = 4_000


def renamed(log, prefix):
    """Return the log with other event ids, so that nothing counts as learned."""
    return replace(log, event_id=np.array([f"{prefix}{row}" for row in range(len(log))], object))


def learned(log, agent="squarecb", **settings):
    entry = feature_agent(agent)
    return learn_feature_policy(log, SCHEMA, agent, entry.config(**settings), FeatureTrainConfig())


@pytest.fixture(scope="module")
def world():
    return FeatureWorld.make()


@pytest.fixture(scope="module")
def good():
    """A policy that has learned the planted world from a uniform log."""
    return learned(renamed(planted_log(ROUNDS, 1, sharpness=0.0), "train"))


@pytest.fixture(scope="module")
def bad():
    """A policy that has learned the opposite rewards."""
    log = renamed(planted_log(ROUNDS, 1, sharpness=0.0), "train")
    return learned(replace(log, reward=1 - log.reward))


def evaluation_log(seed=2, rounds=ROUNDS, sharpness=0.5):
    return renamed(planted_log(rounds, seed, sharpness=sharpness), f"test{seed}-")


def test_estimates_cover_the_true_value(world, good):
    """95 % intervals of 8 logs: ips, snips and dr miss the truth at most once each; the sharpest is dr."""
    misses, widths = dict.fromkeys(("ips", "snips", "dr"), 0), dict.fromkeys(("ips", "snips", "dr"), 0.0)
    for seed in range(10, 18):
        log = evaluation_log(seed)
        truth = world.value(good.probabilities_of(log).reshape(-1, ACTIONS), world.contexts(ROUNDS, seed))
        result = estimate_features(good, log, config={"resamples": 0})
        for name in misses:
            interval = result.estimates.results[name].intervals["t"]
            misses[name] += not interval.lo <= truth <= interval.hi
            widths[name] += interval.hi - interval.lo
    assert max(misses.values()) <= 1
    assert widths["dr"] < widths["snips"]
    assert widths["dr"] < widths["ips"]


def test_the_differences_to_the_baselines_have_the_true_signs(world, good):
    log, x = evaluation_log(), world.contexts(ROUNDS, 2)
    result = estimate_features(good, log, config={"resamples": 0})
    assert tuple(result.baselines) == BASELINES
    value = world.value(good.probabilities_of(log).reshape(-1, ACTIONS), x)
    random = world.value(np.full((ROUNDS, ACTIONS), 1 / ACTIONS), x)
    first = world.value(np.eye(ACTIONS)[np.zeros(ROUNDS, int)], x)
    for name, truth in (("random", value - random), ("first action", value - first)):
        limits = result.baselines[name].limits["t"]
        assert limits.lo <= truth <= limits.hi
        assert result.baselines[name].verdict() == "better"
    assert "random" in result.baseline_table().to_string()
    assert result.as_dict()["baselines"]["random"]["verdict"] == "better"


def test_a_better_policy_passes_and_a_worse_one_does_not(good, bad):
    log, limits = evaluation_log(), GateConfig(latency_ms=None)
    passed = gate(evaluate_feature_candidate(good, log).as_dict(), limits)
    assert (passed.verdict, passed.reasons) == ("pass", ())
    assert gate(evaluate_feature_candidate(bad, log).as_dict(), limits).verdict == "fail"
    # The good policy over the bad one, and the other way round.
    assert gate(evaluate_feature_candidate(good, log, bad).as_dict(), limits).verdict == "pass"
    worse = gate(evaluate_feature_candidate(bad, log, good).as_dict(), limits)
    assert worse.verdict == "fail"
    assert any("gain over incumbent" in reason for reason in worse.reasons)
    # No policy is better than itself.
    assert gate(evaluate_feature_candidate(good, log, good).as_dict(), limits).verdict == "fail"


def test_a_policy_that_learned_noise_does_not_pass():
    """Control: the features of the actions are permuted in every round of the training log."""
    noise = learned(renamed(planted_log(ROUNDS, 1, sharpness=0.0, permuted=True), "train"))
    result = gate(evaluate_feature_candidate(noise, evaluation_log()).as_dict(), GateConfig(latency_ms=None))
    assert result.verdict != "pass"


def test_without_a_range_of_rewards_there_is_no_verdict(good, bad):
    log = replace(evaluation_log(), reward_range=None)
    result = gate(evaluate_feature_candidate(good, log).as_dict(), GateConfig(latency_ms=None))
    assert result.verdict == "no_verdict"
    assert "lowest and highest reward are known (1: yes): 0; expected ≥ 1" in result.reasons
    estimates = estimate_features(replace(good, reward_range=None), log, bad, config={"resamples": 0})
    assert set(estimates.difference_table()["verdict"]) == {"no verdict"}
    assert {value["verdict"] for value in estimates.as_dict()["differences"].values()} == {"no verdict"}
    assert "set min_reward and max_reward" in estimates.notes[-1]


def test_an_estimate_takes_the_range_of_rewards_from_the_policy_if_the_log_has_none(good, bad):
    log = evaluation_log()
    settings = {"resamples": 0}
    known = estimate_features(good, log, bad, config=settings)
    taken = estimate_features(good, replace(log, reward_range=None), bad, config=settings)
    assert taken.known_range
    assert taken.differences == known.differences
    assert "the policy's, 0..1; the log does not say them" in taken.notes[-1]
    wide = replace(log, reward=3 * log.reward, reward_range=None)
    beyond = estimate_features(good, wide, bad, config=settings)
    assert not beyond.known_range
    assert "its rewards, 0 to 3, exceed the policy's 0..1, so there is no verdict" in beyond.notes[-1]


def test_negative_rewards_are_gated_by_the_absolute_gain(good, bad):
    log = evaluation_log()
    signed = replace(log, reward=2 * log.reward - 1, reward_range=(-1.0, 1.0))
    evaluation = evaluate_feature_candidate(good, signed)
    result = gate(evaluation.as_dict(), GateConfig(latency_ms=None))
    assert result.verdict == "pass"
    assert "gain over the logging policy, lower bound" in [criterion.name for criterion in result.criteria]
    assert not any("relative" in criterion.name for criterion in result.criteria)
    assert evaluation.comparison.gain.value == pytest.approx(
        2 * evaluate_feature_candidate(good, log).comparison.gain.value, rel=1e-6
    )
    assert gate(evaluate_feature_candidate(bad, signed).as_dict(), GateConfig(latency_ms=None)).verdict == "fail"


def test_groups_are_values_of_a_context_feature(good):
    log = evaluation_log()
    device = np.array(["phone", "tablet", "phone", None], object)[np.arange(ROUNDS) % 4]
    log = replace(log, context={**log.context, "device": device})
    body = evaluate_feature_candidate(good, log, group="device").as_dict()["off_policy"]["group_gain"]
    assert {name: group["users"] for name, group in body["groups"].items()} == {
        "device phone": ROUNDS // 2, "device tablet": ROUNDS // 4
    }  # fmt: skip
    with pytest.raises(DataError, match="no context feature 'mood'; found c0"):
        evaluate_feature_candidate(good, log, group="mood")
    with pytest.raises(DataError, match="has 4,000 values; expected at most 20"):
        evaluate_feature_candidate(good, log, group="c0")


def test_rounds_that_a_policy_learned_are_refused(good):
    log = planted_log(ROUNDS, 1, sharpness=0.0)
    with pytest.raises(DataError, match="the policy, or one of its ancestors, has learned from 4,000"):
        estimate_features(good, renamed(log, "train"))
    with pytest.raises(DataError, match="the incumbent, or one of its ancestors"):
        evaluate_feature_candidate(learned(renamed(log, "other")), renamed(log, "train"), good)


def test_rounds_of_different_lengths_by_hand():
    """IPS by a sum over the rounds; the padded positions have probability 0."""
    policy, log = tiny_policy(), tiny_log(400, seed=3)
    prob = policy.probabilities_of(log)
    expected = (prob[log.chosen_offer] / log.propensity * log.reward).mean()
    result = estimate_features(policy, log, config={"resamples": 0})
    assert result.estimates.results["ips"].value == pytest.approx(expected, rel=1e-12)
    best = greedy_probabilities(log, policy.scores_of(log))
    expected = (best[log.chosen_offer] / log.propensity * log.reward).mean()
    result = estimate_features(policy, log, policy_mode=GREEDY, config={"resamples": 0})
    assert result.estimates.results["ips"].value == pytest.approx(expected, rel=1e-12)
    assert result.policy_mode == GREEDY
    with pytest.raises(ConfigError, match="no policy_mode named 'bold'"):
        estimate_features(policy, log, policy_mode="bold")


def test_offers_become_padded_rows():
    log = hand_feature_log()
    table = OfferTable(log, np.arange(1.0, 9.0))
    assert table(slice(0, 4)).tolist() == [[1, 2, 0], [3, 4, 5], [6, 0, 0], [7, 8, 0]]
    assert table(slice(1, 3)).tolist() == [[3, 4, 5], [6, 0, 0]]
    scores = np.array([1.0, 1, 0, 2, 1, 5, 3, 3])
    assert greedy_probabilities(log, scores).tolist() == [0.5, 0.5, 0, 1, 0, 1, 0.5, 0.5]


def test_no_round_is_predicted_from_its_own_user(good):
    """Another reward of one user changes no prediction of that user's rounds, and others it does."""
    log = evaluation_log(rounds=600)
    log = replace(log, user=np.array([f"u{row % 50}" for row in range(600)], object))
    changed = replace(log, reward=np.where(log.user == "u7", 1 - log.reward, log.reward))
    before, after = (cross_fitted_rewards(each, good.encoder, 2, 0) for each in (log, changed))
    own = (log.user == "u7")[log.round_of_offer]
    np.testing.assert_array_equal(before.q[own], after.q[own])
    np.testing.assert_array_equal(before.mean[own], after.mean[own])
    assert (before.q != after.q).mean() > 0.3
    assert "products" in before.model


def test_weighted_rounds_are_drawn_evenly(good):
    """Rounds with reward 0 were logged with probability 1/2 and weigh 2: the estimate is that of the whole log."""
    log = evaluation_log(rounds=8_000)
    logged = (log.reward == 1) | (np.random.default_rng(0).random(len(log)) < 0.5)
    weight = np.where(log.reward == 1, 1.0, 2.0)
    part = replace(log, weight=weight).select(np.flatnonzero(logged), "part")
    even = evenly_sampled(part, 0)
    assert even.weight is None
    assert abs(even.reward.mean() - log.reward.mean()) < 0.02
    assert part.reward.mean() > log.reward.mean() + 0.05
    whole = estimate_features(good, log, config={"resamples": 0}).estimates.results["dr"]
    thinned = estimate_features(good, part, config={"resamples": 0})
    assert any("rounds have weights" in note for note in thinned.notes)
    estimate = thinned.estimates.results["dr"]
    assert estimate.intervals["t"].lo < whole.value < estimate.intervals["t"].hi


def test_rounds_without_a_reward_are_left_out(good):
    log = evaluation_log(rounds=1_000)
    waiting = replace(log, reward=np.where(np.arange(1_000) % 10, log.reward, np.nan))
    result = estimate_features(good, waiting, config={"resamples": 0})
    assert "100 of 1,000 rounds have no reward yet" in result.notes[0]
    with pytest.raises(DataError, match="no round has a reward; ingest the log first"):
        estimate_features(good, replace(log, reward=np.full(1_000, np.nan)))


def test_many_columns_leave_the_mean_of_each_action():
    log = evaluation_log(rounds=300)
    device = np.array([f"d{row}" for row in range(300)], object)
    schema = {"context": {"device": {"type": "category", "max_values": 5000}}, "action": {"a0": {"type": "number"}}}
    wide = replace(log, context={"device": device})
    encoder = FeatureEncoder.fit(schema_from_dict(schema), wide.context, wide.actions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_WEIGHTS", 100)
        rewards = cross_fitted_rewards(wide, encoder, 2, 0)
    assert "mean reward of each action id, because" in rewards.model
    np.testing.assert_array_equal(rewards.q, rewards.mean)


def test_a_gate_writes_its_record(tmp_path, good):
    write_feature_log(evaluation_log(), tmp_path / "rounds" / "evaluation")
    write_feature_log(evaluation_log(3), tmp_path / "rounds" / "training")
    assert read_evaluation_log(tmp_path / "rounds").event_id[0] == "test2-0"
    result = gate_feature_candidate(good, tmp_path / "rounds", None, GateConfig(latency_ms=None), out=tmp_path / "gate")
    assert result.verdict == "pass"
    assert {path.name for path in (tmp_path / "gate").iterdir()} == {"evaluation.json", "gate.json", "gate.html"}
    with pytest.raises(DataError, match="give --log"):
        gate_feature_candidate(good, None, None, GateConfig())


def test_retraining_continues_and_names_its_parents(tmp_path, good):
    write_feature_policy(replace(good, metadata={**good.metadata, "data": "log"}), tmp_path / "old")
    more = renamed(planted_log(ROUNDS, 5, sharpness=0.0), "more")
    new = retrain_features(tmp_path / "old", more, tmp_path / "new")
    assert new.policy_digest != good.policy_digest
    assert len(new.learned_events) == 2 * ROUNDS
    assert new.metadata["parents"][-1]["policy_digest"] == good.policy_digest
    assert read_feature_policy(tmp_path / "new").policy_digest == new.policy_digest
    with pytest.raises(DataError, match="has learned all of its 4000 training rounds already"):
        retrain_features(tmp_path / "new", more, tmp_path / "third")
    assert not (tmp_path / "third").exists()
    with pytest.raises(ArtifactError, match="already exists"):
        retrain_features(tmp_path / "old", more, tmp_path / "new")
    with pytest.raises(DataError, match="no round has a reward"):
        retrain_features(tmp_path / "old", replace(more, reward=np.full(ROUNDS, np.nan)), tmp_path / "x")


def test_of_a_log_that_grows_only_new_rounds_are_learned(tmp_path, good):
    write_feature_policy(replace(good, metadata={**good.metadata, "data": "log"}), tmp_path / "old")
    whole = renamed(planted_log(ROUNDS, 5, sharpness=0.0), "more")
    order = np.random.default_rng(0).permutation(ROUNDS)  # learned rounds need not come first
    first = retrain_features(tmp_path / "old", whole.take(0, ROUNDS // 2, "week"), tmp_path / "first")
    grown = retrain_features(tmp_path / "first", whole.select(order, "grown"), tmp_path / "grown")
    later = whole.select(order[order >= ROUNDS // 2], "later")
    alone = retrain_features(tmp_path / "first", later, tmp_path / "alone")
    assert grown.policy_digest == alone.policy_digest != first.policy_digest
    assert (grown.metadata["training"]["rows"], grown.metadata["learned_events"]) == (ROUNDS // 2, ROUNDS // 2)
    assert len(grown.learned_events) == 2 * ROUNDS
    waiting = replace(whole, reward=np.where(np.arange(ROUNDS) < ROUNDS // 2, whole.reward, np.nan))
    with pytest.raises(DataError, match="none of its 2,000 new rounds has a reward yet"):
        retrain_features(tmp_path / "first", waiting, tmp_path / "x")


def test_policies_of_two_kinds_are_not_compared(tmp_path, good):
    write_feature_policy(replace(good, metadata={**good.metadata, "data": "log"}), tmp_path / "features")
    assert load_policies(tmp_path / "features", None)[1] is None
    with pytest.raises(ArtifactError):
        load_policies(tmp_path / "features", tmp_path / "missing")


def test_unused_hashed_columns_leave_room_for_products():
    """A JSON feature has 256 columns, and five of them are used: the model knows what fits whom."""
    rng = np.random.default_rng(0)
    log = evaluation_log(rounds=2_000, sharpness=0.0)
    cold = rng.random(2_000) < 0.5
    warm = (log.chosen_action % 2 == 0) == cold
    page = object_array([{"weather": "cold" if each else "hot", "n": float(row % 3)} for row, each in enumerate(cold)])
    nested = replace(
        log, context={"page": page}, reward=(rng.random(2_000) < np.where(warm, 0.8, 0.1)).astype(float),
        actions={"even": np.arange(ACTIONS) % 2 == 0}, action_digest=log.action_digest,
    )  # fmt: skip
    schema = {"context": {"page": {"type": "json"}}, "action": {"even": {"type": "boolean"}}}
    encoder = FeatureEncoder.fit(schema_from_dict(schema), nested.context, nested.actions)
    rewards = cross_fitted_rewards(nested, encoder, 2, 0)
    assert "products" in rewards.model
    fits = (nested.offered % 2 == 0) == cold[nested.round_of_offer]
    assert rewards.q[fits].mean() == pytest.approx(0.8, abs=0.05)
    assert rewards.q[~fits].mean() == pytest.approx(0.1, abs=0.05)
