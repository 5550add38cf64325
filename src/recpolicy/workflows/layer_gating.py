"""Gate a policy under a tuned layer: the three gates of tuning on a held-out log, and exact rewards in a world.

The log has uniform weights and was not used for the tuning: another log, later requests of the same server, or the half
of the tuning's own log that the gates had seen then. N requests.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recpolicy.agents.utility_tuning import mean_weights_action
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.seeds import generator
from recpolicy.evaluation.gate import Criterion, Gate, GateConfig, Verdict
from recpolicy.evaluation.tuning_gates import MIN_DIVERSITY, MIN_HITS, TuningGates, tuning_gates
from recpolicy.inference.predictor import Policy
from recpolicy.inference.tuned_layer import TunedLayer
from recpolicy.inference.tuned_scorer import TunedScorer
from recpolicy.workflows.gating import PAGE_FILE, RECORD_FILE, write_gate
from recpolicy.workflows.layer_tuning import (
    TuningResult,
    WorldComparison,
    compare_in_world,
    served_actions,
    split_log,
)
from recpolicy.workflows.weight_logs import METADATA, OBJECTIVES, log_times, read_weight_log

if TYPE_CHECKING:
    from recpolicy.data.splits import Split
    from recpolicy.data.tuning_log import TuningLog

_NEEDED = (
    "a tuned layer is gated on a log of weights: give --log, a folder of `log simulate --weights uniform` or `log"
    " export --task weights`"
)
HITS = "effective hits"
_VERDICTS: dict[str, Verdict] = {"pass": "pass", "fail": "fail", "cannot tell": "no_verdict"}


def gate_layer(
    policy: Policy, log: Path | None, split: "Split | None", config: GateConfig, seed: int = 0, out: Path | None = None
) -> Gate:
    """Gate a policy under a tuned layer.

    Args:
        policy: The policy with its layer.
        log: Folder of a log of uniform weights.
        split: The ratings of the training: the evaluation world is fitted on them. None leaves that comparison out.
        config: Limits of other gates, kept in the record; those of a layer are fixed.
        seed: Seed of the intervals.
        out: A folder that gets gate.json and gate.html.

    Returns:
        The verdict with its criteria; no verdict with too few hits.

    Raises:
        DataError: There is no log of weights, it is of another policy, or all of it was used for the tuning.
        ConfigError: The log has other heads, another grid or other bounds than the layer.
    """
    assert isinstance(policy.scorer, TunedScorer), "only a tuned layer is gated on weights"
    layer = policy.scorer.layer
    held_out = read_holdout(policy, log)
    action = served_actions(layer.policy, held_out)
    gates = tuning_gates(held_out, action, layer.static_action, generator(seed, "gate/layer"))
    compared = None if split is None else _compare(layer, gates, action, split, policy, seed)
    result = _gate(policy, held_out, gates, compared, config)
    if out is not None:
        write_gate(result, out / RECORD_FILE, out / PAGE_FILE)
    return result


def read_holdout(policy: Policy, path: Path | None) -> "TuningLog":
    """Return the requests of a log that the tuning of the policy's layer has not used; see `gate_layer`."""
    assert isinstance(policy.scorer, TunedScorer), "only a tuned layer has a held-out log"
    layer = policy.scorer.layer
    if path is None or not (path / METADATA).is_file():
        raise DataError(_NEEDED if path is None else f"{path}: no {METADATA}; {_NEEDED}")
    log, utility, grid, _ = read_weight_log(path, policy.base, layer.utility.names[1:], layer.utility.own)
    if grid != layer.policy.grid:
        raise ConfigError(f"{path}: another grid of weights than that of the layer; tune on this log, or use another")
    if utility.scaling.as_dict() != layer.utility.scaling.as_dict():
        raise ConfigError(
            f"{path}: other bounds of the heads than those of the layer; tune on this log, or use another"
        )
    log.check_uniform("the gate")
    reward = np.array([float(layer.metadata["reward"].get(name, 0.0)) for name in OBJECTIVES])
    log = log.with_reward(reward)
    if log.digest == layer.metadata.get("log_digest"):
        return split_log(log, float(layer.metadata.get("evaluation_share", 0.5)), int(layer.metadata["seed"]))[1]
    until, times = layer.metadata.get("log_until"), log_times(path)
    if until is None or times is None:
        return log
    later = np.flatnonzero(times > until)
    if not len(later):
        raise DataError(f"{path}: no request after those that the layer was tuned on; export the log again later")
    return log.take(later)


def _compare(
    layer: TunedLayer, gates: TuningGates, action: np.ndarray, split: "Split", policy: Policy, seed: int
) -> WorldComparison:
    """Return the exact rewards in the evaluation world."""
    from recpolicy.models.session_worlds import fit_two_worlds

    world = fit_two_worlds(split, None, int(policy.metadata.get("seed", 0))).evaluation_world
    mean = mean_weights_action(layer.policy.grid, action)
    return compare_in_world(TuningResult(layer, gates, mean, []), world, seed)


def _gate(
    policy: Policy, log: "TuningLog", gates: TuningGates, compared: WorldComparison | None, config: GateConfig
) -> Gate:
    criteria = [
        Criterion("diversity of the weights, lower bound", gates.diversity.lo, MIN_DIVERSITY, True, strict=True),
        Criterion(HITS, gates.effective_hits, float(MIN_HITS), at_least=True),
        Criterion("relative gain over random weights, lower bound", gates.relative_gain.lo, 0.0, True, strict=True),
        Criterion("lift over the best static weights, lower bound", gates.lift.lo, 0.0, True, strict=True),
    ]  # fmt: skip
    figures = {
        "requests": float(len(log)), "hits": float(gates.hits), "fallbacks": float(gates.fallbacks),
        "grid points served": float(gates.distinct), "share of the most frequent one": gates.modal_share,
        "relative gain": gates.relative_gain.value, "lift": gates.lift.value,
    }  # fmt: skip
    verdict = _VERDICTS[gates.verdict]
    if compared is not None:
        gain = compared.over_policy
        world = Criterion(
            f"gain over the policy alone in {compared.world}, lower bound", gain.lo, 0.0, True, strict=True
        )
        criteria.append(world)
        verdict = verdict if world.passed else "fail"
        figures |= {
            f"{name} in {compared.world}": interval.value
            for name, interval in (
                ("gain over the best static weights", compared.over_static),
                ("gain over the layer's mean weights", compared.over_mean_weights),
            )
        }  # fmt: skip
        figures[f"gain over the best static weights in {compared.world}, lower bound"] = compared.over_static.lo
    reasons = tuple(str(criterion) for criterion in criteria if not criterion.passed)
    metadata = policy.metadata
    described: dict[str, Any] = {
        "agent": policy.artifact.agent, "policy_digest": metadata["policy_digest"], "data": metadata.get("data"),
        "seed": metadata.get("seed"), "log": log.digest, "base_policy": metadata["base_policy"],
    }  # fmt: skip
    inputs = {"candidate": metadata["policy_digest"], "incumbent": metadata["base_policy"], "rounds": log.digest}
    return Gate(verdict, tuple(criteria), reasons, config, described, inputs, figures, _NOTES)


_NOTES = (
    "The gates of a tuned layer estimate values from requests whose drawn weights are those that the layer would"
    " choose. The limits of other gates do not apply.",
)
