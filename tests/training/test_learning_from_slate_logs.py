"""Learning from logged slates: the exact gradient in a world of four items, and the policy of a simulated log.

One user, logged slates as often as the logging policy shows them, so that the mean over the log is an expectation.
"""

import itertools
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from session_blocks import small_specs
from synthetic_session_logs import eagerly
from trained_policies import miniature_split

from recpolicy.agents.topk_reinforce import TopKReinforceConfig, make_topk_reinforce
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.slate_log import SlateLog
from recpolicy.data.slate_rounds import rounds_from_slates
from recpolicy.data.slate_sessions import sessions_from_slates
from recpolicy.environments.observation_encoders import OBSERVATION_ENCODERS
from recpolicy.training import tensorflow_export
from recpolicy.training.observation_builder import ObservationBuilder, make_block, replay
from recpolicy.workflows.artifacts import check_not_learned
from recpolicy.workflows.policy_training import train
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds
from recpolicy.workflows.slate_logs import read_slate_log, simulate_slate_log

ITEMS, LOGITS = 4, np.array([0.4, -0.3, 0.9, 0.1])
WORTH = np.array([0.2, 1.0, 0.5, 0.7])


def log_of(slates, propensity, shelves=None) -> SlateLog:
    """The slates [N, 2] of one user; a place earns what its item is worth."""
    slate = np.array(slates, np.int32)
    reward, count = WORTH[slate], len(slate)
    return SlateLog(
        event_id=np.array([f"e{row}" for row in range(count)], object), time=np.arange(count),
        user=np.zeros(count, np.int32), slate=slate, log_propensity=np.log(np.array(propensity)),
        reward=reward.sum(axis=1), slot_reward=reward, policy=np.full(count, "x", object),
        version=np.full(count, "1", object), action_items=np.arange(ITEMS, dtype=np.int32),
        shelves=None if shelves is None else np.array(shelves, np.int16), scale=(0.0, 2.0), name="slates",
    )  # fmt: skip


def learned_gradient(log: SlateLog, **settings) -> np.ndarray:
    """The gradient [A] of the learner's policy loss with respect to its log-odds, times the places of a slate."""
    view = OBSERVATION_ENCODERS["last_item"](1, 1, 4, 1)
    sight = ObservationBuilder(
        np.zeros((1, 1), np.float32), np.zeros((ITEMS, 1), np.float32), np.zeros((ITEMS, 1), np.float32),
        np.arange(ITEMS, dtype=np.int32), view, 1,
    )  # fmt: skip
    config = TopKReinforceConfig(layers=(1,), head="plain", baseline=False, ent_coef=0.0, n_epochs=1, **settings)
    learner = make_topk_reinforce(*small_specs(1 + view.width, ITEMS), config).learner
    bias = learner._policy.network.trainable_variables[-1]
    bias.assign(LOGITS.astype(np.float32))
    kept = []

    def keep(tape, loss, *_):
        kept.append(tape.gradient(loss, bias))
        return tf.constant(0.0)

    learner._descend = keep
    steps = sessions_from_slates(log)
    learner.update(make_block(replay(steps, sight), tf.range(len(steps)), ITEMS), tf.constant([1, 1], tf.int32))
    return kept[0].numpy() * log.slots


def softmax(logits: np.ndarray, allowed: list[int]) -> np.ndarray:
    chance = np.zeros(ITEMS)
    chance[allowed] = np.exp(logits[allowed]) / np.exp(logits[allowed]).sum()
    return chance


def derivative(function) -> np.ndarray:
    """The derivative [A] of a function of the log-odds, by central differences."""
    steps = 1e-5 * np.eye(ITEMS)
    return np.array([(function(LOGITS + step) - function(LOGITS - step)) / 2e-5 for step in steps])


def test_with_shelves_the_update_is_the_exact_gradient_of_the_value():
    """Places do not depend on each other, so weights without a cap leave no bias."""
    shelves, chance = [[0, 1], [2, 3]], {0: 3 / 4, 1: 1 / 4, 2: 2 / 5, 3: 3 / 5}
    slates = [
        pair for pair in itertools.product(*shelves) for _ in range(round(20 * chance[pair[0]] * chance[pair[1]]))
    ]
    assert len(slates) == 20
    log = log_of(slates, [[chance[item] for item in pair] for pair in slates], [0, 0, 1, 1])
    exact = derivative(lambda logits: sum(softmax(logits, shelf) @ WORTH for shelf in shelves))
    np.testing.assert_allclose(learned_gradient(log, max_weight=1e6), -exact, atol=1e-5)


