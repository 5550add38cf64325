import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_rounds import simplexes, vectors
from synthetic_slates import (
    ALL,
    CHANCE,
    FEW,
    MU,
    PI,
    SLATES,
    WANTED,
    WORTH,
    D,
    K,
    additive,
    at,
    cascade,
    every_slate,
    fitted_model,
    logged,
    slate_moments,
)

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.ope.config import MultiStepConfig
from recpolicy.ope.engine import estimate_slates
from recpolicy.ope.estimators import SLATE_ESTIMATORS
from recpolicy.ope.feedback import SlateFeedback
from recpolicy.ope.fqe import StepModel
from recpolicy.ope.resampling import controlled_statistic
from recpolicy.ope.terms import (
    control_weights,
    controlled_terms,
    cross_fitted_weights,
    independent_terms,
    ips_terms,
    per_decision_dr_terms,
    per_decision_terms,
    snips_terms,
)
from recpolicy.ope.weights import cumulative_weights, general_weights, pseudo_inverse_weights, without_repeats_moments

# The four slates of two slots with two items, once each: logged evenly, the target shows (0, 0).
FOUR = every_slate(2, 2)
RATIO = np.where(FOUR == 0, 2.0, 0.0)
ADDITIVE, INTERACTING = np.array([1, 0.6, 0.5, 0.1]), np.array([1.0, 0, 0, 0])


def four_slates(reward=ADDITIVE, **changes) -> SlateFeedback:
    return SlateFeedback(np.full((4, 2), 0.5), RATIO / 2, reward, np.arange(4), **changes)


def test_weights_of_the_four_slates():
    assert RATIO.tolist() == [[2, 2], [2, 0], [0, 2], [0, 0]]
    assert pseudo_inverse_weights(RATIO).tolist() == [3, 1, 1, -1]
    assert cumulative_weights(RATIO)[:, -1].tolist() == [4, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "reward", "expected"),
    [
        ("ips", ADDITIVE, 1.0),
        ("pi", ADDITIVE, 1.0),  # (3 + .6 + .5 - .1) / 4
        ("wpi", ADDITIVE, 1.0),  # 4 / 4
        ("pi_single", ADDITIVE, 1.0),  # mean(G - 1) = 0
        ("pi_slots", ADDITIVE, 1.0),
        ("ips", INTERACTING, 1.0),
        ("snips", INTERACTING, 1.0),
        ("pi", INTERACTING, 0.75),  # truth 1: biased once slots interact
        ("wpi", INTERACTING, 0.75),
        ("pi_slots", INTERACTING, 0.75),
    ],
)
def test_the_four_slates_are_as_worked_out_by_hand(name, reward, expected):
    assert estimate_slates(four_slates(reward), [name], FEW)[name].value == pytest.approx(expected)


def test_control_weights_are_as_worked_out_by_hand():
    # Y = 3, 0, 3 and 0, 2, 2 with R = 1, 1, 2: G = 2, 1, 4 and G R = 2, 1, 8
    ratio, reward = np.array([[3.0, 0], [0, 2], [3, 2]]), np.array([1.0, 1, 2])
    weight = pseudo_inverse_weights(ratio)
    assert weight.tolist() == [2, 1, 4]
    off = ratio - 1  # 2 -1, -1 1, 2 1; squares 9 and 3
    per_slot = control_weights(weight * reward, off, off**2)
    assert per_slot == pytest.approx([19 / 9, 7 / 3])  # (4 - 1 + 16) / 9, (-2 + 1 + 8) / 3
    single = control_weights(weight * reward, weight[:, None] - 1, (off**2).sum(axis=1, keepdims=True))
    assert single == pytest.approx([26 / 12])  # (2 + 0 + 24) / (9 + 3)
    assert controlled_terms(weight * reward, off, per_slot).sum() == pytest.approx(11 - 19 / 3 - 7 / 3)
    assert controlled_statistic(weight * reward, off, off**2).value == pytest.approx((11 - 26 / 3) / 3)


# By enumeration: every slate once, weighted by how often it is logged.


@st.composite
def shelves(draw):
    """Slot by slot probabilities [K, D], none near 0."""
    return np.array([draw(simplexes(D)) for _ in range(K)])


