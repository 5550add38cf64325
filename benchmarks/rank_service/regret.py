"""Regret of online learning in a live loop: our server, and Vowpal Wabbit, on the planted world of own_features.

python benchmarks/rank_service/regret.py --peer-python vw/bin/python --out benchmarks/rank_service/regret.json

Parts (`--part`): `tune` chooses the settings of both on other seeds; `replay` runs the learners in this process, ours
after every some events, VW's after each; `live` runs both servers over HTTP. An existing file gets more of them.
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
from collections.abc import Callable, Iterator
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
BLOCK, BLOCKS = 100, (100, 1_000, 2_000, 5_000)
"""Events between two updates of ours: while tuning and in the main row; all that are compared."""
CONNECTIONS = 8
GAMMAS = {"gamma_scale": (100.0, 300.0, 1_000.0, 3_000.0)}
GRIDS: dict[str, tuple[dict[str, Any], dict[str, tuple[Any, ...]], dict[str, tuple[float, ...]]]] = {
    "squarecb, linear model": ({"model": "linear"}, {"precision": (10.0, 30.0, 100.0)}, GAMMAS),
    "squarecb, hashed model": ({"model": "hashed"}, {"hashed_learning_rate": (0.5, 1.0)}, GAMMAS),
    "linucb_shared": ({"agent": "linucb_shared"}, {"precision": (10.0, 30.0, 100.0)}, {"alpha": (0.1, 0.3)}),
}
"""The name of the agent, the grid of its model, and that of its exploration."""
PEER_GRID = [f"--squarecb --gamma_scale {gamma} -l {rate}" for rate in (0.5, 1, 2) for gamma in (100, 200, 1000)]
SERVER = """
[limits]
rate = 0
[online]
seconds = 0.5
grace_seconds = 0.1
[reward]
weights = {reward = 1.0}
wait_seconds = 3.0
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


def tune(python: str, measured: dict[str, Any]) -> Iterator[None]:
    """Choose the settings with the smallest regret of both tuning seeds; yields after each learner."""
    tuning = measured.setdefault("tuning", {})
    worlds = {seed: rounds_of(TUNING_EVENTS, seed) for seed in TUNING_SEEDS}
    last = str(TUNING_EVENTS)
    for name, (agent, model, head) in GRIDS.items():
        if name in tuning:
            continue
        tried = []
        for values in itertools.product(*model.values()):
            settings = {**agent, **dict(zip(model, values, strict=True))}
            policies = {seed: first_policy(worlds[seed], dict(settings), seed) for seed in worlds}
            for explored in itertools.product(*head.values()):
                chosen = dict(zip(head, explored, strict=True))
                regrets = [replay(worlds[s], with_head(policies[s], chosen), BLOCK)[last] for s in worlds]
                tried.append({"settings": settings, "head": chosen, "regret": float(np.mean(regrets))})
        tuning[name] = {"best": min(tried, key=lambda row: row["regret"]), "tried": tried}
        print(name, tuning[name]["best"], flush=True)
        yield
    if "VW" not in tuning:
        of_seeds = [run_vw(python, TUNING_EVENTS, seed, PEER_GRID) for seed in TUNING_SEEDS]
        tried = [
            {"arguments": arguments, "regret": float(np.mean([regrets[place][last] for regrets in of_seeds]))}
            for place, arguments in enumerate(PEER_GRID)
        ]
        tuning["VW"] = {"best": min(tried, key=lambda row: row["regret"]), "tried": tried}
        print("VW", tuning["VW"]["best"], flush=True)
        yield


def replays(python: str, events: int, seeds: list[int], measured: dict[str, Any]) -> Iterator[None]:
    """Measure all learners in this process; yields after each seed."""
    tuning, rows = measured["tuning"], measured.setdefault("replay", {})
    for seed in seeds:
        if str(seed) in rows:
            continue
        rounds = rounds_of(events, seed)
        row: dict[str, Any] = {"random": regret_at_marks(rounds.lost.mean(axis=1))}
        (row["VW"],) = run_vw(python, events, seed, [tuning["VW"]["best"]["arguments"]])
        for name in GRIDS:
            best = tuning[name]["best"]
            policy = with_head(first_policy(rounds, dict(best["settings"]), seed), best["head"])
            for block in BLOCKS if name == next(iter(GRIDS)) else (BLOCK,):
                row[f"{name}, every {block}"] = replay(rounds, policy, block)
        rows[str(seed)] = row
        print(seed, {name: list(values.values())[-1] for name, values in row.items()}, flush=True)
        yield


def live(python: str, events: int, seeds: list[int], names: list[str], measured: dict[str, Any]) -> Iterator[None]:
    """Measure both servers over HTTP; yields after each loop."""
    tuning, rows = measured["tuning"], measured.setdefault("live", {})
    for seed in seeds:
        rounds, row = rounds_of(events, seed), rows.setdefault(str(seed), {})
        for name in [*names, "VW"]:
            if name in row:
                continue
            with tempfile.TemporaryDirectory() as folder:
                if name == "VW":
                    arguments = tuning["VW"]["best"]["arguments"].replace("--squarecb", "")
                    row[name] = loop_vw(rounds, peer_command(python, "--learns", f"--arguments={arguments}"))
                else:
                    best = tuning[name]["best"]
                    policy = with_head(first_policy(rounds, dict(best["settings"]), seed), best["head"])
                    row[name] = loop_ours(rounds, policy, Path(folder))
            print(seed, name, row[name], flush=True)
            yield


