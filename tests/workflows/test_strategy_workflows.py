"""Simulate, train, evaluate: what is learned is better than the baselines, and wrong inputs are one line."""

import json
from dataclasses import replace

import numpy as np
import pytest

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.data.feature_log_files import read_feature_log, write_feature_log
from recpolicy.data.reward_signals import Signal, combined_reward
from recpolicy.data.signal_files import write_signals
from recpolicy.strategies.artifact import read_strategy_policy
from recpolicy.strategies.config import StrategyConfig, strategy_config
from recpolicy.strategies.log_rounds import rounds_from_log
from recpolicy.strategies.policy import StrategyPolicy
from recpolicy.strategies.synthetic import fit_of_actions
from recpolicy.workflows.strategy_evaluation import evaluate_strategy, signal_masks
from recpolicy.workflows.strategy_simulation import LABEL, simulate_strategies
from recpolicy.workflows.strategy_training import read_strategy_log, train_strategy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strategies")
    simulate_strategies(folder / "log", users=200, days=14, seed=1)
    simulate_strategies(folder / "later", users=200, days=8, first_day=14, seed=1)
    train_strategy(folder / "log", folder / "policy", days_back=14, min_interactions=1)
    return folder


def test_the_log_is_labelled_synthetic_and_reproducible(folder, tmp_path):
    body = json.loads((folder / "log" / "simulation.json").read_text())
    assert body["label"] == LABEL
    assert "synthetic" in LABEL
    simulate_strategies(tmp_path / "again", users=200, days=14, seed=1)
    logs = [read_feature_log(path, name="log") for path in (folder / "log", tmp_path / "again")]
    assert logs[0].digest == logs[1].digest
    later = read_feature_log(folder / "later")
    assert not {*later.event_id} & {*logs[0].event_id}
    for log in (logs[0], later):  # a user keeps the personality
        assert len({*zip(log.user, log.context["openness"], strict=True)}) == len({*log.user})


def test_rewards_are_those_of_the_signals(folder):
    log = read_strategy_log(folder / "log", StrategyConfig())
    raw = read_feature_log(folder / "log")
    assert np.isnan(raw.reward).all()
    masks = signal_masks(folder / "log", log.event_id)
    ones = StrategyConfig().reward.weights
    plain = sum(ones[name] * masks[name] for name in ("like", "dislike", "complete", "skip", "share"))
    rest = log.reward - plain  # the watched fraction, 0..0.5, and the change of mood
    assert rest.min() >= -0.5 - 1e-9
    assert rest.max() <= 1.0 + 1e-9
    assert (rest[masks["mood_change"] == 0] >= -1e-9).all()
    assert combined_reward([Signal("like")], 0, StrategyConfig().reward) == 1.0


def test_the_policy_learns_who_likes_what(folder):
    policy = read_strategy_policy(folder / "policy")
    rounds = rounds_from_log(read_strategy_log(folder / "later", policy.config), policy.config)
    fit = fit_of_actions(rounds.profile, rounds.situation, policy.config)
    chosen = (policy.greedy_probabilities(policy.states_of(rounds)) * fit).sum(axis=1)
    assert chosen.mean() > 0.7 * fit.max(axis=1).mean()  # a random or constant choice has about 0
    evaluation = evaluate_strategy(folder / "policy", folder / "later", test_days=8)
    assert evaluation.gains["logging policy"].value > 0
    assert evaluation.gains["static"].value > 0
    assert sum(evaluation.sources.values()) == pytest.approx(1)
    assert evaluation.sources["factored"] > 0.9
    like = evaluation.like_rate
    assert 0 < like.lo < like.value < like.hi < 1
    assert json.dumps(evaluation.as_dict(), allow_nan=False)
    assert {title.partition(":")[0] for title in evaluation.tables()} >= {"Logged", "Gain of the greedy policy"}


def test_the_logged_figures_are_those_of_the_last_days(folder):
    evaluation = evaluate_strategy(folder / "policy", folder / "later", test_days=2)
    log = read_strategy_log(folder / "later", StrategyConfig())
    last = log.time > log.time.max() - 2 * 86_400_000
    assert evaluation.rounds == last.sum()
    assert evaluation.average_reward.value == pytest.approx(log.reward[last].mean())
    masks = signal_masks(folder / "later", log.event_id[last])
    assert evaluation.like_rate.value == pytest.approx(masks["like"].mean())
    kind = log.context["content_type"][last]
    assert set(evaluation.by_content_type) == set(kind.tolist())
    for name, figures in evaluation.by_content_type.items():
        assert figures.rounds == (kind == name).sum()
        assert figures.users == len(set(log.user[last][kind == name].tolist()))
        assert figures.average_reward.value == pytest.approx(log.reward[last][kind == name].mean())
        assert figures.like_rate.value == pytest.approx(masks["like"][kind == name].mean())
        assert figures.like_rate.lo <= figures.like_rate.value <= figures.like_rate.hi
    assert evaluation.tables()["Logged by content type"]["rounds"].sum() == evaluation.rounds