@given(mu=shelves(), pi=shelves(), worth=vectors(K * D))
def test_pi_is_unbiased_if_slots_add_up_and_so_are_its_control_variates(mu, pi, worth):
    worth = worth.reshape(K, D)
    chance, ratio, reward = at(mu, SLATES).prod(axis=1), at(pi / mu, SLATES), at(worth, SLATES).sum(axis=1)
    weight, truth = pseudo_inverse_weights(ratio), float((pi * worth).sum())
    assert chance @ (weight * reward) == pytest.approx(truth, abs=1e-7)
    fixed = controlled_terms(weight * reward, ratio - 1, np.array([0.7, -2, 5]))
    assert chance @ fixed == pytest.approx(truth, abs=1e-7)
    assert chance @ independent_terms(ratio, at(worth, SLATES)) == pytest.approx(truth, abs=1e-7)
    assert chance @ (cumulative_weights(ratio)[:, -1] * reward) == pytest.approx(truth, abs=1e-7)


def test_pi_is_biased_once_slots_interact_and_ips_is_not():
    reward = at(WORTH, SLATES).sum(axis=1) + (SLATES[:, 0] == 2) * (SLATES[:, 1] == 0)  # worth 1 more together
    truth = WANTED @ reward
    assert CHANCE @ (cumulative_weights(ALL)[:, -1] * reward) == pytest.approx(truth)
    assert abs(CHANCE @ (pseudo_inverse_weights(ALL) * reward) - truth) > 0.1


def test_slots_are_uncorrelated_and_weights_have_mean_one():
    off = ALL - 1
    moments = (off * CHANCE[:, None]).T @ off
    assert moments - np.diag(np.diag(moments)) == pytest.approx(np.zeros((K, K)), abs=1e-12)
    assert CHANCE @ off == pytest.approx(np.zeros(K), abs=1e-12)
    weight = pseudo_inverse_weights(ALL)
    assert CHANCE @ weight == pytest.approx(1)
    assert CHANCE @ (weight - 1) ** 2 == pytest.approx(np.trace(moments))


def test_in_the_population_more_weights_vary_less():
    reward = at(WORTH, SLATES).sum(axis=1)
    weight, off = pseudo_inverse_weights(ALL), ALL - 1
    outcome = weight * reward
    best = (CHANCE * outcome) @ off / (CHANCE @ off**2)
    single = (CHANCE * outcome) @ (weight - 1) / (CHANCE @ (weight - 1) ** 2)

    def spread(terms):
        return CHANCE @ (terms - CHANCE @ terms) ** 2

    one = controlled_terms(outcome, weight[:, None] - 1, np.array([single]))
    assert spread(controlled_terms(outcome, off, best)) < spread(one) < spread(outcome)
    assert spread(controlled_terms(outcome, off, best + 0.1)) > spread(controlled_terms(outcome, off, best))


def test_coefficients_from_other_slates_leave_no_bias_and_from_the_same_do():
    # all logs of two slates, each its own fold, by enumeration
    reward = at(WORTH, SLATES).sum(axis=1)
    truth = WANTED @ reward
    first, second = (index.ravel() for index in np.indices((len(SLATES), len(SLATES))))
    outcome, off, fold = pseudo_inverse_weights(ALL) * reward, ALL - 1, np.array([0, 1])
    crossed, plain = 0.0, 0.0
    for i, j in zip(first, second, strict=True):
        rows, likely = [i, j], CHANCE[i] * CHANCE[j]
        weights = cross_fitted_weights(outcome[rows], off[rows], off[rows] ** 2, fold)
        crossed += likely * controlled_terms(outcome[rows], off[rows], weights).mean()
        plain += likely * controlled_statistic(outcome[rows], off[rows], off[rows] ** 2).value
    assert crossed == pytest.approx(truth)
    assert abs(plain - truth) > 0.1


def test_cascade_forms_are_unbiased_in_a_cascade_and_independent_ones_are_not():
    earned = cascade(SLATES)
    truth = WANTED @ earned.sum(axis=1)
    assert CHANCE @ per_decision_terms(cumulative_weights(ALL), earned) == pytest.approx(truth)
    assert abs(CHANCE @ independent_terms(ALL, earned) - truth) > 0.05
    assert abs(CHANCE @ (pseudo_inverse_weights(ALL) * earned.sum(axis=1)) - truth) > 0.05


