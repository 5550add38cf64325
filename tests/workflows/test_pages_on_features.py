"""The pages on your own features and your own environment run as written, and the reference page has every setting."""

import dataclasses
import json
import re
import subprocess
from pathlib import Path

import pytest
from command_line import recpolicy

from recpolicy.training.feature_agents import FEATURE_AGENTS, FeatureTrainConfig
from recpolicy.training.feature_networks import FeatureNetworkConfig

DOCS = Path(__file__).parents[2] / "docs"
ITEM_PAGES = ("linucb_shared", "linucb_hybrid", "lints")
"""Agents whose settings are those of the page of the item policy."""


def blocks(page, after=""):
    """Language and text of each code block of a page, after a heading."""
    text = (DOCS / "how-to" / page).read_text(encoding="utf-8")
    return re.findall(r"^```(python|bash)\n(.*?)^```", text[text.index(after) :], re.MULTILINE | re.DOTALL)


def test_the_guide_to_own_features_runs_as_written(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, answers = {}, {}
    for language, block in blocks("use_your_own_features.md"):
        if language == "python":
            exec(compile(block, "use_your_own_features.md", "exec"), names)
            continue
        lines = block.splitlines()
        commands = [line for line in lines if line.startswith("recpolicy ")]
        subprocess.run(["bash", "-e", "-c", "\n".join(line for line in lines if line not in commands)], check=True)
        for command in commands:
            words = re.findall(r"\S+", command)[1:]
            answers[words[0]] = recpolicy(capsys, *words)
            assert answers[words[0]].code == 0, (command, answers[words[0]])
    assert "breakfast" in answers["rank"].out
    manifest = json.loads((tmp_path / "runs" / "offers" / "recpolicy.json").read_text())
    assert manifest["reward_range"] == [0, 1]
    assert "Gate: PASS" in answers["gate"].out
    assert len(names["served"].learned_events) == 12_000


def test_the_guide_to_own_environments_runs_as_written(capsys):
    pytest.importorskip("gymnasium")
    names = {"__name__": "own_environment"}
    for _, block in blocks("gymnasium_adapter.md", "## Your own environment"):
        exec(compile(block, "gymnasium_adapter.md", "exec"), names)
    assert names["means"][-1] > names["without"] + 0.15
    assert sum(names["rewards"][-50:]) > sum(names["rewards"][:50])


def test_the_reference_page_has_every_setting_with_its_default():
    page = (DOCS / "reference" / "agents" / "feature_agents.md").read_text(encoding="utf-8")
    for config in (FeatureTrainConfig, FeatureNetworkConfig):
        for field in dataclasses.fields(config):
            assert f"| `{field.name}` | {field.default} |" in page
    shared = {field.name for field in dataclasses.fields(FeatureNetworkConfig)}
    for name, agent in FEATURE_AGENTS.items():
        assert f"| `{name}` |" in page
        for field in dataclasses.fields(agent.config):
            if name not in ITEM_PAGES and field.name not in shared:
                assert f"| `{name}` | `{field.name}` | {field.default} |" in page
