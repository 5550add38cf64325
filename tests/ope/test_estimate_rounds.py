import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic_rounds import MU, PI, WORLD, Q, World, five_rounds, five_targets

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.ope import inputs as inputs_module
from recpolicy.ope.config import OffPolicyConfig
from recpolicy.ope.engine import (
    estimate,
    estimate_from_inputs,
    value_difference,
    value_differences,
    value_differences_from_inputs,
    value_limits_from_inputs,
)
from recpolicy.ope.estimators import ESTIMATORS
from recpolicy.ope.feedback import BanditFeedback, TargetPolicy
from recpolicy.ope.inputs import BanditInputs, logged_predictions, marginal_probs

FEW = OffPolicyConfig(resamples=100)
GIVEN = OffPolicyConfig(
    resamples=100, settings={"clipped_ips": 1.5, "switch_dr": 1, "dros": 1}, reward_range=(0, 1), weight_bound=2
)


def test_five_rounds_give_every_oracle_in_one_call():
    names = ["ips", "clipped_ips", "snips", "dm", "dr", "sndr", "switch_dr", "dros"]
    found = estimate(five_rounds(), five_targets(), names, GIVEN, q=np.tile(Q, (5, 1)))
    expected = [0.866667, 0.666667, 0.65, 0.54, 0.646667, 0.62, 0.566667, 0.58]
    assert [result.value for result in found.values()] == pytest.approx(expected, abs=1e-6)
    diagnostics = found["ips"].diagnostics
    assert diagnostics.effective_sample_size == pytest.approx(3.636364, abs=1e-6)
    assert (diagnostics.rounds, diagnostics.users, diagnostics.max_weight) == (5, 5, 2)
    assert diagnostics.mean_weight == pytest.approx(4 / 3)
    assert diagnostics.mean_weight_error == pytest.approx(np.std([2, 1 / 3, 1 / 3, 2, 2], ddof=1) / np.sqrt(5))
    assert found["clipped_ips"].diagnostics.share_clipped == pytest.approx(0.6)


def test_intervals_stay_within_a_given_range_of_rewards():
    """Five rounds are so few that the sequence reaches beyond 0..1; an estimate of 0.866667 stays in its interval."""
    names, q = ["ips", "snips", "dr"], np.tile(Q, (5, 1))
    bare = estimate(five_rounds(), five_targets(), names, replace(GIVEN, reward_range=None), q=q)
    given = estimate(five_rounds(), five_targets(), names, GIVEN, q=q)
    beyond = 0
    for name in names:
        for kind, ends in given[name].intervals.items():
            if np.isfinite(ends.lo):
                assert 0 <= ends.lo <= ends.value <= ends.hi <= 1, (name, kind)
        beyond += sum(np.isfinite(ends.hi) and ends.hi > 1 for ends in bare[name].intervals.values())
    assert beyond > 0


def test_the_logging_policy_earns_its_mean_reward_with_all_rounds_effective():
    rounds = WORLD.log(500, 0)
    found = estimate(rounds, TargetPolicy.from_table(rounds, rounds.logging_probs), ["ips", "snips", "beta_ips"], FEW)
    for result in found.values():
        assert result.value == pytest.approx(rounds.reward.mean())
        assert result.diagnostics.effective_sample_size == pytest.approx(500)
        assert result.diagnostics.mean_weight_z == 0


def test_every_estimator_finds_the_truth_within_its_interval():
    """One large log: 95 % intervals of several estimators that share it, so 4 standard errors."""
    rounds = WORLD.log(40_000, 1, users=5_000)
    found = estimate(rounds, WORLD.target_in(rounds), config=FEW)
    assert set(found) == set(ESTIMATORS) - {"replay", "mips"}  # the log is not uniform, there are no clusters
    for name, result in found.items():
        if name != "dm":
            error = (result.intervals["t"].hi - result.value) / 1.96
            assert abs(result.value - WORLD.value) < 4 * error, name
            assert result.verdict == "estimated"


def test_intervals_of_consistent_estimators_cover_the_truth():
    # 150 logs of 600 rounds of 200 users: .95 within 4 standard errors (.0178)
    names = ("ips", "snips", "beta_ips", "dr", "sndr", "mrdr")
    covered = {(name, kind): 0 for name in names for kind in ("t", "bootstrap", "sequence")}
    for seed in range(150):
        rounds = WORLD.log(600, seed, users=200)
        found = estimate(rounds, WORLD.target_in(rounds), names, OffPolicyConfig(resamples=200))
        for name, kind in covered:
            interval = found[name].intervals[kind]
            covered[name, kind] += interval.lo <= WORLD.value <= interval.hi
    assert min(covered.values()) >= 0.88 * 150
    assert max(count for (_, kind), count in covered.items() if kind != "sequence") < 150


