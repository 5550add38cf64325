"""All agents by name: those of single rounds, and those of sessions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recpolicy.agents import (
    a2c,
    baselines,
    dqn,
    exp3,
    lints,
    linucb,
    linucb_hybrid,
    linucb_shared,
    neural,
    neural_linucb,
    ppo,
    q_learning,
    reinforce,
    topk_reinforce,
    ucb1,
)
from recpolicy.core.errors import unknown_name_error


@dataclass(frozen=True)
class AgentEntry:
    """How to configure and make one agent."""

    config: type[Any]
    make: Callable[..., Any]
    """make(time_step_spec, action_spec, config, arms, seed): a BanditAgent or, in SESSION_AGENTS, a SessionAgent."""


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

SESSION_AGENTS: Mapping[str, AgentEntry] = {
    "ppo": AgentEntry(ppo.PPOConfig, ppo.make_ppo),
    "a2c": AgentEntry(a2c.A2CConfig, a2c.make_a2c),
    "reinforce": AgentEntry(reinforce.ReinforceConfig, reinforce.make_reinforce),
    "topk_reinforce": AgentEntry(topk_reinforce.TopKReinforceConfig, topk_reinforce.make_topk_reinforce),
    "dqn": AgentEntry(dqn.DQNConfig, dqn.make_dqn),
    "q_learning": AgentEntry(q_learning.QLearningConfig, q_learning.make_q_learning),
}
"""Agents that recommend one item after the other, in SessionEnvironment."""

BASELINES = ("random", "popular", "highest_mean", "rating_model")
"""They stand in every comparison."""


def agent_entry(name: str) -> AgentEntry:
    """The agent's entry; raises ConfigError with the nearest known name."""
    known = {**AGENTS, **SESSION_AGENTS}
    if name not in known:
        raise unknown_name_error("agent", name, known)
    return known[name]
