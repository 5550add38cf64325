"""docs/reference/agents says what the configs say."""

import dataclasses
from pathlib import Path

import pytest

from recpolicy.agents import (
    AGENTS,
    BASELINES,
    SESSION_AGENTS,
    a2c,
    agent_entry,
    behavior_cloning,
    dqn,
    offpolicy_actor_critic,
    ppo,
    q_learning,
    reinforce,
    topk_reinforce,
)

WITH_PAGES = [name for name in (*AGENTS, *SESSION_AGENTS) if name not in BASELINES]
FIGURES = {
    "ppo": ppo.PPO.figures,
    "a2c": a2c.A2C.figures,
    "reinforce": reinforce.Reinforce.figures,
    "topk_reinforce": topk_reinforce.TopKReinforce.figures,
    "offpolicy_actor_critic": offpolicy_actor_critic.OffPolicyActorCritic.figures,
    "dqn": dqn.DQN.figures,
    "q_learning": q_learning.QLearning.figures,
    "behavior_cloning": behavior_cloning.BehaviorCloning.figures,
}
PAGES = Path(__file__).parents[2] / "docs" / "reference" / "agents"


@pytest.mark.parametrize("name", WITH_PAGES)
def test_every_setting_is_on_the_agents_page_with_its_default(name):
    page = (PAGES / f"{name}.md").read_text()
    for field in dataclasses.fields(agent_entry(name).config):
        assert f"| `{field.name}` | {field.default} |" in page
    assert page.count("\n| `") == len(dataclasses.fields(agent_entry(name).config))


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_is_on_their_page(name):
    assert f"| `{name}` |" in (PAGES / "baselines.md").read_text()


def test_the_overview_links_every_agent():
    overview = (PAGES / "README.md").read_text()
    assert all(f"[{name}]({name}.md)" in overview for name in WITH_PAGES)


@pytest.mark.parametrize("name", SESSION_AGENTS)
def test_every_figure_of_a_session_agent_is_explained(name):
    """On the page of all, or on its own."""
    explained = (PAGES / "README.md").read_text() + (PAGES / f"{name}.md").read_text()
    figures = FIGURES[name]
    assert figures
    for figure in figures:
        assert f"`update/{figure}`" in explained or f"`{figure}`" in explained