def test_empirical_bernstein_holds_the_truth_under_any_transform():
    transformed = {"clipped_ips": 1.0, "sub_gaussian": 0.5, "switch_dr": 1.0, "dros": 1.0}
    config = OffPolicyConfig(resamples=1, settings=transformed, reward_range=(0, 1), weight_bound=8)
    names = [*transformed, "ips", "dr"]
    held, biased = dict.fromkeys(names, 0), 0
    for seed in range(60):
        rounds = WORLD.log(4_000, seed)
        found = estimate(rounds, WORLD.target_in(rounds), names, config, q=WORLD.q_in(rounds) * 0.5)
        for name in names:
            held[name] += found[name].intervals["bernstein"].lo <= WORLD.value <= found[name].intervals["bernstein"].hi
        biased += found["clipped_ips"].intervals["t"].lo <= WORLD.value <= found["clipped_ips"].intervals["t"].hi
    assert min(held.values()) >= 57
    assert biased == 0  # negative control: the t interval is about the clipped mean
    assert found["ips"].intervals["bernstein"].lo > 0


def test_a_wrong_propensity_is_caught_by_the_mean_weight():
    rounds = WORLD.log(20_000, 2)
    honest = estimate(rounds, WORLD.target_in(rounds), ["ips"], FEW)["ips"]
    wrong = BanditFeedback(rounds.action, rounds.reward, np.full(20_000, 0.2), rounds.user, 5)
    biased = estimate(wrong, WORLD.target_in(rounds), ["ips"], FEW)["ips"]
    assert honest.diagnostics.mean_weight_z < 4
    assert biased.diagnostics.mean_weight_z > 10
    assert biased.diagnostics.has_enough_samples
    assert (honest.verdict, biased.verdict) == ("estimated", "no verdict")
    assert value_difference(wrong, WORLD.target_in(rounds), None, "ips", FEW).verdict(margin=-9) == "no verdict"
    assert not biased.intervals["t"].lo <= WORLD.value <= biased.intervals["t"].hi


def test_a_reward_model_alone_gives_no_verdict_on_a_difference():
    rounds = WORLD.log(4_000, 2)
    found = value_differences(rounds, WORLD.target_in(rounds), None, ["dm", "dr"], FEW, q=WORLD.q_in(rounds))
    assert {name: one.verdict(margin=-9) for name, one in found.items()} == {"dm": "no verdict", "dr": "better"}
    assert found["dm"].candidate.verdict == "estimated"


def test_estimates_do_not_depend_on_the_company_and_repeat_with_the_seed():
    rounds = WORLD.log(300, 0)
    target = WORLD.target_in(rounds)
    one, many = estimate(rounds, target, ["dr"], FEW), estimate(rounds, target, ["snips", "dr", "ips"], FEW)
    assert one["dr"] == many["dr"]
    other = estimate(rounds, target, ["dr"], OffPolicyConfig(resamples=100, seed=1))["dr"]
    assert other.intervals["bootstrap"] != one["dr"].intervals["bootstrap"]


def test_tables_by_function_or_array_give_the_same():
    rounds = WORLD.log(300, 0)
    target = WORLD.target_in(rounds)
    lazy = TargetPolicy(target.prob, lambda part: target.table[part])
    q = WORLD.q_in(rounds)
    one = estimate(rounds, target, ["dr", "dm"], FEW, q=q)
    two = estimate(rounds, lazy, ["dr", "dm"], FEW, q=lambda part: q[part])
    assert one["dr"].value == two["dr"].value
    assert one["dm"].value == two["dm"].value
    np.testing.assert_array_equal(logged_predictions(rounds, q), q[np.arange(300), rounds.action])


def test_below_fifty_effective_rounds_there_is_no_verdict():
    rounds = WORLD.log(60, 0)
    result = estimate(rounds, WORLD.target_in(rounds), ["snips"], FEW)["snips"]
    assert result.diagnostics.effective_sample_size < 50
    assert result.verdict == "no verdict"
    many = WORLD.log(600, 0)
    assert estimate(many, WORLD.target_in(many), ["snips"], FEW)["snips"].verdict == "estimated"
    pitiful = value_difference(rounds, WORLD.target_in(rounds), TargetPolicy(rounds.behavior_prob), config=FEW)
    assert pitiful.verdict() == "no verdict"


