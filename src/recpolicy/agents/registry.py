"""All agents by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recpolicy.agents import baselines, exp3, lints, linucb, linucb_hybrid, linucb_shared, neural, neural_linucb, ucb1
from recpolicy.agents.learner import BanditAgent
from recpolicy.core.errors import unknown_name


@dataclass(frozen=True)
class AgentEntry:
    """How to configure and make one agent."""

    config: type[Any]
    make: Callable[..., BanditAgent]
    """make(time_step_spec, action_spec, config, arms, seed)."""


AGENTS: Mapping[str, AgentEntry] = {
    "linucb": AgentEntry(linucb.LinUCBConfig, linucb.make_linucb),
    "linucb_shared": AgentEntry(linucb_shared.SharedLinUCBConfig, linucb_shared.make_linucb_shared),
    "linucb_hybrid": AgentEntry(linucb_hybrid.HybridLinUCBConfig, linucb_hybrid.make_linucb_hybrid),
    "lints": AgentEntry(lints.LinTSConfig, lints.make_lints),
    "ucb1": AgentEntry(ucb1.UCB1Config, ucb1.make_ucb1),
    "eps_greedy": AgentEntry(neural.EpsilonGreedyConfig, neural.make_epsilon_greedy),
    "boltzmann": AgentEntry(neural.BoltzmannConfig, neural.make_boltzmann),
    "neural_linucb": AgentEntry(neural_linucb.NeuralLinUCBConfig, neural_linucb.make_neural_linucb),
    "exp3": AgentEntry(exp3.EXP3Config, exp3.make_exp3),
    "random": AgentEntry(baselines.BaselineConfig, baselines.make_random),
    "popular": AgentEntry(baselines.BaselineConfig, baselines.make_popular),
    "highest_mean": AgentEntry(baselines.BaselineConfig, baselines.make_highest_mean),
    "rating_model": AgentEntry(baselines.BaselineConfig, baselines.make_rating_model),
}

BASELINES = ("random", "popular", "highest_mean", "rating_model")
"""They stand in every comparison."""


def agent_entry(name: str) -> AgentEntry:
    """The agent's entry; raises ConfigError with the nearest known name."""
    if name not in AGENTS:
        raise unknown_name("agent", name, AGENTS)
    return AGENTS[name]
