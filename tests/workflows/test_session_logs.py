"""Logs of simulated sessions, and training from them: what is written, noted and refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hand_logs import hand_rounds
from hand_sessions import hand_sessions
from synthetic_session_logs import eagerly
from trained_policies import miniature_split

from recpolicy.core.errors import ArtifactError, ConfigError, DataError, DivergedError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.session_returns import DAY_MS, SessionReturns
from recpolicy.data.splits import split
from recpolicy.inference.predictor import load_policy
from recpolicy.models.return_fit import fit_returns, write_return_model
from recpolicy.models.return_time import noted_times
from recpolicy.training import divergence, offline_sessions, tensorflow_export
from recpolicy.workflows import policy_training as train_module
from recpolicy.workflows import session_plan, session_settings
from recpolicy.workflows.policy_training import train
from recpolicy.workflows.session_logs import read_log, simulate_session_log
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds
from recpolicy.workflows.session_training import train_sessions

TRAIN = {"rating_model": "svd", "rank": 5, "max_episode_steps": 8, "batch_size": 32, "epochs": 2}
NETWORK = {"layers": (8,)}


@pytest.fixture(scope="module", autouse=True)
def without_compiling():
    """Which takes longer than these logs do."""
    with eagerly():
        yield


@pytest.fixture(autouse=True)
def without_saved_models(monkeypatch):
    """Their bytes are TensorFlow's affair; tests/serving reads them."""
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)


@pytest.fixture(scope="module")
def worlds():
    return make_worlds(miniature_split(), SessionTrainConfig(**TRAIN), 0)


@pytest.fixture(scope="module")
def log(tmp_path_factory, worlds):
    """A log of the uniform choice, and its folder."""
    out = tmp_path_factory.mktemp("logs") / "random"
    return simulate_session_log(miniature_split(), out, config={"sessions": 150}, train=TRAIN, worlds=worlds), out


@pytest.fixture(scope="module")
def learnt(tmp_path_factory, log):
    """A DQN from that log, and its folder."""
    out = tmp_path_factory.mktemp("learnt") / "dqn"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
        return train("dqn", miniature_split(), out, config=TRAIN, agent_config=NETWORK, log=log[0]), out


def test_a_log_is_read_back_as_it_was_written(log):
    tables = IdVocabulary.from_ratings(miniature_split().train)
    for path in (log[1], log[1] / "sessions.parquet"):
        assert read_log(path, tables).digest == log[0].digest
    note = json.loads((log[1] / "simulation.json").read_text())
    assert (note["logging_policy"], note["seed"], note["config"]["sessions"]) == ("random", 0, 150)
    assert note["train_digest"] == miniature_split().train.digest


def test_a_log_of_an_own_like_model_has_its_likes(tmp_path):
    """Of items with even ids nearly all are liked, of others nearly none."""

    def like(user, item, history):
        return np.where(item % 2 == 0, 0.98, 0.02)

    out, config = tmp_path / "own", {"sessions": 60}
    log = simulate_session_log(miniature_split(), out, config=config, train=TRAIN, like_model=like)
    even = miniature_split().train.items["item_id"].to_numpy()[log.item] % 2 == 0
    assert log.liked[even].mean() > 0.9
    assert log.liked[~even].mean() < 0.1
    assert json.loads((out / "simulation.json").read_text())["like_model"]["name"].endswith("like")


def test_the_log_is_what_the_uniform_choice_does(log, worlds):
    found = log[0]
    assert len(found.length) == 150
    np.testing.assert_allclose(found.log_propensity, -np.log(80 - found.step), rtol=1e-9)
    assert set(found.user) <= set(worlds.training_world.users)
    assert (np.diff(found.time) >= 0).mean() > 0.5
    assert len(set(found.version)) == 1


def test_popular_shows_items_as_often_as_they_were_rated(tmp_path, worlds):
    config = {"sessions": 50, "uniform_mix": 0.2, "temperature": 0.5}
    found = simulate_session_log(
        miniature_split(), tmp_path / "log", logging_policy="popular", config=config, train=TRAIN, worlds=worlds
    )
    weight = (1.0 + np.bincount(miniature_split().train.item, minlength=80)) ** 2
    first = found.step == 0
    expected = 0.8 * weight / weight.sum() + 0.2 / 80
    np.testing.assert_allclose(np.exp(found.log_propensity[first]), expected[found.item[first]], rtol=1e-9)


