"""What a scorer promises: the answers of `Policy`, for one or many, kept or computed, without pandas in the process."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from tiny_policies import RANK, tiny_artifact, write_tiny
from waiting import PATIENCE

from recpolicy.core.errors import ArtifactError, ConfigError, DataError, UnknownIdError
from recpolicy.inference import scorer as scorer_module
from recpolicy.inference.artifact import write_arrays, write_manifest
from recpolicy.inference.block_prediction import arms_except
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.predictor import Policy
from recpolicy.inference.scorer import Prediction, Scorer
from recpolicy.models.rating_levels import RatingLevels

USERS, ITEMS, ARMS = 7, 11, 6
NEWCOMER = {"new": {101: 5.0, 103: 1.5}}
PARTS = ("rating", "std", "probability", "score")


def policies():
    """An upper-confidence policy over some items, Boltzmann ones over all, a learner of networks, a session policy."""
    some = tiny_artifact(arms=ARMS)
    soft = replace(tiny_artifact(), head="boltzmann", settings={"temperature": 0.3})
    model = replace(some, estimator="rating_model", head="greedy", policy={})
    longer = np.concatenate([some.context, np.random.default_rng(1).random((USERS, 2), np.float32)], axis=1)
    rng = np.random.default_rng(2)
    view = {"view": np.array("interest"), "steps": np.int32(9), "last_n": np.int32(1), "genres": np.eye(ITEMS, 4)}
    seen = 2 * RANK + 4 + 2
    network = {"kernel_0": rng.normal(size=(seen, ARMS)), "bias_0": rng.normal(size=ARMS)}
    value = {f"value/{name}": part[..., :1] for name, part in network.items()}
    session = replace(some, agent="ppo", estimator="session", head="softmax", settings={})
    session = replace(session, policy={k: np.asarray(v) for k, v in (view | network | value).items()})
    plain = replace(model, context=longer)
    return {"linucb": some, "boltzmann": soft, "rating_model": plain, "session": session}


every_policy = pytest.mark.parametrize("name", list(policies()))


@pytest.fixture
def scorer():
    return Scorer(tiny_artifact(arms=ARMS))


def predicted(artifact, user, **words):
    return Policy(artifact).predict(user, **words)


def agrees(answer: Prediction, table, action_items) -> None:
    """The answer has the columns of `Policy.predict`, and probabilities that are a distribution."""
    for part in ("rating", "std", "probability"):
        np.testing.assert_allclose(getattr(answer, part), table[part], rtol=1e-6, atol=1e-7)
    assert answer.probability.dtype == answer.score.dtype == np.float64
    assert answer.probability[action_items].sum() == pytest.approx(1, abs=1e-12)
    if "session_value" in table:
        assert answer.session_value == pytest.approx(table["session_value"].iloc[0])
        assert answer.value is None
    else:
        np.testing.assert_allclose(answer.value, table["value"], rtol=1e-6)
        assert answer.session_value is None


@every_policy
def test_an_answer_is_what_the_policy_predicts(name):
    artifact = policies()[name]
    for words in ({}, {"fold_in": NEWCOMER}):
        user = "new" if words else 3
        agrees(Scorer(artifact).predict_one(user, **words), predicted(artifact, user, **words), artifact.action_items)


@every_policy
def test_scores_are_those_that_evaluation_reads(name):
    artifact = policies()[name]
    expected = Policy(artifact).scores()[0][:, artifact.action_items]
    np.testing.assert_allclose(Scorer(artifact).predict(list(range(1, 8))).score, expected, rtol=1e-6)


@every_policy
def test_many_are_answered_as_each_alone(name):
    scorer = Scorer(policies()[name])
    users = [3, "new", 1, 3, 7] * 8  # more than are computed at once
    together = scorer.predict(users, NEWCOMER)
    assert together.score.shape == (40, len(scorer.action_items))
    assert together.rating.shape == together.std.shape == together.probability.shape == (40, ITEMS)
    for place, user in enumerate(users):
        alone = scorer.predict_one(user, NEWCOMER)
        for part in PARTS:
            np.testing.assert_allclose(getattr(together, part)[place], getattr(alone, part), rtol=1e-5, atol=1e-7)
        if scorer.sequential:
            assert together.session_value[place] == pytest.approx(alone.session_value)
        else:
            np.testing.assert_allclose(together.value[place], alone.value, rtol=1e-5)


def test_it_says_whom_and_what_it_knows(scorer):
    assert (scorer.user_ids, scorer.item_ids) == ([*range(1, 8)], [*range(101, 112)])
    assert scorer.titles[2] == "Tiny, the 103th"
    assert scorer.scale == (1.0, 5.0)
    assert scorer.metadata["agent"] == "linucb"
    assert (scorer.genre_names, scorer.genres.shape) == ([], (ITEMS, 0))
    assert np.isnan(scorer.years).all()
    assert scorer.knows(7)
    assert not scorer.knows("new")
    assert scorer.item_row(103) == 2
    with pytest.raises(UnknownIdError, match="no item with id 1 in"):
        scorer.item_row(1)


def test_what_a_user_rated_is_told_apart_from_what_others_did():
    user, item = np.array([4, 0, 4, 6, 0], np.int32), np.array([9, 3, 1, 2, 5], np.int32)
    scorer = Scorer(replace(tiny_artifact(), rated_user=user, rated_item=item))
    rated = {one: sorted(scorer.rated(one).tolist()) for one in range(1, 8)}
    assert rated == {1: [3, 5], 2: [], 3: [], 4: [], 5: [1, 9], 6: [], 7: [2]}
    assert scorer.rated(5, {5: {103: 4.0}}).tolist() == [2]  # instead of what was known
    assert scorer.rated("stranger").tolist() == []


def test_who_is_not_known_is_refused(scorer):
    with pytest.raises(UnknownIdError, match="no user with id 8, nobody in"):
        scorer.predict([1, 8, "nobody"])
    with pytest.raises(UnknownIdError, match="no user with id None in"):
        scorer.predict_one(None)
    with pytest.raises(UnknownIdError, match="no item with id 7 in"):
        scorer.predict_one("new", {"new": {7: 3.0}})
    with pytest.raises(DataError, match="rating 6 is not in"):
        scorer.predict_one("new", {"new": {101: 6.0}})
    with pytest.raises(DataError, match="at least one user"):
        scorer.predict([])


def test_known_users_are_computed_once_and_only_without_ratings_of_their_own(scorer, monkeypatch):
    asked = []
    compute = scorer_module.predict_block
    monkeypatch.setattr(scorer_module, "predict_block", lambda *words: asked.append(1) or compute(*words))
    first = scorer.predict_one(3)
    assert scorer.predict_one(3) is first
    assert len(asked) == 1
    folded = scorer.predict_one(3, {3: {101: 1.0}})
    raw = scorer.predict_one(3, context=np.ones(RANK))
    assert len(asked) == 3
    assert not np.allclose(folded.rating, first.rating)
    assert not np.allclose(raw.rating, first.rating)
    assert scorer.predict_one(3, NEWCOMER) is first  # somebody else's ratings
    assert scorer.predict_one("new", NEWCOMER) is not scorer.predict_one("new", NEWCOMER)


def test_kept_answers_cannot_be_written_to(scorer):
    for part in PARTS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(scorer.predict_one(3), part)[0] = 0


def test_a_small_cache_answers_all_the_same_from_many_threads():
    artifact = tiny_artifact(users=40)
    expected = Scorer(artifact).predict(list(range(1, 41)))
    small = Scorer(artifact, cache_bytes=3_000)  # some nine answers of 264 bytes and more

    def ask(step):
        user = (step * 17) % 40
        return user, small.predict_one(user + 1)

    with ThreadPoolExecutor(8) as pool:
        for user, answer in pool.map(ask, range(800)):
            np.testing.assert_allclose(answer.score, expected.score[user], rtol=1e-5)
    assert 0 < small._cache.size <= 3_000


def test_a_users_own_context_given_raw_leads_to_the_same_ratings_with_a_typical_std():
    artifact = policies()["rating_model"]
    scorer, row = Scorer(artifact), 4
    raw = scorer.predict_one(None, context=artifact.context[row])
    known = scorer.predict_one(row + 1)
    np.testing.assert_allclose(raw.rating, known.rating, rtol=1e-6)
    np.testing.assert_allclose(raw.score, known.score, rtol=1e-6)
    np.testing.assert_allclose(raw.std, np.sqrt((artifact.rating_std**2).mean(axis=0)), rtol=1e-5)


def test_an_embedding_alone_stands_for_average_demographics():
    artifact = policies()["rating_model"]
    context = np.concatenate([artifact.context[4, :RANK], artifact.context[:, RANK:].mean(axis=0)])
    short, full = (Scorer(artifact).predict_one(None, context=one) for one in (context[:RANK], context))
    np.testing.assert_array_equal(short.score, full.score)


@pytest.mark.parametrize("context", [np.ones(RANK + 1), np.ones(0), np.ones((1, RANK)), np.array([1, np.nan, 0])])
def test_a_context_of_another_kind_is_refused(scorer, context):
    with pytest.raises(DataError, match="context: "):
        scorer.predict_one(None, context=context)


def test_a_session_so_far_is_seen_and_not_shown_again():
    scorer = Scorer(policies()["session"])
    past = {3: [(101, True), (104, False)]}
    begun, running = scorer.predict_one(3), scorer.predict_one(3, history=past)
    assert (running.probability[[0, 3]] == 0).all()
    assert running.probability.sum() == pytest.approx(1, abs=1e-12)
    assert not np.allclose(begun.score, running.score)
    assert running.session_value != begun.session_value
    assert scorer.predict_one(3) is begun
    with pytest.raises(DataError, match="contains every item of the catalog"):
        scorer.predict_one(3, history={3: [(101 + arm, True) for arm in range(ARMS)]})


def test_a_history_that_is_not_looked_at_is_refused(scorer):
    with pytest.raises(ConfigError, match="linucb does not use the session"):
        scorer.predict_one(3, history={3: [(101, True)]})


def test_a_loaded_scorer_answers_as_the_artifact_that_was_written(tmp_path):
    folder = write_tiny(tmp_path / "policy")
    loaded, made = load_scorer(folder), Scorer(tiny_artifact())
    for part in PARTS:
        np.testing.assert_array_equal(getattr(loaded.predict_one(2), part), getattr(made.predict_one(2), part))
    assert (loaded.user_ids, loaded.item_ids, loaded.titles) == (made.user_ids, made.item_ids, made.titles)
    assert loaded.metadata == made.metadata


def test_an_artifact_from_before_there_were_tables_is_read_from_parquet(tmp_path):
    folder = write_tiny(tmp_path / "policy")
    expected = load_scorer(folder)
    (folder / "tables.json").unlink()
    (folder / "recpolicy.json").unlink()
    write_manifest(tiny_artifact(), folder)
    old = load_scorer(folder)
    np.testing.assert_array_equal(old.predict_one(2).score, expected.predict_one(2).score)
    assert (old.item_ids, old.titles) == (expected.item_ids, expected.titles)
    (folder / "tables.json").write_text("{}")  # the manifest does not know it
    assert load_scorer(folder).item_ids == expected.item_ids


@pytest.mark.parametrize("name", ["arrays.npz", "tables.json"])
def test_a_changed_or_missing_file_is_refused(tmp_path, name):
    folder = write_tiny(tmp_path / "policy")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{name}: changed since"):
        load_scorer(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name}: missing"):
        load_scorer(folder)


def test_tables_of_other_users_than_the_arrays_are_refused(tmp_path):
    folder = write_tiny(tmp_path / "policy")
    body = json.loads((folder / "tables.json").read_text())
    body["user_id"].append(99)
    (folder / "tables.json").write_text(json.dumps(body))
    (folder / "recpolicy.json").unlink()
    write_manifest(tiny_artifact(), folder)
    with pytest.raises(ArtifactError, match=r"tables\.json has \(8, 11\) users and items"):
        load_scorer(folder)


ANSWER = """
import sys
import numpy as np
from recpolicy.registry.model_registry import Registry
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.slate_selection import ExplorationConfig, allowed_rows, choose_slate, explain

