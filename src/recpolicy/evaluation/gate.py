"""May a policy go into service? Criteria over the figures of an evaluation, each with its limit.

A gain counts by the lower end of its interval, so that chance does not promote. Where the logged rounds say too little
(effective sample size below the least), the verdict is no_verdict, which promotes nothing either.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import pandas as pd

from recpolicy.core.config import as_dict
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.evaluation.criterion import Criterion

Verdict = Literal["pass", "fail", "no_verdict"]
_SIGNED = ("margin", "relative_gain", "held_out_margin")
"""Limits that may be negative: a gain that may be a small loss."""
_EFFECTIVE = "effective rounds"


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """The limits; None switches a criterion off. Gains and ratings are in the units of the ratings (stars)."""

    margin: float | None = 0.0
    """Least gain (lower bound, reward per round) over the incumbent on logged rounds."""
    relative_gain: float | None = 0.0
    """Least relative gain (lower bound) over the policy that logged: 0.05 asks for 5 % more reward."""
    least_effective_rounds: float | None = 50.0
    """Effective sample size of the logged rounds below which there is no verdict."""
    weight_error: float | None = 4.0
    """Standard errors that the mean importance weight may be away from 1: more, and propensities or support are off."""
    held_out_margin: float | None = 0.0
    """Least gain (lower bound, stars) in held-out choice over always showing the most popular items."""
    least_coverage: float | None = 0.01
    """Least share of the items among everybody's ten best: a policy that shows all the same few has collapsed."""
    least_diversity: float | None = 0.01
    """Least exp(entropy) / A of the best items of A; 1 / A is one item for all. Too lax where A is below 100."""
    group_loss: float | None = 0.1
    """How much a group of users may lose (upper bound): its whole interval below minus this shows harm."""
    calibration_bias: float | None = 0.2
    """How far the mean estimate of held-out ratings may be off."""
    calibration_error: float | None = 0.25
    """How far estimates may be off on average over ten bins of them."""
    latency_ms: float | None = 250.0
    """Most milliseconds of the slowest hundredth of answers for one user, in process, where the evaluation was made."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is None:
                continue
            signed = one.name in _SIGNED
            if not math.isfinite(value) or (value < 0 and not signed):
                expected = "a finite number" if signed else "0 or more"
                raise ConfigError(f"GateConfig.{one.name} is {value}; expected {expected}, or none for no limit")


@dataclass(frozen=True)
class Gate:
    """The criteria, what they come to, and what they were measured on."""

    verdict: Verdict
    criteria: tuple[Criterion, ...]
    reasons: tuple[str, ...]
    """One line for each criterion that is not kept."""
    config: GateConfig
    policy: Mapping[str, Any]
    """Which policy: agent, content digest, data and log digests."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Digests of all that the evaluation looked at."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Further figures, without a limit."""

    def table(self) -> pd.DataFrame:
        """One row a criterion, for people."""
        rows = [
            (f"{one.figure:.4g}", str(one).rpartition("expected ")[2], "kept" if one.passed else "NOT KEPT")
            for one in self.criteria
        ]
        names = pd.Index([one.name for one in self.criteria], name="criterion")
        return pd.DataFrame(rows, columns=["figure", "limit", "result"], index=names)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able values; a figure that is not a number is null."""
        criteria = [
            {
                "name": one.name, "figure": one.figure if math.isfinite(one.figure) else None, "limit": one.limit,
                "at_least": one.at_least, "strict": one.strict, "passed": one.passed,
            }
            for one in self.criteria
        ]  # fmt: skip
        return {
            "verdict": self.verdict, "criteria": criteria, "reasons": list(self.reasons),
            "config": as_dict(self.config), "policy": dict(self.policy), "inputs": dict(self.inputs),
            "figures": dict(self.figures),
        }  # fmt: skip


