"""A like model of your own: what the world makes of it, and what is refused."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from synthetic_responses import STEPS, planted_responses

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.rating_sessions import split_into_sessions
from recpolicy.data.splits import split
from recpolicy.evaluation.simulator_card import CardConfig, validate_world
from recpolicy.models.logistic import sigmoid
from recpolicy.models.own_like_model import read_like_model
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.models.session_history import compute_history
from recpolicy.models.session_worlds import fit_two_worlds
from recpolicy.models.user_model import SessionWorldConfig, compute_preferences, fit_user_model

CONFIG = SessionWorldConfig(max_steps=STEPS, rank=4, drift=0.0, fatigue_genre=0.0, fatigue_misses=0.0)


@cache
def planted():
    return planted_responses(seed=1, users=80, items=110)


def true_odds(user, item):
    """Users are called u0, u1, ..., items m0, m1, ..."""
    rows, columns = (np.array([int(name[1:]) for name in names]) for names in (user, item))
    return planted().world.like[rows, columns].astype(float)


def misses(history):
    """Consecutive skips before the item, at most 5, in fifths."""
    count = np.zeros(len(history.length))
    for place in range(history.item.shape[1]):
        shown = place < history.length
        count = np.where(shown, np.where(history.liked[:, place], 0, np.minimum(count + 0.2, 1)), count)
    return count


def without_history(user, item, _):
    return sigmoid(true_odds(user, item))


def with_misses(user, item, history):
    return sigmoid(true_odds(user, item) - 1.5 * misses(history))


def test_a_function_without_history_is_the_world_to_the_last_digit():
    own = read_like_model(without_history, planted().ratings)
    np.testing.assert_allclose(own.start_odds, planted().world.like, atol=1e-5)
    worlds = fit_two_worlds(split(planted().ratings, "random", seed=0), CONFIG, like_model=own)
    for world in (worlds.training_world, worlds.evaluation_world):
        np.testing.assert_array_equal(world.like, own.start_odds[world.users])
        assert world.slope == 0
        assert world.like_history.tolist() == [0, 0]
        assert "without_history as like model on" in world.name


def test_the_dependence_on_the_history_is_found():
    """Misses are a feature of the world, so the approximation is exact: weight -1.5, nothing unexplained."""
    ratings = planted().ratings
    everyone = np.arange(len(ratings.users))
    model = fit_user_model(ratings, everyone, CONFIG, like_model=read_like_model(with_misses, ratings))
    assert model.like.history.tolist() == pytest.approx([0, -1.5], abs=1e-5)
    assert model.drift == pytest.approx(0, abs=1e-5)
    assert model.history_fit.explained == pytest.approx(1)
    assert model.history_fit.error < 1e-5


def test_a_function_sees_what_the_session_has_shown_before():
    ratings = planted().ratings
    own = read_like_model(with_misses, ratings)
    blocks = split_into_sessions(ratings).cut(STEPS)
    like = ratings.rating[blocks.rows] >= 4
    tastes = compute_preferences(fit_rating_model(ratings, "svd"), ratings, CONFIG)
    history = compute_history(blocks, ratings.item[blocks.rows], like, tastes)
    start = own.start_odds[ratings.user[blocks.rows], ratings.item[blocks.rows]]
    np.testing.assert_allclose(own.session_odds(ratings, blocks, like, STEPS), start - 1.5 * history.misses, atol=1e-4)


def test_another_dependence_is_reported_as_unexplained():
    def only_after_three(user, item, history):
        return sigmoid(true_odds(user, item) + 2.0 * (history.length == 3))

    ratings = planted().ratings
    model = fit_user_model(
        ratings, np.arange(len(ratings.users)), CONFIG, like_model=read_like_model(only_after_three, ratings)
    )
    assert model.history_fit.explained < 0.5
    assert model.history_fit.error > 0.05


def test_the_card_has_the_own_like_model():
    """The truth orders likes better than the fitted model; a coin does not order them and fails."""
    parts, quick = split(planted().ratings, "random", seed=0), CardConfig(replicates=2, bayesian=False)
    fitted = validate_world(parts, CONFIG, quick)
    true = validate_world(parts, CONFIG, quick, like_model=read_like_model(without_history, parts.train))
    coin = validate_world(
        parts, CONFIG, quick, like_model=read_like_model(lambda u, i, h: np.full(len(u), 0.5), parts.train)
    )
    assert true.gates[0].value > fitted.gates[0].value
    assert coin.gates[0].value == 0.5
    assert not coin.passed
    assert true.figures["like AUC of the own like model itself"] == pytest.approx(true.gates[0].value)
    assert true.figures["history of the own like model, explained share"] == 1
    assert not any("own like model" in name for name in fitted.figures)


def frame(**changes):
    ratings = planted().ratings
    users, items = ratings.users["user_id"], ratings.items["item_id"]
    columns = {
        "user_id": np.repeat(users, len(items)).to_numpy(), "item_id": np.tile(items, len(users)),
        "probability": sigmoid(planted().world.like.astype(float)).ravel(),
    }  # fmt: skip
    return pd.DataFrame(columns | changes)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_has_a_row_for_each_pair(tmp_path, ending):
    path = tmp_path / f"like.{ending}"
    table = frame().sample(frac=1, random_state=0)  # in any order
    table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    own = read_like_model(path, planted().ratings)
    np.testing.assert_allclose(own.start_odds, planted().world.like, atol=1e-4)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            lambda: frame().iloc[:-2],
            r"2 of 8,800 pairs are missing, such as user u79 and item m108; expected a",
        ),
        (lambda: frame().drop(columns="item_id"), "no column 'item_id'; found user_id, probability"),
        (lambda: pd.concat([frame(), frame().iloc[:1]]), "user_id u0, item_id m0 occurs twice"),
        (lambda: frame(probability=1.5), r"probability 1\.5 at 0; expected 0 to 1 \(8,800 of 8,800 are wrong\)"),
        (lambda: frame(probability="often"), "probability.*'often'"),
    ],
)
def test_wrong_tables_are_one_line(tmp_path, table, message):
    table().to_parquet(tmp_path / "like.parquet")
    with pytest.raises(DataError, match=message):
        read_like_model(tmp_path / "like.parquet", planted().ratings)


def fails(*_):
    raise RuntimeError("no connection")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda u, i, h: np.zeros(3), r"returned shape \(3,\); expected \(8800,\), one for each pair"),
        (lambda u, i, h: np.full(len(u), np.nan), "probability nan at 0; expected 0 to 1"),
        (lambda u, i, h: np.full(len(u), -0.1), r"probability -0\.1 at 0"),
        (lambda u, i, h: ["a"] * len(u), "returned list; expected an array"),
        (fails, "fails raised RuntimeError: no connection"),
    ],
)
def test_wrong_functions_are_one_line(function, message):
    with pytest.raises(DataError, match=message):
        read_like_model(function, planted().ratings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "expected module:function, or a .csv or .parquet file"),
        ("no_such_module_:like", "cannot be imported: ModuleNotFoundError"),
        ("math:likes", "cannot be imported: AttributeError"),
        ("math:pi", "is no function but a float"),
    ],
)
def test_what_cannot_be_imported_is_one_line(text, message):
    with pytest.raises(ConfigError, match=message):
        read_like_model(text, planted().ratings)
    with pytest.raises(DataError, match="no such file"):
        read_like_model("nowhere.csv", planted().ratings)


def test_a_function_is_found_in_the_current_folder(tmp_path, monkeypatch):
    code = "def like(user, item, history):\n    return [0.25] * len(user)\n"
    (tmp_path / "my_like_model.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    own = read_like_model("my_like_model:like", planted().ratings)
    assert (own.start_odds == np.float32(np.log(1 / 3))).all()
