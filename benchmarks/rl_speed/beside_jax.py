"""Our PPO and rejax's, turn by turn: one policy each, and five policies in one program each.

Each turn measures both sides on one core; the first turn also on all cores, which is faster for neither. The ratios are
those of steps per second of *processor* time on one core: an idle machine has the same ratio of clock times, and other
jobs disturb it little.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from call_peer import measure_jax, measure_ours
from products import steps_per_s as products_steps_per_s

STEPS = {100: 12_000, 1682: 6_000}
"""Steps from which each policy learns, for the return."""
SEVERAL = 5


def beside_jax(
    paths: Mapping[int, Path], python: str | None, seeds: Sequence[int], agent: Mapping[str, Any], quick: bool
) -> tuple[dict[str, float], dict[str, str]]:
    """Figures of both sides and their ratios, and the peer's versions."""
    figures: dict[str, float] = {}
    versions: dict[str, str] = {}
    for items, path in paths.items():
        bound = products_steps_per_s(items)
        rows = []
        for seed in seeds:
            shared = _shared(path, seed, 1, STEPS[items] // (10 if quick else 1))
            mine, peer = _ours(shared, agent), _peer(python, shared, agent)
            rows.append(_row(mine, peer, _ours({**shared, "loop_fusion": True}, agent)))
            print(items, seed, {name: round(value, 3) for name, value in rows[-1].items()}, flush=True)
            versions = peer["versions"]
        figures |= _summary(f"jax_{items}", rows)
        if not quick:
            everywhere = {**_shared(path, seeds[0], 1, STEPS[items] // 10), "cores": 0, "evaluation_sessions": 0}
            figures[f"ppo_jax_{items}_ours_all_cores_steps_per_s"] = _ours(everywhere, agent)["steps_per_s"]
            figures[f"ppo_jax_{items}_peer_all_cores_steps_per_s"] = _peer(python, everywhere, agent)["steps_per_s"]
        figures[f"ppo_jax_{items}_products_steps_per_s"] = bound
        for name in ("ours", "peer", "loop_fusion"):
            figures[f"ppo_jax_{items}_{name}_share_of_products"] = (
                figures[f"ppo_jax_{items}_{name}_steps_per_s"] / bound
            )
    rows = []
    for seed in seeds:
        shared = _shared(paths[100], seed, SEVERAL, STEPS[100] // (10 if quick else 4))
        rows.append(_row(_ours(shared, agent), _peer(python, shared, agent)))
        print(f"{SEVERAL} seeds", {name: round(value, 3) for name, value in rows[-1].items()}, flush=True)
    return figures | _summary(f"jax_{SEVERAL}_seeds", rows), versions


def _shared(path: Path, seed: int, policies: int, steps: int) -> dict[str, Any]:
    return {
        "world": str(path), "total_steps": steps, "seed": seed * policies, "seeds": policies, "seconds": 4.0,
        "cores": 1, "evaluation_sessions": 1024,
    }  # fmt: skip


def _ours(shared: Mapping[str, Any], agent: Mapping[str, Any]) -> dict[str, Any]:
    return measure_ours({**shared, "algorithm": "ppo", "agent": {**agent, "head": "plain"}})


def _peer(python: str | None, shared: Mapping[str, Any], agent: Mapping[str, Any]) -> dict[str, Any]:
    same = {name: agent[name] for name in ("n_steps", "n_epochs", "gamma", "learning_rate")}
    minibatches = 8 * agent["n_steps"] // agent["minibatch_size"]
    return measure_jax(python, {**shared, **same, "minibatches": minibatches})


def _row(
    mine: Mapping[str, Any], peer: Mapping[str, Any], fused: Mapping[str, Any] | None = None
) -> dict[str, float]:  # fmt: skip
    row = {}
    for name, told in {"ours": mine, "peer": peer, "loop_fusion": fused}.items():
        if told is not None:
            row[f"{name}_steps_per_s"] = told["steps_per_processor_s"]
            row[f"{name}_clock_steps_per_s"] = told["steps_per_s"]
            row[f"{name}_return"] = told["return_sampled"]
            row[f"{name}_compile_s"] = told["compile_s"]
    return row


def _summary(name: str, rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    figures = {f"ppo_{name}_{key}": float(np.median(column)) for key, column in columns.items()}
    for kind, suffix in (("ours", ""), ("loop_fusion", "_loop_fusion")):
        if f"{kind}_steps_per_s" in columns:
            ratio = columns[f"{kind}_steps_per_s"] / columns["peer_steps_per_s"]
            key = f"ppo_ratio_{name}{suffix}"
            figures |= {key: float(np.median(ratio)), f"{key}_lo": float(ratio.min()), f"{key}_hi": float(ratio.max())}
    return figures
