"""How much processor time do guardrails add to a computed list?

Lists of 10 items of LinUCB on u1, as a server computes those that its cache lacks: scores, guardrails and JSON. 320
users, alone and in batches of 32; in turns with lists without guardrails, the best of three turns. Processor time,
because other jobs disturb the clock.

    python benchmarks/guardrails/speed.py [--policy FOLDER] [--quick] --out benchmarks/guardrails/speed.json
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import context, write_results

from recpolicy import load_policy, load_ratings, split, train
from recpolicy.inference.guardrails import GuardrailConfig, bind
from recpolicy.inference.predictor import Policy
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.server.computed_lists import compute_lists
from recpolicy.server.live_models import LoadedVersion
from recpolicy.server.schemas.requests import RecommendRequest

USERS, K, TURNS, BATCHES = 320, 10, 3, (1, 32)
CASES = {
    "none": GuardrailConfig(),
    "novelty 0.1": GuardrailConfig(novelty=0.1),
    "min_rating 3.5": GuardrailConfig(min_rating=3.5),
    "max_per_category 2": GuardrailConfig(max_per_category=2),
    **{f"diversity {weight:g}": GuardrailConfig(diversity=weight) for weight in (0.05, 0.1, 0.2, 0.3, 0.5)},
    "all": GuardrailConfig(novelty=0.1, min_rating=3.5, max_per_category=2, diversity=0.1),
}


def processor_seconds(policy: Policy, config: GuardrailConfig, size: int, users: int) -> float:
    """Return the processor time of a list, computed in requests of `size`."""
    rails = bind(config, policy.scorer) if config.active else None
    version = LoadedVersion(policy.scorer, 1, guardrails=rails)
    requests = [RecommendRequest(user=user, k=K) for user in policy.scorer.user_ids[:users]]
    start = time.process_time()
    for first in range(0, users, size):
        compute_lists(version, requests[first : first + size], ExplorationConfig())
    return (time.process_time() - start) / users


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, help="folder of `recpolicy train linucb --split u1`; otherwise trained")
    parser.add_argument("--quick", action="store_true", help="few users, to see that it runs")
    parser.add_argument("--out", type=Path, required=True, help="where the figures are written, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = options.policy
        if run is None:
            run = Path(folder) / "policy"
            train("linucb", split(load_ratings("ml-100k"), "u1"), run, seed=0, show_progress=False)
        policy = load_policy(run)
    users = 32 if options.quick else USERS
    best: dict[tuple[str, int], float] = {}
    for _ in range(TURNS):
        for size in BATCHES:
            for name, config in CASES.items():
                seconds = processor_seconds(policy, config, size, users)
                best[name, size] = min(seconds, best.get((name, size), seconds))
    figures = {}
    for (name, size), seconds in best.items():
        label = f"{name}/{'alone' if size == 1 else 'in_batches'}"
        figures[f"{label}_us"], figures[f"{label}_ratio"] = 1e6 * seconds, seconds / best["none", size]
        print(f"{label:32} {1e6 * seconds:8.0f} us  {figures[f'{label}_ratio']:.2f} times none")
    write_results(options.out, figures, context([0], users=users, k=K, turns=TURNS))


if __name__ == "__main__":
    main()
