"""Learning from slates: the draw without replacement, the credit of each place, the artifact and its evaluation."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from session_blocks import small_specs
from trained_policies import miniature_split

from recpolicy.agents.categorical import MASKED, draw_slate
from recpolicy.agents.experience import Experience, SlateExperience, slate_items
from recpolicy.agents.topk_reinforce import TopKReinforceConfig, make_topk_reinforce
from recpolicy.core.errors import ConfigError
from recpolicy.training import tensorflow_export
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds
from recpolicy.workflows.session_training import train_sessions
from recpolicy.workflows.slate_evaluation import evaluate_slates

SEED = tf.constant([1, 1], tf.int32)
TRAIN = {
    "total_timesteps": 256, "batch_size": 16, "log_rows": 2, "checkpoint_every_steps": 256, "rating_model": "svd",
    "rank": 5, "max_episode_steps": 8,
}  # fmt: skip


def slates(action, read, liked, actions: int) -> SlateExperience:
    """One block of one step: slates [B, K] that ended their sessions, logged with the uniform draw."""
    action = np.asarray(action, np.int32)[np.newaxis]
    _, batch, places = action.shape
    liked = np.asarray(liked, bool)[np.newaxis]
    over, zero = np.ones((1, batch), bool), np.zeros((1, batch, 1), np.float32)
    log_probability = np.broadcast_to(-np.log(actions - np.arange(places)), action.shape).astype(np.float32)
    mask, reward = np.ones((1, batch, actions), bool), liked.any(2).astype(np.float32)
    parts = (zero, mask, action, log_probability, reward, over, ~over, zero)
    steps = Experience(*(tf.constant(part) for part in parts), None)
    return SlateExperience(steps, tf.constant(np.asarray(read, bool)[np.newaxis]), tf.constant(liked))


def test_a_slate_is_drawn_without_replacement_with_its_exact_probability() -> None:
    logits = np.array([0.3, MASKED, -1.0, 1.2, 0.0], np.float32)
    weight = np.exp(logits - logits.max())
    points = (np.arange(200) + 0.5) / 200
    grid = np.array(list(itertools.product(points, points)), np.float32)
    drawn, log_probability = draw_slate(tf.tile(logits[np.newaxis], [len(grid), 1]), tf.constant(grid))
    pairs, chance = drawn.numpy(), np.exp(log_probability.numpy())
    for first, second in itertools.permutations([0, 2, 3, 4], 2):
        rows = (pairs == [first, second]).all(axis=1)
        expected = weight[first] / weight.sum() * weight[second] / (weight.sum() - weight[first])
        assert rows.mean() == pytest.approx(expected, abs=0.01)
        np.testing.assert_allclose(chance[rows].prod(axis=1), expected, rtol=1e-5)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert not (pairs == 1).any()


def test_places_become_items_with_their_own_masks_and_likes() -> None:
    items = slate_items(slates([[2, 0], [1, 3]], [[1, 1], [1, 0]], [[0, 1], [1, 0]], 4))
    np.testing.assert_array_equal(items.action[0], [2, 0, 1, 3])
    np.testing.assert_array_equal(items.reward[0], [0, 1, 1, 0])
    np.testing.assert_array_equal(items.mask[0, 0], [True] * 4)
    np.testing.assert_array_equal(items.mask[0, 1], [True, True, False, True])
    np.testing.assert_array_equal(items.mask[0, 3], [True, False, True, True])


def test_only_items_that_were_read_and_liked_are_reinforced() -> None:
    """Item 1 is liked at the second place; item 0 was read in vain, item 2 never read; no baseline."""
    settings = TopKReinforceConfig(
        layers=(1,), head="plain", baseline=False, ent_coef=0.0, n_epochs=1, k=2, learning_rate=0.1
    )
    agent = make_topk_reinforce(*small_specs(1, 3), settings)
    bias = agent.learner._policy.network.trainable_variables[-1]
    bias.assign(np.zeros(3, np.float32))
    agent.learner.update(slates([[0, 1], [1, 2]], [[1, 1], [1, 0]], [[0, 1], [1, 0]], 3), SEED)
    after = bias.numpy()
    assert after[1] > 0.05
    assert after[0] == pytest.approx(after[1] * -1, abs=0.2)
    assert max(after[0], after[2]) < 0


def test_the_artifact_says_its_slate_size_and_is_evaluated_in_slates(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
    worlds = make_worlds(miniature_split(), SessionTrainConfig(**TRAIN), 0)
    policy = train_sessions(
        "topk_reinforce", miniature_split(), tmp_path / "slates", config={**TRAIN, "slate_size": 2},
        agent_config={"k": 2, "layers": (8,)}, worlds=worlds,
    )  # fmt: skip
    assert policy.metadata["config"]["train"]["slate_size"] == 2
    assert policy.artifact.policy["steps"] == 16
    shown = policy.recommend(policy.scorer.user_ids[0], k=2, sample=True)
    assert len(shown) == 2
    results = evaluate_slates({"slates": policy}, miniature_split(), worlds.evaluation_world, slate_size=2)
    assert set(results) == {"slates", "random", "most_popular", "highest_mean", "rating_model"}
    assert all(0 <= each.reward.value <= each.length for each in results.values())
    with pytest.raises(ConfigError, match="slate_size is 2, but ppo learns from single items"):
        train_sessions("ppo", miniature_split(), tmp_path / "no", config={**TRAIN, "slate_size": 2}, worlds=worlds)
    assert not (tmp_path / "no").exists()
