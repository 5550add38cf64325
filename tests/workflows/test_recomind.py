"""The study recomind on the miniature: it starts as the ranker, resumes, and refuses what does not fit."""

import json
from dataclasses import replace

import numpy as np
import pytest
from command_line import recpolicy, refused
from scipy.stats import spearmanr
from trained_policies import loaded, miniature_split, trained

from recpolicy.agents.value_scale import ValueScale
from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.evaluation.compiled_sessions import CompiledSessions, greedy
from recpolicy.workflows.recomind import run_recomind
from recpolicy.workflows.recomind_cells import BOOTSTRAPPED, MAIN, RANKER, WORLDS, RecoMindConfig
from recpolicy.workflows.recomind_ranker import Ranker, read_ranker
from recpolicy.workflows.recomind_report import figures, table
from recpolicy.workflows.recomind_rows import Setting, study_features

SMALL = RecoMindConfig(items=0, exploration_top_k=10, total_timesteps=1_024, episodes=60, first_episodes=50, seeds=2)
ROWS = [RANKER, BOOTSTRAPPED]


@pytest.fixture(scope="module")
def features():
    return study_features(miniature_split(), SMALL)


@pytest.fixture(scope="module")
def setting(features):
    ranker = read_ranker(None, miniature_split(), features)
    return Setting(miniature_split(), features, ranker, SMALL, WORLDS[MAIN])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "recomind"
    return folder, run_recomind(miniature_split(), folder, SMALL, rows=ROWS, controls=False, show_progress=False)


def test_untrained_it_ranks_and_earns_exactly_what_the_ranker_does(setting):
    """Spearman 1, and a difference of exactly 0 in the first sessions with the same random numbers."""
    start = setting.start("ranker")
    matched = replace(start, scale=ValueScale(4.6, 2.16, 3.0, 0.5, 3.6))
    agents = setting.make(start, 0).learner, setting.make(matched, 1).learner
    results = []
    for learner in agents:
        act = greedy(lambda _, observation, __, learner=learner: learner.scores(observation, None))
        results.append(CompiledSessions(setting.played[0], act).steps(0))
    going = results[0].going
    np.testing.assert_array_equal(*(result.action[going] for result in results))
    np.testing.assert_array_equal(*(result.results(setting.training.actions).likes for result in results))
    seen = np.random.default_rng(0).normal(size=(5, setting.training.time_step_spec().observation["global"].shape[0]))
    scores = [learner.scores(seen.astype(np.float32), None).numpy() for learner in agents]
    assert all(spearmanr(a, b).statistic == pytest.approx(1) for a, b in zip(*scores, strict=True))


def test_matched_values_start_with_small_errors_and_keep_the_ranking_for_100_updates(setting, study):
    scale = setting.scale("ranker", 0.75)
    assert scale.error < 1.0
    gamma_0 = setting.scale("ranker", 0.0)
    assert gamma_0.error < gamma_0.unmatched_error / 3
    trained = study[1].of(MAIN, BOOTSTRAPPED)[0].training
    assert trained.rank_correlation >= 0.9
    assert trained.initial_weights_left == pytest.approx(0.999**trained.updates)


def test_an_interrupted_study_continues_and_gives_the_same_cells(study, tmp_path):
    folder, complete = study
    (tmp_path / "cells").mkdir()
    (tmp_path / "study.json").write_bytes((folder / "study.json").read_bytes())
    for kept in ("sessions.ranker.0.json", "sessions.ranker.1.json", "sessions.bootstrapped.0.json"):
        (tmp_path / "cells" / kept).write_bytes((folder / "cells" / kept).read_bytes())
    again = run_recomind(miniature_split(), tmp_path, SMALL, rows=ROWS, controls=False, show_progress=False)
    assert again.cells == complete.cells


def test_a_folder_of_another_study_and_half_a_cell_are_refused(study, tmp_path):
    folder, _ = study
    run = {"rows": ROWS, "controls": False, "show_progress": False}
    with pytest.raises(ArtifactError, match=r"holds a study whose tau is 0\.001, here it is 0\.01"):
        run_recomind(miniature_split(), folder, replace(SMALL, tau=0.01), **run)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ArtifactError, match="exists and holds no study"):
        run_recomind(miniature_split(), tmp_path, SMALL, **run)
    cell = folder / "cells" / "sessions.ranker.0.json"
    whole = cell.read_text()
    try:
        for half in (whole[:200], json.dumps({"format": "recpolicy study recomind cell", "version": 1})):
            cell.write_text(half)
            with pytest.raises(ArtifactError, match=r"not a complete cell .* delete it and run the study again"):
                run_recomind(miniature_split(), folder, SMALL, **run)
    finally:
        cell.write_text(whole)


def test_figures_and_table_have_every_row(study):
    named = figures(study[1])
    for name in ("likes_bootstrapped_lo", "likes_ranker_hi", "difference_gain_users_lo", "first_likes_bootstrapped"):
        assert np.isfinite(named[name])
    assert "early_gain" not in named  # the cold start did not run
    assert list(table(study[1]).index) == ["production ranker, greedy", "bootstrapped"]


def test_a_linear_policy_is_a_ranker_and_others_are_refused(features, tmp_path):
    """The dot products of the tables are the policy's scores."""
    from randomized_policies import saved

    split = miniature_split()
    narrow = study_features(split, replace(SMALL, items=30))
    with pytest.raises(ConfigError, match=r"another catalog: 80 items, but the study has 30; choose the same number"):
        read_ranker(trained("highest_mean"), split, narrow)
    found = read_ranker(trained("highest_mean"), split, features)
    assert isinstance(found, Ranker)
    rank = features.embeddings.item.shape[1]
    expected = loaded("highest_mean").scores()[0]
    np.testing.assert_allclose(
        found.arms.offset + features.context[:, :rank] @ found.arms.embedding.T, expected, atol=1e-3
    )
    with pytest.raises(ConfigError, match="not linear in the study's user embeddings"):
        read_ranker(trained("eps_greedy"), split, features)
    with pytest.raises(ConfigError, match="ppo has a softmax over log-odds"):
        read_ranker(saved("ppo", "interest"), split, features)
    with pytest.raises(ConfigError, match="its embeddings are not those of the study"):
        read_ranker(saved("dqn", "interest"), split, features)
    with pytest.raises(ArtifactError):
        read_ranker(tmp_path / "nothing", split, features)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--row", "bootstraped"), "no row named 'bootstraped'. Did you mean 'bootstrapped'?"),
        (("--seeds", "1"), "seeds is 1; expected at least 2"),
        (("--tau", "0"), "tau is 0"),
    ],
)
def test_the_command_refuses_wrong_options_before_it_computes(capsys, tmp_path, options, message):
    answer = recpolicy(capsys, "study", "recomind", "--out", tmp_path / "study", *options)
    assert message in refused(answer)
    assert not (tmp_path / "study").exists()


def test_k_larger_than_the_catalog_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="exploration_top_k is 50; the catalog has 30 items"):
        run_recomind(miniature_split(), tmp_path / "study", RecoMindConfig(items=30))
    assert not (tmp_path / "study").exists()
