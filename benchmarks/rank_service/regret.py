"""Regret of online learning in a live loop: our server, and Vowpal Wabbit, on the planted world of own_features.

python benchmarks/rank_service/regret.py --peer-python vw/bin/python --out benchmarks/rank_service/regret.json

One run has four parts, and the file is written after each step. VW's settings are the best ones on the seeds of the
figures, chosen before ours is measured. Ours are chosen on other seeds. Then the learners run in this process, ours
after every some events, VW's after each. At last both servers run over HTTP.
"""

import argparse
import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "own_features"))

from agents import with_head
from common import context, write_results
from loops import MARKS, Rounds, regret_at_marks, rounds_of
from run import learn, log_of, schema_of
from servers import Connection, Server, peer_command, request_bytes, running, serve_command

from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.inference.feature_artifact import write_feature_policy
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.registry.model_registry import Registry
from recpolicy.server.auth.keys import key_digest, new_key
from recpolicy.server.db import admin
from recpolicy.server.db.engine import transaction
from recpolicy.server.lifespan import open_state
from recpolicy.server.settings import Settings

HERE, VARIABLE = Path(__file__).resolve().parent, "RECPOLICY_VW_PYTHON"
EVENTS, SEEDS = 50_000, (3, 4, 5)
TUNING_EVENTS, TUNING_SEEDS = 10_000, (100, 101)
WARM = 50
"""Events with actions drawn at random, from which our first policy is trained; their regret counts."""
CONNECTIONS = 8
LINEAR, HASHED = "squarecb, linear model", "squarecb, hashed model"
GRIDS: dict[str, tuple[dict[str, Any], dict[str, tuple[Any, ...]], dict[str, tuple[float, ...]]]] = {
    LINEAR: ({"model": "linear"}, {"precision": (10.0, 30.0, 100.0)}, {"gamma_scale": (300.0, 1_000.0)}),
    HASHED: (
        {"model": "hashed"}, {"hashed_learning_rate": (0.3, 0.5, 1.0), "max_weight": (1.0, 20.0)},
        {"gamma_scale": (1_000.0,)},
    ),
    "linucb_shared": ({"agent": "linucb_shared"}, {"precision": (30.0, 100.0)}, {"alpha": (0.1,)}),
}  # fmt: skip
"""The name of the agent, the grid of its model, and that of its exploration."""
BLOCKS = {LINEAR: (100, 1_000, 5_000), HASHED: (100, 20), "linucb_shared": (100,)}
"""Events between two updates of ours; the first number is that of the tuning."""
PEER_GRID = [f"--squarecb --gamma_scale {gamma} -l {rate}" for rate in (0.5, 1, 2) for gamma in (100, 300, 1000)]
FINALISTS = 3
"""Of VW's settings, the best ones after TUNING_EVENTS, of which the one with the smallest regret at the end is used."""
SERVER = """
[limits]
rate = 0
[online]
seconds = 0.5
grace_seconds = 0.1
[reward]
weights = {reward = 1.0}
wait_seconds = 1.0
min_reward = 0.0
max_reward = 1.0
"""


def first_policy(rounds: Rounds, settings: dict[str, Any], seed: int) -> FeaturePolicy:
    """Return what an agent learns from the first events, whose actions are drawn at random."""
    world, rng = rounds.world.take(0, WARM), np.random.default_rng([seed, 77])
    chosen = rng.integers(0, world.expected.shape[1], WARM)
    reward = (rng.random(WARM) < world.expected[np.arange(WARM), chosen]).astype(float)
    uniform = np.full(WARM, 1 / world.expected.shape[1])
    world = replace(world, chosen=chosen, propensity=uniform, reward=reward)
    return learn(log_of(world), schema_of(world), settings)


