"""SquareCB over hashed features, beside Vowpal Wabbit's: how good, how fast?

Both learn the same log in one pass, with the same features, interactions and number of weights; each is tuned over its
grid on a part of the log of seed 0. All values are true ones: 0 is the uniform policy, 1 the best one.

    python benchmarks/own_features/run.py [--quick] [--peer-python PYTHON] --out results.json
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import context, write_results
from worlds import WORLDS, World

from recpolicy.core.config import build
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.feature_columns import action_digests
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.features import FeatureSchema
from recpolicy.data.features.schema import CategoryFeature, NumberFeature
from recpolicy.inference.action_distributions import greedy, squarecb, squarecb_gamma
from recpolicy.inference.feature_policy import FeaturePolicy

HERE, VARIABLE = Path(__file__).resolve().parent, "RECPOLICY_VW_PYTHON"
SEEDS = (0, 1, 2)
ROUNDS = {"planted": 1_000_000, "open_bandit": 300_000}
TUNING, NEW = 100_000, 20_000
"""Rounds of a tuning run; contexts for the choice of settings, and as many others for the figures."""
RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
GAMMAS = (10.0, 100.0, 1000.0)
BOUNDS = (20.0, 100.0)
"""Bounds on importance weights; VW has none."""
PEER, PEER_LEARNS = "--cb_explore_adf --squarecb", "--cb_adf --cb_type mtr"


def schema_of(world: World) -> FeatureSchema:
    """Return numbers standardized, categories one-hot: the hashed model reads their names."""
    parts = {
        part: {
            name: NumberFeature() if column.dtype.kind == "f" else CategoryFeature()
            for name, column in columns.columns().items()
        }
        for part, columns in (("context", world.context), ("action", world.actions))
    }
    return FeatureSchema(context=parts["context"], action=parts["action"], bits=18)


def log_of(world: World) -> FeatureLog:
    """Return the rounds of a world as a feature log."""
    rounds, arms = world.expected.shape
    ids = np.array([f"action {arm}" for arm in range(arms)], object)
    actions = world.actions.columns()
    return FeatureLog(
        event_id=np.arange(rounds).astype(str).astype(object), time=np.arange(rounds), context=world.context.columns(),
        action_id=ids, actions=actions, action_digest=action_digests(ids, actions),
        start=np.arange(rounds + 1) * arms, offered=np.tile(np.arange(arms, dtype=np.int32), rounds),
        chosen=world.chosen.astype(np.int32), log_propensity=np.log(world.propensity), reward=world.reward,
        policy=np.full(rounds, "log", object), version=np.full(rounds, "0", object), name="benchmark",
        reward_range=(0.0, 1.0),
    )  # fmt: skip


def learn(log: FeatureLog, schema: FeatureSchema, settings: dict[str, Any], epochs: int = 2) -> FeaturePolicy:
    """Return what an agent learns from the log; `settings` name the agent."""
    from recpolicy.models.feature_agent_configs import FeatureTrainConfig
    from recpolicy.training.feature_agents import FEATURE_AGENTS
    from recpolicy.training.feature_training import learn_feature_policy

    settings = {"agent": "squarecb", "max_weight": 20.0, **settings}
    agent, bound = settings.pop("agent"), settings.pop("max_weight")
    config = build(FEATURE_AGENTS[agent].config, settings, agent)
    return learn_feature_policy(log, schema, agent, config, FeatureTrainConfig(max_weight=bound, epochs=epochs))


def values(policy: FeaturePolicy, new: World) -> dict[str, float]:
    """Return the relative values of the policy, and of its greedy choice."""
    different, place = new.distinct()  # contexts of a few categories repeat
    log = log_of(different)
    scores = policy.scores_of(log).reshape(different.expected.shape)
    if policy.head == "squarecb":
        probability = squarecb(scores, policy.settings["gamma"], None)
    else:
        probability = policy.probabilities_of(log).reshape(different.expected.shape)
    return {"value": new.relative(probability[place]), "greedy": new.relative(greedy(scores, None)[place])}


def tune_ours(log: FeatureLog, schema: FeatureSchema, new: World) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the best settings of the grid, and what each gave."""
    tried = []
    for rate in RATES:
        for bound in BOUNDS:
            settings = {"model": "hashed", "hashed_learning_rate": rate, "max_weight": bound}
            scores = learn(log, schema, settings).scores_of(log_of(new)).reshape(new.expected.shape)
            for gamma in GAMMAS:
                found = new.relative(squarecb(scores, squarecb_gamma(len(log), gamma, 0.5), None))
                tried.append({**settings, "gamma_scale": gamma, "value": found})
    best = max(tried, key=lambda row: row["value"])
    return {name: value for name, value in best.items() if name != "value"}, tried


