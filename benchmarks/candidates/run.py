"""Candidate generation: time of a request with 10^5 items, and what the candidates leave out on MovieLens 100K.

python benchmarks/candidates/run.py --out benchmarks/candidates/results.json
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import arguments, context, write_results

from recpolicy.data.loaders import load_ratings
from recpolicy.data.splits import split
from recpolicy.inference.artifact import Artifact
from recpolicy.inference.candidate_generation import top_candidates
from recpolicy.inference.predictor import Policy
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.server.computed_lists import compute_list
from recpolicy.server.live_models import LoadedVersion
from recpolicy.server.schemas.requests import RecommendRequest, SessionItem

ITEMS, RANK, GENRES, UNITS, STEPS, LAST_N = 100_000, 16, 18, 64, 20, 10
CANDIDATES = 500
COUNTS = (25, 50, 100, 200, 400, 800)
TOP = 10
REQUESTS = 100
PARTS = ("times", "left_out")
SIZES = {"server_full": 0, "server_candidates": CANDIDATES}


def artifact(head: str, view: str) -> Artifact:
    """A random policy of two hidden layers over 10^5 items, for two users."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.normal(0, 1 / np.sqrt(shape[0]), shape).astype(np.float32)

    genres = (rng.random((ITEMS, GENRES)) < 0.1).astype(np.float32)
    genres /= np.maximum(np.linalg.norm(genres, axis=1, keepdims=True), 1)
    item = normal(ITEMS, RANK) * np.float32(np.sqrt(ITEMS) / 4)
    offset = rng.normal(3.5, 0.5, ITEMS).astype(np.float32)
    seen = RANK + (RANK + GENRES + 2 if view == "interest" else 33)
    policy: dict[str, Any] = {
        "view": np.array(view), "steps": np.array(STEPS), "last_n": np.array(LAST_N), "genres": genres,
    }  # fmt: skip
    outputs = ITEMS if head == "plain" else RANK + GENRES
    for prefix, last in (("", outputs), ("value/", 1)):
        for layer, (rows, columns) in enumerate(((seen, UNITS), (UNITS, UNITS), (UNITS, last))):
            policy[f"{prefix}kernel_{layer}"] = normal(rows, columns)
            policy[f"{prefix}bias_{layer}"] = np.zeros(columns, np.float32)
        if view == "gru":
            policy |= {
                f"{prefix}encoder/kind": np.array("gru"), f"{prefix}encoder/places": np.array(LAST_N),
                f"{prefix}encoder/heads": np.array(2), f"{prefix}encoder/input": normal(2 * (RANK + GENRES) + 1, 96),
                f"{prefix}encoder/input_bias": np.zeros(96, np.float32), f"{prefix}encoder/recurrent": normal(32, 96),
                f"{prefix}encoder/recurrent_bias": np.zeros(96, np.float32),
            }  # fmt: skip
    if head == "dot":
        table = np.concatenate([item, genres], axis=1).T
        policy |= {
            "table": np.ascontiguousarray(table), "table_offset": offset, "rank": np.array(RANK),
            "temperature": np.array(0.15, np.float32),
        }  # fmt: skip
    ids = np.arange(1, ITEMS + 1)
    items = pd.DataFrame({"item_id": ids, "title": ids.astype(str), "year": 2000, "genres": ""})
    return Artifact(
        agent="ppo", estimator="session", head="softmax", settings={}, uniform_mix=0.0, policy=policy,
        context=normal(2, RANK), item=item, offset=offset, rating_std=np.full((2, ITEMS), 0.3, np.float32),
        action_items=np.arange(ITEMS, dtype=np.int32), rated_user=np.zeros(20, np.int32),
        rated_item=np.arange(20, dtype=np.int32), scale=(1.0, 5.0), noise_std=0.9, metadata={"data": "random"},
        users=pd.DataFrame({"user_id": [1, 2]}), items=items,
    )  # fmt: skip


def milliseconds(policy: Policy, candidates: int | None, requests: int) -> tuple[float, float]:
    """Median and 95th percentile of a request for ten items after five others."""
    history = {1: [(50, True), (60, False), (70, True), (80, True), (90, False)]}
    taken = []
    for number in range(requests + 5):
        begin = time.perf_counter()
        policy.recommend(1, k=TOP, history=history, candidates=candidates, seed=number)
        taken.append(1000 * (time.perf_counter() - begin))
    return float(np.median(taken[5:])), float(np.percentile(taken[5:], 95))