def replay(rounds: Rounds, policy: FeaturePolicy, block: int) -> dict[str, float]:
    """Return the regret of a policy that learns after every `block` events, as the server's learner does."""
    events = len(rounds.draw)
    lost = np.zeros(events)
    lost[:WARM] = rounds.lost[:WARM].mean(axis=1)
    for first in range(WARM, events, block):
        rows = np.arange(first, min(events, first + block))
        log = log_of(rounds.world.take(first, rows[-1] + 1))
        probability = policy.probabilities_of(log).reshape(len(rows), -1)
        below = probability.cumsum(axis=1)
        chosen = (below < rounds.draw[rows, np.newaxis] * below[:, -1:]).sum(axis=1)
        lost[rows] = rounds.lost[rows, chosen]
        reward = (rounds.luck[rows] < rounds.world.expected[rows, chosen]).astype(float)
        propensity = np.log(probability[np.arange(len(rows)), chosen])
        log = replace(log, chosen=chosen.astype(np.int32), log_propensity=np.minimum(propensity, 0.0), reward=reward)
        policy = policy.updated(log)
    return regret_at_marks(lost)


def run_vw(python: str, events: int, seed: int, arguments: list[str]) -> list[dict[str, float]]:
    """Return the regret of VW with each list of arguments."""
    command = [python, str(HERE / "vw_loop.py"), str(events), str(seed), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line)["regret"] for line in done.stdout.splitlines()]


def mean_regret(regrets: Sequence[Mapping[str, float]], events: int) -> float:
    """Return the mean regret of several seeds after some events."""
    return float(np.mean([regret[str(events)] for regret in regrets]))


def choose_peer(python: str, events: int, seeds: Sequence[int], measured: dict[str, Any]) -> str:
    """Choose VW's arguments on the seeds of the figures, and keep the regrets of the best ones for the table."""
    first = min(TUNING_EVENTS, events)
    regrets = [run_vw(python, first, seed, PEER_GRID) for seed in seeds]
    tried = dict(zip(PEER_GRID, [mean_regret(several, first) for several in zip(*regrets, strict=True)], strict=True))
    finalists = sorted(PEER_GRID, key=lambda arguments: tried[arguments])[:FINALISTS]
    of_seeds = [run_vw(python, events, seed, finalists) for seed in seeds]
    final = dict(zip(finalists, [mean_regret(several, events) for several in zip(*of_seeds, strict=True)], strict=True))
    best = min(finalists, key=lambda arguments: final[arguments])
    measured["VW"] = {"best": best, f"regret_after_{first}": tried, f"regret_after_{events}": final}
    measured["replay"] = {
        str(seed): {"VW" if name == best else f"VW {name}": row for name, row in zip(finalists, rows, strict=True)}
        for seed, rows in zip(seeds, of_seeds, strict=True)
    }
    print("VW", measured["VW"], flush=True)
    return best


def tune(name: str, events: int) -> dict[str, Any]:
    """Return the settings of an agent of ours with the smallest regret on the tuning seeds, and all that were tried."""
    agent, model, head = GRIDS[name]
    worlds, tried = {seed: rounds_of(events, seed) for seed in TUNING_SEEDS}, []
    for values in itertools.product(*model.values()):
        settings = {**agent, **dict(zip(model, values, strict=True))}
        policies = {seed: first_policy(worlds[seed], dict(settings), seed) for seed in worlds}
        for explored in itertools.product(*head.values()):
            chosen = dict(zip(head, explored, strict=True))
            regrets = [replay(worlds[seed], with_head(policies[seed], chosen), BLOCKS[name][0]) for seed in worlds]
            tried.append({"settings": settings, "head": chosen, "regret": mean_regret(regrets, events)})
    best = min(tried, key=lambda row: row["regret"])
    print(name, best, flush=True)
    return {"best": best, "tried": tried}


def tuned_policy(name: str, tuning: Mapping[str, Any], rounds: Rounds, seed: int) -> FeaturePolicy:
    """Return the first policy of an agent with the chosen settings."""
    best = tuning[name]["best"]
    return with_head(first_policy(rounds, dict(best["settings"]), seed), best["head"])


def add_replays(seed: int, events: int, measured: dict[str, Any]) -> None:
    """Measure our learners on one seed in this process, and the control."""
    rounds, row = rounds_of(events, seed), measured["replay"][str(seed)]
    row["random"] = regret_at_marks(rounds.lost.mean(axis=1))
    for name, blocks in BLOCKS.items():
        policy = tuned_policy(name, measured["tuning"], rounds, seed)
        for block in blocks:
            row[f"{name}, every {block}"] = replay(rounds, policy, block)
    print(seed, row, flush=True)


