"""The posterior of a user from the rows of the store: any order, any process, bit for bit."""

import asyncio
import random
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import delete, insert, text
from tiny_policies import tiny_artifact, write_tiny

from recpolicy.inference.load_scorer import load_scorer
from recpolicy.models.fold_in import fold_in_user
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.schema import user_ratings
from recpolicy.server.db.user_ratings import RatingRow, Stamp, add_rating, read_ratings
from recpolicy.server.users import reader as reading
from recpolicy.server.users.reader import UserReader
from recpolicy.server.users.state import describe, fold


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    return load_scorer(write_tiny(tmp_path_factory.mktemp("tiny") / "run")).user_vectors


def some_rows(count=40, seed=0):
    """Rows of a user who changes some ratings later."""
    chance = random.Random(seed)
    return [RatingRow(3 * seq + 1, chance.randint(101, 111), chance.randint(2, 10) / 2) for seq in range(count)]


def latest(rows):
    """The latest rating of each item."""
    return {row.item: row.rating for row in rows}


@pytest.mark.parametrize("user", [4711, 3])
def test_a_fold_ends_at_the_fold_in_of_the_latest_ratings(vectors, user):
    rows = some_rows()
    state = fold(vectors, user, rows)
    posterior = state.posterior(vectors.rank)
    known = latest(rows)
    items = np.array([item - 101 for item in known])
    start = vectors.start(user)
    precision = np.linalg.inv(start.covariance)
    x, weight = vectors.items.x[items], 1 / vectors.items.variance[items]
    covariance = np.linalg.inv(precision + (x.T * weight) @ x)
    surprise = np.array(list(known.values())) - vectors.items.offset[items] - x @ start.mean
    np.testing.assert_allclose(posterior.covariance, covariance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(posterior.mean, start.mean + covariance @ (x.T @ (weight * surprise)), rtol=1e-9)
    assert (state.ratings, state.stamp) == (len(known), Stamp(40, sum(row.seq for row in rows)))


def test_any_order_of_the_same_latest_ratings_agrees(vectors):
    rows = [RatingRow(seq, item, rating) for seq, (item, rating) in enumerate(latest(some_rows()).items(), 1)]
    first = fold(vectors, 4711, rows).posterior(vectors.rank)
    for seed in range(20):
        random.Random(seed).shuffle(rows)
        other = fold(vectors, 4711, rows).posterior(vectors.rank)
        np.testing.assert_allclose(other.mean, first.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(other.covariance, first.covariance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("user", [4711, 3])
def test_how_rows_come_in_batches_changes_no_bit(vectors, user):
    rows = some_rows()
    whole = fold(vectors, user, rows)
    for seed in range(20):
        cuts = sorted(random.Random(seed).sample(range(41), 5))
        state = None
        for start, end in zip([0, *cuts], [*cuts, 40], strict=True):
            state = fold(vectors, user, rows[start:end], state)
        assert state == whole


def test_rows_that_the_policy_cannot_use_are_left_out_and_counted(vectors):
    odd = [RatingRow(1, 999, 3.0), RatingRow(2, "101", 3.0), RatingRow(3, 101, 5.5), RatingRow(4, 101, 0.9)]
    state = fold(vectors, 4711, odd)
    assert (state.ratings, state.stamp, state.last) == (0, Stamp(4, 10), 4)
    np.testing.assert_array_equal(state.posterior(vectors.rank).mean, vectors.start(4711).mean)
    assert fold(vectors, 1, [RatingRow(1, 101, 1.0)]).ratings == 0  # the training has it
    assert fold(vectors, 2, [RatingRow(1, 101, 1.0)]).ratings == 1


def test_a_policy_with_a_rating_model_of_its_own_adds_the_change_of_the_vector(tmp_path):
    from recpolicy.inference.scorer import Scorer

    artifact = tiny_artifact()
    mean = np.random.default_rng(5).uniform(1, 5, artifact.rating_std.shape).astype(np.float32)
    scorer = Scorer(replace(artifact, rating_mean=mean))
    vectors = scorer.user_vectors
    same = vectors.describe(3, vectors.start(3), np.empty(0, np.int32), np.empty(0))
    np.testing.assert_allclose(same.rating, mean[2], rtol=1e-6)
    np.testing.assert_allclose(same.std, artifact.rating_std[2], rtol=1e-6)
    np.testing.assert_array_equal(same.context, artifact.context[2])
    moved = describe(vectors, 3, fold(vectors, 3, some_rows(3)))
    shift = (moved.context - artifact.context[2]) @ artifact.item.T
    np.testing.assert_allclose(moved.rating, mean[2] + shift, rtol=1e-4, atol=1e-5)
    assert (moved.std <= artifact.rating_std[2]).all()


@contextmanager
def reader_of(engine, is_down=lambda: False, cache_bytes=1 << 20):
    reader = UserReader(engine, is_down, cache_bytes)
    reader.start()
    try:
        yield reader
    finally:
        reader.close()


def read(reader, vectors, *keys):
    """The states of users by key, and whether the store was read."""
    states, is_read = asyncio.run(reader.read([vectors], keys))
    return {key: state for (_, key), state in states.items()}, is_read


def write(engine, key, rows):
    with transaction(engine) as connection:
        for row in rows:
            add_rating(connection, key, row.item, row.rating, 1)


def stored(engine, key):
    with engine.connect() as connection:
        return read_ratings(connection, key, 0)


def test_two_readers_and_a_later_one_have_the_same_bits(each_engine, vectors):
    rows = some_rows()
    with reader_of(each_engine) as one, reader_of(each_engine) as other:
        for start in range(0, 40, 5):
            write(each_engine, "4711", rows[start : start + 5])
            write(each_engine, "3", rows[start : start + 2])
            states, is_read = read(one, vectors, "4711", "3", "5")
            assert is_read
            assert set(states) == {"4711", "3"}
            if start % 10:
                assert read(other, vectors, "4711")[0]["4711"] == states["4711"]
    with reader_of(each_engine) as again:
        assert read(again, vectors, "4711", "3", "5") == (states, True)
    assert states["4711"] == fold(vectors, 4711, stored(each_engine, "4711"))
    assert states["4711"].ratings == len(latest(rows))


def test_a_row_that_was_committed_late_is_folded_in_its_place(each_engine, vectors):
    """PostgreSQL may commit a later number first."""
    late = {"seq": 2, "user_key": "4711", "item": "103", "rating": 1.0, "time": 1}
    with reader_of(each_engine) as reader:
        with transaction(each_engine) as connection:
            connection.execute(
                insert(user_ratings), [late | {"seq": 1, "item": "101"}, late | {"seq": 3, "item": "102"}]
            )
        before = read(reader, vectors, "4711")[0]["4711"]
        with transaction(each_engine) as connection:
            connection.execute(insert(user_ratings), [late])
        after = read(reader, vectors, "4711")[0]["4711"]
    assert before.ratings == 2
    assert after == fold(vectors, 4711, stored(each_engine, "4711"))
    assert after.ratings == 3


def test_deleted_rows_are_gone_from_every_process(each_engine, vectors):
    write(each_engine, "4711", some_rows(5))
    with reader_of(each_engine) as one, reader_of(each_engine) as other:
        for reader in (one, other):
            read(reader, vectors, "4711")
        with transaction(each_engine) as connection:
            connection.execute(delete(user_ratings).where(user_ratings.c.seq <= 2))
        for reader in (one, other):
            assert read(reader, vectors, "4711")[0]["4711"] == fold(vectors, 4711, stored(each_engine, "4711"))
        with transaction(each_engine) as connection:
            connection.execute(delete(user_ratings))
        for reader in (one, other):
            assert read(reader, vectors, "4711") == ({}, True)
            assert not len(reader._cache)


def test_many_readings_at_once_are_answered_together(engine, vectors):
    for key in range(30):
        write(engine, str(key), some_rows(3, key))

    async def at_once(reader):
        keys = [[str(key), str(key + 1)] for key in range(30)]
        return await asyncio.gather(*[reader.read([vectors], each) for each in keys])

    with reader_of(engine) as reader:
        answers = asyncio.run(at_once(reader))
    for key, (states, is_read) in enumerate(answers):
        assert is_read
        assert {each for _, each in states} == {str(key), str(key + 1)} - {"30"}
        assert states[vectors.token, str(key)] == fold(vectors, key, stored(engine, str(key)))


def test_a_small_cache_computes_the_others_again(engine, vectors):
    for key in range(20):
        write(engine, str(key), some_rows(3, key))
    size = fold(vectors, 1, stored(engine, "1")).size
    with reader_of(engine, cache_bytes=3 * size) as reader:
        for _ in range(2):
            for key in range(20):
                assert read(reader, vectors, str(key))[0][str(key)].ratings == len(latest(some_rows(3, key)))
                assert len(reader._cache) <= 3


def test_a_database_that_fails_gives_the_last_known_state(engine, vectors, caplog):
    write(engine, "4711", some_rows(3))
    with reader_of(engine) as reader:
        known = read(reader, vectors, "4711")[0]
        write(engine, "4711", some_rows(1, 9))
        with transaction(engine) as connection:
            connection.execute(text("ALTER TABLE user_ratings RENAME TO elsewhere"))
        for _ in range(2):
            assert read(reader, vectors, "4711", "5") == (known, False)
        assert [record.message for record in caplog.records].count(
            "the ratings of users could not be read: the database has no tables of recpolicy"
        ) == 1
        with transaction(engine) as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO user_ratings"))
        after, is_read = read(reader, vectors, "4711")
        assert is_read
        assert after["4711"].stamp.rows == 4
        assert reader.is_alive()


def test_a_database_that_is_down_is_not_asked(engine, vectors):
    write(engine, "4711", some_rows(3))
    down = []
    with reader_of(engine, lambda: bool(down)) as reader:
        known = read(reader, vectors, "4711")[0]
        down.append(True)
        write(engine, "4711", some_rows(1, 9))
        assert read(reader, vectors, "4711") == (known, False)


def test_a_database_that_hangs_delays_one_request_and_no_other(engine, vectors, monkeypatch):
    monkeypatch.setattr(reading, "READ_SECONDS", 0.1)
    go_on = threading.Event()
    write(engine, "4711", some_rows(3))
    read_stamps = reading.read_stamps

    def hang(connection, keys):
        assert go_on.wait(60)
        return read_stamps(connection, keys)

    with reader_of(engine) as reader:
        known = read(reader, vectors, "4711")[0]
        monkeypatch.setattr(reading, "read_stamps", hang)
        assert read(reader, vectors, "4711") == (known, False)
        time.sleep(0.2)  # the read has begun a moment after the request
        assert read(reader, vectors, "4711") == (known, False)
        assert reader._queue.empty()  # the second one did not even wait
        go_on.set()
        monkeypatch.setattr(reading, "READ_SECONDS", 60)
        assert read(reader, vectors, "4711") == (known, True)


def test_a_state_is_small_and_whole(vectors):
    state, known = fold(vectors, 4711, some_rows()), latest(some_rows())
    assert len(state.data) == 8 * (3 + 6) + 12 * len(known)
    rows, ratings = state.rated(vectors.rank)
    told = dict(zip(rows.tolist(), ratings.tolist(), strict=True))
    assert told == {item - 101: rating for item, rating in known.items()}


def test_the_prior_is_that_of_the_fold_in(vectors):
    nobody = vectors.unknown_user
    embedding, covariance = fold_in_user(vectors._scorer.embeddings, np.empty(0, int), [])
    np.testing.assert_allclose(nobody.context, embedding, rtol=1e-6)
    np.testing.assert_allclose(vectors.start(4711).covariance, covariance, rtol=1e-5)
    assert not len(nobody.rated)