def test_cascade_forms_are_biased_where_a_slot_earns_by_what_is_below():
    earned = cascade(SLATES[:, ::-1])[:, ::-1]
    truth = WANTED @ earned.sum(axis=1)
    assert CHANCE @ (cumulative_weights(ALL)[:, -1] * earned.sum(axis=1)) == pytest.approx(truth)
    assert abs(CHANCE @ per_decision_terms(cumulative_weights(ALL), earned) - truth) > 0.05


@given(cells=vectors(D + D**2 + D**3))
def test_cascade_dr_is_unbiased_with_any_predictions(cells):
    earned, predicted, direct = cascade(SLATES), np.empty(SLATES.shape), np.empty(SLATES.shape)
    for slot, table in enumerate(np.split(cells, [D, D + D**2])):  # one for every slate so far
        table = table.reshape((D,) * (slot + 1))
        so_far = tuple(SLATES[:, : slot + 1].T)
        predicted[:, slot], direct[:, slot] = table[so_far], (table @ PI[slot])[so_far[:-1]]
    terms = per_decision_dr_terms(cumulative_weights(ALL), earned, predicted, direct)
    assert CHANCE @ terms == pytest.approx(WANTED @ earned.sum(axis=1), abs=1e-7)


def test_the_fitted_cascade_model_makes_cascade_dr_sharper_than_rips():
    log, items = logged(4_000, 0)
    truth = WANTED @ cascade(SLATES).sum(axis=1)
    found = estimate_slates(log, config=FEW, model=fitted_model(log, items))
    width = {name: result.intervals["t"].hi - result.value for name, result in found.items()}
    assert width["cascade_dr"] < width["rips"] < width["ips"]
    for name in ("ips", "snips", "rips", "cascade_dr"):
        assert abs(found[name].value - truth) < 2 * width[name], name  # 4 standard errors


def test_the_logging_policy_itself_earns_the_mean_reward_by_every_estimator():
    log, _ = logged(300, 0, pi=MU)
    flat = StepModel(np.full((300, K), 0.4), np.full((300, K), 0.4))
    found = estimate_slates(log, config=FEW, model=flat)
    assert list(found) == list(SLATE_ESTIMATORS)
    for result in found.values():
        assert result.value == pytest.approx(log.reward.mean())
        assert result.diagnostics.effective_sample_size == pytest.approx(300)


def test_one_slot_is_a_single_choice():
    log, _ = logged(200, 0)
    one = SlateFeedback(log.behavior_prob[:, :1], log.target_prob[:, :1], log.slot_reward[:, 0], log.user)
    found = estimate_slates(one, config=FEW)
    weight = one.ratio[:, 0]
    assert found["pi"].value == found["ips"].value == pytest.approx(ips_terms(weight, one.reward).mean())
    assert found["wpi"].value == pytest.approx(snips_terms(weight, one.reward).mean())
    assert found["pi_single"].value == pytest.approx(found["pi_slots"].value)


@pytest.mark.parametrize("users", [None, 200])
def test_all_estimates_of_additive_slates_are_near_the_truth(users):
    log, items = logged(6_000, 1, earn=additive, users=users)
    found = estimate_slates(log, config=FEW, model=fitted_model(log, items))
    for name, result in found.items():
        error = (result.intervals["t"].hi - result.value) / 1.96
        assert abs(result.value - (PI * WORTH).sum()) < 4 * error, name
        width = result.intervals["bootstrap"].hi - result.intervals["bootstrap"].lo
        assert width == pytest.approx(4 * error, rel=0.35), name  # 100 resamples


def test_slots_drawn_apart_are_uncorrelated_in_the_log():
    log, _ = logged(10_000, 0)
    found = np.corrcoef(log.ratio.T)[np.triu_indices(K, 1)]
    assert np.abs(found).max() < 0.04  # 4 standard errors of .01


