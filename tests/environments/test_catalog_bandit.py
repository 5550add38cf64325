import numpy as np
import pytest
import tensorflow as tf
from synthetic_world import ITEMS, RANK, planted

from recpolicy.agents import AGENTS
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.observation import read_observation
from recpolicy.core.errors import ConfigError
from recpolicy.environments.catalog_bandit import CatalogBandit, CatalogBanditConfig
from recpolicy.models.pair_features import PairFeatures
from recpolicy.testing import EnvironmentContract

MOST, FEWEST = 5, 2
NOW = tf.constant(0, tf.int64)


class TestCatalogBandit(EnvironmentContract):
    def make(self, seed, batch_size=8):
        features = PairFeatures(planted().item, planted().offset)
        config = CatalogBanditConfig(batch_size=batch_size, max_candidates=MOST, min_candidates=FEWEST)
        return CatalogBandit(planted().world, planted().user, features, config, seed)

    def test_candidates_are_distinct_and_every_item_comes_alike(self, crowd):
        """100,000 candidates of 12 items: each 1/12 within 4.5 standard errors."""
        candidates = crowd.sample_round(NOW).candidates.numpy()
        assert (np.diff(np.sort(candidates, axis=1), axis=1) > 0).all()
        share = np.bincount(candidates.ravel(), minlength=ITEMS) / candidates.size
        np.testing.assert_allclose(share, 1 / ITEMS, atol=4.5 * np.sqrt(11 / 144 / candidates.size))

    def test_candidate_sets_are_fresh_every_round_and_for_every_user(self, environment):
        rounds = [environment.sample_round(tf.constant(t, tf.int64)).candidates.numpy() for t in range(2)]
        assert not np.array_equal(*rounds)
        assert len(np.unique(rounds[0], axis=0)) > 4

    def test_the_number_of_candidates_is_uniform_between_its_bounds_and_padding_comes_last(self, crowd):
        mask = crowd.sample_round(NOW).mask.numpy()
        count = np.bincount(mask.sum(axis=1), minlength=MOST + 1)
        assert count[:FEWEST].sum() == 0
        np.testing.assert_allclose(count[FEWEST:] / len(mask), 1 / 4, atol=4.5 * np.sqrt(3 / 16 / len(mask)))
        assert (np.diff(mask.astype(int), axis=1) <= 0).all()

    def test_rewards_and_features_belong_to_the_candidates(self, environment):
        draw = environment.sample_round(NOW)
        user, candidates = draw.user.numpy(), draw.candidates.numpy()
        expected = planted().world.expected[user[:, np.newaxis], candidates]
        np.testing.assert_array_equal(environment.expected_rewards(draw, NOW), expected)
        per_arm = environment.observation(draw)["per_arm"].numpy()
        product = planted().user[user][:, np.newaxis] * planted().item[candidates]
        np.testing.assert_array_equal(per_arm[..., :RANK], product)
        np.testing.assert_array_equal(per_arm[..., RANK], planted().offset[candidates])

    @pytest.mark.parametrize(("fewest", "most"), [(0, 5), (6, 5), (5, ITEMS + 1)])
    def test_bounds_that_make_no_sense_are_refused(self, fewest, most):
        features = PairFeatures(planted().item, planted().offset)
        with pytest.raises(ConfigError, match="expected"):
            CatalogBandit(
                planted().world, planted().user, features,
                CatalogBanditConfig(max_candidates=most, min_candidates=fewest),
            )  # fmt: skip


def table(arms):
    """Something known of any number of arms."""
    counts = np.arange(1, arms + 1, dtype=np.float32)
    return ItemFeatures(
        np.ones((arms, RANK), np.float32), np.full(arms, 3, np.float32), counts, counts / arms, (1.0, 5.0)
    )


@pytest.mark.parametrize("name", ["linucb", "ucb1", "popular", "linucb_hybrid", "eps_greedy"])
def test_agents_with_a_model_per_item_are_refused(name):
    environment = TestCatalogBandit().make(0)
    entry = AGENTS[name]
    spec, action_spec = environment.time_step_spec(), environment.action_spec()
    with pytest.raises(ConfigError, match="linucb_shared learns from their features"):
        entry.make(spec, action_spec, entry.config(), table(environment.actions), 0)


def test_the_rating_model_judges_candidates_by_their_features():
    environment = TestCatalogBandit().make(0)
    entry = AGENTS["rating_model"]
    spec, action_spec = environment.time_step_spec(), environment.action_spec()
    agent = entry.make(spec, action_spec, entry.config(), table(environment.actions), 0)
    draw = environment.sample_round(NOW)
    seen = read_observation(environment.observation(draw))
    said = agent.learner.estimate(seen).mean.numpy()
    rows = np.arange(len(said))[:, np.newaxis]
    model = planted().user @ planted().item.T + planted().offset
    np.testing.assert_allclose(said, model[draw.user.numpy()[rows], draw.candidates.numpy()], atol=1e-5)
