"""docs/agents says what the configs say."""

import dataclasses
from pathlib import Path

import pytest

from recpolicy.agents.registry import AGENTS, BASELINES

PAGES = Path(__file__).parents[2] / "docs" / "agents"


@pytest.mark.parametrize("name", [name for name in AGENTS if name not in BASELINES])
def test_every_setting_is_on_the_agents_page_with_its_default(name):
    page = (PAGES / f"{name}.md").read_text()
    for field in dataclasses.fields(AGENTS[name].config):
        assert f"| `{field.name}` | {field.default} |" in page
    assert page.count("\n| `") == len(dataclasses.fields(AGENTS[name].config))


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_is_on_their_page(name):
    assert f"| `{name}` |" in (PAGES / "baselines.md").read_text()


def test_the_overview_links_every_agent():
    overview = (PAGES / "README.md").read_text()
    assert all(f"[{name}]({name}.md)" in overview for name in AGENTS if name not in BASELINES)
