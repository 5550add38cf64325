"""Vowpal Wabbit in a live loop: it ranks an event, gets the reward, learns, then the next event. Prints JSON.

PYTHON vw_loop.py EVENTS SEED ARGUMENTS [ARGUMENTS ...]
"""

import json
import sys

import numpy as np
import vowpalwabbit
from loops import Rounds, regret_at_marks, rounds_of, vw_lines

BASE = "--cb_explore_adf -q ca -b 18 --quiet"


def regret(rounds: Rounds, arguments: str) -> dict[str, float]:
    """Return the regret of VW with these arguments."""
    contexts, actions = vw_lines(rounds.world)
    model = vowpalwabbit.Workspace(f"{BASE} {arguments}")
    lost = np.zeros(len(contexts))
    for row, context in enumerate(contexts):
        example = model.parse("\n".join([context, *actions]))
        below = np.cumsum(model.predict(example))
        model.finish_example(example)
        chosen = int(min(np.searchsorted(below, rounds.draw[row] * below[-1], side="right"), len(actions) - 1))
        probability = below[chosen] - (below[chosen - 1] if chosen else 0.0)
        lost[row] = rounds.lost[row, chosen]
        labeled = [*actions]
        labeled[chosen] = f"0:{-rounds.reward(row, chosen):g}:{probability:.8g} {actions[chosen]}"
        example = model.parse("\n".join([context, *labeled]))
        model.learn(example)
        model.finish_example(example)
    return regret_at_marks(lost)


def main() -> None:
    """Print the regret of each list of arguments as a line of JSON."""
    rounds = rounds_of(int(sys.argv[1]), int(sys.argv[2]))
    for arguments in sys.argv[3:]:
        print(json.dumps({"arguments": arguments, "regret": regret(rounds, arguments)}), flush=True)


if __name__ == "__main__":
    main()
