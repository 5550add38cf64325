"""The retention study: costs of return days, activity, and figures from results."""

import numpy as np
import pytest
from tiny_dataset import miniature_ratings

from recpolicy.core.errors import ConfigError
from recpolicy.training.retention_loop import ChainResults
from recpolicy.workflows.retention_study import (
    ABLATIONS,
    ALIGNED,
    CONFLICT,
    CONTROL,
    IMMEDIATE,
    RLUR_ROW,
    RetentionStudy,
    run_retention_study,
)
from recpolicy.workflows.retention_world import normalized_scale, plain_scale, relative_activity

USERS = 60


def test_costs_have_mean_one_and_stay_finite_for_users_who_always_return_soon():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(USERS, 2))
    user = rng.integers(USERS, size=6000)
    p = 1 / (1 + np.exp(-2 * features[user, 0]))
    days = np.minimum(rng.geometric(np.maximum(p, 0.05)), 10).astype(float)
    train, held_out = np.arange(6000) < 3000, np.arange(6000) >= 3000
    for scale in (normalized_scale(days[train], user[train], features), plain_scale(days[train], USERS)):
        cost = np.minimum(days[held_out] * scale.scale[user[held_out]], scale.cap) * scale.unit
        assert cost.mean() == pytest.approx(1, abs=0.1)
        assert np.isfinite(scale.scale).all()
    # Normalization brings the costs of users who return soon closer to those of others.
    soon = features[user, 0] > 0
    normal, plain = normalized_scale(days, user, features), plain_scale(days, USERS)

    def ratio(scale):
        cost = np.minimum(days * scale.scale[user], scale.cap)
        return cost[~soon].mean() / cost[soon].mean()

    assert ratio(normal) < 0.6 * ratio(plain)


def test_activity_is_relative_to_the_median_user():
    ratings = miniature_ratings()
    activity = relative_activity(ratings, np.unique(ratings.user))
    rated = np.isin(np.arange(len(activity)), ratings.user)
    assert np.median(activity[rated]) == pytest.approx(0, abs=1e-6)
    assert (activity[~rated] == 0).all()


def results(days: float, seed: int = 0) -> ChainResults:
    rng = np.random.default_rng(seed)
    base = rng.uniform(2, 4, USERS)
    one = np.full(USERS, 0.5)
    return ChainResults(base + days, one, one, base, one, one, one)


def test_gains_are_days_sooner_and_paired_by_user():
    conflict = {IMMEDIATE: results(1.0), RLUR_ROW: results(0.5), ABLATIONS[0]: results(0.7)}
    control = {IMMEDIATE: results(0.0), RLUR_ROW: results(0.0)}
    rows = {CONFLICT: conflict, ALIGNED: control, CONTROL: control}
    by_seed = {world: {name: [each] for name, each in part.items()} for world, part in rows.items()}
    independent = {IMMEDIATE: results(0.0, 1), RLUR_ROW: results(0.0, 2)}
    study = RetentionStudy(rows, by_seed, independent, {})
    figures = study.figures()
    assert figures["days_gain_conflict"] == pytest.approx(0.5)
    assert figures["days_gain_conflict_lo"] == pytest.approx(0.5)  # equal for all users
    assert figures[f"{CONFLICT}_{ABLATIONS[0]}_loss"] == pytest.approx(0.2)
    assert figures["days_gain_control_paired"] == 0
    assert figures["days_gain_control_lo"] < 0 < figures["days_gain_control_hi"]
    assert list(study.table(CONFLICT).index) == [RLUR_ROW, ABLATIONS[0], IMMEDIATE]
    assert study.trials()[f"{CONFLICT}_{RLUR_ROW}_days"] == [conflict[RLUR_ROW].days.mean()]


def test_a_study_is_never_overwritten(tmp_path):
    (tmp_path / "retention.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="already exists; choose another folder"):
        run_retention_study(None, out=tmp_path)
    assert (tmp_path / "retention.json").read_text(encoding="utf-8") == "{}"
