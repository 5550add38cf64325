"""`evaluate` and `evaluation_world`: only on ratings that no policy has seen; a policy of chance is found to be one."""

import json

import numpy as np
import pytest
from tiny_dataset import miniature_ratings
from trained_policies import loaded, miniature_split

from recpolicy.core.errors import DataError
from recpolicy.data.splits import split
from recpolicy.workflows.held_out_evaluation import EVALUATION_MODEL, evaluate, evaluation_world
from recpolicy.workflows.policy_training import TrainConfig, training_world

SEVERAL = ("linucb", "rating_model", "random")


@pytest.fixture(scope="module")
def verdict(tmp_path_factory):
    """Several policies judged together, and the folder with metrics.json."""
    folder = tmp_path_factory.mktemp("metrics")
    return evaluate({f"my {name}": loaded(name) for name in SEVERAL}, miniature_split(), out=folder), folder


@pytest.mark.parametrize("name", ["u2", "temporal", "random"])
def test_a_policy_fitted_on_other_ratings_is_refused(name):
    other = split(miniature_ratings(), name)
    with pytest.raises(DataError, match=rf"mine was fitted on the train part of 'u1' .* not on that of '{name}'"):
        evaluate({"mine": loaded("linucb")}, other)


def test_one_stranger_among_several_is_refused():
    other = miniature_split().__class__("u1", miniature_split().test, miniature_split().train, 0)
    with pytest.raises(DataError, match="linucb was fitted"):
        evaluate({"linucb": loaded("linucb")}, other)


def test_policies_stand_beside_the_baselines(verdict):
    names = [*(f"my {name}" for name in SEVERAL), "random", "most_popular", "highest_mean", "rating_model", "svd"]
    assert list(verdict[0].evaluation.policies) == names
    assert list(verdict[0].table().index) == [*names, "oracle"]


def test_results_are_shown_whole_and_plotted(verdict, capsys):
    result, evaluation = verdict[0], verdict[0].evaluation
    result.show()
    shown = capsys.readouterr().out
    assert all(str(regret) in shown for regret in result.regret.values())
    assert str(evaluation.difference("my linucb", "most_popular")) in shown
    names = [label.get_text() for label in result.plot().axes[0].get_yticklabels()]
    assert names[::-1] == [*evaluation.policies]


def test_a_policy_of_chance_is_found_to_be_one(verdict):
    """The negative control: its place between random (0) and oracle (1) is 0 within the interval."""
    judged = verdict[0].evaluation.policies["my random"]
    assert judged.normalized_choice.lo <= 0 <= judged.normalized_choice.hi
    assert judged.held_out_choice.value == pytest.approx(verdict[0].evaluation.random.value)


def test_a_policy_that_knows_something_beats_chance(verdict):
    evaluation = verdict[0].evaluation
    assert evaluation.difference("my rating_model", "my random").lo > 0
    assert verdict[0].regret["my rating_model"].hi < verdict[0].regret["my random"].lo


def test_baselines_as_agents_get_the_figures_of_the_baselines(verdict):
    """The trained `random` is the table's; the rating model greedy is so up to what the embeddings leave out."""
    policies = verdict[0].evaluation.policies
    assert policies["my random"].held_out_choice == policies["random"].held_out_choice
    assert policies["my rating_model"].rmse == pytest.approx(policies["rating_model"].rmse, abs=0.03)


def test_a_policys_figures_are_its_own(verdict):
    alone = evaluate({"my linucb": loaded("linucb")}, miniature_split())
    assert alone.evaluation.policies["my linucb"] == verdict[0].evaluation.policies["my linucb"]
    assert alone.regret["my linucb"] == verdict[0].regret["my linucb"]


def test_the_error_is_that_of_what_predict_says(verdict):
    test = miniature_split().test
    users = miniature_split().train.users["user_id"].tolist()
    rating = loaded("linucb").predict(users)["rating"].to_numpy().reshape(60, 80)
    rmse = np.sqrt(np.mean((rating[test.user, test.item] - test.rating) ** 2))
    assert verdict[0].evaluation.policies["my linucb"].rmse == pytest.approx(rmse, rel=1e-5)


def test_metrics_are_written_as_json(verdict):
    written = json.loads((verdict[1] / "metrics.json").read_text())
    assert written == json.loads(json.dumps(verdict[0].as_dict()))
    assert set(written["policies"]["my linucb"]) >= {
        "rmse",
        "mae",
        "ndcg",
        "held_out_choice",
        "normalized_choice",
        "coverage",
        "novelty",
    }
    assert (
        written["policies"]["random"]["evaluation_regret"]["lo"]
        <= written["policies"]["random"]["evaluation_regret"]["value"]
    )
    assert written["evaluation_world"].startswith(EVALUATION_MODEL)


def test_without_policies_there_are_the_baselines():
    assert len(evaluate({}, miniature_split()).evaluation.policies) == 5


def test_regret_counts_only_items_that_the_user_had_not_rated(verdict):
    """A user who has rated the best items already cannot be offered them again."""
    split_ = miniature_split()
    world, rated = evaluation_world(split_, 0), split_.train.rated()
    assert np.take_along_axis(rated, world.expected.argmax(axis=1)[:, None], axis=1).any()
    offered = np.where(rated, -np.inf, world.expected)
    popularity = np.bincount(split_.train.item, minlength=len(split_.train.items))
    choice = np.where(rated, -1, popularity[None, :])
    ties = choice == choice.max(axis=1, keepdims=True)
    value = np.where(ties, world.expected, 0).sum(axis=1) / ties.sum(axis=1)
    expected = (offered.max(axis=1) - value).mean()
    assert verdict[0].regret["most_popular"].value == pytest.approx(expected, rel=1e-5)


def test_the_greedy_policy_of_the_training_world_is_a_baseline(verdict):
    """The rival of every policy that learns in that world: its own model, followed greedily."""
    result = verdict[0].evaluation.policies["svd"]
    world = training_world(miniature_split().train, TrainConfig(), seed=0)
    test = miniature_split().test
    rmse = np.sqrt(np.mean((world.expected[test.user, test.item] - test.rating) ** 2))
    assert result.rmse == pytest.approx(rmse, abs=0.01)  # the world clips to the scale
    assert verdict[0].regret["svd"].value > 0


def test_the_judge_pays_real_ratings_where_they_were_held_out():
    world, test = evaluation_world(miniature_split(), seed=0), miniature_split().test
    np.testing.assert_array_equal(world.expected[test.user, test.item], test.rating)
    assert world.known.sum() == len(test)
    assert world.known[test.user, test.item].all()


def test_the_judge_is_no_model_that_training_uses_by_default():
    from recpolicy.workflows.policy_training import TrainConfig

    assert EVALUATION_MODEL not in {TrainConfig().world, TrainConfig().rating_model}