scorer = load_scorer(sys.argv[1])
answer = scorer.predict_one(2)
scorer.predict([1, "new"], fold_in={"new": {101: 4.0}})
slate = choose_slate(answer.score, allowed_rows(scorer, 2), 3, ExplorationConfig(), np.random.default_rng(0))
explain(scorer, 2, scorer.action_items[slate.arms])
heavy = {"pandas", "pyarrow", "tensorflow", "tf_agents", "sklearn", "scipy", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


def test_answering_imports_neither_pandas_nor_tensorflow(tmp_path):
    folder = write_tiny(tmp_path / "policy")
    done = subprocess.run([sys.executable, "-c", ANSWER, folder], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


LEVELS = RatingLevels((1.0, 2.0, 3.0, 4.0, 5.0), (-2.4, -1.4, -0.2, 1.2))


def with_levels(**words):
    """A policy whose rating model expects other ratings than its embeddings do, on the levels 1 to 5."""
    artifact = tiny_artifact(**words)
    mean = np.random.default_rng(5).uniform(1.5, 4.5, (USERS, ITEMS)).astype(np.float32)
    return replace(artifact, rating_mean=mean, levels=LEVELS)


def test_known_users_get_the_rating_models_expectation_and_others_that_of_the_embeddings():
    artifact = with_levels(arms=ARMS)
    scorer, plain = Scorer(artifact), Scorer(replace(artifact, rating_mean=None))
    np.testing.assert_array_equal(scorer.predict_one(3).rating, artifact.rating_mean[2])
    np.testing.assert_array_equal(scorer.predict_one(3).value, plain.predict_one(3).value)  # trained on embeddings
    for words in ({"fold_in": NEWCOMER}, {"context": artifact.context[2]}):
        np.testing.assert_allclose(
            scorer.predict_one("new", **words).rating, plain.predict_one("new", **words).rating, rtol=1e-6
        )
    together = scorer.predict(["new", 3], NEWCOMER)
    np.testing.assert_array_equal(together.rating[1], artifact.rating_mean[2])


def test_real_rewards_move_the_rating_models_expectation_by_what_was_learned():
    artifact = with_levels(arms=ARMS)
    real = replace(artifact, metadata={**artifact.metadata, "training": {"rewards": "real"}})
    before, after = Scorer(artifact).predict_one(3), Scorer(real).predict_one(3)
    start = artifact.context[2, :RANK] @ artifact.item.T + artifact.offset
    learned = artifact.context[2] @ artifact.policy["theta"].T - start[:ARMS]
    expected = before.rating.copy()
    expected[:ARMS] += learned
    np.testing.assert_allclose(after.rating, np.clip(expected, 1, 5), rtol=1e-5)
    assert (after.std[:ARMS] != before.std[:ARMS]).all()
    np.testing.assert_array_equal(after.std[ARMS:], before.std[ARMS:])


def test_intervals_and_levels_come_from_the_distribution_of_one_rating():
    policy = Policy(with_levels(arms=ARMS))
    table, levels = policy.predict([3, 4]), policy.predict_levels([3, 4])
    spread = LEVELS.spread(table["rating"].to_numpy(), table["std"].to_numpy())
    np.testing.assert_allclose(table["low"], np.maximum(table["rating"] - 1.96 * spread, 1), rtol=1e-5)
    np.testing.assert_allclose(table["high"], np.minimum(table["rating"] + 1.96 * spread, 5), rtol=1e-5)
    stars = levels[["1.0", "2.0", "3.0", "4.0", "5.0"]].to_numpy()
    np.testing.assert_allclose(stars.sum(axis=1), 1)
    np.testing.assert_allclose(stars @ np.arange(1, 6), table["rating"], atol=0.02)
    np.testing.assert_allclose(levels["like"], stars[:, 3:].sum(axis=1))
    without = Policy(tiny_artifact())
    flat = without.predict(3)
    noise = np.sqrt(flat["std"] ** 2 + without.artifact.noise_std**2)
    np.testing.assert_allclose(flat["high"], np.minimum(flat["rating"] + 1.96 * noise, 5), rtol=1e-5)
    with pytest.raises(ConfigError, match="no distribution over levels"):
        without.predict_levels(3)


def test_levels_and_expected_ratings_are_saved_and_may_be_missing(tmp_path):
    artifact, folder = with_levels(), tmp_path / "levels"
    folder.mkdir()
    write_arrays(artifact, folder)
    write_manifest(artifact, folder)
    scorer = load_scorer(folder)
    assert scorer.artifact.levels == LEVELS
    np.testing.assert_array_equal(scorer.artifact.rating_mean, artifact.rating_mean)
    plain = load_scorer(write_tiny(tmp_path / "plain"))
    assert plain.artifact.levels is None
    assert plain.artifact.rating_mean is None


def test_an_id_of_the_other_type_is_explained(scorer):
    with pytest.raises(
        UnknownIdError, match="no user with id 3 in this policy; the ids are integers: 3 without quotes"
    ):
        scorer.predict(["3"])
    with pytest.raises(UnknownIdError, match=r"no item with id 103 in .*; the ids are integers: 103 without quotes"):
        scorer.item_row("103")
    artifact = tiny_artifact()
    users = artifact.users.assign(user_id=artifact.users["user_id"].astype(str))
    items = artifact.items.assign(item_id=artifact.items["item_id"].astype(str))
    texts = Scorer(replace(artifact, users=users, items=items))
    with pytest.raises(UnknownIdError, match='no user with id 3 in this policy; the ids are text: "3"'):
        texts.predict([3])
    with pytest.raises(UnknownIdError, match=r'no item with id 103 in .*; the ids are text: "103"'):
        texts.item_row(103)
    with pytest.raises(UnknownIdError, match="no user with id True in this policy; describe"):
        texts.predict([True])


@pytest.mark.parametrize("action_items", [np.arange(ITEMS), np.array([1, 4, 5, 10])])
def test_items_are_left_out_by_their_arms_and_those_without_one_are_ignored(action_items):
    artifact = replace(tiny_artifact(), action_items=action_items.astype(np.int32))
    rng = np.random.default_rng(0)
    for _ in range(20):
        rated, shown = (rng.choice(ITEMS, rng.integers(0, 6), replace=False).astype(np.int32) for _ in range(2))
        expected = ~np.isin(action_items, np.concatenate([rated, shown]))
        assert arms_except(artifact, rated, shown).tolist() == expected.tolist()