def gate(evaluation: Mapping[str, Any], config: GateConfig | None = None) -> Gate:
    """Hold an evaluation (recpolicy.workflows.evaluate_candidate, as plain values) against the limits.

    A figure that the evaluation lacks is not kept. Raises DataError for an evaluation without any figures that a gate
    could look at, and ConfigError where every criterion that it could look at is switched off.
    """
    config = config or GateConfig()
    held_out, logged = evaluation.get("held_out"), evaluation.get("off_policy")
    if held_out is None and logged is None:
        raise DataError("gate: the evaluation has neither held-out nor off-policy figures; evaluate the policy first")
    asked = [
        *([] if logged is None else _of_log(logged, config)),
        *([] if held_out is None else _of_held_out(held_out, config)),
        *_of_policy(evaluation, config),
    ]
    criteria = tuple(one for one in asked if one is not None)
    if not criteria:
        raise ConfigError("gate: every criterion is switched off; a gate without criteria would let anything pass")
    enough = all(one.passed for one in criteria if one.name == _EFFECTIVE)
    kept = all(one.passed for one in criteria)
    verdict: Verdict = "pass" if kept else ("fail" if enough else "no_verdict")
    reasons = tuple(str(one) for one in criteria if not one.passed)
    return Gate(
        verdict, criteria, reasons, config, evaluation["policy"], evaluation.get("inputs", {}), _figures(evaluation)
    )  # fmt: skip


def _of_log(logged: Mapping[str, Any], config: GateConfig) -> list[Criterion | None]:
    gain, relative = _figure(logged, "gain", "lo"), _figure(logged, "relative_gain", "lo")
    return [
        _least(f"gain over {logged['baseline']}, lower bound", gain, config.margin, strict=True),
        _least("relative gain over who logged, lower bound", relative, config.relative_gain, strict=True),
        _least(_EFFECTIVE, logged["effective_sample_size"], config.least_effective_rounds),
        _most("mean weight off 1 (std errors)", logged["mean_weight_z"], config.weight_error),
        _worst_group("on the log", logged, config.group_loss),
    ]


def _of_held_out(held_out: Mapping[str, Any], config: GateConfig) -> list[Criterion | None]:
    gain = _figure(held_out, "gain", "most_popular", "lo")
    bias, error = _figure(held_out, "calibration", "bias"), _figure(held_out, "calibration", "error")
    return [
        _least("held-out gain over most popular, lower bound", gain, config.held_out_margin, strict=True),
        _least("coverage of the ten best", _figure(held_out, "coverage"), config.least_coverage),
        _worst_group("on held-out ratings", held_out, config.group_loss),
        _most("bias of rating estimates", abs(bias), config.calibration_bias),
        _most("calibration error of rating estimates", error, config.calibration_error),
    ]


def _of_policy(evaluation: Mapping[str, Any], config: GateConfig) -> list[Criterion | None]:
    return [
        _least(
            "diversity of best items", _figure(evaluation, "actions", "diversity"), config.least_diversity, strict=True
        ),
        _most("latency, 99th percentile (ms)", _figure(evaluation, "latency", "p99_ms"), config.latency_ms),
    ]


def _worst_group(where: str, figures: Mapping[str, Any], limit: float | None) -> Criterion | None:
    """The group whose gain ends lowest must not end below -limit; None where no group is large enough to say.

    The upper end counts, not the lower: a group of few users has a wide interval, and asking each lower end to be above
    -limit would refuse nearly every policy for its smallest group.
    """
    found = figures.get("group_gain")
    if limit is None or (found is not None and not found["groups"]):
        return None
    if found is None:
        return Criterion(f"gain of the worst group {where}, upper bound", math.nan, -limit, at_least=True)
    name, worst = min(found["groups"].items(), key=lambda item: item[1]["hi"])
    title = f"gain of the worst group {where} over {found['baseline']} ({name}), upper bound"
    return Criterion(title.replace("_", " "), worst["hi"], -limit, at_least=True)


def _least(name: str, figure: float, limit: float | None, *, strict: bool = False) -> Criterion | None:
    return None if limit is None else Criterion(name, figure, limit, at_least=True, strict=strict)


def _most(name: str, figure: float, limit: float | None) -> Criterion | None:
    return None if limit is None else Criterion(name, figure, limit, at_least=False)


def _figure(body: Mapping[str, Any], *path: str) -> float:
    """The figure at that place; NaN where there is none."""
    found: Any = body
    for word in path:
        found = found.get(word) if isinstance(found, Mapping) else None
    return math.nan if found is None else float(found)


def _figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """What is reported without a limit, where it is known."""
    places = {
        "items that are the best of some user or round": ("actions", "distinct"),
        "items in the catalogue": ("actions", "actions"),
        "share of the most frequent best item": ("actions", "modal_share"),
        "gain on hits": ("off_policy", "gain_on_hits"),
        "latency, median (ms)": ("latency", "median_ms"),
    }
    found = {name: _figure(evaluation, *path) for name, path in places.items()}
    return {name: figure for name, figure in found.items() if math.isfinite(figure)}
