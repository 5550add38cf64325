"""Estimates of session policies from logs of sessions: exact where all sessions are enumerated, refused where unfit."""

import itertools
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hand_logs import hand_rounds
from hand_slates import hand_slates
from tiny_policies import tiny_artifact
from tiny_session_policies import chances, led_by, session_log, tiny_session_artifact

from recpolicy.core.errors import ConfigError, DataError, DivergedError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.session_log import COLUMNS, SessionLog
from recpolicy.data.session_log_files import SESSIONS, write_sessions
from recpolicy.inference.predictor import Policy
from recpolicy.ope.config import MultiStepConfig
from recpolicy.ope.estimators import TRAJECTORY_ESTIMATORS
from recpolicy.workflows import policy_feedback as module
from recpolicy.workflows.log_evaluation import check_log_type
from recpolicy.workflows.policy_estimation import estimate, read_evaluation_log
from recpolicy.workflows.policy_feedback import step_features

FEW = {"resamples": 50}
WEIGHED = ("trajectory_is", "trajectory_wis", "per_decision_is", "per_decision_wis")


@cache
def policy(seed: int = 0, **changes) -> Policy:
    return Policy(tiny_session_artifact(seed, **changes))


@cache
def log() -> SessionLog:
    """Of policy(), exploring."""
    return led_by(policy(), 150)


def returns_of(logged: SessionLog, gamma: float = 1.0) -> float:
    return float(np.add.reduceat(logged.reward * gamma**logged.step, logged.start[:-1]).mean())


@cache
def every_session() -> SessionLog:
    """All sessions of 2 of 5 items for each of 7 users, each once: what the uniform choice logs in the long run."""
    one = policy(items=11, arms=5, steps=2)
    likes = np.random.default_rng(1).random((7, 5)) < 0.5
    pairs = [(user, *pair) for user in range(7) for pair in itertools.permutations(range(5), 2)]
    user, first, second = np.array(pairs).T.repeat(2, axis=1)
    step = np.tile([0, 1], len(pairs))
    arm = np.where(step == 0, first, second)
    return session_log(
        one, np.arange(len(pairs)).repeat(2), step, user, arm, -np.log(5 - step), likes[user, arm],
        np.zeros(len(step), bool),
    )  # fmt: skip


def truth(one: Policy, act: str, gamma: float) -> float:
    """What the policy earns in the world of `every_session`, by asking it in every session that can be."""
    logged, total = every_session(), 0.0
    arms = np.searchsorted(logged.action_items, logged.item)
    earned = {(user, arm): like for user, arm, like in zip(logged.user, arms, logged.liked, strict=True)}
    for user in range(7):
        for first, chance in enumerate(chances(one, user, [], [], act)):
            like = bool(earned[user, first])
            then = chances(one, user, [first], [like], act)
            later = sum(then[second] * earned[user, second] for second in range(5) if second != first)
            total += chance * (like + gamma * later)
    return total / 7


@pytest.mark.parametrize("act", ["greedy", "exploring"])
@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_weighting_gives_the_truth_when_every_session_was_logged_as_often_as_it_comes(act, gamma):
    one = policy(items=11, arms=5, steps=2)
    found = estimate(one, every_session(), policy_mode=act, gamma=gamma, config=FEW).estimates
    expected = truth(one, act, gamma)
    assert abs(expected - returns_of(every_session(), gamma)) > 0.05  # the negative control
    for name in (*WEIGHED, "per_decision_dr"):  # dr with a model of other users, whatever it says
        assert found[name].value == pytest.approx(expected, abs=1e-6), name
    assert set(found) == set(TRAJECTORY_ESTIMATORS)
    assert found["trajectory_is"].diagnostics.mean_weight == pytest.approx(1, abs=1e-6)


def test_a_policy_is_worth_the_mean_return_of_its_own_log():
    found = estimate(policy(), log(), policy_mode="exploring", config=FEW)
    assert found.logged_value == pytest.approx(returns_of(log()), abs=1e-12)
    for name in WEIGHED:
        one = found.estimates[name]
        assert one.value == pytest.approx(found.logged_value, abs=1e-5), name
        assert one.diagnostics.max_weight == pytest.approx(1, abs=1e-5)
        assert one.diagnostics.effective_rounds == pytest.approx(150)
        assert one.diagnostics.effective_sample_size < one.diagnostics.users
    assert all("an effective sample size below 50 is left after step 0" in note for note in found.notes)  # few users


def test_greedy_is_what_is_judged_unless_told_otherwise():
    default, greedy, exploring = (
        estimate(policy(), log(), config=FEW, **act)
        for act in ({}, {"policy_mode": "greedy"}, {"policy_mode": "exploring"})
    )
    assert default.as_dict() == greedy.as_dict()
    assert default.policy_mode == "greedy"
    assert greedy.estimates["trajectory_is"].value != exploring.estimates["trajectory_is"].value


