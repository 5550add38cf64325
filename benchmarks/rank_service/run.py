"""Requests per second of POST /v1/rank and of a server over Vowpal Wabbit: 50 actions with 30 numbers each.

python benchmarks/rank_service/run.py --peer-python vw/bin/python --out benchmarks/rank_service/results.json

All servers run at once and are measured in turn, in blocks; a ratio is that of two blocks of one turn. The last server
only reads the body and answers, so its rate is the limit of the client.
"""

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "rank_latency"))

from common import context, write_results
from run import ACTIONS, FEATURES, SETTINGS, make_policy, make_requests
from servers import peer_command, request_bytes, requests_per_second, running, serve_command

from recpolicy.inference.feature_artifact import write_feature_policy

VARIABLE = "RECPOLICY_VW_PYTHON"
BODIES, BLOCK, BLOCKS, WARM_UP = 100, 80, 8, 20
CONNECTIONS = (8,)
OURS = {"recpolicy linear": "linear", "recpolicy hashed": "hashed"}
PEERS = {"VW, its JSON": "vw", "VW, checked requests": "own"}
CONTROL = "reads and answers"


def in_vw_form(body: bytes) -> bytes:
    """Return a request in VW's JSON: the same numbers by the same names."""
    request = json.loads(body)
    return json.dumps(
        {"c": request["context"], "_multi": [{"a": each["features"]} for each in request["actions"]]}
    ).encode()


def commands(folder: Path, python: str) -> dict[str, tuple[list[str], str, str]]:
    """Return the command, the path of ranks and the form of the body of each server."""
    config = folder / "server.toml"
    config.write_text(SETTINGS)
    servers = {}
    for stored in (True, False):
        for name, model in OURS.items():
            run = folder / f"{model}-{stored}"
            write_feature_policy(make_policy(model), run)
            options = () if stored else ("--no-store",)
            servers[_label(name, stored)] = serve_command(run, config, *options), "/v1/rank", "own"
        for name, body in PEERS.items():
            options = ("--body", body, *(("--log", str(folder / f"{body}.log")) if stored else ()))
            servers[_label(name, stored)] = peer_command(python, *options), "/rank", body
    servers[CONTROL] = peer_command(python, "--body", "none"), "/rank", "own"
    return servers


def _label(name: str, stored: bool) -> str:
    return f"{name}, {'on disk' if stored else 'not stored'}"


def measure(folder: Path, python: str, blocks: int) -> dict[str, Any]:
    """Return the rates and processor times of each block, by server and number of connections."""
    own = make_requests(BODIES)
    bodies = {"own": own, "vw": [in_vw_form(body) for body in own]}
    measured: dict[str, Any] = {}
    with ExitStack() as stack:
        servers = {
            name: (stack.enter_context(running(command)), [request_bytes(path, body) for body in bodies[form]])
            for name, (command, path, form) in commands(folder, python).items()
        }
        for server, requests in servers.values():
            requests_per_second(server, (requests * WARM_UP)[:WARM_UP], 1)
        for _ in range(blocks):
            for connections in CONNECTIONS:
                for name, (server, requests) in servers.items():
                    result = requests_per_second(server, (requests * BLOCK)[:BLOCK], connections)
                    measured.setdefault(f"{name}, {connections}", []).append(result)
    return measured


def figures_of(measured: dict[str, Any]) -> dict[str, float]:
    """Return medians of all rows, and ratios of neighbors with their quartiles.

    `rank_per_s_ratio` is that of the linear model to the faster peer, `rank_per_s_ratio_checked` to the one that checks
    requests as ours does; both without a store.
    """
    figures = {}
    for name, rows in measured.items():
        for kind in ("per_s", "processor_ms"):
            figures[f"{name}: {kind}"] = float(np.median([row[kind] for row in rows]))
    for stored in (True, False):
        for connections in CONNECTIONS:
            for ours in OURS:
                for peer in PEERS:
                    first, second = (measured[f"{_label(name, stored)}, {connections}"] for name in (ours, peer))
                    for kind, power in (("per_s", 1), ("processor_ms", -1)):
                        ratio = [(a[kind] / b[kind]) ** power for a, b in zip(first, second, strict=True)]
                        low, middle, high = np.percentile(ratio, [25, 50, 75])
                        name = f"ratio of {kind}: {ours} / {_label(peer, stored)}, {connections}"
                        figures |= {name: middle, f"{name}: 25 %": low, f"{name}: 75 %": high}
    faster, checks = (
        figures[f"ratio of per_s: {next(iter(OURS))} / {_label(peer, False)}, {CONNECTIONS[0]}"] for peer in PEERS
    )
    return {"rank_per_s_ratio": faster, "rank_per_s_ratio_checked": checks} | figures


def main() -> None:
    """Measure all servers, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two blocks, to see that it runs; not for results.json")
    parser.add_argument("--out", type=Path, required=True, help="results, as JSON")
    parser.add_argument(
        "--peer-python", default=os.environ.get(VARIABLE), help=f"Vowpal Wabbit's Python, else ${VARIABLE}"
    )
    options = parser.parse_args()
    if not options.peer_python:
        parser.error(
            f"expected --peer-python or ${VARIABLE}: a Python with vowpalwabbit, fastapi and uvicorn[standard]"
        )
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder), options.peer_python, 2 if options.quick else BLOCKS)
    figures = figures_of(measured)
    print(json.dumps(figures, indent=1))
    extra = {"actions": ACTIONS, "features": FEATURES, "requests_a_block": BLOCK, "load_average_at_start": load}
    write_results(options.out, figures, context((0,), **extra, measured=measured))


if __name__ == "__main__":
    main()
