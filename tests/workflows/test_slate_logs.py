"""Logs of simulated pages: what is written, noted and refused."""

import json

import numpy as np
import pandas as pd
import pytest
from trained_policies import miniature_split, trained

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.inference.predictor import load_policy
from recpolicy.models.session_worlds import fit_two_worlds
from recpolicy.workflows.logging_policies import make_logging_policy
from recpolicy.workflows.policy_training import TrainConfig
from recpolicy.workflows.slate_logs import (
    SlateLogConfig,
    read_slate_log,
    rollout_slate_log,
    shelves_by_year,
    simulate_slate_log,
)

TRAIN = {"rating_model": "svd", "rank": 5}
CONFIG = {"slates": 400, "slots": 3}


@pytest.fixture(scope="module")
def worlds():
    return fit_two_worlds(miniature_split(), None, 0)


def simulated(out, worlds, logging_policy="rating_model", seed=0, **config):
    settings = CONFIG | config
    return simulate_slate_log(
        miniature_split(), out, logging_policy=logging_policy, config=settings, train=TRAIN, worlds=worlds, seed=seed
    )


@pytest.mark.parametrize("layout", ["shelves", "list"])
def test_a_log_is_read_back_as_it_was_written(tmp_path, worlds, layout):
    log = simulated(tmp_path / "log", worlds, layout=layout)
    tables = IdVocabulary.from_ratings(miniature_split().train)
    for path in (tmp_path / "log", tmp_path / "log" / "slates.parquet"):
        assert read_slate_log(path, tables).digest == log.digest
    note = json.loads((tmp_path / "log" / "simulation.json").read_text())
    assert (note["logging_policy"], note["seed"], note["config"]["slates"]) == ("rating_model", 0, 400)
    assert note["world"] == worlds.training_world.name
    assert (log.shelves is None) == (layout == "list")
    assert set(log.user) <= set(worlds.training_world.users)


def test_readers_of_everything_like_several_items_and_others_at_most_one(tmp_path, worlds):
    everything = simulated(tmp_path / "all", worlds)
    in_turn = simulated(tmp_path / "turn", worlds, click_model="cascade")
    assert everything.scale == (0.0, 3.0)
    assert everything.reward.max() > 1
    assert in_turn.scale == (0.0, 1.0)
    assert in_turn.slot_reward.sum(axis=1).max() == 1
    assert set(in_turn.version) == set(everything.version)  # who chose is the same, whoever reads


def test_the_uniform_choice_knows_its_propensities(tmp_path, worlds):
    log = simulated(tmp_path / "log", worlds, "random", layout="list")
    actions = len(log.action_items)
    np.testing.assert_allclose(log.log_propensity, np.tile(-np.log(actions - np.arange(3)), (400, 1)), rtol=1e-12)


def test_a_policy_logs_what_its_scores_say(tmp_path, worlds):
    policy = load_policy(trained("linucb"))
    log = simulated(tmp_path / "log", worlds, policy, temperature=1e-3, uniform_mix=0.0)
    score = policy.scores()[0][:, log.action_items]
    for slot in range(3):
        shelf = np.flatnonzero(log.shelves == slot)
        best = shelf[score[log.user][:, shelf].argmax(axis=1)]
        assert (log.arm[:, slot] == best).mean() > 0.95
    assert set(log.version) == {policy.metadata["policy_digest"]}


def test_a_page_holds_items_of_the_catalog_that_training_describes(tmp_path, worlds):
    settings = {"train": {**TRAIN, "items": 30}, "worlds": worlds, "config": CONFIG}
    log = simulate_slate_log(miniature_split(), tmp_path / "log", **settings)
    assert len(log.action_items) == 30
    assert log.action_items.tolist() != list(range(30))
    assert set(log.slate.ravel()) <= set(log.action_items)
    assert len(set(log.slate.ravel())) > 15


def test_a_better_page_earns_more(worlds):
    split = miniature_split()
    means = {}
    for name in ("random", "rating_model"):
        policy = make_logging_policy(name, split.train, TrainConfig(**TRAIN), None, None, 0)
        settings = SlateLogConfig(slates=6_000, slots=3, uniform_mix=0.0, temperature=0.05)
        means[name] = rollout_slate_log(policy, worlds.training_world, split, settings, 0, False).reward.mean()
    assert means["rating_model"] > means["random"] + 0.2


def test_shelves_are_even_parts_in_the_order_of_years():
    items = pd.DataFrame({"year": pd.array([1990, 1950, None, 1970, 1999, 1960, 1980], "Int64")})
    action_items = np.array([0, 1, 2, 3, 5, 6], np.int32)
    assert shelves_by_year(items, action_items, 3).tolist() == [2, 0, 0, 1, 1, 2]
    assert shelves_by_year(items, action_items, 1).tolist() == [0] * 6
    with pytest.raises(DataError, match="items without years"):
        shelves_by_year(items.drop(columns="year"), action_items, 3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"slots": 0}, "slots is 0: expected"),
        ({"continuation_probability": 1.5}, "continuation_probability is 1.5: expected"),
        ({"uniform_mix": -0.1}, r"uniform_mix is -0\.1: expected"),
        ({"layout": "grid"}, r"layout is 'grid': expected 'shelves' or 'list'"),
        ({"temperature": 1e-320}, r"temperature is 1e-320: expected"),
        ({"days": 1e300}, r"days is 1e\+300: expected"),
        ({"first_day": "soon"}, "first_day is 'soon': expected a date"),
        ({"slots": 500}, r"SlateLogConfig\.slots is 500; there are only 80 items"),
        ({"pages": 5}, "pages"),
    ],
)
def test_settings_out_of_range_are_refused_and_nothing_is_written(tmp_path, worlds, config, message):
    with pytest.raises(ConfigError, match=message):
        simulated(tmp_path / "log", worlds, **config)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("name", ["layout", "click_model"])
def test_unknown_layouts_and_readings_are_refused_in_python_too(name):
    with pytest.raises(ConfigError, match=f"{name} is 'none': expected"):
        SlateLogConfig(**{name: "none"})


def test_unknown_loggers_and_folders_that_exist_are_refused(tmp_path, worlds):
    with pytest.raises(ConfigError, match="logging policy"):
        simulated(tmp_path / "log", worlds, "best")
    (tmp_path / "log").mkdir()
    with pytest.raises(ArtifactError, match="exists"):
        simulated(tmp_path / "log", worlds)