def test_where_few_sessions_count_there_is_no_verdict_and_a_note_says_from_which_step_on():
    found = estimate(policy(), log(), config=FEW)
    assert {one.verdict for one in found.estimates.values()} == {"no verdict"}
    note = found.notes[0]
    assert note.startswith("the policy: of 150 sessions an effective sample size below 50 is left after step ")
    assert "policy_mode 'exploring'" in note
    assert "exploring" not in estimate(policy(1), log(), policy_mode="exploring", config=FEW).notes[0]


def test_wrong_propensities_show_in_the_mean_weight():
    halved = replace(log(), log_propensity=log().log_propensity + np.log(0.5))
    note = estimate(policy(), halved, policy_mode="exploring", config=FEW).notes[-1]
    weight = (2.0 ** log().length).mean()
    assert note.startswith(f"the policy: the mean weight is {weight:.3f} ± ")
    assert "or propensities are wrong" in note


def test_a_item_that_all_sessions_avoid_leaves_weights_of_nothing():
    """The greedy policy would show something else in each of two sessions: no ratio can be made, and none is."""
    one = policy()
    best = [int(chances(one, user, [], [], "greedy").argmax()) for user in (0, 1)]
    other = np.array([(arm + 1) % 11 for arm in best])
    zeros, both = np.zeros(2, int), np.ones(2, bool)
    logged = session_log(one, np.arange(2), zeros, np.arange(2), other, np.full(2, -2.4), both, both)
    found = estimate(one, logged, config=FEW).estimates
    assert set(found) == {"trajectory_is", "per_decision_is", "per_decision_dr", "fqe"}
    assert found["trajectory_is"].value == 0.0


def test_the_reward_model_knows_how_long_sessions_are():
    """Each item earns 1 and sessions have 4 steps: 4 whoever chooses, in the log and in the model's eyes."""
    logged = led_by(policy(), 200, liked_always=True, leave=0.0)
    found = estimate(policy(1), logged, config=FEW).estimates
    assert found["fqe"].value == pytest.approx(4, rel=0.02)


def test_a_session_that_was_cut_early_is_not_taken_for_one_that_ended():
    """Half of the sessions break off after their first item, which says nothing of what would have followed."""
    logged = led_by(policy(), 300, liked_always=True, leave=0.0)
    number = np.repeat(np.arange(300), logged.length)
    cut = rows_of(logged, (number % 2 == 0) | (logged.step == 0))
    assert returns_of(cut) == pytest.approx(2.5)
    assert estimate(policy(1), cut, config=FEW).estimates["fqe"].value == pytest.approx(4, rel=0.02)
    left = replace(cut, ended=np.append(cut.step[1:] == 0, True))
    assert estimate(policy(1), left, config=FEW).estimates["fqe"].value == pytest.approx(2.5, rel=0.05)


def rows_of(logged: SessionLog, kept: np.ndarray) -> SessionLog:
    return replace(logged, **{name: getattr(logged, name)[kept] for name in (*COLUMNS, "log_propensity")})


def test_the_reward_model_reads_likes_so_far_and_misses_in_a_row():
    logged, sessions = led_by(policy(steps=9), 40, leave=0.05), 0
    rng = np.random.default_rng(0)
    left, typical, rating = rng.random((3, len(logged)))
    features = step_features(logged, left, typical, rating)
    for row in range(len(logged)):
        before = logged.liked[row - logged.step[row] : row].tolist()
        misses = before[::-1].index(True) if True in before else len(before)
        expected = [1, left[row], left[row] ** 2, sum(before) / 9, min(misses / 5, 1), typical[row],
                    left[row] * typical[row], rating[row], left[row] * rating[row]]  # fmt: skip
        np.testing.assert_allclose(features[row], expected)
        sessions += misses > 5
    assert sessions > 0


def test_a_model_that_does_not_converge_is_left_out_with_a_note(monkeypatch):
    def never(*_):
        raise DivergedError("FQE: Q does not converge in 9 sweeps")

    monkeypatch.setattr(module, "linear_model", never)
    found = estimate(policy(), log(), policy(1), policy_mode="exploring", config=FEW)
    assert set(found.estimates) == set(found.differences) == set(WEIGHED)
    assert sum("with a reward model are left out: FQE: Q does not converge in 9" in note for note in found.notes) == 2


def test_a_policy_gains_nothing_over_itself_and_something_else_over_another():
    same = estimate(policy(1), log(), policy(1), policy_mode="exploring", config=FEW)
    assert {one.value for one in same.differences.values()} == {0.0}
    other = estimate(policy(1), log(), policy(), policy_mode="exploring", config=FEW)
    assert set(other.differences) == set(other.estimates) == set(TRAJECTORY_ESTIMATORS)
    gain = other.differences["per_decision_dr"]
    assert gain.value == pytest.approx(gain.candidate.value - gain.incumbent.value)
    assert gain.candidate.value == other.estimates["per_decision_dr"].value
    assert other.differences["per_decision_is"].incumbent.value == pytest.approx(other.logged_value, abs=1e-5)
    assert other.difference_table().loc["per_decision_dr", "difference"] == f"{gain.value:+.3f}"


