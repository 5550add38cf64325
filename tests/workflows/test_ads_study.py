"""The study of DRL-PUT: a run from logs to files, and figures from verdicts that we made."""

import json
from pathlib import Path

import numpy as np
import pytest

from recpolicy.core.config import build
from recpolicy.core.errors import ArtifactError
from recpolicy.core.statistics import Interval
from recpolicy.evaluation.tuning_gates import TuningGates
from recpolicy.models.ads_world import GROUPED, AdsWorld
from recpolicy.workflows import ads_study
from recpolicy.workflows.ads_logs import draw_ads_log, draw_held_out
from recpolicy.workflows.ads_study import (
    BEST_STATIC,
    CONFIGURATIONS,
    GAUSSIAN,
    GROUPED_ACTOR_CRITIC,
    GROUPED_REINFORCE,
    MEAN_WEIGHTS,
    PERMUTED,
    RANDOM,
    WEIGHTED,
    AdsStudyConfig,
    StudyRow,
    run_ads_study,
)
from recpolicy.workflows.ads_study_report import answer, continue_ads_study, study_figures, study_table, write_ads_study

TINY = {
    "rounds": 2_000, "evaluation_rounds": 3_000, "full_evaluation_rounds": 500, "more_steps": 2, "true_requests": 300,
    "enumerated_requests": 4, "steps": 10, "full_steps": 2, "gaussian_steps": 10, "batch_size": 64, "seeds": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return run_ads_study(build(AdsStudyConfig, TINY), show_progress=False)


def test_every_row_is_there_with_gates_and_true_values(rows):
    names = [row.name for row in rows[0]]
    assert names == [*(configuration.name for configuration in CONFIGURATIONS), BEST_STATIC, MEAN_WEIGHTS, RANDOM]
    assert all(np.isfinite([row.true_gain, row.true_lift]).all() for row in rows[0])
    assert len(rows[0][0].history) == len(ads_study._WATCHED)


def test_static_and_random_rows_are_what_they_must_be(rows):
    by_name = {row.name: row for row in rows[0]}
    static = by_name[BEST_STATIC].gates
    assert (static.lift.lo, static.lift.hi) == (0, 0)
    assert static.diversity.value == pytest.approx(1 / 1_000)
    assert by_name[RANDOM].gates.verdicts["diversity"] == "pass"


def test_a_study_continues_from_its_seeds_and_writes_json_and_text(rows, tmp_path, monkeypatch):
    out, config = tmp_path / "study", build(AdsStudyConfig, TINY)
    monkeypatch.setattr(ads_study, "_run_seed", lambda *_: rows[0])
    assert continue_ads_study(config, out, show_progress=False) == rows
    monkeypatch.setattr(ads_study, "_run_seed", lambda *_: pytest.fail("the seed is there"))
    again = continue_ads_study(config, out, show_progress=False)
    assert study_figures(again) == study_figures(rows)
    written = write_ads_study(again, config, out)
    assert [path.name for path in written] == ["results.json", "table.txt", "diversity.svg"]
    body = json.loads(written[0].read_text())
    assert body["figures"].keys() == study_figures(rows).keys()
    assert answer(rows) in written[1].read_text()
    assert "Synthetic" in written[1].read_text()


def test_another_folder_or_study_or_a_damaged_seed_is_an_error_of_one_line(rows, tmp_path, monkeypatch):
    out, config = tmp_path / "study", build(AdsStudyConfig, TINY)
    monkeypatch.setattr(ads_study, "_run_seed", lambda *_: rows[0])
    with pytest.raises(ArtifactError, match="exists and holds no study; choose another folder"):
        continue_ads_study(config, Path(__file__).parent, show_progress=False)
    continue_ads_study(config, out, show_progress=False)
    with pytest.raises(ArtifactError, match="holds a study whose steps is 10, here it is 11; choose another folder"):
        continue_ads_study(build(AdsStudyConfig, TINY | {"steps": 11}), out, show_progress=False)
    (out / "seed-0.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"seed-0.json: not a complete seed \(.*\); delete it"):
        continue_ads_study(config, out, show_progress=False)


def test_a_log_of_the_world_is_uniform_and_its_fallbacks_are_marked():
    log = draw_ads_log(AdsWorld(), GROUPED, 2_000, np.random.default_rng(0))
    assert log.uniform
    assert 0 < log.fallback.mean() < 0.5
    assert log.reward == pytest.approx(log.objectives.sum(axis=1))


def test_a_gaussian_log_is_around_the_static_weights_with_its_propensities():
    log = draw_ads_log(AdsWorld(), GROUPED, 4_000, np.random.default_rng(0), gaussian=True)
    assert not log.uniform
    assert (1 / log.propensity).mean() == pytest.approx(GROUPED.size, rel=0.3)  # the expectation of 1 / mu is A
    assert GROUPED.weights(log.action)[:, 3].mean() < 0.25  # uniform: 0.4


def test_held_out_hits_are_the_requests_with_the_same_slate():
    held_out = draw_held_out(AdsWorld(), GROUPED, 500, np.random.default_rng(0))
    own = held_out.hits(held_out.log.action)
    assert own.match.all()
    assert (own.propensity >= 1 / GROUPED.size).all()
    # A request that fell back does so at every grid point of the highest reserve, such as 9.
    reserve = held_out.hits(np.full(500, 9))
    assert reserve.match[held_out.log.fallback].all()
    assert reserve.count > 5 * (held_out.log.action == 9).sum()


def make_row(name, diversity, lift, true_lift, hits=100):
    narrow = Interval(0.5, 0.4, 0.6)
    gates = TuningGates(
        diversity=Interval(diversity, diversity, diversity), distinct=1, modal_share=1.0, relative_gain=narrow,
        lift=Interval(lift, lift - 0.1, lift + 0.1), hits=hits, static_hits=hits, effective_hits=hits, fallbacks=0,
    )  # fmt: skip
    return StudyRow(name, gates, 0.1, true_lift, 1.0, 2.0)


def test_figures_count_seeds_and_false_passes():
    def seed(grouped_lift, actor_diversity):
        rows = {part.name: make_row(part.name, 0.1, 0.0, 0.0) for part in CONFIGURATIONS}
        rows |= {
            GROUPED_REINFORCE: make_row(GROUPED_REINFORCE, 0.1, grouped_lift, 0.15),
            GROUPED_ACTOR_CRITIC: make_row(GROUPED_ACTOR_CRITIC, actor_diversity, 0.2, 0.1),
            **{name: make_row(name, 0.01, 0.2, 0.1) for name in GAUSSIAN},
            WEIGHTED: make_row(WEIGHTED, 0.1, 0.2, -0.01),  # passes, and is worse than static weights
            PERMUTED: make_row(PERMUTED, 0.1, 0.02, 0.0),
            BEST_STATIC: make_row(BEST_STATIC, 0.001, 0.0, 0.0),
            MEAN_WEIGHTS: make_row(MEAN_WEIGHTS, 0.1, grouped_lift, 0.05),
        }
        return list(rows.values())

    figures = study_figures([seed(0.2, 0.01), seed(0.05, 0.3)])
    assert figures["passes_grouped"] == 0.5  # the lift of .05 has a lower limit of -.05
    assert figures["fails_gaussian"] == 1.0
    assert figures["fails_actor_critic"] == 0.5
    assert figures["passes_weighted"] == 1.0
    assert figures["false_passes"] == 2
    assert figures["control_lift_lo"] == pytest.approx(-0.08)
    assert figures["personalization_true_gain"] == pytest.approx(0.10)
    verdicts = {record["policy"]: record["verdicts"] for record in study_table([seed(0.2, 0.01)])}
    assert verdicts[CONFIGURATIONS[0].name] == {"pass": 1, "fail": 0, "cannot tell": 0}