def run_peer(python: str, folder: Path, world: World, new: World, arguments: list[str]) -> list[dict[str, Any]]:
    """Return what peer.py measures, with the value of each list of arguments."""
    asked, told = folder / "rounds.npz", folder / "result.npz"
    parts = {"context": world.context, "actions": world.actions, "new": new.context}
    arrays: dict[str, NDArray[Any]] = {}
    for name, part in parts.items():
        arrays |= {f"{name}_numbers": part.numbers, f"{name}_codes": part.codes}
    np.savez(asked, **arrays, chosen=world.chosen, reward=world.reward, propensity=world.propensity)
    subprocess.run([python, str(HERE / "peer.py"), str(asked), str(told), *arguments], check=True, timeout=7200)
    with np.load(told) as answer:
        result = json.loads(str(answer["result"]))
        for place, run in enumerate(result["runs"]):
            run |= {name: value for name, value in result.items() if name != "runs"}
            if f"probabilities_{place}" in answer:
                probability = answer[f"probabilities_{place}"].astype(float)
                probability /= probability.sum(axis=1, keepdims=True)
                run |= {"value": new.relative(probability), "greedy": new.relative(greedy(probability, None))}
    return list(result["runs"])


def tune_peer(python: str, folder: Path, world: World, new: World) -> tuple[str, list[dict[str, Any]]]:
    """Return the best arguments of VW's grid, and what each gave."""
    rates = [f"{PEER} -l {rate} --power_t {power}" for rate in RATES for power in (0.5, 0)]
    tried = run_peer(python, folder, world, new, rates)
    best = max(tried, key=lambda row: row["value"])["arguments"]
    tried += run_peer(python, folder, world, new, [f"{best} --gamma_scale {gamma:g}" for gamma in GAMMAS[1:]])
    return str(max(tried, key=lambda row: row["value"])["arguments"]), tried


def time_ours(log: FeatureLog, schema: FeatureSchema, settings: dict[str, Any]) -> dict[str, float]:
    """Return seconds of one pass, encoding timed apart; medians of 3, after compilation."""
    from recpolicy.data.features import FeatureEncoder
    from recpolicy.models.hashed_linear import HashedLinear, HashedLinearConfig

    encoder = FeatureEncoder.fit(schema, log.context, log.actions)
    weight = np.minimum(1 / log.propensity, settings["max_weight"])
    config = HashedLinearConfig(learning_rate=settings["hashed_learning_rate"])
    seconds: dict[str, list[float]] = {"encode_s": [], "encode_cpu_s": [], "learn_s": [], "learn_cpu_s": []}
    for _ in range(3):
        clocks = [(time.perf_counter(), time.process_time())]
        rows = encoder.sparse_context(log.context), encoder.sparse_action(log.actions)
        clocks.append((time.perf_counter(), time.process_time()))
        model = HashedLinear(config, schema.bits, schema.interactions)
        place = np.arange(len(log))
        model.learn(*rows, place[:64], log.chosen_action[:64], log.reward[:64], weight[:64])  # compiles
        model = HashedLinear(config, schema.bits, schema.interactions)
        start = time.perf_counter(), time.process_time()
        model.learn(*rows, place, log.chosen_action, log.reward, weight / weight.mean())
        clocks += [start, (time.perf_counter(), time.process_time())]
        for number, clock in enumerate(("s", "cpu_s")):
            seconds[f"encode_{clock}"].append(clocks[1][number] - clocks[0][number])
            seconds[f"learn_{clock}"].append(clocks[3][number] - clocks[2][number])
    return {name: float(np.median(times)) for name, times in seconds.items()}


def permuted(world: World, seed: int) -> FeatureLog:
    """Return a log in which the features of each round's actions are permuted: the control."""
    log, arms = log_of(world), world.expected.shape[1]
    offered = log.offered.reshape(-1, arms)
    return replace(log, offered=np.random.default_rng(seed).permuted(offered, axis=1).ravel())


