"""What follows from the figures of a stage."""

from dataclasses import replace

import pytest

from recpolicy.core.config import as_dict, build
from recpolicy.core.errors import ConfigError
from recpolicy.core.statistics import Interval
from recpolicy.server.rollout.rollout_plan import decide
from recpolicy.server.rollout.stage_metrics import Rewards, StageMetrics, VariantHealth
from recpolicy.server.settings import RolloutConfig, read_settings

PLAN = RolloutConfig(min_users=100, min_rewards=200, min_hours=2.0, max_hours=48.0, margin=0.1)
ENOUGH = Rewards(100, 200, Interval(3.0, 2.9, 3.1))
SOUND = VariantHealth(requests=1000, failures=0, slow=0, seconds=1.0)
GOOD = StageMetrics(
    hours=2.0, champion=ENOUGH, challenger=ENOUGH, difference=Interval(0.0, -0.09, 0.09), champion_health=SOUND,
    challenger_health=SOUND,
)  # fmt: skip
ALONE = replace(GOOD, champion=Rewards(), difference=Interval.unbounded())


def gap(lo, hi):
    return {"difference": Interval((lo + hi) / 2, lo, hi)}


def challenger(**words):
    return {"challenger_health": replace(SOUND, **words)}


@pytest.mark.parametrize(
    ("figures", "stage", "action", "reason"),
    [
        (GOOD, 0, "advance", "not worse"),
        (GOOD, 1, "advance", "not worse"),
        (ALONE, 2, "promote", "last stage"),  # all users are the challenger's: nothing to compare with
        (StageMetrics(), 0, "wait", "0.0 of 2 hours"),
        (replace(GOOD, hours=1.9), 0, "wait", "1.9 of 2 hours"),
        (replace(GOOD, challenger=replace(ENOUGH, users=99)), 0, "wait", "99 of 100 users of the challenger"),
        (replace(GOOD, champion=replace(ENOUGH, users=99)), 0, "wait", "99 of 100 users of the champion"),
        (replace(GOOD, champion=replace(ENOUGH, rewards=199)), 0, "wait", "199 of 200 rewards of the champion"),
        (replace(ALONE, challenger=replace(ENOUGH, rewards=199)), 2, "wait", "199 of 200 rewards of the challenger"),
        (replace(GOOD, **gap(-0.3, -0.05)), 0, "wait", "may still be below"),  # lower, but within the margin
        (replace(GOOD, **gap(-0.1, 0.1)), 0, "wait", "may still be below"),
        (replace(GOOD, **gap(-0.3, 0.5), hours=48.0), 0, "roll_back", "did not pass within 48 hours"),
        (replace(GOOD, **gap(-0.3, 0.5), hours=47.9), 0, "wait", "may still be below"),
        (replace(GOOD, challenger=Rewards(), **gap(-0.05, 0.5), hours=48.0), 0, "roll_back", "0 of 100 users"),
        (replace(GOOD, **gap(-0.5, -0.11)), 0, "roll_back", "rewards are lower"),
        (replace(GOOD, **gap(-0.5, -0.11), hours=0.0), 0, "roll_back", "rewards are lower"),  # at once
        (replace(GOOD, **gap(-0.5, -0.1)), 0, "wait", "may still be below"),
        (replace(GOOD, **challenger(failures=10)), 0, "advance", ""),
        (replace(GOOD, **challenger(failures=11)), 0, "roll_back", "11 of the challenger's 1000 answers failed"),
        (replace(GOOD, **challenger(requests=2, failures=1)), 0, "advance", ""),  # a share of 100 answers
        (replace(GOOD, **challenger(requests=2, failures=2)), 0, "roll_back", "failed"),
        (replace(GOOD, **challenger(slow=10)), 0, "advance", ""),
        (replace(GOOD, **challenger(slow=11)), 0, "roll_back", "took longer than 25 ms"),
        (replace(GOOD, champion_health=replace(SOUND, slow=500), **challenger(slow=510)), 0, "advance", ""),
        (replace(GOOD, **challenger(seconds=5.0)), 0, "advance", ""),  # 5 ms is never too slow
        (replace(GOOD, **challenger(seconds=5.1)), 0, "roll_back", "5.1 ms to choose, the champion 1.0"),
        (replace(GOOD, champion_health=replace(SOUND, seconds=3.0), **challenger(seconds=5.9)), 0, "advance", ""),
        (replace(GOOD, champion_health=replace(SOUND, seconds=3.0), **challenger(seconds=6.1)), 0, "roll_back", "6.1"),
        (
            replace(GOOD, champion_health=VariantHealth(), **challenger(seconds=20.0)),
            0,
            "advance",
            "",
        ),  # no champion's time
        (replace(ALONE, **challenger(failures=11)), 2, "roll_back", "failed"),
    ],
)
def test_what_follows(figures, stage, action, reason):
    decision = decide(figures, stage, PLAN)
    assert decision.action == action, decision
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("figures", "action"),
    [
        (GOOD, "wait"),
        (replace(GOOD, hours=1000.0), "wait"),
        (replace(GOOD, **gap(-0.3, 0.5), hours=1000.0), "wait"),
        (replace(GOOD, **gap(-0.5, -0.2)), "roll_back"),
        (replace(GOOD, **challenger(failures=500)), "roll_back"),
    ],
)
@pytest.mark.parametrize("words", [{"stages": (0.5,), "promote": False}, {"shadow": True}])
def test_comparisons_and_shadows_end_only_by_harm_and_by_hand(figures, action, words):
    assert decide(figures, 0, replace(PLAN, **words)).action == action


def test_a_stage_short_of_all_users_may_be_the_last():
    assert decide(GOOD, 0, replace(PLAN, stages=(0.5,))).action == "promote"


def test_stages_that_compare_share_the_doubt():
    assert replace(PLAN, stages=(0.1, 0.5, 1.0)).stage_level == pytest.approx(0.975)
    assert replace(PLAN, stages=(0.5,)).stage_level == pytest.approx(0.95)


@pytest.mark.parametrize(
    "words",
    [
        {"stages": ()}, {"stages": (0.5, 0.1)}, {"stages": (0.0, 1.0)}, {"stages": (0.5, 1.1)}, {"stages": (0.5, 0.5)},
        {"stages": (1.0,), "promote": False}, {"min_hours": 5.0, "max_hours": 5.0}, {"min_hours": -1.0},
        {"max_hours": float("nan")}, {"min_users": 29}, {"margin": -0.1}, {"margin": float("nan")}, {"level": 1.0},
        {"error_budget": 1.1}, {"latency_budget": 0.5}, {"window_minutes": 0}, {"shadow_sample": 1.5},
    ],
)  # fmt: skip
def test_plans_that_cannot_be_are_refused(words):
    with pytest.raises(ConfigError):
        RolloutConfig(**words)


def test_the_settings_file_has_a_table_for_it_and_plans_survive_the_store(tmp_path):
    path = tmp_path / "server.toml"
    path.write_text("[rollout]\nstages = [0.2, 1]\nmargin = 0.05\n")
    plan = read_settings(path).rollout
    assert plan == RolloutConfig(stages=(0.2, 1.0), margin=0.05)
    assert build(RolloutConfig, as_dict(plan)) == plan
