"""May a policy go into service? Criteria over the figures of a judgement, each with its limit.

A gain counts by the lower end of its interval, so that chance does not promote. Where the logged rounds say too little
(effective sample size below the least), the verdict is no_verdict, which promotes nothing either.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from recpolicy.core.config import as_dict
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.evaluation.criterion import Criterion

Verdict = Literal["pass", "fail", "no_verdict"]


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """The limits."""

    margin: float = 0.0
    """Least gain (lower bound, reward per round) over the incumbent on logged rounds."""
    held_out_margin: float = 0.0
    """Least gain (lower bound, stars) in held-out choice over always showing the most popular movies."""
    least_effective_rounds: float = 50.0
    """Effective sample size of the logged rounds below which there is no verdict."""
    weight_error: float = 4.0
    """Standard errors that the mean importance weight may be away from 1: more, and propensities or support are off."""
    least_coverage: float = 0.01
    """Least share of the movies among everybody's ten best: a policy that shows all the same few has collapsed."""

    def __post_init__(self) -> None:
        for name in ("least_effective_rounds", "weight_error", "least_coverage"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"GateConfig.{name} is {value}; expected 0 or more")


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
            "config": as_dict(self.config), "policy": dict(self.policy),
        }  # fmt: skip


def gate(judgement: Mapping[str, Any], config: GateConfig | None = None) -> Gate:
    """Hold a judgement (recpolicy.api.judge, as plain values) against the limits.

    Raises DataError for a judgement without any figures that a gate could look at.
    """
    config = config or GateConfig()
    held_out, logged = judgement.get("held_out"), judgement.get("off_policy")
    if held_out is None and logged is None:
        raise DataError("gate: the judgement has neither held-out nor off-policy figures; evaluate the policy first")
    criteria: list[Criterion] = []
    enough = True
    if logged is not None:
        effective = Criterion(
            "effective rounds", logged["effective_rounds"], config.least_effective_rounds, at_least=True
        )
        enough = effective.passed
        criteria += [
            Criterion(
                f"gain over {logged['against']}, lower bound",
                logged["gain"]["lo"],
                config.margin,
                at_least=True,
                strict=True,
            ),
            effective,
            Criterion("mean weight off 1 (std errors)", logged["weight_off"], config.weight_error, at_least=False),
        ]
    if held_out is not None:
        name, gain = "held-out gain over most popular, lower bound", held_out["gain"]["most_popular"]["lo"]
        criteria += [
            Criterion(name, gain, config.held_out_margin, at_least=True, strict=True),
            Criterion("coverage of the ten best", held_out["coverage"], config.least_coverage, at_least=True),
        ]
    kept = all(one.passed for one in criteria)
    verdict: Verdict = "pass" if kept else ("fail" if enough else "no_verdict")
    reasons = tuple(str(one) for one in criteria if not one.passed)
    return Gate(verdict, tuple(criteria), reasons, config, judgement["policy"])
