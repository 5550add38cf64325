"""Policies of either kind on logged sessions, and their gate: exact where every session was logged equally often."""

import itertools
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hand_logs import hand_rounds
from tiny_policies import tiny_artifact
from tiny_session_policies import chances, session_log, tiny_session_artifact

from recpolicy.core.errors import ConfigError, DataError, DivergedError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.candidates import CandidateSets
from recpolicy.data.session_log import SessionLog
from recpolicy.data.session_log_files import SESSIONS, write_sessions
from recpolicy.data.session_returns import SessionReturns
from recpolicy.evaluation.gate import GateConfig
from recpolicy.inference.action_distributions import greedy
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.predictor import Policy
from recpolicy.workflows import policy_feedback
from recpolicy.workflows.candidate_evaluation import evaluate_candidate, evaluate_candidate_folder
from recpolicy.workflows.evaluation_rounds import USER_HALVES, read_gate_log, rounds_of_users
from recpolicy.workflows.gating import gate_candidate
from recpolicy.workflows.policy_estimation import estimate
from recpolicy.workflows.session_log_evaluation import compare_on_sessions

USERS, ITEMS, ARMS = 60, 11, 5
METADATA = {"config": {"agent": {}}}


@cache
def policy(seed: int = 0) -> Policy:
    """A policy of sessions of two items."""
    return Policy(tiny_session_artifact(seed, users=USERS, items=ITEMS, arms=ARMS, steps=2, metadata=METADATA))


@cache
def of_rounds() -> Policy:
    """A policy of single rounds over the same items."""
    artifact = tiny_artifact(3, USERS, ITEMS, ARMS)
    metadata = {**artifact.metadata, **METADATA}
    return Policy(replace(artifact, action_items=policy().artifact.action_items, metadata=metadata))


def best(one: Policy, user: int, shown: list[int]) -> int:
    """Return the item that the policy shows next, no shown one being liked."""
    if one.sequential:
        return int(chances(one, user, shown, [True] * len(shown), "greedy").argmax())
    score = one.scores()[0][user, one.artifact.action_items][np.newaxis]
    return int(greedy(score, ~np.isin(np.arange(ARMS), shown)[np.newaxis]).argmax())


@cache
def wanted(one: Policy) -> np.ndarray:
    """The two items that the policy shows to each user who likes them."""
    return np.array([(first := best(one, user, []), best(one, user, [first])) for user in range(USERS)])


@cache
def log(one: Policy) -> SessionLog:
    """Every session of two items, once for each user; users like what the policy shows them."""
    pairs = [(user, *pair) for user in range(USERS) for pair in itertools.permutations(range(ARMS), 2)]
    user, first, second = np.array(pairs).T.repeat(2, axis=1)
    step = np.tile([0, 1], len(pairs))
    arm = np.where(step == 0, first, second)
    likes = (arm[:, np.newaxis] == wanted(one)[user]).any(axis=1)
    session = np.arange(len(pairs)).repeat(2)
    return session_log(policy(), session, step, user, arm, -np.log(ARMS - step), likes, np.zeros(len(step), bool))


@pytest.fixture
def path(tmp_path):
    write_sessions(tmp_path / SESSIONS, log(policy()), IdVocabulary.from_policy(policy()))
    return tmp_path


def shared(one: Policy, other: Policy) -> float:
    """Return how many items per session users like of a policy, if they like those of another one."""
    return float(np.mean([len({*mine} & {*theirs}) for mine, theirs in zip(wanted(one), wanted(other), strict=True)]))


@pytest.mark.parametrize("one", [policy, of_rounds])
def test_a_policy_of_either_kind_earns_what_it_would_earn(one):
    """The uniform choice shows one of two liked items with 2 / 5."""
    compared = compare_on_sessions(one(), None, log(one()))
    assert compared.mean_reward["t"].value == pytest.approx(2, abs=1e-5)
    assert compared.gain.value == pytest.approx(2 - 0.8, abs=1e-5)
    other = compare_on_sessions(one(), policy(1), log(one()))
    assert 0 < shared(policy(1), one()) < 2  # the incumbent is neither the same nor without a like
    assert other.gain.value == pytest.approx(2 - shared(policy(1), one()), abs=0.15)
    estimates = estimate(one(), log(one()), config={"resamples": 50}).estimates
    for name in ("trajectory_is", "trajectory_wis", "per_decision_is", "per_decision_dr"):
        assert estimates[name].value == pytest.approx(2, abs=1e-5), name
    assert compared.actions.actions == ARMS


def test_return_rates_are_those_of_the_sessions_that_a_policy_leads():
    """Users come back within a day if they like both items, else after nine: 2 of 20 sessions of each user do."""
    one, logged = policy(), log(policy())
    both = np.logical_and.reduceat(logged.liked, logged.start[:-1])
    time = 10 * 86_400_000 * np.arange(len(both)).repeat(2) + logged.step
    returns = SessionReturns(np.where(both, 1.0, 9.0), np.ones(len(both), bool))
    noted = replace(logged, time=time.astype(np.int64), returns=returns)
    found = compare_on_sessions(one, None, noted).figures("the logging policy")["returns"]
    assert found["3"]["rate"] == pytest.approx(1)
    assert found["3"]["gain"]["value"] == pytest.approx(0.9, abs=0.002)  # the last session was not followed so long
    assert found["3"]["gain"]["lo"] > 0.8
    same = compare_on_sessions(one, one, noted).figures("the incumbent")["returns"]["3"]
    assert same["gain"] == {"value": 0, "lo": 0, "hi": 0}
    result = gate_candidate(one, None, noted, policy(1), GateConfig(return_days=3), 0)
    names = [criterion.name for criterion in result.criteria]
    assert sum(name.startswith("return rate within 3 days minus that of incumbent") for name in names) == 1
    missing = gate_candidate(one, None, logged, None, GateConfig(return_days=3), 0)
    assert missing.verdict == "no_verdict"  # the log has no return times
    assert any("effective users behind the return rates: nan" in reason for reason in missing.reasons)


