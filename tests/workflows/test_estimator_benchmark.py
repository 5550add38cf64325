"""The benchmark of the estimators on disk: JSON and a page, in a world fitted on ratings."""

import json
import re
from functools import cache

import pytest
from tiny_dataset import miniature_ratings

from recpolicy.core.errors import ConfigError
from recpolicy.data.splits import split
from recpolicy.workflows.estimator_benchmark import (
    PAGE_FILE,
    QUICK,
    RESULT_FILE,
    EstimatorBenchmarkConfig,
    benchmark_estimators,
)

TRAIN = {"rating_model": "svd", "world": "item_knn", "rank": 5, "items": 20}
SMALL = {"sizes": (200, 500), "repetitions": 4, "resamples": 20, "clusters": 5}


@cache
def train_ratings():
    return split(miniature_ratings(), "u1").train


def test_the_result_is_kept_as_json_and_as_one_page_that_loads_nothing(tmp_path):
    result = benchmark_estimators(train_ratings(), tmp_path / "out", config=SMALL, train=TRAIN)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [PAGE_FILE, RESULT_FILE]
    stored = json.loads((tmp_path / "out" / RESULT_FILE).read_text())
    assert stored["cells"] == result.as_dict()["cells"]
    assert stored["train"] == train_ratings().digest
    assert stored["config"]["sizes"] == [200, 500]
    page = (tmp_path / "out" / PAGE_FILE).read_text()
    assert page.count("<svg") == 2 * (1 + 2)  # for each logging policy: errors, and the coverage at two sizes
    assert not re.search(r"""(?:src|href)\s*=\s*["']?[^"'#\s>]""", page)
    assert f"{result.true_value:.4f}" in page


def test_the_benchmark_plays_in_a_world_of_another_class_with_policies_near_and_far(tmp_path):
    result = benchmark_estimators(train_ratings(), config=SMALL, train=TRAIN)
    assert result.world == f"item_knn on {train_ratings().name}"
    assert (result.users, result.actions) == (60, 20)
    assert result.true_value > result.logged_values["near"] > result.logged_values["far"]
    near, far = (result.cell(logger, 500).effective_sample_size for logger in ("near", "far"))
    assert near > far
    assert "replay" in result.cell("far", 500).scores  # it takes uniform logs only


def test_a_small_table_offers_all_its_items():
    result = benchmark_estimators(
        train_ratings(), config=SMALL, train={key: TRAIN[key] for key in TRAIN if key != "items"}
    )
    assert result.actions == train_ratings().shape[1] == 80


@pytest.mark.parametrize(
    ("settings", "train", "message"),
    [
        ({"repetition": 3}, TRAIN, "Did you mean 'repetitions'"),
        (SMALL | {"near_uniform_mix": 0}, TRAIN, "near_uniform_mix is 0: expected greater than 0"),
        (SMALL | {"target_temperature": 0}, TRAIN, "target_temperature"),
        (SMALL, TRAIN | {"world": "svd"}, "must be of another class"),
    ],
)
def test_settings_of_the_benchmark_that_are_wrong_are_named(settings, train, message):
    with pytest.raises(ConfigError, match=message):
        benchmark_estimators(train_ratings(), config=settings, train=train)


def test_quick_settings_are_settings():
    assert max(EstimatorBenchmarkConfig(**QUICK).sizes) < max(EstimatorBenchmarkConfig().sizes)