def errors_of(names, repetitions, mu, worth, slates):
    """Errors of estimators [names, repetitions] on logs of slates paid 0 or 1; the target shows item 0 everywhere."""
    rng = np.random.default_rng(0)
    slots, items = mu.shape
    truth, found = worth[:, 0].sum(), []
    for _ in range(repetitions):
        shown = (rng.random((slates, slots, 1)) > mu.cumsum(axis=1)).sum(axis=2).clip(max=items - 1)
        reward = (rng.random(slates) < at(worth, shown).sum(axis=1)).astype(float)
        log = SlateFeedback(at(mu, shown), (shown == 0).astype(float), reward, np.arange(slates))
        estimates = estimate_slates(log, names, MultiStepConfig(resamples=1))
        found.append([estimates[name].value - truth for name in names])
    return np.array(found).T


def test_errors_of_many_logs_have_the_sizes_and_the_order_of_theory():
    rng = np.random.default_rng(5)
    mu, worth = rng.dirichlet(np.full(5, 2.0), 3), rng.uniform(0, 1 / 3, (3, 5))
    names = ["ips", "pi", "wpi", "pi_single", "pi_slots", "pi_single_cross", "pi_slots_cross"]
    errors = errors_of(names, 300, mu, worth, 400)
    rmse = dict(zip(names, np.sqrt((errors**2).mean(axis=1)), strict=True))
    slates = every_slate(3, 5)
    chance, reward = at(mu, slates).prod(axis=1), at(worth, slates).sum(axis=1)
    ratio = (slates == 0) / at(mu, slates)
    for name, weight in (("ips", ratio.prod(axis=1)), ("pi", pseudo_inverse_weights(ratio))):
        exact = np.sqrt((chance @ (weight**2 * reward) - worth[:, 0].sum() ** 2) / 400)  # reward 0 or 1
        assert rmse[name] == pytest.approx(exact, rel=0.2), name
    assert rmse["ips"] > 2.5 * rmse["pi"]
    assert rmse["pi"] > max(rmse["wpi"], rmse["pi_single"], rmse["pi_slots"], rmse["pi_slots_cross"])
    assert min(rmse["pi_single"], rmse["pi_slots"]) < rmse["wpi"]
    assert rmse["pi_slots_cross"] > rmse["pi_slots"]  # the price of no bias
    error = dict(zip(names, errors.std(axis=1) / 300**0.5, strict=True))
    bias = dict(zip(names, errors.mean(axis=1), strict=True))
    assert all(abs(bias[name]) < 4 * error[name] for name in ("ips", "pi", "pi_single_cross", "pi_slots_cross"))


# Slates without repeats: slots depend on each other.
ORDERED = np.array(list(permutations(range(4), 2)))


def test_moments_of_slates_without_repeats_are_those_of_their_list():
    for slots, items in ((2, 4), (3, 3), (1, 1), (1, 3)):
        slates = np.array(list(permutations(range(items), slots)))
        gamma, _ = slate_moments(slates, np.full(len(slates), 1 / len(slates)), items)
        assert without_repeats_moments(slots, items) == pytest.approx(gamma)


@pytest.mark.parametrize(("slots", "items"), [(2, 4), (3, 4), (3, 3), (4, 4)])
@settings(max_examples=30)
@given(data=st.data())
def test_the_general_form_is_unbiased_without_repeats(slots, items, data):
    slates = np.array(list(permutations(range(items), slots)))
    wanted = data.draw(simplexes(len(slates)))
    worth = data.draw(vectors(slots * items)).reshape(slots, items)
    _, moment = slate_moments(slates, wanted, items)
    weight = general_weights(without_repeats_moments(slots, items), moment, slates)
    reward = at(worth, slates).sum(axis=1)
    assert weight.mean() == pytest.approx(1)
    assert (weight * reward).mean() == pytest.approx(wanted @ reward, abs=1e-7)


def test_without_repeats_the_form_for_independent_slots_is_biased():
    wanted = (ORDERED == [0, 1]).all(axis=1).astype(float)
    reward = at(np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]]), ORDERED).sum(axis=1)
    naive = pseudo_inverse_weights((ORDERED == [0, 1]) * 4.0)
    assert abs((naive * reward).mean() - wanted @ reward) > 0.1


def test_the_general_form_of_independent_slots_is_the_sum_over_slots():
    gamma, _ = slate_moments(SLATES, CHANCE, D)
    weight = general_weights(gamma, PI.ravel(), SLATES)
    assert weight == pytest.approx(pseudo_inverse_weights(ALL))
    each = general_weights(gamma, np.tile(PI.ravel(), (len(SLATES), 1)), SLATES)
    assert each == pytest.approx(weight)