@pytest.mark.parametrize(("k", "cap"), [(1, 1e6), (2, 1e6), (1, 1.2)])
def test_in_a_list_each_place_is_corrected_given_the_items_above(k, cap):
    """The formula of the first-order correction over all slates, with lambda_K and the cap; the log is uniform."""
    slates = list(itertools.permutations(range(ITEMS), 2))
    log = log_of(slates, [[1 / 4, 1 / 3]] * len(slates))
    total = np.zeros(ITEMS)
    for slate in slates:
        for place, item in enumerate(slate):
            left = [other for other in range(ITEMS) if other not in slate[:place]]
            own = softmax(LOGITS, left)[item]
            factor = min(own * len(left), cap) * k * (1 - own) ** (k - 1) * WORTH[item] / len(slates)
            total += factor * derivative(lambda logits, item=item, left=left: np.log(softmax(logits, left)[item]))
    np.testing.assert_allclose(learned_gradient(log, k=k, max_weight=cap), -total, atol=1e-5)


TRAIN = {
    "rating_model": "svd", "rank": 5, "max_episode_steps": 5, "batch_size": 64, "epochs": 2, "view": "last_item",
}  # fmt: skip
NETWORK = {"layers": (8,), "k": 3}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A folder with simulated slates of three items."""
    out = tmp_path_factory.mktemp("slates") / "log"
    worlds = make_worlds(miniature_split(), SessionTrainConfig(**TRAIN), 0)
    simulate_slate_log(
        miniature_split(), out, config={"slates": 300, "slots": 3, "layout": "list"},
        train={"rating_model": "svd", "rank": 5}, worlds=worlds,
    )  # fmt: skip
    return out


def read(log) -> SlateLog:
    return read_slate_log(log, IdVocabulary.from_ratings(miniature_split().train))


def test_a_policy_of_logged_slates_shows_slates_of_their_size(log, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
    slates = read(log)
    with eagerly():
        policy = train(
            "topk_reinforce", miniature_split(), tmp_path / "policy", config=TRAIN, agent_config=NETWORK, log=slates
        )
    assert policy.metadata["config"]["train"]["slate_size"] == 3
    assert policy.metadata["log"] == slates.digest
    assert policy.metadata["training"] | {"mode": "slates", "rows": 300, "slots": 3} == policy.metadata["training"]
    assert policy.artifact.policy["steps"] == 15
    assert len(policy.recommend(policy.scorer.user_ids[0])) == 3
    with pytest.raises(DataError, match="has learned from"):
        check_not_learned(slates, {"the policy": policy})


def test_rounds_are_places_of_slates_too(log, tmp_path, monkeypatch):
    """As the lists of a server, ingested: rewards on the scale of the ratings, and the size that the settings name."""
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
    rounds = rounds_from_slates(read(log), (1.0, 5.0))
    config = TRAIN | {"reward": "rating", "slate_size": 3, "epochs": 1}
    with eagerly():
        policy = train(
            "topk_reinforce", miniature_split(), tmp_path / "policy", config=config, agent_config=NETWORK, log=rounds
        )
    assert (policy.metadata["log"], policy.metadata["training"]["rows"]) == (rounds.digest, 900)
    assert len(policy.recommend(policy.scorer.user_ids[0])) == 3
    with pytest.raises(DataError, match="has learned from"):
        check_not_learned(rounds, {"the policy": policy})


def test_what_cannot_learn_from_a_log_of_slates_is_refused(log, tmp_path):
    slates = read(log)

    def refused(agent, message, error=ConfigError, log=slates, **config):
        with pytest.raises(error, match=message):
            train(agent, miniature_split(), tmp_path / "no", config=TRAIN | config, log=log)
        assert not (tmp_path / "no").exists()

    refused("topk_reinforce", "slates of 3 items, but train.slate_size is 4", slate_size=4)
    refused("topk_reinforce", "set train.reward to the reward of the log", reward="rating")
    refused("dqn", "dqn does not learn from logs of slates")
    nobody = replace(slates, slot_reward=None)
    refused("topk_reinforce", "rounds need the reward of each slot", DataError, nobody)


def test_a_log_of_slates_without_propensities_is_refused_in_one_line(log, tmp_path):
    table = pq.read_table(log / "slates.parquet").drop_columns(["log_propensity"])
    pq.write_table(table, tmp_path / "slates.parquet")
    with pytest.raises(DataError, match="log_propensity") as refused:
        read(tmp_path)
    assert "\n" not in str(refused.value)
