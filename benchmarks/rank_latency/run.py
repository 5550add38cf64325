"""Time ranks over HTTP: one client, one after the other, 50 actions with 30 features and a context of 30 features.

python benchmarks/rank_latency/run.py --out benchmarks/rank_latency/results.json
"""

import argparse
import http.client
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.data.feature_columns import action_digests
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.features import schema_from_dict
from recpolicy.inference.feature_artifact import write_feature_policy
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.models.feature_agent_configs import FeatureTrainConfig
from recpolicy.training.feature_agents import feature_agent
from recpolicy.training.feature_training import learn_feature_policy

ACTIONS, FEATURES, ROUNDS = 50, 30, 400
REQUESTS, WARM_UP = 400, 50
SERVE = [sys.executable, "-c", "from recpolicy.cli.main import main; main()", "serve"]
SETTINGS = "[limits]\nrate = 0\n[online]\nenabled = false\n"


def make_policy(model: str, seed: int = 0) -> FeaturePolicy:
    """Return a SquareCB policy over this model that learned from random rounds."""
    rng = np.random.default_rng(seed)
    number = {"type": "number"}
    schema = schema_from_dict({
        "context": {f"c{index}": number for index in range(FEATURES)},
        "action": {f"f{index}": number for index in range(FEATURES)}, "bits": 18,
    })  # fmt: skip
    ids = np.array([f"a{index}" for index in range(ACTIONS)], object)
    actions = {f"f{index}": rng.normal(size=ACTIONS) for index in range(FEATURES)}
    log = FeatureLog(
        event_id=np.array([str(row) for row in range(ROUNDS)], object), time=np.arange(ROUNDS),
        context={f"c{index}": rng.normal(size=ROUNDS) for index in range(FEATURES)}, action_id=ids, actions=actions,
        action_digest=action_digests(ids, actions), start=np.arange(ROUNDS + 1) * ACTIONS,
        offered=np.tile(np.arange(ACTIONS, dtype=np.int32), ROUNDS),
        chosen=rng.integers(0, ACTIONS, ROUNDS).astype(np.int32), log_propensity=np.full(ROUNDS, -np.log(ACTIONS)),
        reward=rng.random(ROUNDS), policy=np.full(ROUNDS, "uniform", object), version=np.full(ROUNDS, "0", object),
        name="random rounds", reward_range=(0.0, 1.0),
    )  # fmt: skip
    config = feature_agent("squarecb").config(model=model)
    return learn_feature_policy(log, schema, "squarecb", config, FeatureTrainConfig(), seed=seed)


def make_requests(count: int, seed: int = 1) -> list[bytes]:
    """Return requests with new contexts and the same actions, as an application sends them."""
    rng = np.random.default_rng(seed)
    of_actions = [f"f{index}" for index in range(FEATURES)]
    actions = [
        {"id": f"a{index}", "features": dict(zip(of_actions, rng.normal(size=FEATURES), strict=True))}
        for index in range(ACTIONS)
    ]
    names = [f"c{index}" for index in range(FEATURES)]
    return [
        json.dumps({"context": dict(zip(names, rng.normal(size=FEATURES), strict=True)), "actions": actions}).encode()
        for _ in range(count)
    ]


def time_requests(url: str, requests: list[bytes]) -> list[float]:
    """Return the milliseconds of each request, over one connection."""
    host, port = url.removeprefix("http://").split(":")
    connection, times = http.client.HTTPConnection(host, int(port)), []
    for body in requests:
        start = time.perf_counter()
        connection.request("POST", "/v1/rank", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        times.append(1e3 * (time.perf_counter() - start))
        assert answer.status == 200, answer.status
    connection.close()
    return times


def measure(folder: Path, model: str, stored: bool) -> dict[str, Any]:
    """Return the figures of one server process."""
    run = folder / f"{model}-{stored}"
    write_feature_policy(make_policy(model), run)
    config = folder / "server.toml"
    config.write_text(SETTINGS)
    command = [*SERVE, str(run), "--port", "0", "--config", str(config), *([] if stored else ["--no-store"])]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        before = _processor_seconds(server.pid)
        times = np.array(time_requests(url, make_requests(REQUESTS))[WARM_UP:])
        spent = 1e3 * (_processor_seconds(server.pid) - before) / REQUESTS
    finally:
        server.kill()
        server.wait()
    p50, p95 = np.percentile(times, [50, 95]).round(2).tolist()
    return {"model": model, "stored": stored, "rank_p50_ms": p50, "rank_p95_ms": p95, "processor_ms": round(spent, 2)}


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure both models with and without a store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file of results")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(Path(folder), model, stored) for model in ("linear", "hashed") for stored in (True, False)]
    result = {
        "python": platform.python_version(), "cpus": os.cpu_count(), "load_average": round(load, 1), "rows": rows
    }  # fmt: skip
    text = json.dumps(result, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