@pytest.mark.parametrize("estimator", ["ips", "snips", "dr", "sndr"])
def test_difference_to_the_logging_policy_is_the_difference_of_values(estimator):
    rounds = WORLD.log(20_000, 3)
    incumbent = TargetPolicy.from_table(rounds, rounds.logging_probs)
    found = value_difference(rounds, WORLD.target_in(rounds), incumbent, estimator, FEW)
    assert found.value == pytest.approx(found.candidate.value - found.incumbent.value)
    assert found.incumbent.value == pytest.approx(rounds.reward.mean(), abs=0.01)
    assert found.verdict() == "better"
    assert found.verdict(margin=0.9) == "worse"
    assert found.verdict(margin=found.value) == "undecided"
    assert abs(found.value - (WORLD.value - WORLD.logged_value)) < 0.05


@pytest.mark.parametrize("estimator", ["snips", "dr"])
def test_without_an_incumbent_the_difference_is_to_the_logging_policy(estimator):
    rounds = WORLD.log(2_000, 3)
    found = value_difference(rounds, WORLD.target_in(rounds), None, estimator, FEW)
    assert found.value == pytest.approx(found.candidate.value - rounds.reward.mean())
    assert found.incumbent.diagnostics.effective_sample_size == pytest.approx(2_000)
    own = value_difference(rounds, TargetPolicy(rounds.behavior_prob), None, "snips", FEW)
    assert (own.value, own.intervals["t"].hi) == pytest.approx((0, 0), abs=1e-12)


def test_difference_to_oneself_is_nothing_at_all():
    rounds = WORLD.log(500, 0)
    target = WORLD.target_in(rounds)
    found = value_difference(rounds, target, target, "sndr", FEW)
    assert (found.intervals["bootstrap"].lo, found.intervals["bootstrap"].hi) == (0, 0)
    assert found.verdict() == "undecided"


def test_a_paired_difference_is_sharper_than_two_values():
    rounds = WORLD.log(4_000, 0)
    target = WORLD.target_in(rounds)
    near = 0.9 * target.table + 0.1 * rounds.logging_probs
    found = value_difference(rounds, TargetPolicy.from_table(rounds, near), target, "snips", FEW)

    def width(interval):
        return interval.hi - interval.lo

    assert width(found.intervals["t"]) < 0.3 * width(found.candidate.intervals["t"])


def test_differences_are_covered_and_bounded():
    truth, config = (
        WORLD.value - WORLD.logged_value,
        OffPolicyConfig(resamples=200, reward_range=(0, 1), weight_bound=8),
    )
    covered = {"bootstrap": 0, "t": 0, "bernstein": 0}
    for seed in range(100):
        rounds = WORLD.log(800, seed, users=300)
        incumbent = TargetPolicy(rounds.behavior_prob, rounds.logging_probs)
        found = value_difference(rounds, WORLD.target_in(rounds), incumbent, "ips", config)
        for kind in covered:
            covered[kind] += found.intervals[kind].lo <= truth <= found.intervals[kind].hi
    assert min(covered.values()) >= 87  # .95 less 4 standard errors of .0218
    assert covered["bernstein"] == 100


ALL_BUT_REPLAY = tuple(name for name in ESTIMATORS if name != "replay")
BOUNDED = OffPolicyConfig(resamples=50, reward_range=(0, 1), weight_bound=8)


@pytest.mark.parametrize("modelled", [True, False])
@pytest.mark.parametrize("paired", [True, False])
def test_differences_made_together_are_those_made_alone(modelled, paired):
    rounds = WORLD.log(600, 0, users=200)
    target = WORLD.target_in(rounds)
    incumbent = TargetPolicy.from_table(rounds, 0.5 * target.table + 0.5 * rounds.logging_probs) if paired else None
    extra = {"q": WORLD.q_in(rounds) if modelled else None, "action_clusters": np.array([0, 0, 1, 1, 1])}
    together = value_differences(rounds, target, incumbent, ALL_BUT_REPLAY, BOUNDED, **extra)
    assert list(together) == list(ALL_BUT_REPLAY)
    for name, one in together.items():
        assert one == value_difference(rounds, target, incumbent, name, BOUNDED, **extra), name
        single = estimate(rounds, target, [name], BOUNDED, **extra)[name]
        assert one.candidate.as_dict() == single.as_dict()
        assert one.value == pytest.approx(one.candidate.value - one.incumbent.value, abs=1e-12)
        if paired:
            assert one.incumbent.as_dict() == estimate(rounds, incumbent, [name], BOUNDED, **extra)[name].as_dict()
    assert ("bernstein" in together["dr"].intervals) == modelled


