"""The tables of agents by name: `AGENTS` for single rounds, `SESSION_AGENTS` for sessions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from recpolicy.agents import (
    a2c,
    baselines,
    behavior_cloning,
    dqn,
    exp3,
    lints,
    linucb,
    linucb_hybrid,
    linucb_shared,
    linucb_user,
    neural,
    neural_linucb,
    offpolicy_actor_critic,
    ppo,
    q_learning,
    reinforce,
    squarecb,
    topk_reinforce,
    ucb1,
)
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent
from recpolicy.agents.sequence import SessionAgent
from recpolicy.core.errors import unknown_name_error
from recpolicy.models.feature_agent_configs import HybridLinUCBConfig, LinTSConfig, SharedLinUCBConfig
from recpolicy.models.sequence_layout import SequenceLayout

Agent_co = TypeVar("Agent_co", covariant=True)


class MakeAgent(Protocol[Agent_co]):
    """A factory of agents."""

    def __call__(
        self, time_step_spec: Any, action_spec: Any, config: Any, items: ItemFeatures, seed: int, /
    ) -> Agent_co:
        """Return an untrained agent.

        Args:
            time_step_spec: TF-Agents spec of the environment's time steps.
            action_spec: TF-Agents spec of its actions, 0..A-1.
            config: The agent's config dataclass.
            items: Embeddings and statistics of the A items.
            seed: Seed of all random streams of the agent.
        """


class MakeSessionAgent(Protocol):
    """A factory of session agents."""

    def __call__(
        self, time_step_spec: Any, action_spec: Any, config: Any, items: ItemFeatures | None, seed: int,
        sequence: SequenceLayout | None = None, /,
    ) -> SessionAgent:  # fmt: skip
        """Return an untrained agent; see MakeAgent.

        With `sequence`, each network gets an encoder of the last items in the observation.
        """


@dataclass(frozen=True)
class AgentEntry(Generic[Agent_co]):
    """The config class and the factory of one agent."""

    config: type[Any]
    make: MakeAgent[Agent_co]
    learns_from_logs: bool = True
    """True if the agent can learn from a log of rounds (Learner.learns_from_logs)."""
    learns_from_simulation: bool = True
    """False if the agent learns only from logs of sessions."""
    user_posteriors: bool = False
    """True if its contexts are the posteriors of the users' vectors (models/user_posterior.py)."""


@dataclass(frozen=True)
class SessionAgentEntry(AgentEntry[SessionAgent]):
    """The config class and the factory of one session agent."""

    make: MakeSessionAgent


AGENTS: Mapping[str, AgentEntry[BanditAgent]] = {
    "linucb": AgentEntry(linucb.LinUCBConfig, linucb.make_linucb),
    "linucb_shared": AgentEntry(SharedLinUCBConfig, linucb_shared.make_linucb_shared),
    "linucb_hybrid": AgentEntry(HybridLinUCBConfig, linucb_hybrid.make_linucb_hybrid),
    "linucb_user": AgentEntry(linucb_user.UserLinUCBConfig, linucb_user.make_linucb_user, user_posteriors=True),
    "lints": AgentEntry(LinTSConfig, lints.make_lints),
    "ucb1": AgentEntry(ucb1.UCB1Config, ucb1.make_ucb1),
    "eps_greedy": AgentEntry(neural.EpsilonGreedyConfig, neural.make_epsilon_greedy),
    "boltzmann": AgentEntry(neural.BoltzmannConfig, neural.make_boltzmann),
    "neural_linucb": AgentEntry(neural_linucb.NeuralLinUCBConfig, neural_linucb.make_neural_linucb),
    "squarecb": AgentEntry(squarecb.SquareCBConfig, squarecb.make_squarecb),
    "exp3": AgentEntry(exp3.EXP3Config, exp3.make_exp3, exp3.EXP3.learns_from_logs),
    "random": AgentEntry(baselines.BaselineConfig, baselines.make_random),
    "popular": AgentEntry(baselines.BaselineConfig, baselines.make_popular),
    "highest_mean": AgentEntry(baselines.BaselineConfig, baselines.make_highest_mean),
    "rating_model": AgentEntry(baselines.BaselineConfig, baselines.make_rating_model),
}

SESSION_AGENTS: Mapping[str, SessionAgentEntry] = {
    "ppo": SessionAgentEntry(ppo.PPOConfig, ppo.make_ppo),
    "a2c": SessionAgentEntry(a2c.A2CConfig, a2c.make_a2c),
    "reinforce": SessionAgentEntry(reinforce.ReinforceConfig, reinforce.make_reinforce),
    "topk_reinforce": SessionAgentEntry(topk_reinforce.TopKReinforceConfig, topk_reinforce.make_topk_reinforce),
    "offpolicy_actor_critic": SessionAgentEntry(
        offpolicy_actor_critic.OffPolicyActorCriticConfig, offpolicy_actor_critic.make_offpolicy_actor_critic
    ),
    "dqn": SessionAgentEntry(dqn.DQNConfig, dqn.make_dqn),
    "q_learning": SessionAgentEntry(q_learning.QLearningConfig, q_learning.make_q_learning),
    "behavior_cloning": SessionAgentEntry(
        behavior_cloning.BehaviorCloningConfig, behavior_cloning.make_behavior_cloning, learns_from_simulation=False
    ),
}
"""Agents that recommend one item after the other, in SessionEnvironment."""

BASELINES = ("random", "popular", "highest_mean", "rating_model")
"""They stand in every comparison."""


def agent_entry(name: str) -> AgentEntry[Any]:
    """Return the entry of an agent; raise ConfigError with the nearest known name."""
    known: Mapping[str, AgentEntry[Any]] = {**AGENTS, **SESSION_AGENTS}
    if name not in known:
        raise unknown_name_error("agent", name, known)
    return known[name]
