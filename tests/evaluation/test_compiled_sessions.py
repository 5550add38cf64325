"""Compiled sessions: the same sessions as SessionRunner's, in chunks of other random numbers."""

import numpy as np
import pytest

from recpolicy.evaluation.compiled_sessions import CompiledSessions, greedy, random_scores, table_scores
from recpolicy.evaluation.sessions import SessionRunner, by_table, fatigue_aware, fatigue_aware_scores
from recpolicy.testing import planted_environment, planted_sessions

NAMES = ("reward", "length", "likes", "watched", "user", "shown")


@pytest.fixture(scope="module")
def environment():
    return planted_environment(planted_sessions(known=0.0), 5, 90)  # known responses would tie items


def test_a_table_and_the_oracle_get_the_sessions_of_the_runner(environment):
    like = environment.world.like
    pairs = (
        (table_scores(like), by_table(like)),
        (lambda session, *_: fatigue_aware_scores(environment, 2.0)(session), fatigue_aware(environment, 2.0)),
    )
    runner, seeds = SessionRunner(environment), (3, 3 + 2**29)
    for (compiled, plain), seed in zip(pairs, seeds, strict=True):
        found = CompiledSessions(environment, greedy(compiled)).steps(seed).results(environment.actions)
        expected = runner.run(plain, seed)
        for name in NAMES:
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, err_msg=name)


def test_chunks_are_whole_differ_and_repeat(environment):
    sessions = CompiledSessions(environment, greedy(random_scores(environment.actions)))
    found = sessions.run(1, 100)
    assert len(found.reward) == 180
    assert not np.array_equal(found.reward[:90], found.reward[90:])
    np.testing.assert_array_equal(found.reward, sessions.run(1, 100).reward)
    shown = found.shown.sum(axis=0)
    assert (shown > 0).all()  # uniform over all 24 items
    assert found.shown.sum() == found.length.sum()


def test_steps_after_the_end_do_not_count(environment):
    steps = CompiledSessions(environment, greedy(table_scores(environment.world.like))).steps(0)
    going = steps.going
    assert going[0].all()
    np.testing.assert_array_equal(going[1:], going[:-1] & steps.stays[:-1])
    np.testing.assert_array_equal(steps.score, steps.best_score)  # greedy