class Counted:
    """A table that counts how often it is read from first to last."""

    def __init__(self, rows):
        self.rows, self.read = rows, 0

    def __call__(self, part):
        self.read += part.stop - part.start
        return self.rows[part]

    @property
    def times(self):
        return self.read / len(self.rows)


def test_tables_are_read_once_for_all_estimators(monkeypatch):
    rounds = WORLD.log(500, 0)
    rounds = BanditFeedback(rounds.action, rounds.reward, rounds.behavior_prob, rounds.user, 5)  # no support to check
    tables = [Counted(table) for table in (WORLD.target[rounds.action % 2], WORLD.logging[rounds.action % 2])]
    first, second = (TargetPolicy.from_table(rounds, table) for table in tables)
    q = Counted(np.tile(WORLD.chance[:1], (500, 1)))
    value_differences(rounds, first, second, ("ips", "snips", "dr", "sndr", "switch_dr"), FEW, q=q)
    assert [table.times for table in tables] == [2, 2]  # from_table reads each once
    assert q.times == 2  # once for each policy
    candidate = BanditInputs(rounds, first, FEW, q=q)
    estimate_from_inputs(candidate, ["dm", "dr"])
    value_differences_from_inputs(candidate, candidate.with_target(second), ("dr", "sndr"))
    assert [table.times for table in tables] == [3, 3]
    estimate(rounds, first, ["dr", "mrdr"], FEW, q=q)
    assert tables[0].times == 4  # two reward models, one look at what the target does
    fitted = []
    fit = inputs_module.fit_reward_model
    monkeypatch.setattr(inputs_module, "fit_reward_model", lambda *given: fitted.append(given) or fit(*given))
    value_differences(rounds, first, second, ("dr", "sndr"), FEW)
    assert len(fitted) == 1  # the model owes nothing to the target


def test_differences_from_inputs_made_before_are_the_same():
    rounds = WORLD.log(500, 0)
    target = WORLD.target_in(rounds)
    candidate = BanditInputs(rounds, target, BOUNDED)
    assert estimate_from_inputs(candidate, ["ips", "dr"]).as_dict() == (
        estimate(rounds, target, ["ips", "dr"], BOUNDED).as_dict()
    )
    assert value_differences_from_inputs(candidate, None, ["dr"])["dr"] == value_difference(
        rounds, target, None, "dr", BOUNDED
    )


def test_what_is_known_of_weights_must_hold_for_the_incumbent_too():
    rounds = five_rounds()
    config = OffPolicyConfig(resamples=10, weight_bound=1.9)
    with pytest.raises(DataError, match=r"row 0: weight 2\.0.* weight_bound 1\.9"):
        value_differences(rounds, TargetPolicy(rounds.behavior_prob), five_targets(), ["ips"], config)
    with pytest.raises(ConfigError, match=r"no estimator of rounds named 'ipz'"):
        value_differences(rounds, five_targets(), None, ["ips", "ipz"], FEW)


class Uniform(World):
    logging = np.full((2, 5), 0.2)


def test_replay_of_a_uniform_log_is_right_and_keeps_a_share_of_one_in_a():
    rounds = Uniform().log(20_000, 0)
    result = estimate(rounds, WORLD.target_in(rounds), ["replay"], FEW)["replay"]
    assert result.diagnostics.effective_sample_size / 20_000 == pytest.approx(0.2, abs=0.012)  # 4 standard errors
    error = (result.intervals["t"].hi - result.value) / 1.96
    assert abs(result.value - WORLD.value) < 4 * error
    assert result.verdict == "estimated"
    kept = BanditInputs(rounds, WORLD.target_in(rounds), FEW).replay_weight
    assert set(kept) == {0.0, 5.0}
    assert result.value == pytest.approx(rounds.reward[kept > 0].mean(), abs=1e-12)


def test_replay_refuses_a_log_that_is_not_uniform():
    rounds = WORLD.log(100, 0)
    with pytest.raises(ConfigError, match=r"'replay' needs a uniform log, but row 0 .*, not 1/5: .*use snips"):
        estimate(rounds, WORLD.target_in(rounds), ["replay"], FEW)