def list_milliseconds(policy: Policy, requests: int) -> dict[str, float]:
    """Median and 99th percentile of a server's list in this process, by number of candidates; requests in turn.

    Times of the clock, and the median of the thread's processor time, which other jobs disturb less. Ten items for a
    known user after five others, without one item that the request excludes: nothing is cached.
    """
    history = [SessionItem(item=item, liked=bool(item % 20)) for item in (50, 60, 70, 80, 90)]
    exploration = ExplorationConfig(share=0.0)
    versions = {name: LoadedVersion(policy.scorer, None, candidates=count) for name, count in SIZES.items()}
    taken: dict[str, list[float]] = {name: [] for name in versions}
    busy: dict[str, list[float]] = {name: [] for name in versions}
    for number in range(requests + 5):
        request = RecommendRequest(user=1, k=TOP, history=history, exclude=[100 + number])
        for name, version in versions.items():
            begin, processor = time.perf_counter(), time.thread_time()
            compute_list(version, request, exploration, explored=False)
            taken[name].append(1000 * (time.perf_counter() - begin))
            busy[name].append(1000 * (time.thread_time() - processor))
    return {f"{name}_processor_ms": float(np.median(values[5:])) for name, values in busy.items()} | {
        f"{name}_{figure}_ms": float(np.percentile(values[5:], percent))
        for name, values in taken.items()
        for figure, percent in (("p50", 50), ("p99", 99))
    }


def left_out(policy: Policy, counts: tuple[int, ...]) -> dict[str, float]:
    """Share of the ten best items of the full ranking among the candidates, and the mass of the policy on these.

    For all users: at the start of a session, and after five items of which every other one was liked.
    """
    parts, figures = policy.artifact, {}
    ids, arms = policy.scorer.user_ids, policy.artifact.action_items
    item_id = np.array(policy.scorer.item_ids)
    shown = {user: arms[np.random.default_rng(row).choice(len(arms), 5, replace=False)] for row, user in enumerate(ids)}
    for name, history in (
        ("start", None),
        ("after_5", {user: [(item_id[row].item(), bool(n % 2)) for n, row in enumerate(shown[user])] for user in ids}),
    ):
        recall, mass = np.zeros((len(ids), len(counts))), np.zeros((len(ids), len(counts)))
        row = 0
        for block in policy.scorer.predict_batches(ids, history=history):
            for score, probability in zip(block.score, block.probability[:, arms], strict=True):
                allowed = np.ones(len(arms), bool) if history is None else ~np.isin(arms, shown[ids[row]])
                best = np.argsort(-np.where(allowed, score, -np.inf))[:TOP]
                user = parts.context[row, : parts.item.shape[1]]
                for place, count in enumerate(counts):
                    chosen = top_candidates(user, parts.item[arms], parts.offset[arms], allowed, count)
                    recall[row, place] = np.isin(best, chosen).mean()
                    mass[row, place] = probability[chosen].sum()
                row += 1
        for place, count in enumerate(counts):
            figures[f"recall_{name}_{count}"] = float(recall[:, place].mean())
            figures[f"mass_{name}_{count}"] = float(mass[:, place].mean())
            print(f"{name:8s} M = {count:4d}: recall {recall[:, place].mean():.3f}, mass {mass[:, place].mean():.3f}")
    return figures


def trained(steps: int) -> Policy:
    from recpolicy.training import tensorflow_export
    from recpolicy.workflows.session_training import train_sessions

    tensorflow_export.write_saved_models = lambda *_: None  # what TensorFlow would load is not asked here
    with tempfile.TemporaryDirectory() as folder:
        return train_sessions(
            "a2c", split(load_ratings("ml-100k"), "u1"), Path(folder) / "policy", config={"total_timesteps": steps}
        )


def times(requests: int) -> dict[str, float]:
    """Times of `Policy.recommend` and of a server's list, for three policies, with and without candidates."""
    figures: dict[str, float] = {}
    for head, view in (("dot", "interest"), ("dot", "gru"), ("plain", "interest")):
        policy = Policy(artifact(head, view))
        policy.scorer.prepare()
        for name, count in (("full", None), ("candidates", CANDIDATES)):
            median, high = milliseconds(policy, count, requests)
            figures |= {f"{head}_{view}_{name}_ms": median, f"{head}_{view}_{name}_p95_ms": high}
        of_server = list_milliseconds(policy, 3 * requests)
        figures |= {f"{head}_{view}_{name}": value for name, value in of_server.items()}
        figures[f"{head}_{view}_ratio"] = figures[f"{head}_{view}_full_ms"] / figures[f"{head}_{view}_candidates_ms"]
        print(head, view, {name: round(value, 2) for name, value in figures.items() if head in name}, flush=True)
    return figures


def main() -> None:
    asked = arguments(__doc__.splitlines()[0], PARTS)
    requests, steps = (10, 5_000) if asked.quick else (REQUESTS, 100_000)
    figures: dict[str, float] = {}
    if asked.only and asked.out.exists():
        figures = json.loads(asked.out.read_text())["figures"]
    if asked.only in (None, "times"):
        figures |= times(requests)
    if asked.only in (None, "left_out"):
        figures |= left_out(trained(steps), COUNTS)
    write_results(asked.out, figures, context([0], items=ITEMS, candidates=CANDIDATES, requests=requests, steps=steps))


if __name__ == "__main__":
    main()