def test_a_policy_logs_with_the_propensities_that_it_reports(tmp_path, learnt, worlds):
    policy = learnt[0]
    found = simulate_session_log(
        miniature_split(),
        tmp_path / "log",
        logging_policy=policy,
        config={"sessions": 12, "uniform_mix": 0.0},
        worlds=worlds,
    )
    assert set(found.version) == {policy.metadata["policy_digest"]}
    users, items = (table.tolist() for table in (policy.artifact.users["user_id"], policy.artifact.items["item_id"]))
    for first, last in zip(found.start[:4], found.start[1:5], strict=True):
        user, shown = users[found.user[first]], [items[row] for row in found.item[first:last]]
        for step, item in enumerate(shown):
            past = list(zip(shown[:step], found.liked[first:last].tolist(), strict=False))
            told = policy.predict(user, [item], history={user: past})["probability"][0]
            assert told == pytest.approx(np.exp(found.log_propensity[first + step]), rel=1e-3)


def test_the_artifact_names_the_log_it_learnt_from(learnt, log):
    policy, out = learnt
    assert policy.metadata["log"] == log[0].digest
    training = policy.metadata["training"]
    assert (training["mode"], training["rows"], training["epochs"]) == ("log", len(log[0]), 2)
    assert np.isfinite(training["loss"])
    assert policy.sequential
    assert not out.with_name("dqn.training").exists()
    assert load_policy(out).recommend(3, 4)["item_id"].nunique() == 4


def test_the_same_log_and_seed_give_the_same_policy(tmp_path, learnt, log):
    again = train("dqn", miniature_split(), tmp_path / "again", config=TRAIN, agent_config=NETWORK, log=log[0])
    assert again.metadata["policy_digest"] == learnt[0].metadata["policy_digest"]


@pytest.mark.parametrize("agent", ["topk_reinforce", "offpolicy_actor_critic"])
def test_agents_with_weights_learn_from_the_log_without_a_world(tmp_path, log, monkeypatch, agent):
    monkeypatch.setattr(session_settings, "fit_two_worlds", lambda *_: pytest.fail("a world is fitted"))
    policy = train_sessions(
        agent, miniature_split(), tmp_path / "policy", config=TRAIN | {"epochs": 1},
        agent_config=NETWORK | {"n_epochs": 1}, log=log[0],
    )  # fmt: skip
    assert 0 <= policy.metadata["training"]["clipped_share"] < 1


@pytest.mark.parametrize(
    ("agent", "given", "config", "message"),
    [
        ("dqn", hand_rounds(), {}, "dqn learns in simulated sessions, not from logged rounds such as hand"),
        ("linucb", hand_sessions(), {}, "linucb learns from single rounds .*, not from sessions such as hand"),
        ("ppo", hand_sessions(), {}, "ppo learns in simulated sessions, not from logged ones; topk_reinforce, offp"),
        (
            "behavior_cloning",
            None,
            {},
            "behavior_cloning imitates the policy of a log of sessions; give one with --log",
        ),
        ("dqn", hand_sessions(), {"reward": "rating"}, r"rewards in 0\.\.1, but train\.reward is 'rating', in 1\.\.5"),
        ("dqn", hand_sessions(), {"epochs": 0}, "epochs is 0: expected"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_fitted(
    tmp_path, monkeypatch, agent, given, config, message
):
    for one in (session_plan, train_module):
        monkeypatch.setattr(one, "prepare_features", lambda *_, **__: pytest.fail("a rating model is fitted"))
    settings = {} if agent == "linucb" else TRAIN | config
    with pytest.raises(ConfigError, match=message):
        train(agent, miniature_split(), tmp_path / "policy", config=settings, log=given)
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_the_policy_cannot_use_leaves_nothing_behind(tmp_path, log):
    for changed, message in (
        (TRAIN | {"items": 20}, "show items that are not among"),
        (TRAIN | {"max_episode_steps": 3}, "at most 3"),
    ):
        with pytest.raises(DataError, match=message):
            train("dqn", miniature_split(), tmp_path / "policy", config=changed, agent_config=NETWORK, log=log[0])
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_diverges_leaves_no_policy(tmp_path, log, monkeypatch):
    monkeypatch.setattr(divergence, "find_implausible", lambda arrays: f"{next(iter(arrays))} is not finite")
    with pytest.raises(DivergedError, match=r"diverged .* no checkpoint was made yet"):
        train("dqn", miniature_split(), tmp_path / "policy", config=TRAIN, agent_config=NETWORK, log=log[0])
    assert [path.name for path in tmp_path.iterdir()] == ["policy.incomplete"]


def test_a_training_cut_off_is_taken_up_by_the_same_words_and_by_no_others(tmp_path, monkeypatch, learnt, log):
    def again(given=log[0], agent="dqn", **changed):
        config = TRAIN | {"checkpoint_every_steps": 300} | changed
        return train(agent, miniature_split(), tmp_path / "policy", config=config, agent_config=NETWORK, log=given)

    pieces, learn = [], offline_sessions.Passes.learn_piece

    def stops(passes):
        pieces.append(passes.done)
        if len(pieces) == 4:
            raise KeyboardInterrupt
        return learn(passes)

    monkeypatch.setattr(offline_sessions.Passes, "learn_piece", stops)
    with pytest.raises(KeyboardInterrupt):
        again()
    assert [path.name for path in tmp_path.iterdir()] == ["policy.incomplete"]
    less = replace(log[0], reward=1 - log[0].reward)
    for changed in ({"given": less}, {"epochs": 3}, {"agent": "topk_reinforce"}):
        with pytest.raises(ArtifactError, match=r"policy\.incomplete: an unfinished training with other settings"):
            again(**changed)
    policy = again()
    assert 0 < pieces[4] < pieces[-1]
    assert policy.metadata["policy_digest"] == learnt[0].metadata["policy_digest"]
    assert policy.metadata["training"] == learnt[0].metadata["training"]
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"logging_policy": "randon"}, r"no logging policy of sessions named 'randon'\. Did you mean 'random'"),
        ({"config": {"sessions": 0}}, "sessions is 0"),
        ({"config": {"uniform_mix": 2.0}}, "uniform_mix is 2"),
        ({"config": {"temperature": 0.0}}, "temperature is 0"),
        ({"config": {"first_day": "soon"}}, "first_day is 'soon'"),
        ({"config": {"rounds": 5}}, "no setting named 'rounds'"),
    ],
)
def test_wrong_words_are_refused_and_nothing_is_written(tmp_path, worlds, words, message):
    with pytest.raises(ConfigError, match=message):
        simulate_session_log(miniature_split(), tmp_path / "log", **({"worlds": worlds, "train": TRAIN} | words))
    assert list(tmp_path.iterdir()) == []