def test_estimates_without_repeats_take_given_weights_and_refuse_the_rest():
    rng = np.random.default_rng(0)
    items = ORDERED[rng.integers(len(ORDERED), size=3_000)]
    worth = np.array([[0.5, 0.1, 0, 0.2], [0.1, 0.4, 0.3, 0.0]])
    reward = (rng.random(3_000) < at(worth, items).sum(axis=1)).astype(float)
    moment = np.eye(4)[[0, 1]].ravel()
    weight = general_weights(without_repeats_moments(2, 4), moment, items)
    behavior_prob, target_prob = np.tile([1 / 4, 1 / 3], (3_000, 1)), (items == [0, 1]).astype(float)
    log = SlateFeedback(
        behavior_prob, target_prob, reward, np.arange(3_000), independent=False, pseudo_weight=weight
    )  # fmt: skip
    found = estimate_slates(log, config=FEW)
    assert list(found) == ["ips", "snips", "pi", "wpi", "pi_single", "pi_single_cross"]
    for name, result in found.items():
        assert abs(result.value - 0.9) < 2 * (result.intervals["t"].hi - result.value), name
    assert found["pi"].diagnostics.effective_sample_size > found["ips"].diagnostics.effective_sample_size
    best = float((weight * reward) @ (weight - 1) / ((weight - 1) @ (weight - 1)))
    assert found["pi_single"].value == pytest.approx(found["pi"].value - best * (weight.mean() - 1))
    with pytest.raises(ConfigError, match="'pi_slots' needs slots that are filled independently"):
        estimate_slates(log, ["pi_slots"])


def test_a_target_outside_the_log_or_too_many_slots_are_refused():
    gamma, _ = slate_moments(np.array([[0, 1], [1, 0]]), np.full(2, 0.5), 3)
    with pytest.raises(DataError, match=r"row 0: the target shows item 2 in slot 1, the logging policy never"):
        general_weights(gamma, np.eye(3)[[0, 2]].ravel(), np.array([[0, 1]]))
    with pytest.raises(ConfigError, match=r"slates of 4 of 3 items without repeats; expected 1\.\.3"):
        without_repeats_moments(4, 3)


def test_wrong_propensities_are_caught_by_the_mean_weight():
    log, _ = logged(4_000, 0)
    wrong = SlateFeedback(np.full(log.behavior_prob.shape, 1 / 3), log.target_prob, log.reward, log.user)
    found = estimate_slates(wrong, ["pi"], FEW)["pi"]
    assert found.diagnostics.mean_weight_z > 10
    assert estimate_slates(log, ["pi"], FEW)["pi"].diagnostics.mean_weight_z < 4


def test_diagnostics_are_about_the_weights_that_each_estimator_uses():
    log, _ = logged(500, 0)
    found = estimate_slates(log, ["ips", "iips", "pi"], FEW)
    assert found["ips"].diagnostics.max_weight == pytest.approx(log.ratio.prod(axis=1).max())
    assert found["pi"].diagnostics.max_weight == pytest.approx(pseudo_inverse_weights(log.ratio).max())
    sizes = [float(slot.sum() ** 2 / (slot @ slot)) for slot in log.ratio.T]
    assert found["iips"].diagnostics.effective_sample_size == pytest.approx(min(sizes))
    assert estimate_slates(four_slates(), ["pi"], FEW)["pi"].verdict == "no verdict"
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["config"]["seed"] == 0


