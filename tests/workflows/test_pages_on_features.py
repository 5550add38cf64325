"""The guide to own environments runs and learns, and the reference page of feature agents has every setting."""

import dataclasses
from pathlib import Path

import pytest
from doc_blocks import read_blocks

from recpolicy.models.feature_agent_configs import FeatureNetworkConfig, FeatureTrainConfig
from recpolicy.training.feature_agents import FEATURE_AGENTS

DOCS = Path(__file__).parents[2] / "docs"
ITEM_PAGES = ("linucb_shared", "linucb_hybrid", "lints")
"""Agents whose settings are those of the page of the item policy."""


def test_the_guide_to_own_environments_runs_as_written(capsys):
    pytest.importorskip("gymnasium")
    page = DOCS / "how-to" / "gymnasium_adapter.md"
    start = page.read_text(encoding="utf-8").splitlines().index("## Your own environment")
    names = {"__name__": "own_environment"}
    for block in read_blocks(page):
        if block.line > start:
            exec(compile(block.text, page.name, "exec"), names)
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
