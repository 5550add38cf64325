"""The session agent of docs/how-to/write_an_agent.md passes the contract, and learns to earn more than at random."""

from pathlib import Path
from typing import Any

from doc_blocks import read_blocks

from recpolicy.testing import planted_environment
from recpolicy.training.session_loop import SessionLoop

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "write_an_agent.md"


def run_session_blocks() -> dict[str, Any]:
    """Run the Python blocks of the section on sessions, in order; return the names that they define."""
    start = PAGE.read_text(encoding="utf-8").splitlines().index("## A session agent")
    names: dict[str, Any] = {"__name__": "write_an_agent"}
    for block in read_blocks(PAGE):
        if block.line > start and block.language == "python":
            exec(compile(block.text, str(PAGE), "exec"), names)
    return names


PAGE_NAMES = run_session_blocks()
TestLinearQ = PAGE_NAMES["TestLinearQ"]
TestMyEnvironment = PAGE_NAMES["TestMyEnvironment"]


def test_the_agent_of_the_page_learns():
    """400 blocks of 5 x 64 steps: sessions of the last 100 blocks earn over 10 % more than those of the first 100."""
    environment = planted_environment(None, 0, 64)
    specs = environment.time_step_spec(), environment.action_spec()
    agent = PAGE_NAMES["make_linear_q"](*specs, PAGE_NAMES["LinearQConfig"](), None, 0)
    loop = SessionLoop(environment, agent)
    first, *_, last = (loop.run(100).reward for _ in range(4))
    assert last > 1.1 * first
