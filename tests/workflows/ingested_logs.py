"""A log of a softened rating model on the miniature, simulated and ingested."""

from pathlib import Path

from tiny_dataset import miniature_ratings
from trained_policies import miniature_split

from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.workflows.interaction_logs import ingest_log, simulate_log

WORLD = {"rating_model": "svd", "rank": 5, "world": "item_knn"}


def ingested_log(folder: Path, rounds: int) -> Path:
    """Return the folder of the rounds, half of them for evaluation."""
    settings = {"rounds": rounds, "temperature": 0.5, "uniform_mix": 0.1}
    simulate_log(miniature_split().train, folder / "raw", config=settings, train=WORLD)
    known = IdVocabulary.from_ratings(miniature_ratings())
    ingest_log(folder / "raw", folder / "rounds", known, {"evaluation_share": 0.5})
    return folder / "rounds"