def loop_ours(rounds: Rounds, policy: FeaturePolicy, folder: Path) -> dict[str, Any]:
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
        result = _loop(rounds, WARM, server, rank, reward) | {"late_signals": sum(late)}
    for path in (registry.folder).rglob("online_ranks/*/current.json"):
        result["checkpoint"] = {name: json.loads(path.read_text())[name] for name in ("learned", "passed")}
    return result


def loop_vw(rounds: Rounds, command: list[str]) -> dict[str, Any]:
    """Return the regret of the server over VW, which learns from the first event on."""
    contexts, actions = _records(rounds.world.context.columns()), _records(rounds.world.actions.columns())
    offered = [{"a": action} for action in actions]

    def rank(connection: Connection, row: int) -> tuple[str, int]:
        answer = json.loads(connection.send(request_bytes("/rank", {"c": contexts[row], "_multi": offered})))
        return answer["event_id"], answer["action"]

    def reward(connection: Connection, event_id: str, value: float) -> None:
        connection.send(request_bytes("/reward", {"event_id": event_id, "value": value}))

    with running(command) as server:
        return _loop(rounds, 0, server, rank, reward)


def _loop(
    rounds: Rounds, first: int, server: Server, rank: Callable[[Connection, int], tuple[str, int]],
    reward: Callable[[Connection, str, float], None],
) -> dict[str, Any]:  # fmt: skip
    """Rank and reward all events over some connections; return the regret at the marks, and the seconds."""
    lost = np.zeros(len(rounds.draw))
    lost[:first] = rounds.lost[:first].mean(axis=1)
    rows, lock, failures = iter(range(first, len(lost))), threading.Lock(), []

    def work() -> None:
        connection = Connection(server)
        try:
            while True:
                with lock:
                    row = next(rows, None)
                if row is None or failures:
                    return
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
    seconds = time.perf_counter() - start
    return {"regret": regret_at_marks(lost), "seconds": round(seconds, 1)}


def _records(columns: dict[str, Any]) -> list[dict[str, float]]:
    """Return the rows of columns of numbers."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]


def figures_of(measured: dict[str, Any]) -> dict[str, float]:
    """Return mean regrets and ratios to VW with their standard errors; ratios are those of one seed."""
    figures: dict[str, float] = {}
    rows = list(measured.get("replay", {}).values())
    for name in rows[0] if rows else ():
        for mark in (str(mark) for mark in MARKS if str(mark) in rows[0][name]):
            values = np.array([[row[name][mark], row["VW"][mark]] for row in rows])
            ratio = values[:, 0] / values[:, 1]
            figures[f"replay, {name}: regret at {mark}"] = values[:, 0].mean()
            figures[f"replay, {name}: ratio at {mark}"] = ratio.mean()
            if len(rows) > 1:
                figures[f"replay, {name}: standard error of the ratio at {mark}"] = ratio.std(ddof=1) / len(rows) ** 0.5
    for seed, row in measured.get("live", {}).items():
        for name, result in row.items():
            for mark, regret in result["regret"].items():
                figures[f"live, seed {seed}, {name}: regret at {mark}"] = regret
                if "VW" in row:
                    figures[f"live, seed {seed}, {name}: ratio at {mark}"] = regret / row["VW"]["regret"][mark]
    return figures


def main() -> None:
    """Measure the parts, write after each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results, as JSON; an existing file gets more of them")
    parser.add_argument("--part", choices=("tune", "replay", "live"), help="one part only")
    parser.add_argument("--events", type=int, default=EVENTS, help="events; fewer to see that it runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="seeds of replays")
    parser.add_argument("--live-seeds", type=int, nargs="+", default=[0], help="seeds of loops over HTTP")
    parser.add_argument("--live-agents", nargs="+", default=list(GRIDS)[:2], choices=list(GRIDS), help="our agents")
    parser.add_argument("--peer-python", default=os.environ.get(VARIABLE), help=f"VW's Python, else ${VARIABLE}")
    options = parser.parse_args()
    if not options.peer_python:
        parser.error(f"expected --peer-python or ${VARIABLE}: a Python with the peer's packages (README.md)")
    silence_libraries()
    logging.disable(logging.WARNING)
    measured: dict[str, Any] = {}
    if options.out.exists():
        measured = json.loads(options.out.read_text(encoding="utf-8"))["context"]["measured"]
    python, load = options.peer_python, os.getloadavg()[0]
    parts = {
        "tune": lambda: tune(python, measured),
        "replay": lambda: replays(python, options.events, options.seeds, measured),
        "live": lambda: live(python, options.events, options.live_seeds, options.live_agents, measured),
    }  # fmt: skip
    for name in [options.part] if options.part else parts:
        for _ in parts[name]():
            extra = {"events": options.events, "load_average_at_start": load, "measured": measured}
            write_results(options.out, figures_of(measured), context(options.seeds, **extra))


if __name__ == "__main__":
    main()