def test_a_policy_of_another_split_and_a_folder_that_exists_are_refused(tmp_path, learnt, log, worlds):
    other = split(miniature_split().train, "random")
    with pytest.raises(DataError, match="dqn was fitted on the train part of 'u1'"):
        simulate_session_log(other, tmp_path / "log", logging_policy=learnt[0], worlds=worlds)
    with pytest.raises(ArtifactError, match="already exists"):
        simulate_session_log(miniature_split(), log[1], worlds=worlds)


def test_a_log_with_return_times_says_that_their_influence_is_assumed(tmp_path, worlds):
    """With an influence of likes alone, users who liked more come back sooner."""
    split, out = miniature_split(), tmp_path / "log"
    effects = {"influence": 3.0, "like_weight": 4.0, "novelty_weight": 0.0}
    settings = {"sessions": 150, "days": 60.0}
    log = simulate_session_log(split, out, config=settings, train=TRAIN, worlds=worlds, returns=effects)
    assert read_log(out, IdVocabulary.from_ratings(split.train)).digest == log.digest
    noted = json.loads((out / "simulation.json").read_text())["returns"]
    assert (noted["influence"], noted["label"]) == (3.0, "simulated; the influence on the return is assumed")
    back, likes = log.returns.returned, np.add.reduceat(log.liked, log.start[:-1]) / log.length
    assert np.corrcoef(likes[back], log.returns.days[back])[0, 1] < -0.2


def test_users_of_a_fitted_return_model_come_back_as_they_do_there(tmp_path, worlds):
    """A fit of users who come back within a day and a half: most returns are on the first two days."""
    days, user = np.append(np.tile([0.5, 1.5], 200), 40.0), np.arange(401) // 4  # the last one never comes back
    end = np.append(np.tile(np.arange(4) * 2 * DAY_MS, 100), 0)
    write_return_model(tmp_path / "f", fit_returns(noted_times(user, end, SessionReturns(days, days < 40))), "hand")
    log = simulate_session_log(
        miniature_split(), tmp_path / "log", config={"sessions": 60, "days": 60.0}, train=TRAIN, worlds=worlds,
        returns={"influence": 0.0}, return_model=tmp_path / "f",
    )  # fmt: skip
    back = np.ceil(log.returns.days[log.returns.returned])
    assert len(back) > 30
    assert (back <= 2).mean() > 0.75
