"""A policy under a tuned layer: one artifact, the scores of the layer, everything else of the policy."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tuned_policies import NEW, POPULAR, base_artifact, make_layer, write_base, write_tuned

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.inference.artifact import read_inference_artifact
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.predictor import load_policy
from recpolicy.inference.ranking_utility import OwnHeads
from recpolicy.inference.scorer import Scorer
from recpolicy.inference.tuned_layer import read_tuned_layer, write_tuned_layer
from recpolicy.inference.tuned_scorer import TunedScorer, served_digest, write_tuned_policy
from recpolicy.registry.add_items import change_items
from recpolicy.registry.model_registry import Registry


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("tuned") / "base")


@pytest.fixture(scope="module")
def folder(base):
    return write_tuned(base, base.with_name("tuned"))


@pytest.fixture(scope="module")
def scorer(folder):
    return load_scorer(folder)


def test_each_user_is_ranked_by_the_weights_of_the_layer(scorer, base):
    plain = load_scorer(base)
    block = next(scorer.score_batches([1, 2]))
    assert block.choice.action.tolist() == [NEW, POPULAR]
    assert not block.choice.fallback.any()
    expected = scorer.layer.recommend([1, 2], 5, exclude_rated=False).arms
    assert np.array_equal(np.argsort(-block.score, axis=1)[:, :5], expected)
    before = next(plain.score_batches([1, 2]))
    assert np.array_equal(block.rating, before.rating)
    assert np.array_equal(block.value, before.value)
    assert not np.array_equal(np.argsort(-before.score, axis=1)[:, :5], expected)
    assert before.choice is None


def test_new_users_and_predictions_are_ranked_by_the_layer_too(scorer):
    block = scorer.predict_one("new", {"new": {101: 5.0, 104: 4.0}})
    assert block.score.argmax() == block.probability[scorer.action_items].argmax()
    assert block.probability.max() == 1
    assert block.choice.action.shape == (1,)


def test_the_policy_s_recommendations_follow_the_layer_and_ratings_do_not(folder, base):
    tuned, plain = load_policy(folder), load_policy(base)
    shown = tuned.recommend([1, 2], k=4)
    layer = tuned.scorer.layer.recommend([1, 2], 4)
    assert shown["item_id"].tolist() == [101 + arm for arm in layer.arms.ravel().tolist()]
    assert shown.attrs["fallback"] == []
    assert shown.attrs["weights"][1] == {"recency": 10.0, "popularity": 0.0}
    assert shown["most_probable"].tolist() == [True, False, False, False] * 2
    assert np.array_equal(tuned.predict([1])["rating"], plain.predict([1])["rating"])
    assert tuned.base.recommend([1], k=4)["item_id"].tolist() == plain.recommend([1], k=4)["item_id"].tolist()
    few = tuned.recommend([1], k=2, candidates=3)
    assert len(few) == 2
    with pytest.raises(ConfigError, match="draws nothing"):
        tuned.recommend([1], sample=True)
    with pytest.raises(ConfigError, match="ranks for users, not for contexts"):
        tuned.scores(tuned.artifact.context)
    assert np.array_equal(
        tuned.scores()[0].argmax(axis=1), next(tuned.scorer.score_batches(range(1, 13))).score.argmax(1)
    )


def test_a_layer_that_fails_or_is_slow_leaves_the_static_weights(folder, caplog):
    scorer = load_scorer(folder)
    scorer.layer = replace(scorer.layer, policy=replace(scorer.layer.policy, form="values"))
    block = next(scorer.score_batches([1, 2]))
    assert block.choice.fallback.all()
    assert block.choice.action.tolist() == [4, 4]
    assert "the static weights serve" in caplog.text
    slow = load_scorer(folder)

    def falls_back(max_seconds):
        slow.max_seconds = max_seconds
        return next(slow.score_batches([1])).choice.fallback.all()

    assert falls_back(0.0)  # it was late
    assert not falls_back(10.0)  # once is no reason to pause
    assert falls_back(0.0)
    assert falls_back(0.0)
    assert falls_back(10.0)  # it pauses
    slow._paused_until = 0.0
    assert not falls_back(10.0)


def test_a_missing_head_leaves_the_policy_s_own_score(base, tmp_path):
    plain = load_scorer(base)
    price = np.random.default_rng(0).random((12, 15))
    price[1] = np.nan  # of user 2
    layer = make_layer(plain, OwnHeads({}, {"price": price[0]}), ("price", "recency"))
    pairs = make_layer(plain, OwnHeads({"margin": np.where(np.isnan(price), 0.5, price)}, {}), ("margin", "recency"))
    pairs.utility.own.pair["margin"][:] = price
    for each in (layer, pairs):
        write_tuned_policy(base, each, tmp_path / each.utility.names[1])
    for heads in (OwnHeads({}, {"price": price[0, :14]}), OwnHeads({"price": price.T}, {})):
        layer.utility.own = heads
        write_tuned_layer(layer, tmp_path / f"other {len(heads.pair)}")
        with pytest.raises(ArtifactError, match=r"head price is float64 \(1[45],.*; expected numbers \(1[25],"):
            read_tuned_layer(tmp_path / f"other {len(heads.pair)}", plain)
    stored = load_scorer(tmp_path / "price")
    assert np.array_equal(stored.layer.utility.own.item["price"], price[0])
    assert not next(stored.score_batches([1, 2])).choice.fallback.any()
    block = next(load_scorer(tmp_path / "margin").score_batches([1, 2]))
    assert block.choice.fallback.tolist() == [False, True]
    assert np.allclose(block.score[1], next(plain.score_batches([2])).score[0], rtol=1e-5)


def test_a_reader_that_ignores_the_layer_reads_the_policy(folder, base):
    assert np.array_equal(read_inference_artifact(folder).item, read_inference_artifact(base).item)
    assert not isinstance(load_scorer(base), TunedScorer)
    manifest = json.loads((base / "recpolicy.json").read_text())
    assert served_digest(manifest) == manifest["metadata"]["policy_digest"]


def test_tuning_again_replaces_the_layer(folder, tmp_path):
    layer = replace(make_layer(load_scorer(folder).base), static_action=2)
    write_tuned_policy(folder, layer, tmp_path / "again")
    assert load_scorer(tmp_path / "again").layer.static_action == 2


def test_damaged_and_foreign_layers_are_errors_of_one_line(folder, base, tmp_path):
    def copy(name, change):
        target = tmp_path / name
        write_tuned_policy(folder, load_scorer(folder).layer, target)
        change(target)
        with pytest.raises(ArtifactError) as caught:
            load_scorer(target)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def edit(target, **changes):
        path = target / "recpolicy.json"
        body = json.loads(path.read_text())
        path.write_text(json.dumps({**body, "layer": {**body["layer"], **changes}}))

    assert "changed since it was written" in copy("a", lambda target: (target / "layer/tuning.json").write_text("{}"))
    assert "another layer than the manifest names" in copy("b", lambda target: edit(target, digest="0" * 64))
    assert "the layer was tuned for policy" in copy("c", lambda target: edit(target, base_policy="0" * 64))
    other = Scorer(base_artifact(seed=3))
    with pytest.raises(ArtifactError, match="the layer was tuned for"):
        write_tuned_policy(base, make_layer(other), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_registry_holds_policy_and_layer_as_one_version(folder, base, tmp_path):
    registry = Registry(tmp_path / "registry")
    plain, tuned = registry.register(base), registry.register(folder)
    assert (plain.number, tuned.number) == (1, 2)
    assert registry.register(folder).number == 2
    assert plain.layer is None
    assert tuned.layer["base_policy"] == plain.policy_digest
    assert tuned.policy_digest not in (plain.policy_digest, tuned.layer["digest"])
    assert load_scorer(registry.resolve(2)).metadata["policy_digest"] == tuned.policy_digest
    path = registry.resolve(2) / "layer" / "arrays.npz"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="changed since it was written"):
        registry.promote(2, ungated=True)
    with pytest.raises(ConfigError, match="has no gate record"):
        registry.promote(1)


def test_items_of_a_tuned_version_cannot_be_changed(folder, tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.register(folder)
    with pytest.raises(ConfigError, match=r"version 1 has a tuned layer, .*tune again$"):
        change_items(registry, 1, retire=[101])


def test_a_policy_that_learns_online_keeps_its_layer(scorer):
    """The utility has the learned scores; weights and bounds stay."""
    arrays = {**scorer.artifact.policy, "theta": scorer.artifact.policy["theta"] * np.float32(0.5)}
    learned = scorer.with_policy(arrays, {**scorer.artifact.metadata, "policy_digest": "f" * 64})
    before, after = (next(each.score_batches([1])) for each in (scorer, learned))
    assert after.choice.action.tolist() == before.choice.action.tolist()
    assert not np.allclose(after.score, before.score)
    base = next(learned.base.score_batches([1]))
    low, high = scorer.layer.utility.scaling.low[0], scorer.layer.utility.scaling.high[0]
    rest = before.score - np.clip((next(scorer.base.score_batches([1])).score - low) / (high - low), 0, 1)
    assert np.allclose(after.score, np.clip((base.score - low) / (high - low), 0, 1) + rest, atol=1e-5)
    assert learned.metadata["policy_digest"] == "f" * 64
    assert learned.metadata["base_policy"] == scorer.metadata["base_policy"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"static_action": 9}, "static weights are grid point 9; expected 0 to 8"),
        ({"static_action": -5}, "static weights are grid point -5"),
        ({"policy": {"form": "foo"}}, "does not fit the form foo"),
        ({"policy": {"grid": {"names": ["a", "b"]}}}, "expected those of score and a, b"),
        ({"policy": {"grid": {"points": 4}}}, "a network of 9 outputs does not fit the form softmax"),
        ({"policy": {"grid": {"points": 100_000}}}, "10,000,000,000 weight vectors; expected at most 1,000,000"),
    ],
)
def test_parts_of_a_layer_that_do_not_fit_are_errors_of_one_line(folder, base, tmp_path, change, message):
    def merged(body, changes):
        return {**body, **{k: merged(body[k], v) if isinstance(v, dict) else v for k, v in changes.items()}}

    body = json.loads((folder / "layer" / "tuning.json").read_text())
    (tmp_path / "tuning.json").write_text(json.dumps(merged(body, change)))
    (tmp_path / "arrays.npz").write_bytes((folder / "layer" / "arrays.npz").read_bytes())
    with pytest.raises(ArtifactError) as caught:
        read_tuned_layer(tmp_path, load_scorer(base))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
