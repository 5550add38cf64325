"""A tuned layer from log to slates, on a tiny policy in a planted world: half of the users like new items."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny_policies import tiny_artifact

from recpolicy.agents.utility_tuning import UtilityTuningConfig
from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.evaluation.gate import GateConfig
from recpolicy.evaluation.hit_values import action_hits, log_hits
from recpolicy.inference.predictor import Policy
from recpolicy.inference.ranking_utility import OwnHeads
from recpolicy.inference.tuned_layer import read_tuned_layer
from recpolicy.inference.tuned_scorer import TunedScorer
from recpolicy.models.ranking_formula import best_items, contribution_shares
from recpolicy.models.session_world import SessionWorld
from recpolicy.workflows import layer_gating
from recpolicy.workflows.gating import read_gate
from recpolicy.workflows.layer_gating import HITS, gate_layer, read_holdout
from recpolicy.workflows.layer_tuning import (
    MEAN,
    STATIC,
    TUNED,
    LayerTuningConfig,
    compare_in_world,
    tune_layer,
)
from recpolicy.workflows.weight_logs import read_weight_log, simulate_weight_log

USERS, ITEMS = 60, 40
HEADS = ["recency", "popularity"]
QUICK = LayerTuningConfig(
    agent=UtilityTuningConfig(method="value_regression", steps=300, learning_rate=0.01, batch_size=256)
)


@pytest.fixture(scope="module")
def policy():
    """The first coordinate of a user's embedding tells whether the user likes new items or popular ones."""
    artifact, rng = tiny_artifact(users=USERS, items=ITEMS), np.random.default_rng(0)
    context = artifact.context.copy()
    context[:, 0] = np.where(np.arange(USERS) % 2, 1.0, -1.0)
    items = artifact.items.assign(year=pd.array(np.arange(1950 + ITEMS, 1950, -1), dtype="Int64"))
    rated = rng.integers(USERS, size=400), rng.choice(ITEMS, size=400, p=np.arange(1, ITEMS + 1) / 820)  # old: popular
    policy = {**artifact.policy, "theta": artifact.policy["theta"] * np.float32(0.05)}
    return Policy(
        replace(
            artifact, context=context, items=items, policy=policy, rated_user=rated[0].astype(np.int32),
            rated_item=rated[1].astype(np.int32),
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def world(policy):
    year = policy.scorer.years
    new = np.where(year > np.median(year), 1.5, -1.5)
    count = np.bincount(policy.artifact.rated_item, minlength=ITEMS)
    popular = np.where(count > np.median(count), 1.5, -1.5)
    likes_new = (np.arange(USERS) % 2).astype(bool)
    return SessionWorld(
        name="planted", users=np.arange(USERS, dtype=np.int32),
        like=np.where(likes_new[:, np.newaxis], new, popular).astype(np.float32), slope=1.0,
        interest=np.zeros((USERS, 1), np.float32), direction=np.zeros((ITEMS, 1), np.float32),
        like_history=np.zeros(2, np.float32), stay=np.zeros((USERS, 3), np.float32),
        stay_history=np.array([0.0, -1.0], np.float32), fatigue=(0.0, 1.0), levels=np.zeros((3, 2), np.float32),
        genres=np.zeros((ITEMS, 1), np.float32),
    )  # fmt: skip


@pytest.fixture(scope="module")
def log(policy, world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "log"
    settings = {"slates": 60_000, "slate_size": 2, "points": 5}
    written = simulate_weight_log(policy, world, HEADS, folder, config=settings)
    assert written["slates"] == 60_000
    return folder


@pytest.fixture(scope="module")
def tuned(policy, log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers") / "tuned"
    return tune_layer(policy, log, folder, heads=HEADS, config=QUICK), folder


def test_the_layer_passes_and_gives_each_kind_its_head(tuned, policy):
    result, _ = tuned
    assert result.gates.verdict == "pass", result.gates.reason()
    weights = result.layer.weights(list(policy.scorer.user_ids))
    assert (weights[:, 0] == 1).all()
    assert weights[1::2, 1].mean() > weights[::2, 1].mean() + 0.3  # recency
    assert weights[::2, 2].mean() > weights[1::2, 2].mean() + 0.3  # popularity


def test_exact_rewards_show_the_gain_of_personalization(tuned, world):
    result, _ = tuned
    compared = compare_in_world(result, world)
    assert compared.over_static.lo > 0
    assert compared.over_mean_weights.lo > 0
    values = compared.values
    assert values[TUNED]["like"] > max(values[STATIC]["like"], values[MEAN]["like"])
    assert sum(part["users"] for part in compared.by_activity) == USERS


def test_the_gate_s_lift_is_near_the_exact_one(tuned, world):
    result, _ = tuned
    values = compare_in_world(result, world).values
    exact = values[TUNED]["reward"] / values[STATIC]["reward"] - 1
    assert result.gates.lift.lo <= exact <= result.gates.lift.hi


def test_the_sweep_over_objectives_has_a_point_for_each_alpha(tuned):
    result, _ = tuned
    assert len(result.pareto) == 25
    assert result.pareto[-1]["like"] > result.pareto[0]["like"]  # alpha 1 wants likes, alpha 0 novelty
    assert result.pareto[-1]["novelty"] < result.pareto[0]["novelty"]
    assert all(point["like_lo"] < point["like"] < point["like_hi"] for point in result.pareto)


def test_a_simulated_log_knows_the_slates_of_all_weights_and_another_log_does_not(policy, log, tmp_path):
    known, utility, grid, _ = read_weight_log(log, policy)
    users = list(policy.scorer.user_ids[:5])
    for place, user in enumerate(users):
        heads = utility.heads([user])[0]
        weights = np.concatenate([np.ones((grid.size, 1)), grid.all_weights], axis=1).astype(np.float32)
        slates = best_items(weights @ heads.T, 2)
        same = (slates[:, np.newaxis] == slates[np.newaxis]).all(axis=2)
        group = known.slates.group[place]
        assert np.array_equal(group[:, np.newaxis] == group[np.newaxis], same)
        assert known.slates.share[place] == pytest.approx(same.mean(axis=1))
    assert log_hits(known, 3).count > 2 * action_hits(known, 3).count
    other = changed(log, tmp_path / "other")
    body = json.loads((other / "weights.json").read_text())
    del body["every_item"]
    (other / "weights.json").write_text(json.dumps(body))
    unknown = read_weight_log(other, policy)[0]
    assert log_hits(unknown, 3).count == action_hits(unknown, 3).count


def test_a_layer_is_read_for_its_own_policy_only(tuned, policy):
    result, folder = tuned
    users = list(policy.scorer.user_ids)
    layer = read_tuned_layer(folder, policy.scorer)
    assert np.array_equal(layer.recommend(users, 3).arms, result.layer.recommend(users, 3).arms)
    other = Policy(tiny_artifact(seed=5, users=USERS, items=ITEMS))
    with pytest.raises(ArtifactError, match="tuned for policy"):
        read_tuned_layer(folder, other.scorer)


def test_a_changed_layer_is_an_error_of_one_line(tuned, policy, tmp_path):
    _, folder = tuned
    body = json.loads((folder / "tuning.json").read_text())
    body["static_action"] += 1
    (tmp_path / "tuning.json").write_text(json.dumps(body))
    (tmp_path / "arrays.npz").write_bytes((folder / "arrays.npz").read_bytes())
    with pytest.raises(ArtifactError, match=r"changed since it was written; tune again$"):
        read_tuned_layer(tmp_path, policy.scorer)


def test_a_layer_that_fails_serves_the_static_weights_and_says_so(tuned, policy, caplog):
    result, _ = tuned
    broken = replace(result.layer, policy=replace(result.layer.policy, form="values", action_network=None))
    slates = broken.recommend([1, 2], 3)
    static = result.layer.utility.slates([1, 2], result.layer.static_weights, 3)
    assert slates.fallback.all()
    assert np.array_equal(slates.arms, static.arms)
    assert "the static weights serve" in caplog.text


def changed(log, folder, **columns):
    events = pd.read_parquet(log / "weights.parquet").assign(**columns)
    folder.mkdir()
    events.to_parquet(folder / "weights.parquet", index=False)
    (folder / "weights.json").write_bytes((log / "weights.json").read_bytes())
    return folder


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"propensity": 0.5}, "tuning needs a log of uniform weights: request 0 has propensity 0.5, not 1/25"),
        ({"propensity": 1.5}, "a propensity outside of (0, 1]"),
        ({"action": 25}, "an action outside of 0..24"),
        ({"user_id": 999}, "user 999 is not in the policy"),
        ({"like": np.nan}, "row 0: like is missing"),
    ],
)
def test_bad_logs_are_errors_of_one_line_and_write_nothing(policy, log, tmp_path, columns, message):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        tune_layer(policy, changed(log, tmp_path / "bad", **columns), tmp_path / "out", config=QUICK)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_bad_input_is_an_error_of_one_line(policy, world, log, tmp_path):
    with pytest.raises(ConfigError, match="a log of the heads recency, popularity, not like"):
        tune_layer(policy, log, tmp_path / "out", heads=["like"], config=QUICK)
    with pytest.raises(ConfigError, match=r"7\^5 = 16,807 actions; expected at most 10,000"):
        simulate_weight_log(policy, world, ["like", "top", "rating", "recency", "popularity"], tmp_path / "out")
    with pytest.raises(ConfigError, match="no head named 'recent'"):
        simulate_weight_log(policy, world, ["recent"], tmp_path / "out")
    with pytest.raises(ConfigError, match="head 'score' always has weight 1"):
        simulate_weight_log(policy, world, ["score"], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no objective named 'likes'\. Did you mean 'like'"):
        LayerTuningConfig(reward={"likes": 1.0})
    other = Policy(tiny_artifact(seed=5, users=USERS, items=ITEMS))
    with pytest.raises(DataError, match="a log of policy"):
        tune_layer(other, log, tmp_path / "out", config=QUICK)
    assert not (tmp_path / "out").exists()


def test_few_hits_are_no_verdict(policy, log, tmp_path):
    few = changed(log, tmp_path / "few")
    pd.read_parquet(few / "weights.parquet").iloc[:300].to_parquet(few / "weights.parquet", index=False)
    result = tune_layer(policy, few, tmp_path / "out", config=QUICK)
    assert result.gates.verdicts["lift"] == "cannot tell"


@pytest.fixture(scope="module")
def served(tuned, policy):
    """The policy under its layer."""
    return Policy(policy.artifact, TunedScorer(policy.scorer, tuned[0].layer, "d" * 64))


@pytest.fixture(scope="module")
def holdout(policy, world, tmp_path_factory):
    """Requests after the tuning."""
    folder = tmp_path_factory.mktemp("holdout") / "log"
    settings = {"slates": 30_000, "slate_size": 2, "points": 5}
    simulate_weight_log(policy, world, HEADS, folder, config=settings, seed=1)
    return folder


def test_the_gate_passes_a_layer_on_later_requests_and_in_the_world(
    served, holdout, tuned, world, tmp_path, monkeypatch
):
    monkeypatch.setattr(layer_gating, "_compare", lambda *_: compare_in_world(tuned[0], world))
    result = gate_layer(served, holdout, "a split", GateConfig(), out=tmp_path / "gate")
    assert result.verdict == "pass", result.reasons
    assert len(result.criteria) == 5
    record = read_gate(tmp_path / "gate" / "gate.json")
    assert record["policy"]["policy_digest"] == "d" * 64
    assert result.figures["gain over the best static weights in planted"] > 0


def test_the_gate_has_no_verdict_with_few_hits_and_fails_a_layer_that_serves_one_point(served, holdout, tmp_path):
    few = changed(holdout, tmp_path / "few")
    pd.read_parquet(few / "weights.parquet").iloc[:200].to_parquet(few / "weights.parquet", index=False)
    result = gate_layer(served, few, None, GateConfig())
    assert result.verdict == "no_verdict"
    assert any(reason.startswith(HITS) for reason in result.reasons)
    layer = served.scorer.layer
    flat = {name: np.zeros_like(part) for name, part in layer.policy.network.params.items()}
    network = replace(layer.policy.network, params=flat)
    constant = replace(layer, policy=replace(layer.policy, network=network))
    worse = gate_layer(Policy(served.artifact, TunedScorer(served.scorer.base, constant, "e" * 64)), holdout, None,
                       GateConfig())  # fmt: skip
    assert worse.verdict == "fail"


def test_the_gate_sees_no_request_of_the_tuning(served, log, holdout, tmp_path):
    assert len(read_holdout(served, log)) == 30_000  # the half that the tuning left out
    times = np.arange(30_000)
    timed = changed(holdout, tmp_path / "timed", time=times)
    layer = replace(served.scorer.layer, metadata={**served.scorer.layer.metadata, "log_until": 19_999})
    later = Policy(served.artifact, TunedScorer(served.scorer.base, layer, "d" * 64))
    assert len(read_holdout(later, timed)) == 10_000
    layer = replace(layer, metadata={**layer.metadata, "log_until": 30_000})
    with pytest.raises(DataError, match="no request after those that the layer was tuned on"):
        read_holdout(Policy(served.artifact, TunedScorer(served.scorer.base, layer, "d" * 64)), timed)


def test_the_gate_refuses_other_logs_in_one_line(served, policy, world, tmp_path):
    with pytest.raises(DataError, match="a tuned layer is gated on a log of weights"):
        read_holdout(served, None)
    with pytest.raises(DataError, match=r"no weights\.json; a tuned layer is gated"):
        read_holdout(served, tmp_path)
    simulate_weight_log(policy, world, HEADS, tmp_path / "log", config={"slates": 10, "slate_size": 2, "points": 3})
    with pytest.raises(ConfigError, match="another grid of weights than that of the layer"):
        read_holdout(served, tmp_path / "log")


def test_bounds_of_weights_follow_from_the_part_of_the_utility(policy, world, tmp_path):
    settings = {"slates": 10, "slate_size": 4, "points": 3, "share_range": (0.1, 0.5)}
    simulate_weight_log(policy, world, ["like", "rating"], tmp_path / "log", config=settings)
    _, utility, grid, _ = read_weight_log(tmp_path / "log", policy)
    users = list(policy.scorer.user_ids)
    arms = utility.slates(users, np.array([1.0, 0.0, 0.0]), 4, exclude_rated=False).arms
    shown = np.take_along_axis(utility.heads(users), arms[:, :, np.newaxis], axis=1)
    for place, bounds in enumerate(zip(grid.low, grid.high, strict=True), start=1):
        for weight, share in zip(bounds, (0.1, 0.5), strict=True):
            weights = np.eye(3)[0] + weight * np.eye(3)[place]
            assert contribution_shares(shown, weights)[:, place].mean() == pytest.approx(share, abs=1e-4)
    with pytest.raises(ConfigError, match="expected two ascending shares"):
        simulate_weight_log(policy, world, HEADS, tmp_path / "no", config={**settings, "share_range": (0.5, 0.1)})
    rarest = int(np.bincount(arms.ravel(), minlength=ITEMS).argmin())
    flag = OwnHeads({}, {"flag": np.eye(ITEMS)[rarest]})
    with pytest.raises(DataError, match=r"'flag' is above 0 in \d+% of the slates, so its mean part cannot be 0\.5"):
        simulate_weight_log(policy, world, ["flag"], tmp_path / "no", config=settings, own=flag)


def test_named_static_weights_are_the_fallback(policy, log, tmp_path):
    config = replace(QUICK, static_weights={"recency": 0.5, "popularity": 0.26})
    layer = tune_layer(policy, log, tmp_path / "out", config=config).layer
    assert layer.static_weights.tolist() == [1.0, 0.5, 0.25]


def test_the_policy_alone_has_all_weights_0_whatever_the_grid(tuned, policy, world):
    result, _ = tuned
    grid = result.layer.policy.grid
    above = replace(grid, low=(0.4,) * 2, high=(1.4,) * 2)
    moved = replace(result, layer=replace(result.layer, policy=replace(result.layer.policy, grid=above)))
    compared = compare_in_world(moved, world)
    assert compared.values["policy alone"] == compare_in_world(result, world).values["policy alone"]
