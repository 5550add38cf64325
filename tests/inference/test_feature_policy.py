"""Feature policies answer requests and logs alike, with exact propensities; faulty requests are refused in one line."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from tiny_feature_log import CASES, ONLINE, tiny_actions, tiny_log, tiny_policy, trained_case

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.inference.rank_request import MAX_ACTIONS, draw

CONTEXT = {"hour": 0.4, "device": "mobile", "member": True}


@pytest.fixture(params=CASES)
def policy(request):
    return trained_case(request.param)


@pytest.fixture(params=ONLINE)
def online_policy(request):
    return trained_case(request.param)


@pytest.fixture
def squarecb():
    return trained_case("squarecb")


def request_of(log, row):
    """The request of a round of the log."""
    context = {name: column[row].item() if hasattr(column[row], "item") else column[row]
               for name, column in log.context.items()}  # fmt: skip
    known = dict(tiny_actions())
    ids = [log.action_id[action] for action in log.offered[log.start[row] : log.start[row + 1]]]
    return context, [(identifier, known[identifier]) for identifier in ids]


def test_a_request_and_the_same_round_of_a_log_have_the_same_probabilities(policy):
    log = tiny_log(50, seed=3)
    batch, scores = policy.probabilities_of(log), policy.scores_of(log)
    for row in range(len(log)):
        offers = slice(log.start[row], log.start[row + 1])
        probability, score = policy.probabilities(*request_of(log, row))
        np.testing.assert_allclose(probability, batch[offers], atol=1e-12)
        np.testing.assert_allclose(score, scores[offers], atol=1e-12)


@pytest.mark.parametrize("name", ["linucb_shared", "linucb_hybrid", "neural_linucb"])
def test_without_a_multiplier_no_widths_are_computed(name, monkeypatch):
    policy, log = trained_case(name), tiny_log(50, seed=3)
    almost, zero = (replace(policy, settings={**policy.settings, "alpha": alpha}) for alpha in (1e-12, 0.0))
    expected = almost.probabilities_of(log)
    estimate = type(policy.model).estimate

    def only_means(model, pairs, widths):
        assert not widths
        return estimate(model, pairs, widths)

    monkeypatch.setattr(type(policy.model), "estimate", only_means)
    np.testing.assert_allclose(zero.probabilities_of(log), expected, atol=1e-12)
    with pytest.raises(AssertionError):
        almost.probabilities_of(log)


def test_blocks_of_rounds_make_no_difference(policy, monkeypatch):
    log = tiny_log(50, seed=3)
    whole = policy.probabilities_of(log)
    monkeypatch.setattr("recpolicy.inference.feature_policy._CELLS", 10)
    np.testing.assert_allclose(policy.probabilities_of(log), whole, atol=1e-12)


def test_propensities_are_the_frequencies_of_draws(policy):
    actions, draws = tiny_actions(), 20_000
    probability, _ = policy.probabilities(CONTEXT, actions, ["a0"])
    assert probability[0] == 0
    assert probability[1:].min() >= 0.1 / 5 - 1e-12  # the uniform share of five allowed actions
    assert probability.sum() == pytest.approx(1, abs=1e-12)
    count = np.bincount([draw(probability, event) for event in range(draws)], minlength=len(actions))
    error = np.sqrt(probability * (1 - probability) / draws)
    assert (np.abs(count / draws - probability) <= 4 * error + 1e-12).all()


@pytest.mark.parametrize("agent", ["linucb_shared", "linucb_hybrid"])
def test_the_upper_bound_of_a_choice_is_its_mean_plus_its_std(agent):
    policy = trained_case(agent)
    for context in (CONTEXT, {"device": "television", "hour": 0.9}):
        probability, score = policy.probabilities(context, tiny_actions())
        std = policy.estimate_stds(context, tiny_actions())
        assert (std > 0).all()
        assert probability.argmax() == (score + policy.settings["alpha"] * std).argmax()
        alone = [policy.estimate_stds(context, [action])[0] for action in tiny_actions()]
        np.testing.assert_allclose(alone, std, rtol=1e-9)


def test_a_network_knows_no_std():
    assert trained_case("boltzmann").estimate_stds(CONTEXT, tiny_actions()) is None


def test_a_ranking_begins_with_the_draw_and_ends_with_excluded_actions(policy):
    actions = tiny_actions()
    ranking = policy.rank(CONTEXT, actions, ["a2", "never offered"], "event 1")
    assert sorted(ranking.order) == list(range(len(actions)))
    assert ranking.order[0] == ranking.chosen
    assert ranking.order[-1] == 2
    rest = ranking.score[ranking.order[1:-1]]
    assert (np.diff(rest) <= 0).all()
    again = policy.rank(CONTEXT, actions, ["a2", "never offered"], "event 1")
    assert again.chosen == ranking.chosen
    chosen = {policy.rank(CONTEXT, actions, seed=event).chosen for event in range(200)}
    assert len(chosen) > 1


def test_an_action_is_known_by_its_features_not_its_place(policy):
    actions = tiny_actions()
    probability, _ = policy.probabilities(CONTEXT, actions)
    turned, _ = policy.probabilities(CONTEXT, actions[::-1])
    np.testing.assert_allclose(turned[::-1], probability, atol=1e-12)


def test_a_single_action_and_a_thousand(policy):
    one, _ = policy.probabilities(CONTEXT, [("only", {"size": 1.0})])
    assert one.tolist() == [1.0]
    many, _ = policy.probabilities({}, [(index, {"size": index / 1000}) for index in range(MAX_ACTIONS)])
    assert many.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("context", "actions", "excluded", "message"),
    [
        ([], [("a", {})], (), "context: found list; expected an object of features"),
        ({}, [], (), "actions: found 0; expected 1 to 1,000"),
        ({}, [(index, {}) for index in range(1001)], (), "actions: found 1,001; expected 1 to 1,000"),
        ({}, [("a", {}), ("b", {}), ("a", {})], (), "actions: the id 'a' occurs twice; expected each id once"),
        ({}, [("", {})], (), "the action id '': expected a whole number or a text that is not empty"),
        ({}, [(1.5, {})], (), "the action id 1.5: expected a whole number or a text"),
        ({}, [(True, {})], (), "the action id True: expected a whole number or a text"),
        ({}, [("a", "red")], (), "actions: the features of 'a' are str; expected an object"),
        ({}, [("a", {}), ("b", {})], ["a", "b"], "actions: all 2 are excluded; expected at least one that is not"),
        ({"huor": 1}, [("a", {})], (), "context: no context feature named 'huor'. Did you mean 'hour'?"),
        ({}, [("a", {"colour": "red"})], (), "no action feature named 'colour'. Did you mean 'color'?"),
        ({"hour": "late"}, [("a", {})], (), "context feature 'hour' (number): row 0 is 'late'; expected a number"),
        ({"hour": float("inf")}, [("a", {})], (), "hour is infinite; expected a finite number"),
        ({}, [("a", {"tags": "new"})], (), "action feature 'tags' (tags): row 0 is 'new'; expected a list of texts"),
        ({"member": 3}, [("a", {})], (), "context feature 'member' (boolean): row 0 is 3; expected true, false, 1, 0"),
    ],
)  # fmt: skip
def test_a_faulty_request_has_one_line(squarecb, context, actions, excluded, message):
    with pytest.raises(DataError) as caught:
        squarecb.rank(context, actions, excluded, 1)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_features_that_the_schema_left_out_are_ignored(squarecb):
    known = replace(
        squarecb, metadata={**squarecb.metadata, "ignored_features": {"context": ["session"], "action": []}}
    )
    plain, _ = known.probabilities(CONTEXT, tiny_actions())
    more, _ = known.probabilities({**CONTEXT, "session": "x"}, tiny_actions())
    np.testing.assert_array_equal(plain, more)
    loose, _ = squarecb.probabilities({**CONTEXT, "anything": [1]}, tiny_actions(), strict=False)
    np.testing.assert_array_equal(plain, loose)


def test_missing_and_unseen_values_are_legal(policy):
    probability, score = policy.probabilities({"device": "television"}, [("a9", {}), ("a0", {"color": "white"})])
    assert np.isfinite(score).all()
    assert probability.sum() == pytest.approx(1)


@pytest.mark.parametrize("parts", [(1, 600), (200, 201, 600)])
def test_learning_online_in_parts_is_the_same_as_at_once(online_policy, parts):
    policy, log = online_policy, tiny_log(600, seed=9, name="later")
    whole, step, first = policy.updated(log), policy, 0
    for last in parts:
        step = step.updated(log.take(first, last, "part"))
        first = last
    np.testing.assert_allclose(step.probabilities_of(log), whole.probabilities_of(log), atol=1e-9)
    assert step.settings == whole.settings
    np.testing.assert_array_equal(step.learned_events, whole.learned_events)
    assert len(whole.learned_events) == len(policy.learned_events) + 600
    assert whole.policy_digest != policy.policy_digest
    assert policy.updated(log).policy_digest == whole.policy_digest


def test_squarecb_explores_less_after_further_rounds(squarecb):
    after = squarecb.updated(tiny_log(300, seed=9, name="later"))
    assert after.settings["rounds"] == 900
    assert after.settings["gamma"] == pytest.approx(10 * 900**0.5)
    assert squarecb.settings["gamma"] == pytest.approx(10 * 600**0.5)


def test_a_network_does_not_learn_online():
    policy = trained_case("eps_greedy")
    assert not policy.learns_online
    with pytest.raises(ConfigError, match="a neural reward model does not learn online; train it again on a log"):
        policy.updated(tiny_log(40, name="later"))


def test_rounds_without_a_reward_teach_nothing(squarecb):
    log = tiny_log(40, seed=4, name="later")
    half = replace(log, reward=np.where(np.arange(40) < 20, log.reward, np.nan))
    some, first = squarecb.updated(half), squarecb.updated(log.take(0, 20, "first"))
    assert some.policy_digest == first.policy_digest
    np.testing.assert_array_equal(some.learned_events, first.learned_events)


def test_rewards_in_another_unit_give_scores_in_that_unit():
    log = tiny_log(300)
    cents = replace(log, reward=log.reward * 100, reward_range=(0.0, 100.0))
    one, hundred = tiny_policy("squarecb", log), tiny_policy("squarecb", cents)
    np.testing.assert_allclose(hundred.scores_of(log), 100 * one.scores_of(log), rtol=1e-9)
    np.testing.assert_allclose(hundred.probabilities_of(log), one.probabilities_of(log), atol=1e-9)


def test_a_policy_is_read_and_asked_without_pandas_pyarrow_and_tensorflow():
    script = (
        "import sys; from recpolicy.inference.feature_artifact import read_feature_policy;"
        "print([name for name in ('pandas', 'pyarrow', 'tensorflow', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
