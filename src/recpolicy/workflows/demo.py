"""The demo, end to end: train LinUCB, evaluate it, predict ratings, write the report."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ConfigError
from recpolicy.core.ids import convert_id
from recpolicy.data.loaders import load_ratings
from recpolicy.data.splits import split
from recpolicy.inference.artifact_files import MANIFEST
from recpolicy.workflows.policy_report import write_policy_report
from recpolicy.workflows.policy_training import TrainConfig, train

REPORT = "report.html"


def run_demo(
    data: str,
    out: Path,
    say: Callable[[str, Any], None],
    *,
    split_name: str = "u1",
    user: str | None = None,
    seed: int = 0,
    config: TrainConfig | None = None,
) -> None:
    """Run the demo on `data`, which is fetched already, and print each result by say(title, value); replace `out`.

    Args:
        data: Name or path of the ratings.
        out: Folder of the policy and the report.
        say: Receives (title, value) of each step.
        split_name: Rule of the split.
        user: Id of the user whose recommendations are printed, as text; None takes the first user.
        seed: Seed of all draws.
        config: Settings of the training.

    Raises:
        ConfigError: `out` exists and is no policy.
    """
    if out.exists() and not (out / MANIFEST).is_file():
        raise ConfigError(f"{out}: exists and is no policy, which the demo would replace; choose another --out")
    ratings = load_ratings(data)
    users, items = ratings.shape
    say("Ratings", f"{len(ratings):,} ratings of {users:,} users on {items:,} items, digest {ratings.digest[:12]}")
    parts = split(ratings, split_name, seed)
    say("Split", f"{parts.name}: {len(parts.train):,} training ratings, {len(parts.test):,} held out")
    if out.exists():
        shutil.rmtree(out)
    policy = train("linucb", parts, out, config=config, seed=seed)
    say(
        "Policy", f"LinUCB, trained in {policy.metadata['training']['total_timesteps']:,} simulated interactions: {out}"
    )
    ids = policy.scorer.user_ids
    chosen = ids[0] if user is None else convert_id(user, ids)
    evaluation = write_policy_report(policy, parts, out, out / REPORT, user=chosen, seed=seed)
    say("On held-out ratings (95 % intervals over users)", evaluation.table())
    suggestions = policy.recommend(chosen, k=5)[["title", "rating", "std", "value", "probability"]]
    say(f"Rating estimates: the best five items that user {chosen} has not rated", suggestions)
    say("Report with the regret curve and all plots", out / REPORT)