def measure(
    name: str, seeds: Sequence[int], python: str | None, quick: bool, folder: Path, told: dict[str, Any]
) -> None:
    """Measure one world; add what is found to `told`, which may have the settings and seeds of an earlier run."""
    rounds, tuning = (ROUNDS[name] // 50, TUNING // 10) if quick else (ROUNDS[name], TUNING)
    told.setdefault("seeds", [])
    for seed in seeds:
        if seed in [found["seed"] for found in told["seeds"]]:
            continue
        world = WORLDS[name](rounds + 2 * NEW, seed)
        learned, first, new = (world.take(*part) for part in parts(rounds))
        log, schema, part, chooses = log_of(learned), schema_of(learned), learned.take(0, tuning), not told["seeds"]
        if chooses:
            told["ours_settings"], told["tuning_ours"] = tune_ours(log_of(part), schema, first)
            if python:
                told["vw_arguments"], told["tuning_vw"] = tune_peer(python, folder, part, first)
            told["permuted"] = values(learn(permuted(part, seed), schema, told["ours_settings"]), new)
            told["ours_time"] = time_ours(log, schema, told["ours_settings"])
            print(name, {key: told[key] for key in told if not key.startswith("tuning")}, flush=True)
        ours = told["ours_settings"]
        found: dict[str, Any] = {"seed": seed, "ours": values(learn(log, schema, ours), new)}
        if python:
            peers = told["vw_arguments"]
            found["vw"] = run_peer(python, folder, learned, new, [peers, PEER_LEARNS] if chooses else [peers])
            found["ratio"] = found["ours"]["value"] / found["vw"][0]["value"]
        print(name, found, flush=True)
        told["seeds"].append(found)


def figures_of(told: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one world."""
    figures = {"value": float(np.mean([found["ours"]["value"] for found in told["seeds"]]))}
    figures["permuted_value"] = told["permuted"]["value"]
    if "vw" in told["seeds"][0]:
        figures["vw_value"] = float(np.mean([found["vw"][0]["value"] for found in told["seeds"]]))
        figures["value_ratio_vw"] = float(np.mean([found["ratio"] for found in told["seeds"]]))
        explores, learns = told["seeds"][0]["vw"]
        ours_s = told["ours_time"]["learn_cpu_s"]
        figures["learn_cpu_s"], figures["vw_learn_cpu_s"] = ours_s, explores["learn_cpu_s"]
        figures["speed_ratio_vw"] = explores["learn_cpu_s"] / ours_s
        figures["speed_ratio_vw_cb_adf"] = learns["learn_cpu_s"] / ours_s
    return figures


def parts(rounds: int) -> list[tuple[int, int]]:
    """Return the rounds to learn, those that choose settings, those of the figures."""
    return [(0, rounds), (rounds, rounds + NEW), (rounds + NEW, rounds + 2 * NEW)]


def main() -> None:
    """Measure both worlds, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small part, to see that it runs; not for results.json")
    parser.add_argument("--out", type=Path, required=True, help="results, as JSON; an existing file gets more of them")
    parser.add_argument("--world", choices=list(WORLDS), help="one world only")
    parser.add_argument(
        "--peer-python", default=os.environ.get(VARIABLE), help=f"Vowpal Wabbit's Python, else ${VARIABLE}"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds; the first chooses the settings")
    options = parser.parse_args()
    silence_libraries()
    logging.disable(logging.WARNING)
    load, told = os.getloadavg()[0], {}
    if options.out.exists():  # adds seeds and worlds to it
        told = json.loads(options.out.read_text(encoding="utf-8"))["context"]["measured"]
    with tempfile.TemporaryDirectory() as folder:
        for name in [options.world] if options.world else list(WORLDS):
            measure(
                name, options.seeds, options.peer_python, options.quick, Path(folder), told.setdefault(name, {})
            )  # fmt: skip
            figures = {f"{world}_{key}": value for world in told for key, value in figures_of(told[world]).items()}
            metadata = context(
                options.seeds, rounds=ROUNDS, quick=options.quick, load_average_at_start=load, measured=told
            )
            write_results(options.out, figures, metadata)


if __name__ == "__main__":
    main()
