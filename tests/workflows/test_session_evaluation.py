"""`evaluate_sessions`: who is compared with whom, on what; sessions of untrained policies on the miniature."""

import json
from dataclasses import replace

import numpy as np
import pytest
from randomized_policies import policy, settings
from tiny_dataset import miniature_ratings
from trained_policies import miniature_split

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.splits import split
from recpolicy.evaluation import sessions
from recpolicy.inference.predictor import Policy
from recpolicy.workflows import held_out_evaluation
from recpolicy.workflows import session_evaluation as module
from recpolicy.workflows.session_evaluation import evaluate_sessions
from recpolicy.workflows.session_settings import make_worlds

BASELINES = ["random", "most_popular", "highest_mean", "rating_model", "fatigue_aware"]


@pytest.fixture(scope="module")
def worlds():
    return make_worlds(miniature_split(), settings("last_n"), 0)


@pytest.fixture(scope="module")
def together(worlds, tmp_path_factory):
    """Policies of two views judged together, and the folder with metrics.json."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "metrics.json").write_text('{"split": "u1"}')
    several = {"sees five": policy("ppo", "last_n"), "sees one": policy("dqn", "last_item")}
    return evaluate_sessions(several, miniature_split(), worlds=worlds, out=folder), folder


def changed(one: Policy, metadata: dict, **artifact) -> Policy:
    return Policy(replace(one.artifact, metadata={**one.artifact.metadata, **metadata}, **artifact))


def test_policies_stand_beside_the_baselines_in_both_worlds(together):
    verdict = together[0]
    for world in (verdict.training_world, verdict.evaluation_world):
        assert list(world) == ["sees five", "sees one", *BASELINES]
        assert world["fatigue_aware"].gain.lo > 0  # it knows the world
        assert world["rating_model"].gain is None
        for returns in world.values():
            assert returns.reward.lo <= returns.reward.value <= returns.reward.hi
            assert 1 <= returns.length <= 20
            # A like pays 1, so a session's reward is its likes.
            assert returns.reward.value == pytest.approx(returns.length * returns.like_share)
            if returns.gain is not None:
                assert returns.gain.value == pytest.approx(returns.reward.value - world["rating_model"].reward.value)


def test_the_table_has_the_best_in_the_judge_world_first(together):
    table = together[0].table()
    rewards = [together[0].evaluation_world[name].reward.value for name in table.index]
    assert rewards == sorted(rewards, reverse=True)
    assert table.loc["rating_model", "gain on rating_model"] == ""
    assert table.loc["random", "training-world reward"] == str(together[0].training_world["random"].reward)


def test_sessions_are_shown_whole_and_plotted(together, capsys):
    together[0].show()
    shown = capsys.readouterr().out
    assert all(str(returns.reward) in shown for returns in together[0].evaluation_world.values())
    names = {label.get_text() for label in together[0].plot().axes[0].get_yticklabels()}
    assert names == set(together[0].evaluation_world)


def test_metrics_are_added_to_those_that_are_there(together):
    written = json.loads((together[1] / "metrics.json").read_text())
    assert written == json.loads(json.dumps({"split": "u1", "sessions": together[0].as_dict()}))
    assert set(written["sessions"]["evaluation_world"]["sees one"]) == {
        "reward",
        "gain_on_rating_model",
        "length",
        "like_share",
    }


def test_sessions_are_as_many_as_asked_for(together, worlds, monkeypatch):
    """In batches of 24, and never fewer than two; the default is four of each user."""
    assert together[0].sessions == 4 * len(worlds.evaluation_world.users)
    mine, runs = {"sees five": policy("ppo", "last_n")}, []
    monkeypatch.setattr(sessions, "SESSIONS_AT_ONCE", 24)
    run = sessions.SessionRunner.run
    monkeypatch.setattr(sessions.SessionRunner, "run", lambda *a, **k: runs.append(run(*a, **k)) or runs[-1])
    result = evaluate_sessions(mine, miniature_split(), worlds=worlds, sessions=50)
    assert result.sessions == result.as_dict()["sessions"] == 50
    assert {len(results.reward) for results in runs} == {50, 24}  # fatigue_aware is chosen by one batch
    for wrong in (1, 10**6 + 1):
        with pytest.raises(ConfigError, match=f"sessions is {wrong}; expected 2 to 1,000,000"):
            evaluate_sessions(mine, miniature_split(), worlds=worlds, sessions=wrong)


def test_an_ensemble_has_intervals_over_worlds(together, worlds, tmp_path):
    several = {"sees five": policy("ppo", "last_n"), "sees one": policy("dqn", "last_item")}
    several["of rounds"] = changed(policy("ppo", "last_n"), {}, agent="greedy", estimator="rating_model", policy={})
    several["of rounds"] = changed(several["of rounds"], {}, head="greedy")
    with pytest.raises(ConfigError, match="leave out like_model and ensemble"):
        evaluate_sessions(several, miniature_split(), worlds=worlds, ensemble=3)
    result = evaluate_sessions(several, miniature_split(), ensemble=3, out=tmp_path)
    over = result.ensemble
    assert list(over) == [*several, "random", "most_popular", "highest_mean", "rating_model"]
    # It shows the rating model's items, but for ties deep in long sessions.
    assert over["of rounds"].by_world == pytest.approx(over["rating_model"].by_world, abs=0.05)
    assert over["of rounds"].gain.value == 0
    assert over["rating_model"].gain is None
    for name in ("sees five", "sees one"):
        assert over[name].reward.value == result.evaluation_world[name].reward.value
        assert len(set(over[name].by_world)) == 3
        gains = np.subtract(over[name].by_world, over["rating_model"].by_world)
        assert over[name].gain.hi - over[name].gain.value == pytest.approx(4.302653 * gains.std(ddof=1))  # t, 2 df
    cell = result.table().loc["sees five", "reward over worlds"]
    assert cell == f"[{over['sees five'].reward.lo:.3f}, {over['sees five'].reward.hi:.3f}]"
    assert result.table().loc["fatigue_aware", "gain over worlds"] == ""
    written = json.loads((tmp_path / "metrics.json").read_text())["sessions"]["ensemble"]
    assert {name: module.EnsembleReturns.from_dict(plain) for name, plain in written.items()} == over
    assert "3 versions of the evaluation world, each fitted on a random half of its users" in result.notes[-1]
    # The figures of the one world do not depend on the ensemble.
    assert result.evaluation_world["sees one"] == together[0].evaluation_world["sees one"]


def test_an_own_like_model_takes_the_place_of_the_fitted_one(worlds):
    """Everything is liked: a reward is the length. A policy trained so is named where its worlds are not used."""
    mine = policy("ppo", "last_n")
    own = evaluate_sessions({"mine": mine}, miniature_split(), like_model=lambda u, i, h: np.ones(len(u)), sessions=40)
    returns = own.training_world["mine"]
    assert returns.reward.value == pytest.approx(returns.length, rel=0.02)  # users of unequal numbers of sessions
    assert returns.like_share == 1
    assert "P(like) in all worlds is that of" in own.notes[0]
    trained = changed(mine, {"like_model": {"name": "my:like", "digest": ""}})
    note = evaluate_sessions({"mine": trained}, miniature_split(), worlds=worlds, sessions=40).notes[0]
    assert "mine was trained with the like model my:like; these worlds have the fitted one" in note


def test_a_policy_without_feedback_is_evaluated_by_likes_and_named(together, worlds):
    """Its training paid similarities; the sessions pay likes, so it stands in the same table."""
    several = {"blind": retold(reward="similarity"), "sees five": policy("ppo", "last_n")}
    result = evaluate_sessions(several, miniature_split(), worlds=worlds)
    assert result.evaluation_world["blind"] == together[0].evaluation_world["sees five"]  # the same network
    assert len(result.notes) == 1
    assert "blind was trained on similarity, a circular reward" in result.notes[0]


def test_policies_of_rounds_stand_in_the_same_table(together, worlds):
    """One that is the rating model earns to the last bit what the rating model earns, among policies or alone."""
    mine = policy("ppo", "last_n")
    bandit = changed(mine, {}, agent="greedy", estimator="rating_model", head="greedy", policy={})
    result = evaluate_sessions({"of rounds": bandit, "sees five": mine}, miniature_split(), worlds=worlds)
    assert result.evaluation_world["sees five"] == together[0].evaluation_world["sees five"]
    for both in (result, evaluate_sessions({"of rounds": bandit}, miniature_split(), worlds=worlds)):
        of_rounds, reference = both.evaluation_world["of rounds"], both.evaluation_world["rating_model"]
        assert (of_rounds.reward, of_rounds.length) == (reference.reward, reference.length)
        assert of_rounds.gain.value == 0


def test_a_policys_figures_do_not_depend_on_the_company(together, worlds):
    alone = evaluate_sessions({"sees one": policy("dqn", "last_item")}, miniature_split(), worlds=worlds)
    assert alone.evaluation_world["sees one"] == together[0].evaluation_world["sees one"]
    assert alone.evaluation_world["rating_model"] == together[0].evaluation_world["rating_model"]
    assert alone.training_world["fatigue_aware"] == together[0].training_world["fatigue_aware"]


@pytest.mark.parametrize(
    ("other", "setting"),
    [
        (lambda: policy("ppo", "interest"), "action_items"),
        (lambda: changed(policy("ppo", "last_n"), {"seed": 1}), "seed"),
        (lambda: retold(reward="watch"), "reward"),
        (lambda: retold(reward_decay=0.9), "reward_decay"),
        (lambda: retold(max_episode_steps=10), "max_episode_steps"),
        (lambda: retold(simulator={"fatigue_genre": 0.0}), "simulator"),
    ],
)
def test_policies_of_other_sessions_are_not_compared(other, setting):
    with pytest.raises(ConfigError, match=f"mine and theirs were trained with different {setting}"):
        evaluate_sessions({"mine": policy("ppo", "last_n"), "theirs": other()}, miniature_split())


def retold(**train) -> Policy:
    one = policy("ppo", "last_n")
    config = one.metadata["config"]
    return changed(one, {"config": {**config, "train": {**config["train"], **train}}})


def test_with_worlds_handed_in_seeds_and_simulators_may_differ():
    several = {"mine": policy("ppo", "last_n"), "theirs": changed(retold(simulator={}), {"seed": 1})}
    module.check_comparable(several, own_worlds=True)


def test_what_cannot_be_judged_is_refused():
    mine = policy("ppo", "last_n")
    with pytest.raises(ConfigError, match="no policies given"):
        evaluate_sessions({}, miniature_split())
    with pytest.raises(DataError, match="mine was fitted on the train part of 'u1'"):
        evaluate_sessions({"mine": mine}, split(miniature_ratings(), "u2"))


def test_the_reference_is_the_rating_model_that_the_policy_was_built_on(monkeypatch):
    """Not the one that its settings name: a fitted model may have been handed to the training."""

    class Asked(Exception):
        pass

    def fit(_, name, config, *, seed):
        raise Asked(name, config["rank"], seed)

    monkeypatch.setattr(held_out_evaluation, "fit_rating_model", fit)
    built = policy("ppo", "last_n").artifact.metadata["rating_model"]
    with pytest.raises(Asked) as asked:
        evaluate_sessions({"mine": retold(rating_model="bayesian_fm")}, miniature_split())
    assert asked.value.args[::2] == ("svd", built["seed"])


def test_a_model_of_before_the_ordered_probit_is_fitted_without_it(monkeypatch):
    """Artifacts of that time do not say so; today's default would be another model."""
    fitted = []

    def fit(_, name, config, *, seed):
        fitted.append((name, config["ordinal"]))
        raise InterruptedError

    monkeypatch.setattr(held_out_evaluation, "fit_rating_model", fit)
    metadata = policy("ppo", "last_n").artifact.metadata
    model = {**metadata["rating_model"], "name": "bayesian_fm"}
    old = changed(policy("ppo", "last_n"), {"rating_model": model})
    with pytest.raises(InterruptedError):
        evaluate_sessions({"mine": old}, miniature_split())
    assert fitted == [("bayesian_fm", False)]