def add_live(python: str, events: int, seed: int, seconds: float, measured: dict[str, Any]) -> None:
    """Measure both servers over HTTP on one seed, VW's first."""
    rounds, row = rounds_of(events, seed), measured.setdefault("live", {}).setdefault(str(seed), {})
    arguments = measured["VW"]["best"].replace("--squarecb", "")
    row["VW"] = loop_vw(rounds, peer_command(python, "--learns", f"--arguments={arguments}"), seconds)
    print(seed, "VW", row["VW"], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        row[LINEAR] = loop_ours(rounds, tuned_policy(LINEAR, measured["tuning"], rounds, seed), Path(folder), seconds)
    print(seed, LINEAR, row[LINEAR], flush=True)


def loop_ours(rounds: Rounds, policy: FeaturePolicy, folder: Path, seconds: float) -> dict[str, Any]:
    """Return the regret of our server, from the events after the first ones on."""
    config, registry = folder / "server.toml", Registry(folder / "registry")
    config.write_text(SERVER)
    write_feature_policy(policy, folder / "first")
    registry.register(folder / "first")
    registry.promote(1, ungated=True)
    key = new_key()
    with (
        open_state(registry.folder, None, Settings()) as state,
        transaction(state.require_store().engine) as connection,
    ):
        admin.add_key(connection, "loop", "client", key_digest(key))
    columns, actions = rounds.world.context.columns(), rounds.world.actions.columns()
    contexts = _records(columns)
    offered = [{"id": f"action {at}", "features": each} for at, each in enumerate(_records(actions))]
    place, late = {action["id"]: at for at, action in enumerate(offered)}, list[bool]()

    def rank(connection: Connection, row: int) -> tuple[str, int]:
        body = {"context": contexts[row], "actions": offered}
        answer = json.loads(connection.send(request_bytes("/v1/rank", body, key)))
        return answer["event_id"], place[answer["action"]]

    def reward(connection: Connection, event_id: str, value: float) -> None:
        request = request_bytes(f"/v1/events/{event_id}/reward", {"value": value}, key)
        late.append(json.loads(connection.send(request))["status"] != "accepted")

    with running(serve_command(registry.folder, config)) as server:
        time.sleep(2.0)  # the learner takes the events after its first step
        result = _loop(rounds, WARM, server, rank, reward, seconds) | {"late_signals": sum(late)}
    for path in (registry.folder).rglob("online_ranks/*/current.json"):
        result["checkpoint"] = {name: json.loads(path.read_text())[name] for name in ("learned", "passed")}
    return result


def loop_vw(rounds: Rounds, command: list[str], seconds: float) -> dict[str, Any]:
    """Return the regret of the server over VW, which learns from the first event on."""
    contexts, actions = _records(rounds.world.context.columns()), _records(rounds.world.actions.columns())
    offered = [{"a": action} for action in actions]

    def rank(connection: Connection, row: int) -> tuple[str, int]:
        answer = json.loads(connection.send(request_bytes("/rank", {"c": contexts[row], "_multi": offered})))
        return answer["event_id"], answer["action"]

    def reward(connection: Connection, event_id: str, value: float) -> None:
        connection.send(request_bytes("/reward", {"event_id": event_id, "value": value}))

    with running(command) as server:
        return _loop(rounds, 0, server, rank, reward, seconds)


def _loop(
    rounds: Rounds, first: int, server: Server, rank: Callable[[Connection, int], tuple[str, int]],
    reward: Callable[[Connection, str, float], None], limit: float,
) -> dict[str, Any]:  # fmt: skip
    """Rank and reward the events over some connections until some seconds are over.

    Returns the regret at the marks that were reached, the number of events, and the seconds.
    """
    lost = np.zeros(len(rounds.draw))
    lost[:first] = rounds.lost[:first].mean(axis=1)
    done = np.arange(len(lost)) < first
    rows, lock, failures = iter(range(first, len(lost))), threading.Lock(), []

    def work() -> None:
        connection = Connection(server)
        try:
            while True:
                with lock:
                    row = next(rows, None)
                if row is None or failures or time.perf_counter() > start + limit:
                    return
                done[row] = True
                event_id, chosen = rank(connection, row)
                lost[row] = rounds.lost[row, chosen]
                reward(connection, event_id, rounds.reward(row, chosen))
        except Exception as error:
            failures.append(error)
        finally:
            connection.close()

    start, threads = time.perf_counter(), [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    seconds, events = time.perf_counter() - start, int(done.sum())
    return {"regret": regret_at_marks(lost[:events]), "events": events, "seconds": round(seconds, 1)}


def _records(columns: dict[str, Any]) -> list[dict[str, float]]:
    """Return the rows of columns of numbers."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]


def figures_of(measured: Mapping[str, Any]) -> dict[str, float]:
    """Return `online_regret_ratio`, mean regrets, and ratios to VW on the same seed.

    `online_regret_ratio` is the ratio over HTTP after the last mark that both reached. `online_regret_ratio_replay` is
    the mean ratio of the linear model in one process, learned every 100 events.
    """
    figures: dict[str, float] = {}
    rows = list(measured["replay"].values())
    for name in rows[-1]:
        measured_rows = [row for row in rows if name in row]
        for mark in (str(mark) for mark in MARKS if str(mark) in measured_rows[0][name]):
            regret = np.array([row[name][mark] for row in measured_rows])
            ratio = regret / [row["VW"][mark] for row in measured_rows]
            figures[f"replay, {name}: regret at {mark}"] = regret.mean()
            figures[f"replay, {name}: ratio at {mark}"] = ratio.mean()
            figures |= {
                f"replay, {name}: lowest ratio at {mark}": ratio.min(),
                f"replay, {name}: highest ratio at {mark}": ratio.max(),
            }
            if name == f"{LINEAR}, every {BLOCKS[LINEAR][0]}":
                figures["online_regret_ratio_replay"] = ratio.mean()
    last = list[tuple[int, float]]()
    for seed, row in measured.get("live", {}).items():
        for name, result in row.items():
            for mark, regret in result["regret"].items():
                figures[f"live, seed {seed}, {name}: regret at {mark}"] = regret
                if name == LINEAR and mark in row["VW"]["regret"]:
                    ratio = regret / row["VW"]["regret"][mark]
                    figures[f"live, seed {seed}, {name}: ratio at {mark}"] = ratio
                    last.append((int(mark), ratio))
    if last:
        events = max(mark for mark, _ in last)
        figures["online_regret_ratio"] = np.mean([ratio for mark, ratio in last if mark == events])
        figures["online_regret_ratio_events"] = events
    return figures


def main() -> None:
    """Choose the settings, measure, and write after each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results, as JSON")
    parser.add_argument("--events", type=int, default=EVENTS, help="events; fewer to see that it runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="seeds of the replays")
    parser.add_argument("--live-seeds", type=int, nargs="*", default=[SEEDS[0]], help="seeds of the loops over HTTP")
    parser.add_argument("--live-seconds", type=float, default=7_200, help="longest time of a loop over HTTP")
    parser.add_argument("--peer-python", default=os.environ.get(VARIABLE), help=f"VW's Python, else ${VARIABLE}")
    options = parser.parse_args()
    if not options.peer_python:
        parser.error(f"expected --peer-python or ${VARIABLE}: a Python with the peer's packages (README.md)")
    silence_libraries()
    logging.disable(logging.WARNING)
    python, events, load, start = options.peer_python, options.events, os.getloadavg()[0], time.perf_counter()
    measured: dict[str, Any] = {"tuning": {}}

    def write() -> None:
        seconds = round(time.perf_counter() - start)
        extra = {"events": events, "load_average_at_start": load, "seconds": seconds, "measured": measured}
        write_results(options.out, figures_of(measured), context(options.seeds, **extra))

    choose_peer(python, events, options.seeds, measured)
    for name in GRIDS:
        measured["tuning"][name] = tune(name, min(TUNING_EVENTS, events))
    for seed in options.seeds:
        add_replays(seed, events, measured)
        write()
    for seed in options.live_seeds:
        add_live(python, events, seed, options.live_seconds, measured)
        write()


if __name__ == "__main__":
    main()