def test_a_policy_is_not_evaluated_on_rounds_that_it_learned(folder):
    with pytest.raises(DataError, match=r"has learned from [\d,]+ of these [\d,]+ rounds"):
        evaluate_strategy(folder / "policy", folder / "log")


def test_training_goes_on_and_nothing_is_learned_twice(folder, tmp_path):
    second = train_strategy(folder / "later", tmp_path / "second", incumbent=folder / "policy", min_interactions=1)
    first = read_strategy_policy(folder / "policy")
    assert second.policy.rounds == first.rounds + second.statistics.interactions
    assert second.policy.metadata["parents"] == [{"policy_digest": first.policy_digest, "log": first.metadata["log"]}]
    with pytest.raises(DataError, match="nothing new to learn"):
        train_strategy(folder / "later", tmp_path / "third", incumbent=tmp_path / "second", min_interactions=1)
    assert not (tmp_path / "third").exists()
    with pytest.raises(ArtifactError, match="already exists"):
        train_strategy(folder / "later", tmp_path / "second")


def test_the_incumbent_must_have_the_same_schema_and_rewards(folder, tmp_path):
    for tables, message in (
        ({"profile": {"bins": 3}}, "another schema: bins is 3; expected 5"),
        ({"reward": {"weights": {"like": 2.0}, "min_reward": -3, "max_reward": 3}}, "learned other rewards"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_strategy(
                folder / "later", tmp_path / "out", strategy_config(tables), incumbent=folder / "policy"
            )  # fmt: skip
    settings = strategy_config({"learning": {"exploration_final_eps": 0.01}})
    changed = train_strategy(
        folder / "later", tmp_path / "out", settings, incumbent=folder / "policy", min_interactions=1
    )
    assert changed.policy.config == settings


def test_signals_without_a_weight_are_refused(folder, tmp_path):
    log = read_feature_log(folder / "log").take(0, 10, "short")
    write_feature_log(log, tmp_path / "log")
    write_signals(tmp_path / "log" / "signals.parquet", [log.event_id[0]], [int(log.time[0])], ["laugh"], [1.0])
    with pytest.raises(DataError, match=r"no weight for the signal 'laugh'; \[reward\] has complete"):
        train_strategy(tmp_path / "log", tmp_path / "policy")


def test_rounds_that_offer_some_strategies_only_are_not_evaluated(folder, tmp_path):
    settled = read_strategy_log(folder / "later", StrategyConfig())
    rows = np.flatnonzero(settled.chosen < 5)
    part = settled.select(rows, "part")
    five = np.concatenate([part.offered.reshape(len(part), -1)[:, :5].ravel()])
    write_feature_log(replace(part, offered=five, start=np.arange(len(part) + 1) * 5), tmp_path / "log")
    with pytest.raises(DataError, match="offer only some of the 27 strategies"):
        evaluate_strategy(StrategyPolicy(StrategyConfig()), tmp_path / "log")


def test_an_untrained_policy_can_be_evaluated(folder):
    evaluation = evaluate_strategy(StrategyPolicy(StrategyConfig()), folder / "later")
    assert evaluation.test_days == 3.0
    assert evaluation.sources["static"] == 1.0
    assert evaluation.gains["static"].value == pytest.approx(0, abs=1e-12)
    with pytest.raises(ConfigError, match="test_days is 0"):
        evaluate_strategy(StrategyPolicy(StrategyConfig()), folder / "later", test_days=0)


def test_the_logging_policy_of_a_simulation_leaves_its_propensities(folder, tmp_path):
    policy = read_strategy_policy(folder / "policy")
    simulate_strategies(tmp_path / "log", users=50, days=3, first_day=30, policy=folder / "policy", seed=1)
    log = read_strategy_log(tmp_path / "log", policy.config)
    assert set(np.unique(log.version)) == {policy.policy_digest}
    smallest = policy.epsilon / 27
    assert set(np.round(log.propensity, 9)) == {round(smallest, 9), round(smallest + 1 - policy.epsilon, 9)}


def test_numbers_of_a_simulation_are_bounded(tmp_path):
    for options in ({"users": 0}, {"days": 0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            simulate_strategies(tmp_path / "log", **options)
