"""How long does LinUCB take to learn from a log of 10^6 rounds, and how good is it, beside Vowpal Wabbit?

Ours on all 1,682 items of MovieLens 100K; both on the same log of a catalog of 100.

    python benchmarks/log_training/run.py [--quick] [--peer-python PYTHON] --out results.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import context, write_results

from recpolicy import load_ratings, split
from recpolicy.agents.item_features import compute_item_features
from recpolicy.agents.learner import BanditAgent
from recpolicy.agents.linucb import LinUCBConfig, make_linucb
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ingest import EVALUATION, TRAINING
from recpolicy.data.ratings import Ratings
from recpolicy.ope.engine import estimate
from recpolicy.ope.feedback import BanditFeedback, TargetPolicy
from recpolicy.workflows.interaction_logs import ingest_log, read_rounds, simulate_log
from recpolicy.workflows.policy_training import TrainConfig, training_world
from recpolicy.workflows.training_data import Features, prepare_features

HERE, VARIABLE = Path(__file__).resolve().parent, "RECPOLICY_VW_PYTHON"
SPLIT, SEED, ITEMS, REPEATS = "u1", 0, 100, 3
ROUNDS, HELD_OUT = 1_000_000, 100_000
LOOP_ROUNDS = 20_000
"""Rounds of the compiled loop that learns one round after the other, for comparison."""
PEER_ROUNDS = {"cb": ROUNDS, "cb_adf": ROUNDS, "squarecb": ROUNDS}
"""Of each way in which Vowpal Wabbit learns; fewer may be asked where time is short, and are told as 10^6."""


@dataclass(frozen=True)
class Case:
    """One catalog: its log on disk, and what judges policies."""

    features: Features
    fit: Ratings
    folder: Path
    learn: BanditLog
    judge: BanditLog
    expected: NDArray[np.float32]  # [U, A], rewards in the world that paid
    rated: NDArray[np.float32]  # [U, A], what the rating model expects

    def values(self, choice: NDArray[np.integer]) -> dict[str, float]:
        """True value of showing each user [U] this arm, and its doubly robust estimate from held-out rounds."""
        users, log = np.arange(len(choice)), self.judge
        table = np.zeros(self.expected.shape, np.float32)
        table[users, choice] = 1
        rounds = BanditFeedback(log.arm(), log.reward, log.propensity, log.user, table.shape[1])
        target = TargetPolicy.from_table(rounds, lambda part: table[log.user[part]])
        found = estimate(rounds, target, ["dr"], q=lambda part: self.rated[log.user[part]]).results["dr"]
        interval = found.intervals["bootstrap"]
        return {
            "value": float(self.expected[users, choice].mean()), "dr": interval.value, "dr_lo": interval.lo,
            "dr_hi": interval.hi, "effective_sample_size": found.diagnostics.effective_sample_size,
        }  # fmt: skip


def make_case(fit: Ratings, items: int, rounds: int, held_out: int, folder: Path) -> Case:
    """Simulate a log with the rating model as its logger, and ingest it."""
    settings = TrainConfig(items=items)
    features = prepare_features(fit, settings, seed=SEED)
    total = rounds + held_out
    simulate_log(
        fit, folder / "log", config={"rounds": total, "reward_delay_hours": 0.0}, train=settings, model=features.model,
        seed=SEED, show_progress=False,
    )  # fmt: skip
    ingest_log(
        folder / "log", folder / "rounds", IdVocabulary.from_ratings(fit), {"evaluation_share": held_out / total}
    )
    learn, judge = (
        read_rounds(folder / "rounds" / name, IdVocabulary.from_ratings(fit)) for name in (TRAINING, EVALUATION)
    )
    expected = training_world(fit, settings, SEED).expected[:, features.action_items]
    rated = features.model.mean[:, features.action_items]
    return Case(features, fit, folder, learn, judge, expected, rated)


def make_agent(case: Case, *, warm: bool) -> BanditAgent:
    """LinUCB; cold it starts at zero, with a weak prior, as Vowpal Wabbit does."""
    import tensorflow as tf
    from tf_agents.specs import tensor_spec
    from tf_agents.trajectories import time_step as ts

    features = case.features
    observation = ts.time_step_spec(tensor_spec.TensorSpec((features.context.shape[1],), tf.float32, "context"))
    action = tensor_spec.BoundedTensorSpec((), tf.int32, 0, len(features.action_items) - 1, name="action")
    arms = compute_item_features(features.action_items, features.embeddings, case.fit) if warm else None
    return make_linucb(observation, action, LinUCBConfig() if warm else LinUCBConfig(precision=1.0), arms)


def train_on(case: Case, rounds: int) -> NDArray[np.integer]:
    """The choice [U] of a cold start and only the first rounds of the log."""
    from recpolicy.training.offline import learn_from_log

    agent, features = make_agent(case, warm=False), case.features
    learn_from_log(agent, case.learn.take(0, rounds, "part"), features.context, features.action_items)
    return best_of(agent, case)


def train_ours(case: Case, *, warm: bool = True) -> tuple[dict[str, float], NDArray[np.integer]]:
    """Seconds to read the log and to learn from it, medians of REPEATS, processor time of both; the choice [U]."""
    from recpolicy.training.offline import learn_from_log

    features, reads, learns, processor = case.features, [], [], time.process_time()
    for _ in range(REPEATS):
        agent, start = make_agent(case, warm=warm), time.perf_counter()
        log = read_rounds(case.folder / "rounds" / TRAINING, IdVocabulary.from_ratings(case.fit))
        reads.append(time.perf_counter() - start)
        start = time.perf_counter()
        learn_from_log(agent, log, features.context, features.action_items)
        learns.append(time.perf_counter() - start)
    processor = (time.process_time() - processor) / REPEATS
    told = {
        "read_s": float(np.median(reads)), "learn_s": float(np.median(learns)), "cpu_s": processor,
        "rounds": len(case.learn),
    }  # fmt: skip
    return told, best_of(agent, case)


def train_by_loop(case: Case, rounds: int) -> float:
    """Seconds of the compiled loop of single updates, compilation included."""
    from recpolicy.training.offline import learn_offline

    log, agent = case.learn.take(0, rounds, "part"), make_agent(case, warm=True)
    start = time.perf_counter()
    learn_offline(agent, case.features.context[log.user], log.arm(), log.reward.astype(np.float32))
    return time.perf_counter() - start


def best_of(agent: BanditAgent, case: Case) -> NDArray[np.integer]:
    """The arm with the highest posterior mean for every user [U]."""
    theta = agent.learner.export().arrays["theta"]
    x = np.concatenate([case.features.context, np.ones((len(case.features.context), 1), np.float32)], axis=1)
    return (x @ theta.T).argmax(axis=1)


def train_peer(python: str, case: Case, method: str, rounds: int) -> tuple[dict[str, Any], NDArray[np.integer]]:
    """What peer.py measures on the first rounds of the log."""
    log = case.learn.take(0, min(rounds, len(case.learn)), "part")
    asked, told = case.folder / "rounds.npz", case.folder / f"{method}.json"
    np.savez(
        asked, context=case.features.context, actions=len(case.features.action_items), user=log.user, arm=log.arm(),
        reward=log.reward, propensity=log.propensity,
    )  # fmt: skip
    subprocess.run([python, str(HERE / "peer.py"), str(asked), str(told), method], check=True, timeout=3600)
    result: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    return result, np.array(result.pop("choice"))


def compare(case: Case, python: str | None, quick: bool, told: dict[str, Any]) -> dict[str, float]:
    """Figures of the side-by-side."""
    found: dict[str, float] = {}

    def add(name: str, times: dict[str, Any], choice: NDArray[np.integer]) -> None:
        told[name] = {**times, **case.values(choice)}
        found[f"{name}_value"] = told[name]["value"]
        found[f"{name}_dr"] = told[name]["dr"]
        print(name, told[name], flush=True)

    for name, warm in (("linucb_100", True), ("linucb_100_cold", False)):
        times, choice = train_ours(case, warm=warm)
        add(name, times, choice)
        found[f"{name}_1e6_s"] = times["read_s"] + times["learn_s"]
        found[f"{name}_1e6_cpu_s"] = times["cpu_s"]
    for name, score in (("best", case.expected), ("rating_model", case.rated)):
        add(name, {}, score.argmax(axis=1))
    for method, rounds in PEER_ROUNDS.items() if python else ():
        times, choice = train_peer(str(python), case, method, rounds // 200 if quick else rounds)
        add(f"vw_{method}", times, choice)
        if rounds < ROUNDS:
            add(f"linucb_100_cold_as_{method}", {"rounds": times["rounds"]}, train_on(case, times["rounds"]))
        found[f"vw_{method}_s_per_1e6"] = times["train_s"] * 1e6 / times["rounds"]
        found[f"vw_{method}_cpu_s_per_1e6"] = times["cpu_s"] * 1e6 / times["rounds"]
    if python:
        found["vw_1e6_s"] = found["vw_cb_adf_s_per_1e6"]
    return found


def main() -> None:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small part, to see that it runs; not for results.json")
    parser.add_argument("--out", type=Path, required=True, help="where the figures are written, as JSON")
    parser.add_argument(
        "--peer-python", default=os.environ.get(VARIABLE), help=f"Vowpal Wabbit's Python, else ${VARIABLE}"
    )
    options = parser.parse_args()
    silence_libraries()
    rounds, held_out = (ROUNDS // 100, HELD_OUT // 5) if options.quick else (ROUNDS, HELD_OUT)
    fit, told, figures = split(load_ratings("ml-100k"), SPLIT).train, {}, {}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        full = make_case(fit, 0, rounds, held_out, Path(folder, "full"))
        told["linucb"], choice = train_ours(full)
        told["linucb"] |= full.values(choice)
        figures["linucb_1e6_s"] = told["linucb"]["read_s"] + told["linucb"]["learn_s"]
        figures["linucb_1e6_learn_s"] = told["linucb"]["learn_s"]
        figures["linucb_1e6_cpu_s"] = told["linucb"]["cpu_s"]
        figures["linucb_value"] = told["linucb"]["value"]
        figures["loop_2e4_s"] = train_by_loop(full, LOOP_ROUNDS)
        print("linucb", told["linucb"], figures["loop_2e4_s"], flush=True)
        del full
        small = make_case(fit, ITEMS, rounds, held_out, Path(folder, "small"))
        figures |= compare(small, options.peer_python, options.quick, told)
    metadata = context(
        [SEED], data={"name": fit.name, "digest": fit.digest}, rounds=rounds, held_out=held_out, quick=options.quick,
        load_average_at_start=round(load, 2), measured=told,
    )  # fmt: skip
    write_results(options.out, figures, metadata)


if __name__ == "__main__":
    main()