def test_a_policy_of_rounds_chooses_among_candidates(path):
    """Without the best item of each user, the second best comes first."""
    one, logged = of_rounds(), log(of_rounds())
    arm, first = np.searchsorted(logged.action_items, logged.item), wanted(of_rounds())[logged.user, 0]
    keep = np.logical_and.reduceat(arm != first, logged.start[:-1])
    part = logged.select_sessions(keep)
    mask = np.ones((len(part), ARMS), bool)
    mask[np.arange(len(part)), wanted(one)[part.user, 0]] = False
    sets = CandidateSets.without_exclusions(np.packbits(mask, axis=1), np.arange(len(part)), ARMS)
    part = replace(part, candidates=sets, log_propensity=-np.log(ARMS - 1.0 - part.step))
    assert compare_on_sessions(one, None, part).mean_reward["t"].value == pytest.approx(1, abs=1e-5)


def test_the_gate_reads_a_log_of_sessions_without_a_split(path, tmp_path):
    result = gate_candidate(policy(), None, path, None, GateConfig(), out=tmp_path / "gate")
    assert result.verdict == "pass", result.reasons
    values = {criterion.name: criterion.value for criterion in result.criteria}
    assert 0 < values["gain over the logging policy, lower bound"] <= 1.2
    assert values["effective sample size"] == pytest.approx(USERS)
    written = json.loads((tmp_path / "gate" / "evaluation.json").read_text())
    assert written["off_policy"]["unit"] == "session"
    assert written["actions"]["over"] == "logged sessions"
    assert "sessions" not in written  # nothing was simulated
    assert written["inputs"]["rounds"] == log(policy()).digest
    worse = gate_candidate(policy(1), None, path, policy(), GateConfig())
    assert worse.verdict == "fail"
    assert any(reason.startswith("gain over incumbent") for reason in worse.reasons)
    of_either = gate_candidate(of_rounds(), None, path, policy(), GateConfig())
    assert of_either.verdict == "fail"


def test_losses_of_groups_have_the_limit_of_sessions(path):
    """A group may lose half a like per session, but not a tenth of a like per round."""
    evaluation = evaluate_candidate(policy(1), None, log(policy()), policy())
    assert set(evaluation.log_groups) == {"fewer ratings"}  # all users have as many
    body = evaluation.as_dict()["off_policy"]
    whole = body["gain"]["t"]["value"]
    assert evaluation.log_groups["fewer ratings"].interval.value == pytest.approx(whole, abs=1e-9)
    strict = gate_candidate(policy(1), None, path, policy(), GateConfig(session_group_loss=0.01))
    loose = gate_candidate(policy(1), None, path, policy(), GateConfig(session_group_loss=2.0, group_loss=0.01))
    assert "worst group" in " ".join(strict.reasons)
    assert "worst group" not in " ".join(loose.reasons)


def test_without_a_reward_model_weights_alone_decide(monkeypatch):
    def never(*_):
        raise DivergedError("no model")

    monkeypatch.setattr(policy_feedback, "linear_model", never)
    compared = compare_on_sessions(policy(), policy(1), log(policy()))
    assert compared.estimator == compared.gain.estimator == "per_decision_is"
    assert sum("weights alone, without a reward model: no model" in note for note in compared.notes) == 2


def test_a_copy_of_the_incumbent_gains_nothing_and_without_width():
    gain = compare_on_sessions(policy(), policy(), log(policy())).gain
    assert {(ends.lo, ends.value, ends.hi) for ends in gain.limits.values()} == {(0, 0, 0)}


def test_half_of_the_users_and_folders_of_sessions(path):
    logged = read_gate_log(path, policy())
    halves = [rounds_of_users(logged, users) for users in USER_HALVES]
    assert not np.isin(halves[0].user, halves[1].user).any()
    assert sum(len(half.length) for half in halves) == len(logged.length)
    with pytest.raises(DataError, match="no sessions of the users for"):
        rounds_of_users(halves[0], USER_HALVES[1])


def test_what_does_not_go_together_is_refused(path):
    logged = log(policy())
    with pytest.raises(ConfigError, match="guardrails are only for logged rounds"):
        evaluate_candidate(policy(), None, logged, guardrails=GuardrailConfig(max_per_category=1))
    with pytest.raises(ConfigError, match="topk_reinforce is a session policy, but hand is not a log of sessions"):
        evaluate_candidate(policy(), None, hand_rounds())
    with pytest.raises(DataError, match="give a log of sessions, or the split of its training"):
        evaluate_candidate(policy(), None, None)
    with pytest.raises(DataError, match="no propensities"):
        compare_on_sessions(policy(), None, replace(logged, log_propensity=None))
    learned = Policy(tiny_session_artifact(0, users=USERS, items=ITEMS, arms=ARMS, steps=2,
                                           metadata={**METADATA, "log": logged.digest}))  # fmt: skip
    with pytest.raises(DataError, match="the incumbent has learned from this log"):
        compare_on_sessions(policy(), learned, logged)
    assert evaluate_candidate_folder is not None