def test_estimates_are_plain_values_with_how_they_were_made():
    body = estimate(policy(1), log(), policy(), gamma=0.9, config=FEW).as_dict()
    assert json.loads(json.dumps(body, allow_nan=False)) == body
    assert (body["policy_mode"], body["gamma"], body["log"]) == ("greedy", 0.9, "tiny sessions")
    assert body["logged_value"] == pytest.approx(returns_of(log(), 0.9))
    assert body["config"]["resamples"] == 50
    assert {note.split(":")[0] for note in body["notes"]} == {"the policy", "the incumbent"}


def test_seed_and_settings_are_used():
    first, second = (
        estimate(policy(), log(), policy_mode="exploring", config=FEW, seed=seed).estimates for seed in (0, 1)
    )
    assert first["per_decision_is"].value == second["per_decision_is"].value
    # Some intervals end at both ends of the scale, whatever the seed.
    assert any(first[name].intervals["bootstrap"] != second[name].intervals["bootstrap"] for name in first)
    fixed = estimate(policy(), log(), config=MultiStepConfig(resamples=7, folds=3))
    assert (fixed.estimates.config["resamples"], fixed.estimates.config["folds"]) == (7, 3)


@pytest.mark.parametrize(
    ("one", "changes", "message"),
    [
        (lambda: Policy(tiny_artifact(arms=6)), {}, r"its 11 items are not the 6 of the policy \(linucb\)"),
        (policy, {"log_propensity": None}, "tiny sessions: no propensities"),
        (lambda: policy(arms=6), {}, "its 11 items are not the 6 of the policy"),
        (lambda: policy(steps=3), {}, "a session of 4 steps, but sessions of the policy .* have at most 3"),
        (lambda: policy(users=4), {}, "user row 6, but the policy .* knows 4 users"),
    ],
)
def test_a_log_that_is_not_the_policys_is_refused(one, changes, message):
    with pytest.raises((ConfigError, DataError), match=message):
        estimate(one(), replace(log(), **changes), config=FEW)


def test_sessions_that_a_policy_or_one_before_it_has_learnt_from_are_refused():
    digest = log().digest
    for metadata in ({"log": digest}, {"log": "other", "parents": [{"policy_digest": "aa", "log": digest}]}):
        guilty = Policy(tiny_session_artifact(metadata=metadata))
        with pytest.raises(DataError, match="the policy has learned from this log"):
            estimate(guilty, log())
        with pytest.raises(DataError, match="the incumbent has learned from this log"):
            estimate(policy(), log(), guilty, config=FEW)


def test_an_incumbent_of_other_users_or_items_is_refused():
    artifact = tiny_session_artifact(1)
    users = artifact.users.assign(user_id=artifact.users["user_id"] + 1)
    items = artifact.items.assign(item_id=artifact.items["item_id"] + 1)
    for changes, what in (({"users": users}, "users"), ({"items": items}, "items")):
        stranger = Policy(replace(artifact, **changes))
        with pytest.raises(DataError, match=f"knows other {what} than the candidate"):
            estimate(policy(), log(), stranger, config=FEW)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"policy_mode": "gready"}, r"no policy_mode named 'gready'\. Did you mean 'greedy'"),
        ({"gamma": 1.5}, r"gamma is 1\.5"),
        ({"config": {"fold": 3}}, "no setting named 'fold'"),
    ],
)
def test_wrong_words_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        estimate(policy(), log(), **words)


def test_a_policy_of_sessions_is_refused_on_anything_else():
    with pytest.raises(ConfigError, match="topk_reinforce is a session policy, but hand is not a log of sessions"):
        check_log_type(policy(), False, hand_rounds().name)
    with pytest.raises(ConfigError, match="topk_reinforce is a session policy, but hand is not a log of sessions"):
        estimate(policy(), hand_rounds())
    with pytest.raises(ConfigError, match="topk_reinforce is a session policy, but hand is not a log of sessions"):
        estimate(policy(), hand_slates())


def test_sessions_are_read_from_a_file_or_its_folder_and_strange_ids_named(tmp_path):
    write_sessions(tmp_path / SESSIONS, log(), IdVocabulary.from_policy(policy()))
    for path in (tmp_path, tmp_path / SESSIONS):
        assert read_evaluation_log(policy(), path).digest == log().digest
    few = Policy(tiny_session_artifact(users=4))
    with pytest.raises(DataError, match=r"sessions\.parquet: row \d+: user_id \d is none of the 4"):
        read_evaluation_log(few, tmp_path)
    (tmp_path / SESSIONS).unlink()
    with pytest.raises(ConfigError, match="is a session policy, but"):
        read_evaluation_log(policy(), tmp_path)