def test_replay_of_a_log_that_is_not_uniform_would_be_biased():
    # mu .4 .6, pi .8 .2, r = (1, 0): kept rounds are .32 and .12 of all, so replay says .727; pi earns .8
    kept = MU * PI
    assert kept @ [1, 0] / kept.sum() == pytest.approx(0.727, abs=1e-3)


def test_cluster_probabilities_add_up_those_of_their_actions():
    rounds = WORLD.log(50, 0)
    found = marginal_probs(rounds, rounds.logging_probs, np.array([0, 0, 1, 1, 1]), "logging_probs")
    first = rounds.logging_probs[:, :2].sum(axis=1)
    assert found == pytest.approx(np.where(rounds.action < 2, first, 1 - first))


def by_enumeration(chance, logging, target, clusters):
    """Expectation of MIPS in one context, every action once."""
    rounds = BanditFeedback(np.arange(5), chance, logging, np.arange(5), 5, logging_probs=np.tile(logging, (5, 1)))
    wanted, logged = (
        marginal_probs(rounds, np.tile(table, (5, 1)), clusters, "probabilities") for table in (target, logging)
    )
    return logging @ (wanted / logged * chance)


def test_mips_is_unbiased_if_only_the_cluster_matters_and_biased_if_the_action_does():
    logging, target, clusters = World.logging[0], World.target[0], np.array([0, 0, 1, 1, 1])
    alike = np.array([0.2, 0.2, 0.7, 0.7, 0.7])
    assert by_enumeration(alike, logging, target, clusters) == pytest.approx(target @ alike)
    unlike = World.chance[0]
    assert by_enumeration(unlike, logging, target, clusters) != pytest.approx(target @ unlike, abs=0.01)
    assert by_enumeration(unlike, logging, target, np.arange(5)) == pytest.approx(target @ unlike)  # own clusters: IPS


def test_mips_has_smaller_weights_than_ips():
    rounds = WORLD.log(1_000, 0)
    found = estimate(rounds, WORLD.target_in(rounds), ["ips", "mips"], FEW, action_clusters=np.array([0, 0, 1, 1, 1]))
    assert found["mips"].diagnostics.effective_sample_size > found["ips"].diagnostics.effective_sample_size


