"""`linucb_user` in the server: the logged context is the posterior, and it gives the choice again. No TensorFlow."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from learning_users import Client, contexts, learning
from posterior_folds import fold_ratings
from tiny_policies import RANK, tiny_artifact

from recpolicy.data.log_parts import EVENTS, log_parts
from recpolicy.inference.artifact import Artifact, policy_digest, write_arrays, write_manifest
from recpolicy.inference.scorer import Scorer
from recpolicy.models.embeddings import Embeddings, item_std
from recpolicy.models.user_posterior import (
    RatedItems,
    UserPosterior,
    pack,
    prior_posterior,
    trained_posterior,
)
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.export import ExportOptions, LogPolicy, export


def embeddings(artifact: Artifact) -> Embeddings:
    return Embeddings(
        artifact.context[:, :RANK], artifact.item, artifact.offset, artifact.scale, artifact.noise_std, 1.0,
        item_std(artifact.rating_std),
    )  # fmt: skip


def tiny_user_bandit() -> Artifact:
    """A greedy `linucb_user` over the tiny tables; its items have errors."""
    plain, rng = tiny_artifact(), np.random.default_rng(3)
    known = embeddings(plain)
    posterior = trained_posterior(known, plain.rated_user, plain.rated_item)
    arms = len(plain.action_items)
    policy = {
        "error_mean": rng.normal(0, 0.1, arms).astype(np.float32),
        "error_variance": np.full(arms, 0.02, np.float32),
        "prior_error_variance": np.full(arms, 0.04, np.float32),
        "noise_std": np.float32(plain.noise_std),
    }
    bandit = replace(
        plain, agent="linucb_user", estimator="user", head="greedy", settings={}, uniform_mix=0.0, policy=policy,
        context=pack(posterior).astype(np.float32),
    )  # fmt: skip
    return replace(bandit, metadata={**bandit.metadata, "policy_digest": policy_digest(bandit)})


@pytest.fixture
def artifact(tmp_path) -> Artifact:
    bandit = tiny_user_bandit()
    folder = tmp_path / "run"
    folder.mkdir()
    write_arrays(bandit, folder)
    (folder / "action").mkdir()
    (folder / "action" / "saved_model.pb").write_bytes(b"graph")
    write_manifest(bandit, folder)
    return bandit


def folded(artifact: Artifact, items: list[int], ratings: list[float]) -> UserPosterior:
    known = embeddings(artifact)
    rows = Scorer(artifact).item_rows(items)
    return fold_ratings(prior_posterior(known), RatedItems.from_embeddings(known), rows, ratings)


def test_the_logged_context_is_the_whole_posterior_and_gives_the_list_again(artifact, tmp_path):
    with learning(tmp_path) as app:
        client, engine = Client(app), app.state.server.store.engine
        rated = client.rate(4711, 5.0, 1.0, 2.0)
        answer = client.recommend(4711)
        seen = contexts(engine, 4711)
    for count in range(4):
        wanted = pack(folded(artifact, rated[:count], [5.0, 1.0, 2.0][:count])).astype(np.float32)
        np.testing.assert_array_equal(seen[count], wanted)
    again = Scorer(artifact).predict_one("anybody", context=seen[3])
    open_items = np.setdiff1d(np.arange(len(again.score)), Scorer(artifact).item_rows(rated))
    best = open_items[np.argsort(-again.score[open_items])][:3]
    assert [item["item_id"] for item in answer["items"]] == [Scorer(artifact).item_ids[row] for row in best]


def test_an_export_keeps_the_posteriors(artifact, tmp_path):
    """A new user's covariance is wider than that of every known user, and the export accepts it all the same."""
    registry = Registry(tmp_path / "registry")
    registry.register(tmp_path / "run", gate={"verdict": "pass"})
    registry.promote(1)
    with learning(tmp_path, source=tmp_path / "registry") as app:
        client, engine = Client(app), app.state.server.store.engine
        client.rate(4711, 5.0, 1.0)
        seen = contexts(engine, 4711)
        done = export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
    assert done.left_out == {}
    rows = [row for path in log_parts(tmp_path / "log", EVENTS) for row in pq.read_table(path).to_pylist()]
    logged = [row["context"] for row in rows if row["event_id"].endswith(":0")]
    np.testing.assert_array_equal(np.array(logged, np.float32), np.stack(seen))
    assert np.linalg.norm(seen[0][RANK:]) > np.linalg.norm(artifact.context[0, RANK:])
