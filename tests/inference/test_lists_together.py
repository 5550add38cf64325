"""Lists that are computed together: the same as one after the other, or left to the one that draws lots."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trained_policies import trained

from recpolicy.core.errors import UnknownIdError
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.slate_selection import ExplorationConfig, choose_slate, untied_slates

SCORES = st.lists(st.sampled_from([0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, np.nan]), min_size=6, max_size=6)
MASKS = st.lists(st.booleans(), min_size=6, max_size=6)


@given(st.lists(st.tuples(SCORES, MASKS), min_size=1, max_size=4), st.integers(1, 8), st.integers(0, 7), st.booleans())
def test_slates_of_several_users_are_those_of_each(users, k, top, exploring):
    score, allowed = np.array([user[0] for user in users]), np.array([user[1] for user in users])
    config = ExplorationConfig(share=0.25 if exploring else 0.0, top=top)
    for place, slate in enumerate(untied_slates(score, allowed, k, config)):
        proper = np.isfinite(score[place][allowed[place]]).all() and allowed[place].any()
        if slate is None:
            assert (
                not proper
                or choose_slate(score[place], allowed[place], k, config, np.random.default_rng(0), explored=False).tied
            )
            continue
        assert proper
        alone = choose_slate(score[place], allowed[place], k, config, np.random.default_rng(0), explored=False)
        assert not alone.tied
        np.testing.assert_array_equal(slate.arms, alone.arms)
        np.testing.assert_allclose(slate.propensity, alone.propensity, rtol=1e-12)


@pytest.mark.parametrize("agent", ["linucb", "lints", "random"])
def test_scores_without_propensities_are_those_with_them(agent):
    scorer, users = load_scorer(trained(agent)), list(range(1, 41))
    blocks = list(scorer.score_batches(users))
    assert [len(block.score) for block in blocks] == [32, 8]
    whole = scorer.predict(users)
    for name in ("rating", "std", "value", "score"):
        together = np.concatenate([getattr(block, name) for block in blocks])
        np.testing.assert_allclose(together, getattr(whole, name), rtol=1e-6)


def test_only_known_users_are_scored_together():
    with pytest.raises(UnknownIdError, match="no user with id nobody"):
        load_scorer(trained("linucb")).score_batches([1, "nobody"])