@pytest.mark.parametrize("name", SLATE_ESTIMATORS)
def test_an_estimate_is_what_the_bootstrap_would_say_of_the_log_itself(name):
    log, _ = logged(40, 0)
    twice = SlateFeedback(  # two alike users: every resample is the log
        *(np.concatenate([each, each]) for each in (log.behavior_prob, log.target_prob, log.reward)),
        np.repeat([0, 1], 40),
        np.concatenate([log.slot_reward, log.slot_reward]),
    )
    flat = StepModel(np.full((80, K), 0.3), np.full((80, K), 0.2))
    found = estimate_slates(twice, [name], FEW, model=flat)[name]
    interval = found.intervals["bootstrap"]
    assert (interval.lo + interval.hi) / 2 == pytest.approx(found.value)  # its width is that of rare rewards alone


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": np.array([])}, "no slates"),
        ({"behavior_prob": np.full(4, 0.5)}, r"behavior_prob \(4,\); expected \(4, K\)"),
        ({"target_prob": np.full((4, 3), 0.5)}, r"target_prob \(4, 3\); expected \(4, 2\)"),
        ({"user": np.arange(4.0)}, "user is float64"),
        ({"behavior_prob": np.array([[0.5, 0.5], [0.5, 0], [0.5, 0.5], [0.5, 0.5]])}, "row 1: behavior_prob"),
        ({"behavior_prob": np.full((4, 2), np.nan)}, r"row 0: behavior_prob .* \(and 3 more such rows\)"),
        ({"target_prob": np.full((4, 2), 1.5)}, "row 0: target_prob"),
        ({"reward": np.array([0, 0, np.inf, 0])}, "row 2: reward inf"),
        ({"slot_reward": np.full((4, 2), 0.3)}, r"row 0: reward 1\.0 .*expected the sum of the slate's slot rewards"),
        ({"pseudo_weight": np.ones(4)}, "pseudo_weight is only for independent=False"),
        ({"pseudo_weight": np.full(4, np.nan), "independent": False}, "row 0: pseudo_weight nan"),
    ],
)
def test_a_log_that_is_not_one_is_refused(changes, message):
    fields = {"behavior_prob": np.full((4, 2), 0.5), "target_prob": RATIO / 2, "reward": ADDITIVE, "user": np.arange(4)}
    with pytest.raises(DataError, match=message):
        SlateFeedback(**fields | changes)


@pytest.mark.parametrize(
    ("name", "slates", "message"),
    [
        ("wip", four_slates(), "no estimator of slates named 'wip'. Did you mean 'wpi'"),
        ("rips", four_slates(), "'rips' needs `slot_reward`"),
        ("cascade_dr", four_slates(slot_reward=np.stack([ADDITIVE, 0 * ADDITIVE], axis=1)), "needs `model`"),
        ("pi", four_slates(independent=False), "'pi' needs slots that are filled independently, or `pseudo_weight`"),
        ("iips", four_slates(independent=False), "'iips' needs slots that are filled independently"),
    ],
)
def test_what_cannot_be_estimated_says_why(name, slates, message):
    with pytest.raises(ConfigError, match=message):
        estimate_slates(slates, [name], FEW)


def test_cascade_forms_without_slot_rewards_are_refused():
    with pytest.raises(DataError, match="no slot_reward"):
        four_slates().trajectories()


def test_ratios_are_left_out_or_refused_where_no_logged_slate_speaks_of_the_target():
    rare = SlateFeedback(np.full((2, 2), 0.5), np.array([[1, 0], [0, 1.0]]), ADDITIVE[:2], np.arange(2))
    assert {"ips", "wpi"} < set(estimate_slates(rare, config=FEW)) < set(SLATE_ESTIMATORS) - {"snips"}
    with pytest.raises(ConfigError, match=r"'snips' needs logged slates that the target might produce as a whole"):
        estimate_slates(rare, ["snips"], FEW)
    nothing = SlateFeedback(np.full((4, 2), 0.5), np.zeros((4, 2)), ADDITIVE, np.arange(4))  # all G are -1
    with pytest.raises(ConfigError, match=r"'wpi' needs pseudo-inverse weights with a mean above 0"):
        estimate_slates(nothing, ["wpi"], FEW)


def test_a_bootstrap_without_a_resample_to_divide_by_has_no_interval():
    weight = np.where(np.arange(200) < 2, 1.0, 0.0)[:, None]
    rare = SlateFeedback(np.ones((200, 1)), weight, np.ones(200), np.arange(200))
    configs = [MultiStepConfig(resamples=1, seed=seed, reward_range=(0, 1)) for seed in range(40)]
    ends = [estimate_slates(rare, ["snips"], config)["snips"].intervals["bootstrap"].lo for config in configs]
    assert any(end == -np.inf for end in ends)
    assert any(np.isfinite(ends))


@pytest.mark.parametrize("name", SLATE_ESTIMATORS)
def test_every_estimator_has_its_row_on_the_page(name):
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "off_policy_slates.md").read_text()
    assert page.count(f"\n| `{name}` | ") >= 1
