import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from stock_movielens import StockMovieLens, stock_tables
from tf_agents.bandits.environments.movielens_py_environment import MovieLensPyEnvironment
from tiny_dataset import USERS, miniature_ratings, write_miniature

from recpolicy.core.errors import ConfigError
from recpolicy.testing import EnvironmentContract

RANK, ITEMS = 5, 20
NOW = tf.constant(0, tf.int64)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> MovieLensPyEnvironment:
    """TF-Agents' own environment on the miniature; it makes a 943 x 1682 matrix of it and drops the empty rows."""
    folder: Path = write_miniature(tmp_path_factory.mktemp("stock"))
    return MovieLensPyEnvironment(
        str(folder / "u.data"), rank_k=RANK, batch_size=8, num_movies=ITEMS, csv_delimiter="\t"
    )


def same_up_to_sign(ours: np.ndarray, reference: np.ndarray) -> None:
    sign = np.sign(np.sum(ours * reference, axis=0))  # a singular vector is known up to its sign
    np.testing.assert_allclose(ours * sign, reference, rtol=0, atol=1e-4)


def users_of(environment: StockMovieLens, rounds: int) -> np.ndarray:
    """[rounds, B]."""
    draw = tf.function(lambda n: tf.map_fn(lambda t: environment.sample_round(t).user, n, fn_output_signature=tf.int32))
    return draw(tf.range(rounds, dtype=tf.int64)).numpy()


class TestStockMovieLens(EnvironmentContract):
    reward_range = (-5.0, 10.0)  # a reconstruction of zero-filled ratings keeps to no scale
    most_users_at_once = 16

    def make(self, seed, batch_size=8):
        return StockMovieLens(miniature_ratings(), RANK, ITEMS, batch_size, seed)

    def test_its_tables_are_those_of_tf_agents(self, theirs):
        user, rewards = stock_tables(miniature_ratings(), RANK, ITEMS)
        same_up_to_sign(user, theirs._u_hat)
        np.testing.assert_allclose(rewards, theirs._approx_ratings_matrix, rtol=0, atol=1e-4)

    def test_the_same_users_and_actions_pay_what_tf_agents_pays(self, theirs, environment):
        draw = environment.sample_round(NOW)
        action = np.arange(8) % ITEMS
        theirs._current_users = draw.user.numpy()
        paid = environment.reward(draw, tf.constant(action, tf.int32), NOW)
        np.testing.assert_allclose(paid, theirs._apply_action(action), rtol=0, atol=1e-4)

    def test_users_of_a_batch_are_distinct(self, crowd):
        for users in users_of(crowd, 100):
            assert len(np.unique(users)) == crowd.batch_size

    def test_every_user_and_every_pair_of_users_comes_alike(self):
        """3 of 60 users in 20,000 rounds, against random.sample, which is what the stock environment draws with.

        A user comes in 1/20 of the rounds, a given pair in 1/590; both within 5 standard errors.
        """
        environment = self.make(0, batch_size=3)
        users = users_of(environment, 20_000)  # [20000, 3]
        stock = np.array([random.Random(seed).sample(range(USERS), 3) for seed in range(2_000)])
        assert users.shape[1:] == stock.shape[1:]
        assert (users.min(), users.max()) == (stock.min(), stock.max()) == (0, USERS - 1)
        single = np.bincount(users.ravel(), minlength=USERS) / len(users)
        np.testing.assert_allclose(single, 1 / 20, atol=5 * np.sqrt(0.05 * 0.95 / len(users)))
        pairs = np.zeros((USERS, USERS))
        for one, other in ((0, 1), (0, 2), (1, 2)):
            np.add.at(pairs, (users[:, one], users[:, other]), 1)
        pairs = (pairs + pairs.T)[np.triu_indices(USERS, 1)] / len(users)
        np.testing.assert_allclose(pairs, 1 / 590, atol=5 * np.sqrt(1 / 590 / len(users)))

    @pytest.mark.parametrize("change", [{"rank": 21}, {"num_items": 81}, {"batch_size": 61}])
    def test_more_than_the_table_holds_is_refused(self, change):
        with pytest.raises(ConfigError, match="the table allows at most"):
            StockMovieLens(miniature_ratings(), **({"rank": RANK, "num_items": ITEMS} | change))


@pytest.mark.band
def test_its_tables_are_those_of_tf_agents_on_the_real_data_at_the_examples_settings(ml100k, tmp_path):
    rows = np.stack([ml100k.user + 1, ml100k.item + 1, ml100k.rating.astype(int), ml100k.timestamp], axis=1)
    path = tmp_path / "u.data"
    np.savetxt(path, rows, fmt="%d", delimiter="\t")
    theirs = MovieLensPyEnvironment(str(path), rank_k=20, batch_size=8, num_movies=20, csv_delimiter="\t")
    user, rewards = stock_tables(ml100k, 20, 20)
    same_up_to_sign(user, theirs._u_hat)
    np.testing.assert_allclose(rewards, theirs._approx_ratings_matrix, rtol=0, atol=1e-4)