@pytest.mark.parametrize(
    ("names", "changes", "error", "message"),
    [
        (["drr"], {}, ConfigError, r"no estimator of rounds named 'drr'\. Did you mean 'dr'"),
        (
            ["dr"],
            {"target": TargetPolicy(np.full(5, 0.5))},
            ConfigError,
            "needs the target's probabilities of all actions",
        ),
        (["mips"], {}, ConfigError, "'mips' needs a target with a table .* `action_clusters`"),
        (["mips"], {"action_clusters": np.arange(3)}, DataError, r"action_clusters: \(3,\); expected \(2,\)"),
        (["ips"], {"target": TargetPolicy(np.full(4, 0.5))}, DataError, r"\(4,\) probabilities; expected \(5,\)"),
        (
            ["dm"],
            {"target": TargetPolicy(np.full(5, 0.5), np.tile(PI, (5, 1)))},
            DataError,
            r"round 0: target\.prob is 0\.5",
        ),
        (
            ["dm"],
            {"q": np.full((5, 2), np.nan)},
            DataError,
            r"predicted rewards: rounds 0\.\.4 hold numbers not finite",
        ),
        (["dm"], {"q": np.zeros((5, 3))}, DataError, r"predicted rewards: \(5, 3\); expected \(5, 2\)"),
        (["ips"], {"feedback": five_rounds(user=np.zeros(5, int))}, DataError, "at least two"),
        (["ips"], {"config": OffPolicyConfig(reward_range=(0, 0.5))}, DataError, r"row 0: reward 1\.0 .*reward_range"),
        (["ips"], {"config": OffPolicyConfig(weight_bound=1.5)}, DataError, r"row 0: weight 2\.0.* weight_bound 1\.5"),
    ],
)
def test_what_cannot_be_estimated_says_why(names, changes, error, message):
    arguments = {"feedback": five_rounds(), "target": five_targets(), "config": FEW, **changes}
    with pytest.raises(error, match=message):
        estimate(estimators=names, **arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": 95}, r"OffPolicyConfig: level is 95: expected less than 1"),
        ({"resamples": -1}, "resamples is -1"),
        ({"tuning": "best"}, "tuning is 'best': expected 'slope' or 'bound'"),
        ({"settings": {"ips": 3.0}}, "no estimator with a setting named 'ips'"),
        ({"reward_range": (1, 1)}, r"reward_range is \(1\.0, 1\.0\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        OffPolicyConfig(**settings)


def test_a_cross_fitted_model_allows_no_bounds_beforehand_and_a_given_one_does():
    rounds = WORLD.log(300, 0)
    config = OffPolicyConfig(resamples=10, reward_range=(0, 1), weight_bound=8)
    fitted = estimate(rounds, WORLD.target_in(rounds), ["dr", "snips", "ips"], config)
    given = estimate(rounds, WORLD.target_in(rounds), ["dr"], config, q=WORLD.q_in(rounds))
    assert "bernstein" in fitted["ips"].intervals
    assert "bernstein" in given["dr"].intervals
    assert "bernstein" not in fitted["dr"].intervals
    assert "bernstein" not in fitted["snips"].intervals


def test_results_read_as_numbers_as_text_and_as_json():
    rounds = WORLD.log(300, 0)
    found = estimate(rounds, WORLD.target_in(rounds), ["snips", "clipped_ips", "dm"], FEW)
    rows, table = found.rows(), found.table()
    assert rows.loc["snips", "value"] == found["snips"].value
    assert "dm" in found
    assert "ips" not in found
    assert np.isnan(rows.loc["snips", "tuned"])
    assert table.loc["snips", "bernstein"] == "–"
    assert table.loc["clipped_ips", "tuned"].startswith("clip ")
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert plain["config"]["weight_bound"] == "inf"
    assert plain["estimators"]["snips"]["verdict"] == found["snips"].verdict
    assert plain["estimators"]["dm"]["model"]["rmse"] > 0
    won = value_difference(rounds, WORLD.target_in(rounds), TargetPolicy(rounds.behavior_prob), config=FEW)
    assert json.loads(json.dumps(won.as_dict(), allow_nan=False))["candidate"]["estimator"] == "snips"
    with pytest.raises(ConfigError, match=r"no estimator in these estimates named 'ips'"):
        found["ips"]
    with pytest.raises(ConfigError, match=r"no interval of this comparison named 'bernstein'"):
        won.verdict(interval="bernstein")


def test_a_user_with_all_the_weight_leaves_nothing_to_divide_by_and_no_verdict():
    # the target takes action 0, which user 2 alone was shown: without that user there is no ratio
    rounds = BanditFeedback(np.array([1, 1, 0]), np.array([1.0, 2.0, 4.0]), np.full(3, 0.5), np.arange(3), actions=2)
    found = estimate(rounds, TargetPolicy.from_table(rounds, np.tile([1.0, 0.0], (3, 1))), ["snips"])["snips"]
    assert (found.value, found.verdict) == (4.0, "no verdict")
    for kind in ("t", "bootstrap"):
        assert (found.intervals[kind].lo, found.intervals[kind].hi) == (-np.inf, np.inf)
    assert found.as_dict()["intervals"]["t"]["hi"] == "inf"


def test_limits_of_a_value_hold_whatever_an_action_earns_that_the_log_never_shows():
    """The target plays an action in every second round that the log never shows: it may earn 0 or 1.

    The logged action earns 1 in 80 of 100 rounds, so the value lies between 0.5 x 0.8 and 0.5 x 0.8 + 0.5.
    """
    reward = (np.random.default_rng(0).random(2_000) < 0.8).astype(np.float64)
    rows = np.arange(len(reward))
    feedback = BanditFeedback(np.zeros(len(rows), np.int64), reward, np.ones(len(rows)), rows, 2)
    both, logging = (
        TargetPolicy.from_table(feedback, np.tile(row, (len(rows), 1))) for row in ([0.5, 0.5], [1.0, 0.0])
    )
    config = OffPolicyConfig(resamples=0, reward_range=(0, 1))
    inputs = BanditInputs(feedback, both, config)
    for name in ("ips", "beta_ips", "snips", "dr"):
        limits = value_limits_from_inputs(inputs, name)["t"]
        assert limits.lo < 0.4 < 0.9 < limits.hi
    plain = estimate_from_inputs(inputs, ["dr"])["dr"].intervals["t"]
    assert plain.lo > 0.7  # the model gives the unseen action the reward of the seen one
    as_logged = inputs.with_target(logging)
    expected = estimate_from_inputs(as_logged, ["dr"])["dr"].intervals["t"]
    assert value_limits_from_inputs(as_logged, "dr")["t"].lo == pytest.approx(expected.lo)
