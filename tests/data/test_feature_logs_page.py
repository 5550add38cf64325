"""The reference page of feature logs and rewards: its example is read, and it names every setting."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from recpolicy.core.config import build
from recpolicy.data.feature_log_files import read_feature_log
from recpolicy.data.reward_signals import DEFAULT_WEIGHTS, RewardConfig, Signal, combined_reward

_PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "feature_logs.md").read_text()


def _block(language):
    return re.search(rf"```{language}\n(.*?)```", _PAGE, re.DOTALL)[1]


def test_the_line_of_json_is_a_round(tmp_path):
    (tmp_path / "log.jsonl").write_text(_block("json"))
    log = read_feature_log(tmp_path / "log.jsonl")
    assert log.action_id.tolist() == ["news", "music"]
    assert log.propensity[0] == pytest.approx(0.8)


def test_the_table_of_rewards_is_read_and_has_the_sums_of_the_text():
    config = build(RewardConfig, tomllib.loads(_block("toml"))["reward"], "page")
    assert combined_reward([Signal("complete"), Signal("share")], 0, config) == pytest.approx(1.3)
    assert combined_reward([Signal("like"), Signal("skip")], 0, config) == pytest.approx(0.7)
    lowest = [Signal("dislike"), Signal("skip"), Signal("mood_change", -0.5)]
    assert combined_reward(lowest, 0, config) == pytest.approx(config.min_reward)
    highest = [
        Signal("like"),
        Signal("complete"),
        Signal("share"),
        Signal("watch_fraction"),
        Signal("mood_change", 0.5),
    ]
    assert combined_reward(highest, 0, config) == pytest.approx(config.max_reward)


@pytest.mark.parametrize("setting", [field.name for field in dataclasses.fields(RewardConfig)])
def test_every_setting_is_on_the_page(setting):
    assert f"`{setting}`" in _PAGE


@pytest.mark.parametrize("name", DEFAULT_WEIGHTS)
def test_every_default_weight_is_on_the_page(name):
    weight = f"{DEFAULT_WEIGHTS[name]:g}".replace("0.", ".")
    assert re.search(rf"{name} {re.escape(weight)}[, |]", _PAGE)
