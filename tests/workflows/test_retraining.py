"""Going on from a trained policy with a log: what is learnt, what is kept, what is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tiny_dataset import miniature
from trained_policies import CASES, loaded, miniature_split, trained

from recpolicy.agents import AGENTS, BASELINES
from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.data.bandit_log import BanditLog, ColdStartUsers
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.inference.artifact import read_artifact, write_manifest
from recpolicy.inference.artifact_files import MANIFEST
from recpolicy.inference.predictor import load_policy
from recpolicy.registry.artifact_kinds import verify
from recpolicy.training import tensorflow_export
from recpolicy.training.checkpoints import read_learner
from recpolicy.training.offline import learn_from_log
from recpolicy.workflows.held_out_evaluation import evaluate
from recpolicy.workflows.retraining import retrain, untrained_agent

REFUSED = "exp3"
LEARNING = [name for name in CASES if name not in (*BASELINES, REFUSED)]
KEPT = ("context", "item", "offset", "rating_std", "action_items", "rated_user", "rated_item")
NUMBER = 768
"""Three whole batches: one program to compile."""


@pytest.fixture
def without_saved_models(monkeypatch):
    """The two SavedModels left out, where they are not what is looked at; the incumbents have theirs."""
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)


quickly = pytest.mark.usefixtures("without_saved_models")


def logged(action_items, number=NUMBER, seed=0, start=0):
    """Rounds of a uniform policy among these items; rewards of the world that the miniature was drawn from."""
    world, rng = miniature(), np.random.default_rng([seed, start])
    user = rng.integers(0, len(world.expected), number).astype(np.int32)
    item = rng.choice(action_items, number)
    return BanditLog(
        event_id=np.array([f"{start}-{row}" for row in range(number)], object), time=start + np.arange(number),
        user=user, item=item, log_propensity=np.full(number, -np.log(len(action_items))),
        reward=np.clip(world.expected[user, item] + rng.normal(0, 0.5, number), 1, 5), action_items=action_items,
        scale=(1.0, 5.0), name="log", policy=np.full(number, "random", object), version=np.full(number, "1", object),
    )  # fmt: skip


def log_for(name, **options):
    return logged(loaded(name).artifact.action_items, **options)


def error(policy, log):
    """Mean squared error of the rating estimates."""
    return float(np.square(policy.scores()[1][log.user, log.item] - log.reward).mean())


def assert_same_arrays(one, other, **tolerance):
    assert set(one.artifact.policy) == set(other.artifact.policy)
    for key, array in one.artifact.policy.items():
        np.testing.assert_allclose(other.artifact.policy[key], array, err_msg=key, **tolerance)


@quickly
@pytest.mark.parametrize("name", LEARNING)
def test_every_agent_that_learns_from_logs_goes_on_from_where_it_stood(name, tmp_path):
    old, log = loaded(name), log_for(name)
    new = retrain(trained(name), log, tmp_path / "policy", epochs=3)
    assert error(new, log) < error(old, log)
    metadata, artifact = new.metadata, new.artifact
    assert metadata["agent"] == CASES[name].agent
    assert metadata["log"] == log.digest
    assert metadata["parents"] == [{"policy_digest": old.metadata["policy_digest"], "log": None}]
    assert metadata["policy_digest"] != old.metadata["policy_digest"]
    assert metadata["split"] == old.metadata["split"]
    assert metadata["config"] == old.metadata["config"]
    assert {key: metadata["training"][key] for key in ("mode", "rows", "epochs", "seed")} == {
        "mode": "log", "rows": NUMBER, "epochs": 3, "seed": 0
    }  # fmt: skip
    for key in KEPT:
        np.testing.assert_array_equal(getattr(artifact, key), getattr(old.artifact, key), err_msg=key)
    assert artifact.uniform_mix == old.artifact.uniform_mix
    users = artifact.users["user_id"].tolist()[:5]
    propensity = new.predict(users)["probability"].to_numpy().reshape(5, -1)
    np.testing.assert_allclose(propensity.sum(axis=1), 1, atol=1e-5)
    assert len(new.recommend(users, k=3)) == 15
    verify(tmp_path / "policy")
    assert not (tmp_path / "policy.incomplete").exists()


@quickly
def test_slates_that_were_learnt_from_stay_known_when_the_policy_goes_on(tmp_path):
    slates = replace(log_for("ucb1"), slate_digest="ab" * 32)
    first = retrain(trained("ucb1"), slates, tmp_path / "first")
    assert first.metadata["slate_digest"] == slates.slate_digest
    second = retrain(tmp_path / "first", log_for("ucb1", start=NUMBER), tmp_path / "second")
    assert "slate_digest" not in second.metadata
    assert [one.get("slate_digest") for one in second.metadata["parents"]] == [None, slates.slate_digest]


@quickly
def test_of_a_log_that_grows_only_what_is_new_is_learnt(tmp_path):
    whole = replace(log_for("linucb"), exporter="somebody")
    many = len(whole)
    week = whole.take(0, many // 2, "week")
    first = retrain(trained("linucb"), week, tmp_path / "first")
    assert first.metadata["log_until"] == week.time[-1]
    grown = retrain(tmp_path / "first", whole, tmp_path / "grown")
    alone = retrain(tmp_path / "first", whole.take(many // 2, many, "rest"), tmp_path / "alone")
    assert grown.metadata["training"]["rows"] == many - many // 2
    assert grown.metadata["policy_digest"] == alone.metadata["policy_digest"]
    assert grown.metadata["log_until"] == whole.time[-1]
    with pytest.raises(DataError, match=rf"has learned all of its {many} training rounds already"):
        retrain(tmp_path / "grown", whole, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    other = retrain(tmp_path / "grown", log_for("linucb"), tmp_path / "other")  # nobody adds to this one: all is new
    assert other.metadata["training"]["rows"] == many
    assert other.metadata["log_until"] == whole.time[-1]


def test_real_rewards_after_simulated_ones_leave_the_rating_to_the_rating_model(tmp_path):
    """A width that simulated rewards have shrunk says nothing about people, whatever is learned later."""
    new = retrain(trained("linucb"), log_for("linucb"), tmp_path / "new")
    assert new.metadata["training"]["rewards"] == "simulated, then real"
    before, after = loaded("linucb").predict(7), new.predict(7)
    for column in ("rating", "std"):
        np.testing.assert_array_equal(after[column], before[column])
    assert np.abs(after["value"] - before["value"]).max() > 0.01


def test_all_agents_are_either_retrained_or_refused_here():
    assert {CASES[name].agent for name in LEARNING} | set(BASELINES) | {REFUSED} == set(AGENTS)


def test_an_agent_that_cannot_learn_from_logs_refuses(tmp_path):
    with pytest.raises(ConfigError, match="exp3 cannot learn from a log"):
        retrain(trained(REFUSED), log_for(REFUSED), tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_refuse_as_nothing_could_come_of_it(name, tmp_path):
    with pytest.raises(ConfigError, match=f"{name} is a baseline and never learns; retrain an agent that does"):
        retrain(trained(name), log_for(name), tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []


@quickly
@pytest.mark.parametrize("name", ["linucb", "lints", "linucb_shared", "linucb_hybrid"])
def test_two_halves_one_after_the_other_are_the_whole(name, tmp_path):
    """Sufficient statistics know no order; within float32."""
    log = log_for(name)
    whole = retrain(trained(name), log, tmp_path / "whole")
    retrain(trained(name), log.take(512, NUMBER, "later"), tmp_path / "half", seed=1)
    both = retrain(tmp_path / "half", log.take(0, 512, "earlier"), tmp_path / "both", seed=2)
    assert_same_arrays(whole, both, rtol=2e-3, atol=5e-4)
    half = load_policy(tmp_path / "half")
    with pytest.raises(AssertionError):
        assert_same_arrays(whole, half, rtol=2e-3, atol=5e-4)
    assert both.metadata["parents"] == [
        {"policy_digest": loaded(name).metadata["policy_digest"], "log": None},
        {
            "policy_digest": half.metadata["policy_digest"],
            "log": log.take(512, NUMBER, "later").digest,
            "learned_events": NUMBER - 512,
        },
    ]


@quickly
def test_linucb_goes_on_as_ridge_regression_does(tmp_path):
    """By hand in float64: precision and moments of the incumbent, and those of the log on top."""
    old, log = loaded("linucb").artifact, log_for("linucb")
    new = retrain(trained("linucb"), log, tmp_path / "policy").artifact
    width = old.policy["theta"].shape[1]
    rows, columns = np.triu_indices(width)
    x = np.concatenate([old.context[log.user], np.ones((len(log), 1))], axis=1).astype(np.float64)
    for arm, item in enumerate(old.action_items):
        packed = old.policy["covariance"][arm].astype(np.float64) / np.where(rows == columns, 1, 2)
        covariance = np.zeros((width, width))
        covariance[rows, columns] = covariance[columns, rows] = packed
        precision, mine = np.linalg.inv(covariance), log.item == item
        moment = precision @ old.policy["theta"][arm] + x[mine].T @ log.reward[mine]
        theta = np.linalg.solve(precision + x[mine].T @ x[mine], moment)
        np.testing.assert_allclose(new.policy["theta"][arm], theta, atol=1e-4)


@quickly
def test_newcomers_are_learnt_from_by_their_vectors(tmp_path):
    """Vectors that are the users' own rows teach what the rows do; others teach something else."""
    log, context = log_for("linucb"), loaded("linucb").artifact.context
    new = log.user % 3 == 0
    vectors = np.where(new[:, None], context[log.user], np.nan).astype(np.float32)
    ids = ColdStartUsers(len(context), np.arange(1_000, 1_000 + len(context)).astype(object))
    user = np.where(new, log.user + len(context), log.user).astype(np.int32)
    described = replace(log, user=user, context=vectors, cold_start_users=ids)
    known, same, other = (
        retrain(trained("linucb"), one, tmp_path / name)
        for name, one in (("a", log), ("b", described), ("c", replace(described, context=-vectors)))
    )
    assert_same_arrays(known, same, rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError):
        assert_same_arrays(same, other, rtol=1e-2, atol=1e-2)
    narrow = replace(described, context=vectors[:, 1:].copy())
    with pytest.raises(DataError, match=f"log: contexts of {context.shape[1] - 1} numbers, but the policy's have"):
        retrain(trained("linucb"), narrow, tmp_path / "d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


@quickly
def test_a_network_goes_on_with_its_optimizer_and_with_the_seed_it_is_given(tmp_path):
    """Twice through the artifact is the same, to the last bit, as once and again in memory."""
    first, second = log_for("eps_greedy"), log_for("eps_greedy", start=5_000)
    retrain(trained("eps_greedy"), first, tmp_path / "one", seed=3)
    on = retrain(tmp_path / "one", second, tmp_path / "on", seed=4)
    artifact = loaded("eps_greedy").artifact
    agent = untrained_agent(artifact)
    read_learner(agent, trained("eps_greedy"))
    for log, seed in ((first, 3), (second, 4)):
        learn_from_log(agent, log, artifact.context, artifact.action_items, seed=seed)
    for key, array in agent.learner.export().arrays.items():
        np.testing.assert_array_equal(on.artifact.policy[key], array, err_msg=key)


@quickly
def test_more_passes_learn_more(tmp_path):
    log = log_for("eps_greedy")
    few, many = (retrain(trained("eps_greedy"), log, tmp_path / str(n), epochs=n) for n in (1, 100))
    assert error(many, log) < 0.9 * error(few, log)


@quickly
def test_neural_linucb_changes_its_head_when_its_network_is_frozen(tmp_path):
    """It explores by chance while the network trains, by width afterwards: the artifact follows."""
    from recpolicy.workflows.policy_training import train

    config = {
        "total_timesteps": 64,
        "batch_size": 16,
        "log_rows": 1,
        "rating_model": "svd",
        "world": "item_knn",
        "rank": 5,
    }
    young = train(
        "neural_linucb", miniature_split(), tmp_path / "young", config=config, agent_config={"encoder_batches": 6}
    )
    assert young.artifact.head == "epsilon_greedy"
    log = logged(young.artifact.action_items)
    grown = retrain(tmp_path / "young", log, tmp_path / "grown")  # three batches more: 4 + 3 > 6
    assert grown.artifact.head == "upper_confidence"
    propensity = grown.predict(1)["probability"]
    assert propensity.max() == 1.0  # greedy in the bounds; epsilon-greedy would have left a tenth to the others


def test_a_retrained_policy_is_whole(tmp_path):
    """With its SavedModels, which say what the arrays say."""
    import tensorflow as tf

    log = log_for("linucb")
    policy = retrain(trained("linucb"), log, tmp_path / "policy")
    verify(tmp_path / "policy")
    module = tf.saved_model.load(str(tmp_path / "policy" / "action"))
    said = module.greedy(tf.constant(policy.artifact.context[:4]))["rating"].numpy()
    np.testing.assert_allclose(np.clip(said, 1, 5), policy.scores()[1][:4], atol=1e-4)
    assert not np.allclose(said, loaded("linucb").scores()[1][:4], atol=1e-2)
    verdict = evaluate({"old": loaded("linucb"), "new": policy}, miniature_split())
    assert {"old", "new"} <= set(verdict.evaluation.policies)


def copy_of(name, folder):
    return shutil.copytree(trained(name), folder / "incumbent")


def change_manifest(folder, change):
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_an_agent_of_sessions_refuses(tmp_path):
    incumbent = copy_of("linucb", tmp_path)
    other = replace(read_artifact(incumbent), agent="ppo")
    (incumbent / MANIFEST).unlink()
    write_manifest(other, incumbent)
    with pytest.raises(ConfigError, match="ppo learns in simulated sessions; it cannot be retrained on single rounds"):
        retrain(incumbent, log_for("linucb"), tmp_path / "policy")


@pytest.mark.parametrize("part", ["arrays.npz", "checkpoint/state.index", "users.parquet"])
def test_a_damaged_incumbent_is_refused(tmp_path, part):
    incumbent = copy_of("linucb", tmp_path)
    content = bytearray((incumbent / part).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (incumbent / part).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{part}: missing or changed since it was written"):
        retrain(incumbent, log_for("linucb"), tmp_path / "policy")
    assert [path.name for path in tmp_path.iterdir()] == ["incumbent"]


def test_an_artifact_of_before_there_were_learners_is_refused(tmp_path):
    incumbent = copy_of("linucb", tmp_path)
    shutil.rmtree(incumbent / "checkpoint")

    def forget(manifest):
        manifest["files"] = {name: one for name, one in manifest["files"].items() if not name.startswith("checkpoint/")}

    change_manifest(incumbent, forget)
    with pytest.raises(ArtifactError, match=r"incumbent: has no checkpoint to continue from, .*; train again"):
        retrain(incumbent, log_for("linucb"), tmp_path / "policy")
    assert [path.name for path in tmp_path.iterdir()] == ["incumbent"]


@pytest.mark.parametrize("other", ["eps_greedy", "linucb_shared", "linucb_hybrid"])
def test_the_learner_of_another_agent_or_catalog_is_refused(other):
    agent = untrained_agent(loaded("linucb").artifact)
    with pytest.raises(ArtifactError, match=r"state: damaged, or of another agent \(.+\)") as raised:
        read_learner(agent, trained(other))
    assert "\n" not in str(raised.value)


def test_a_learner_cut_short_is_refused(tmp_path):
    incumbent = copy_of("linucb", tmp_path)
    next((incumbent / "checkpoint").glob("state.data*")).unlink()
    with pytest.raises(ArtifactError, match="state: damaged, or of another agent"):
        read_learner(untrained_agent(loaded("linucb").artifact), incumbent)


def test_what_cannot_be_done_leaves_nothing_behind(tmp_path):
    log = log_for("linucb")
    (tmp_path / "there").mkdir()
    with pytest.raises(ArtifactError, match="there: already exists"):
        retrain(trained("linucb"), log, tmp_path / "there")
    with pytest.raises(ArtifactError, match="nowhere: no such folder"):
        retrain(tmp_path / "nowhere", log, tmp_path / "policy")
    with pytest.raises(ConfigError, match="epochs is 0: expected 1 or more"):
        retrain(trained("linucb"), log, tmp_path / "policy", epochs=0)
    with pytest.raises(DataError, match="log: no rounds to learn from"):
        retrain(trained("linucb"), log.take(0, 0, "log"), tmp_path / "policy")
    with pytest.raises(DataError, match="show items that are not among the 30 of the policy"):
        retrain(trained("linucb_hybrid"), log, tmp_path / "policy")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert list((tmp_path / "there").iterdir()) == []


def test_the_tables_of_a_policy_are_those_it_was_trained_on():
    known = IdVocabulary.from_policy(loaded("linucb"))
    assert known.users["user_id"].tolist() == miniature_split().train.users["user_id"].tolist()
    assert known.items["item_id"].tolist() == miniature_split().train.items["item_id"].tolist()
    assert known.scale == (1.0, 5.0)
