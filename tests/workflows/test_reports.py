"""The report of a policy and the demo: one page that needs nothing but itself, and the whole job on a miniature."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from randomized_policies import policy as session_policy
from tiny_dataset import write_miniature
from trained_policies import TINY, loaded, miniature_split, trained

from recpolicy.core.errors import ConfigError, UnknownIdError
from recpolicy.data.bandit_log import BanditLog
from recpolicy.inference.predictor import Policy
from recpolicy.registry.artifact_kinds import verify
from recpolicy.workflows import policy_report as module
from recpolicy.workflows.demo import run_demo
from recpolicy.workflows.policy_report import write_policy_report
from recpolicy.workflows.policy_training import TrainConfig
from recpolicy.workflows.reports import policy_summary


def outside_resources(page):
    """Whatever a browser would fetch: addresses in src and href, url() and @import, other than fragments."""
    found = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page) + re.findall(r"url\(([^)]*)\)", page)
    return [address for address in found if not address.strip("'\"").startswith("#")] + re.findall("@import", page)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(trained("linucb"), tmp_path / "policy")


def test_the_report_is_one_page_that_loads_nothing(folder):
    verdict = write_policy_report(loaded("linucb"), miniature_split(), folder, folder / "page.html", user=7)
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert outside_resources(page) == []
    assert "<script" not in page
    assert (
        page.count("<svg") >= 9
    )  # regret, reward, exploration, choice, differences, groups, calibration, pulls, suggestions
    gap = verdict.evaluation.difference("linucb", "rating_model")
    assert f"the greedy rating model ({gap.value:+.2f} [{gap.lo:+.2f}, {gap.hi:+.2f}])" in page
    assert '<tr class="own"><th scope="row">linucb</th>' in page
    assert "lie within their 95 % intervals" in page
    assert f"{verdict.evaluation.policies['linucb'].rmse:.3f}" in page
    assert re.search(r"Exploration while training: at the end [0-9.]+% of the choices are not greedy", page)
    assert "Suggestions for user 7: items not yet rated, ranked by value, the score without exploration." in page
    assert "probability: of the item in a round of the exploring policy" in page
    pages = re.findall(r"docs/[\w/]+\.md", page)
    assert len(pages) == 5
    assert all((Path(__file__).parents[2] / name).is_file() for name in pages)
    for title in loaded("linucb").recommend(7, k=10)["title"]:
        assert title in page
    assert (folder / "metrics.json").is_file()
    verify(folder)


def test_the_report_of_a_session_policy_shows_its_sessions_in_both_worlds_and_says_what_is_assumed(tmp_path):
    rows = ["step,sessions/reward", "600,nan", "1200,5.5", "1800,6.5"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    out, untrained = tmp_path / "page.html", session_policy("a2c", "last_item").artifact
    metadata = {**untrained.metadata, "training": {"mode": "sessions", "total_timesteps": 1800}}
    write_policy_report(Policy(replace(untrained, metadata=metadata)), miniature_split(), tmp_path, out, user=7)
    page = out.read_text(encoding="utf-8")
    assert "training-world reward" in page
    assert "fatigue_aware" in page
    assert "drift and fatigue are assumed" in page
    assert "Reward of a session while training" in page
    assert page.count("<svg") >= 5  # both worlds, training, choice, calibration, suggestions
    assert outside_resources(page) == []


def uniform_rounds(policy, number=2_000):
    """Rounds of a logger that shows all items alike, paid by what the policy estimates."""
    rng, rating = np.random.default_rng(0), policy.scores()[1]
    user, item = (rng.integers(size, size=number).astype(np.int32) for size in rating.shape)
    return BanditLog(
        event_id=np.arange(number).astype(str).astype(object),
        time=np.arange(number),
        user=user,
        item=item,
        log_propensity=np.full(number, -np.log(rating.shape[1])),
        action_items=np.arange(rating.shape[1], dtype=np.int32),
        reward=np.clip(rating[user, item], 1, 5).astype(np.float64),
        scale=(1.0, 5.0),
        name="uniform",
        policy=np.full(number, "uniform", object),
        version=np.full(number, "1", object),
    )


def test_the_report_with_a_log_names_rounds_and_rival_and_shows_gate_overlap_and_estimators(folder):
    policy, page = loaded("linucb"), folder / "page.html"
    log = uniform_rounds(policy)
    write_policy_report(policy, miniature_split(), folder, page, log=log, incumbent=policy)
    text = page.read_text(encoding="utf-8")
    assert f"2,000 logged rounds of 60 users ({log.digest[:12]})" in text
    assert f"<dt>compared with</dt><dd>incumbent {policy.metadata['policy_digest'][:8]}</dd>" in text
    for part in (
        "Gate: ",
        "Overlap: ",
        "Importance weights",
        "Estimates by estimator",
        "Estimators side by side (reward per",
    ):
        assert part in text
    assert page.read_text(encoding="utf-8").count("<svg") >= 10


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_computed(folder, monkeypatch):
    monkeypatch.setattr(module, "evaluate_candidate", lambda *_: pytest.fail("the policy is evaluated"))
    monkeypatch.setattr(module, "evaluate", lambda *_, **__: pytest.fail("the policy is evaluated"))
    with pytest.raises(ConfigError, match="is a folder; a page is a file"):
        write_policy_report(loaded("linucb"), miniature_split(), folder, folder)


def test_the_head_of_a_page_about_a_policy_leaves_out_what_is_empty():
    described = {"agent": "linucb", "settings": {"alpha": 1.0, "bias": True}, "seed": 0, "log": None, "parents": []}
    assert policy_summary(described) == [
        ("agent", "linucb"),
        ("settings", '{"alpha": 1.0, "bias": true}'),
        ("seed", "0"),
    ]
    digest = "0123456789ab" * 5 + "0123"
    assert policy_summary({"policy_digest": digest, "both": [digest, 1]}) == [
        ("policy_digest", "0123456789ab"), ("both", '["0123456789ab", 1]'),
    ]  # fmt: skip


def test_the_report_of_a_policy_without_training_curve(tmp_path):
    """An offline training has no regret to show."""
    folder = shutil.copytree(trained("linucb"), tmp_path / "policy")
    (folder / "metrics.csv").unlink()
    write_policy_report(loaded("linucb"), miniature_split(), folder, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Cumulative regret" not in page
    assert "user 1" in page  # the first one, when none is named


def test_an_unknown_user_is_named_and_nothing_is_written(folder):
    with pytest.raises(UnknownIdError, match="no user with id 61"):
        write_policy_report(loaded("linucb"), miniature_split(), folder, folder / "page.html", user=61)
    assert not (folder / "page.html").exists()


def test_the_demo_tells_the_whole_story(tmp_path):
    said = []
    config = TrainConfig(**TINY)
    run_demo(
        str(write_miniature(tmp_path / "data")),
        tmp_path / "run",
        lambda *words: said.append(words),
        user="7",
        config=config,
    )
    told = dict(said)
    assert list(told)[:3] == ["Ratings", "Split", "Policy"]
    assert re.match(r"1,\d{3} ratings of 60 users on 80 items", told["Ratings"])
    assert "640 simulated interactions" in told["Policy"]
    table, suggestions = (value for value in told.values() if isinstance(value, pd.DataFrame))
    baselines = ["random", "most_popular", "highest_mean", "rating_model", "svd"]
    assert list(table.index) == ["linucb", *baselines, "oracle"]
    assert len(suggestions) == 5
    assert told["Report with the regret curve and all plots"] == tmp_path / "run" / "report.html"
    assert outside_resources((tmp_path / "run" / "report.html").read_text(encoding="utf-8")) == []
    verify(tmp_path / "run")


def test_the_demo_replaces_a_policy_and_nothing_else(tmp_path):
    (tmp_path / "thesis.txt").write_text("two years of work")
    with pytest.raises(ConfigError, match="exists and is no policy"):
        run_demo(str(write_miniature(tmp_path / "data")), tmp_path, lambda *_: None)
    assert (tmp_path / "thesis.txt").is_file()
