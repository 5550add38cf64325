"""Contracts for environments and agents, as pytest classes: inherit, define `make`, and pytest runs the checks.

    from recpolicy.testing import EnvironmentContract

    class TestMyEnvironment(EnvironmentContract):
        def make(self, seed, batch_size=8):
            return MyEnvironment(seed=seed, batch_size=batch_size)

| kind | environments | agents |
| --- | --- | --- |
| single rounds | EnvironmentContract | AgentContract |
| sessions | SessionEnvironmentContract | SessionAgentContract |

The contracts of sessions use a small planted world, `planted_sessions`. Put
`pytest.register_assert_rewrite("recpolicy.testing")` into conftest.py to see the values of a failing assertion.
This is the only package that needs pytest.
"""

from recpolicy.testing.agents import AgentContract, learning_actions
from recpolicy.testing.environments import EnvironmentContract, allowed, random_agent, some_allowed, trace
from recpolicy.testing.session_agents import SessionAgentContract, random_experience
from recpolicy.testing.session_environments import (
    SessionEnvironmentContract,
    SessionRecord,
    planted_environment,
    record_sessions,
)
from recpolicy.testing.synthetic_sessions import PlantedSessions, planted_items, planted_sessions

__all__ = [
    "AgentContract", "EnvironmentContract", "PlantedSessions", "SessionAgentContract", "SessionEnvironmentContract",
    "SessionRecord", "allowed", "learning_actions", "planted_environment", "planted_items", "planted_sessions",
    "random_agent", "random_experience", "record_sessions", "some_allowed", "trace",
]  # fmt: skip
