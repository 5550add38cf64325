"""The gate that decides whether a policy may go into service: criteria over the figures of an evaluation.

Each criterion compares one figure with its limit. A gain, the value difference to the incumbent, counts by the lower
end of its interval, so that chance does not promote. If the effective sample size of the logged rounds is too small,
the verdict is no_verdict, which promotes nothing either.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from recpolicy.core.config import NonNegativeNumber, Number, as_dict, config_dataclass
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.json import to_plain
from recpolicy.core.text import format_table
from recpolicy.evaluation.return_gain import return_figures

Verdict = Literal["pass", "fail", "no_verdict"]
VERDICTS: Mapping[str, str] = {"pass": "PASS", "fail": "FAIL", "no_verdict": "NO VERDICT"}
"""Verdicts as people read them."""
Limit = NonNegativeNumber | None
GateInterval = Literal["t", "sequence"]
_USERS_IN_SESSIONS = "users in simulated sessions"
_SOUNDNESS = ("effective sample size", "mean weight, standard errors from 1", "tail index of the weights")
_RETURNING = "effective users behind the return rates"
_KNOWN_RANGE = "lowest and highest reward are known (1: yes)"
"""Criteria without which the log allows no verdict."""


@dataclass(frozen=True)
class Criterion:
    """One figure and the limit that it must keep."""

    name: str
    value: float
    limit: float
    at_least: bool
    """True if the value must be at least the limit, False if it must be at most the limit."""
    strict: bool = False
    """True if the value must be beyond the limit, not equal to it."""

    @property
    def passed(self) -> bool:
        """True if the value keeps the limit; NaN does not."""
        if self.strict and self.value == self.limit:
            return False
        return bool(self.value >= self.limit if self.at_least else self.value <= self.limit)

    def __str__(self) -> str:
        sign = {(True, False): "≥", (True, True): ">", (False, False): "≤", (False, True): "<"}
        return f"{self.name}: {self.value:.4g}; expected {sign[self.at_least, self.strict]} {self.limit:.4g}"


@config_dataclass
class GateConfig:
    """The limits; None switches a criterion off. Gains and ratings are in the units of the ratings (stars)."""

    interval: GateInterval = "t"
    """Interval of the gains on a log. `sequence` is wider and may be looked at after every day of the log."""
    margin: Number | None = 0.0
    """Minimum gain (lower bound, reward per round or session) over the incumbent on a log."""
    relative_gain: Number | None = 0.0
    """Minimum relative gain (lower bound) over the logging policy; 0.05 requires 5 % more reward. On logged
    sessions, and for rewards of both signs, any number requires a gain above 0."""
    min_mean_reward: Number | None = None
    """Minimum mean reward (lower bound, reward per round or session) of the candidate on a log, whatever it is compared
    with."""
    min_effective_sample_size: Limit = 50.0
    """Effective sample size of the logged users below which there is no verdict; of the two policies the smaller."""
    max_mean_weight_z: Limit = 3.0
    """Maximum distance of the mean importance weight from 1, in standard errors; of the two policies the larger. Beyond
    it, propensities or support are wrong, and there is no verdict."""
    max_tail_index: Limit = 0.7
    """Maximum tail index of the users' weights; of the two policies the larger. Beyond it, a few users decide the
    value, and there is no verdict."""
    held_out_margin: Number | None = 0.0
    """Minimum gain (lower bound, stars) in held-out choice over always showing the most popular items."""
    min_coverage: Limit = 0.01
    """Minimum fraction of the items that are among any user's ten best; a collapsed policy shows all users the same."""
    min_diversity: Limit = 0.01
    """Minimum exp(entropy) / A of the best items of A; 1 / A is one item for all. Too lax where A is below 100."""
    group_loss: Limit = 0.1
    """Maximum loss of a group of users (upper bound); an interval entirely below minus this shows harm."""
    return_days: Literal[1, 3, 7] | None = None
    """Retention criterion: days within which users come back after a logged session; needs a log with return times."""
    return_margin: Limit = 0.02
    """Tolerated loss of that share of sessions (lower bound of the difference to the incumbent)."""
    session_margin: Number | None = 0.0
    """Minimum gain (lower bound, reward per session) over the incumbent in simulated sessions."""
    session_min_mean_reward: Number | None = None
    """Minimum mean reward (lower bound, reward per session) of the candidate in simulated sessions."""
    session_group_loss: Limit = 0.5
    """Maximum loss of a group of users (upper bound, reward per session) in logged or simulated sessions."""
    calibration_bias: Limit = 0.2
    """Maximum error of the mean estimate of held-out ratings."""
    calibration_error: Limit = 0.25
    """Maximum mean error over ten bins of the estimates."""
    latency_ms: Limit = 250.0
    """Maximum 99th percentile of the milliseconds for one user, in process, on the machine of the evaluation."""


@dataclass(frozen=True)
class Gate:
    """The verdict, its criteria, and the data behind them."""

    verdict: Verdict
    criteria: tuple[Criterion, ...]
    reasons: tuple[str, ...]
    """One line for each criterion that fails."""
    config: GateConfig
    policy: Mapping[str, Any]
    """The policy: agent, content digest, data and log digests."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Digests of all inputs of the evaluation."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Further figures, without a limit."""
    notes: tuple[str, ...] = ()
    """Notes that the reader of the figures must know."""
    predicted_gain: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Gain with its interval, baseline and unit, on the log and in simulated sessions, to compare with a rollout."""

    def table(self) -> pd.DataFrame:
        """Return one row per criterion, as text."""
        rows = [
            (
                f"{criterion.value:.4g}",
                str(criterion).rpartition("expected ")[2],
                "kept" if criterion.passed else "NOT KEPT",
            )
            for criterion in self.criteria
        ]
        names = pd.Index([criterion.name for criterion in self.criteria], name="criterion")
        return pd.DataFrame(rows, columns=["value", "limit", "result"], index=names)

    def show(self) -> None:
        """Print the criteria, the reasons of a failure and the verdict."""
        for caption, table in gate_tables(self):
            print(format_table(table, caption), end="\n\n")
        print(VERDICTS[self.verdict])

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values; a value that is not a number is None."""
        names = ("name", "value", "limit", "at_least", "strict", "passed")
        plain: dict[str, Any] = to_plain(
            {
                "verdict": self.verdict, "reasons": list(self.reasons), "config": as_dict(self.config),
                "criteria": [{name: getattr(criterion, name) for name in names} for criterion in self.criteria],
                "policy": self.policy, "inputs": self.inputs, "figures": self.figures, "notes": list(self.notes),
                "predicted_gain": self.predicted_gain,
            }
        )  # fmt: skip
        return plain


def gate(evaluation: Mapping[str, Any], config: GateConfig | None = None) -> Gate:
    """Compare an evaluation (workflows/candidate_evaluation.py, as plain values) with the limits.

    A criterion whose figure is missing fails.

    Raises:
        DataError: an evaluation without figures of held-out ratings, logged rounds and sessions.
        ConfigError: every criterion that applies is switched off.
    """
    config = config or GateConfig()
    held_out, logged, sessions = (evaluation.get(part) for part in ("held_out", "off_policy", "sessions"))
    if held_out is None and logged is None and sessions is None:
        raise DataError("gate: the evaluation has no figures of held-out ratings, logged rounds or sessions")
    candidates = [
        *([] if logged is None else _of_log(logged, config)),
        *([] if sessions is None else _of_sessions(sessions, config)),
        *([] if held_out is None else _of_held_out(held_out, config)),
        *_of_policy(evaluation, config),
    ]
    criteria = tuple(criterion for criterion in candidates if criterion is not None)
    if not criteria:
        raise ConfigError("gate: all criteria are switched off; a gate without criteria would pass every policy")
    needed = (*_SOUNDNESS, _USERS_IN_SESSIONS, _KNOWN_RANGE, _RETURNING)
    sound = all(criterion.passed for criterion in criteria if criterion.name in needed)
    passed = all(criterion.passed for criterion in criteria)
    verdict: Verdict = "pass" if passed else ("fail" if sound else "no_verdict")
    reasons = tuple(str(criterion) for criterion in criteria if not criterion.passed)
    return Gate(
        verdict, criteria, reasons, config, evaluation["policy"], evaluation.get("inputs", {}), _figures(evaluation),
        tuple(evaluation.get("notes", ())), _predicted_gain(evaluation, config),
    )  # fmt: skip


def _predicted_gain(evaluation: Mapping[str, Any], config: GateConfig) -> dict[str, dict[str, Any]]:
    """Return the gains over the baseline that the evaluation predicts, as far as it has any."""
    gains: dict[str, dict[str, Any]] = {}
    for part, place, unit in (("off_policy", ("gain", config.interval), "round"), ("sessions", ("gain",), "session")):
        figures = evaluation.get(part)
        value = math.nan if figures is None else _figure(figures, *place, "value")
        if figures is not None and math.isfinite(value):
            limits = {name: _figure(figures, *place, name) for name in ("lo", "hi")}
            gains[part] = {
                "value": value, **limits, "baseline": figures["baseline"], "unit": figures.get("unit", unit)
            }  # fmt: skip
    return gains


def _of_log(logged: Mapping[str, Any], config: GateConfig) -> list[Criterion | None]:
    gain, per_session = _figure(logged, "gain", config.interval, "lo"), logged.get("unit") == "session"
    effective, mean_weight, tail = _SOUNDNESS
    return [
        _at_least(f"gain over {logged['baseline']}, lower bound", gain, config.margin, strict=True),
        _over_logging_policy(logged, config),
        _at_least(
            "mean reward, lower bound", _figure(logged, "mean_reward", config.interval, "lo"), config.min_mean_reward
        ),
        # Logs with features say whether anybody set the range; items of a ratings table always have one.
        _at_least(_KNOWN_RANGE, _figure(logged, "known_range"), 1.0) if "known_range" in logged else None,
        _at_least(effective, _figure(logged, "effective_sample_size"), config.min_effective_sample_size),
        _at_most(mean_weight, _figure(logged, "mean_weight_z"), config.max_mean_weight_z),
        _at_most(tail, _figure(logged, "tail_index"), config.max_tail_index),
        _worst_group("on the log", logged, config.session_group_loss if per_session else config.group_loss),
        *_of_returns(logged, config),
    ]


def _of_returns(logged: Mapping[str, Any], config: GateConfig) -> list[Criterion | None]:
    """Return the criteria of the return rate; without figures there is no verdict."""
    if config.return_days is None or config.return_margin is None:
        return []
    lower, users = return_figures(logged.get("returns") or {}, config.return_days)
    title = f"return rate within {config.return_days} days minus that of {logged['baseline']}, lower bound"
    return [
        _at_least(title, lower, -config.return_margin),
        _at_least(_RETURNING, users, config.min_effective_sample_size),
    ]


def _over_logging_policy(logged: Mapping[str, Any], config: GateConfig) -> Criterion | None:
    """Return the criterion of the gain over the logging policy: relative, or absolute of sessions and signed rewards.

    A share of a mean says nothing if rewards of both signs make the mean.
    """
    if config.relative_gain is not None and logged.get("gain_over_logging") is not None:
        gain = _figure(logged, "gain_over_logging", config.interval, "lo")
        return _at_least("gain over the logging policy, lower bound", gain, 0.0, strict=True)
    relative = _figure(logged, "relative_gain", config.interval, "lo")
    return _at_least("relative gain over the logging policy, lower bound", relative, config.relative_gain, strict=True)


def _of_sessions(sessions: Mapping[str, Any], config: GateConfig) -> list[Criterion | None]:
    slates = f" of slates of {sessions['slate_size']}" if "slate_size" in sessions else ""
    title = f"gain over {sessions['baseline']} per simulated session{slates}, lower bound"
    return [
        _at_least(title, _figure(sessions, "gain", "lo"), config.session_margin, strict=True),
        _at_least(
            f"mean reward per simulated session{slates}, lower bound",
            _figure(sessions, "reward", "lo"),
            config.session_min_mean_reward,
        ),
        _at_least(_USERS_IN_SESSIONS, _figure(sessions, "users"), config.min_effective_sample_size),
        _worst_group("in simulated sessions", sessions, config.session_group_loss),
    ]


def _of_held_out(held_out: Mapping[str, Any], config: GateConfig) -> list[Criterion | None]:
    gain = _figure(held_out, "gain", "most_popular", "lo")
    bias, error = _figure(held_out, "calibration", "bias"), _figure(held_out, "calibration", "error")
    return [
        _at_least("held-out gain over most popular, lower bound", gain, config.held_out_margin, strict=True),
        _at_least("coverage of the ten best", _figure(held_out, "coverage"), config.min_coverage),
        _worst_group("on held-out ratings", held_out, config.group_loss),
        _at_most("bias of rating estimates", abs(bias), config.calibration_bias),
        _at_most("calibration error of rating estimates", error, config.calibration_error),
    ]


def _of_policy(evaluation: Mapping[str, Any], config: GateConfig) -> list[Criterion | None]:
    return [
        _at_least(
            "diversity of best items", _figure(evaluation, "actions", "diversity"), config.min_diversity, strict=True
        ),
        _at_most("latency, 99th percentile (ms)", _figure(evaluation, "latency", "p99_ms"), config.latency_ms),
    ]


def _worst_group(where: str, figures: Mapping[str, Any], limit: float | None) -> Criterion | None:
    """Return the criterion that the lowest upper end of any group's gain is at least -limit; None without large groups.

    The upper end counts, because a group of few users has a wide interval. Lower ends above -limit would reject nearly
    every policy for its smallest group.
    """
    gains = figures.get("group_gain")
    if limit is None or (gains is not None and not gains["groups"]):
        return None
    if gains is None:
        return Criterion(f"gain of the worst group {where}, upper bound", math.nan, -limit, at_least=True)
    name, worst = min(gains["groups"].items(), key=lambda item: float(item[1]["hi"]))
    title = f"gain of the worst group {where} over {gains['baseline']} ({name}), upper bound"
    return Criterion(title.replace("_", " "), float(worst["hi"]), -limit, at_least=True)


def _at_least(name: str, value: float, limit: float | None, *, strict: bool = False) -> Criterion | None:
    return None if limit is None else Criterion(name, value, limit, at_least=True, strict=strict)


def _at_most(name: str, value: float, limit: float | None) -> Criterion | None:
    return None if limit is None else Criterion(name, value, limit, at_least=False)


def _figure(body: Mapping[str, Any], *path: str) -> float:
    """Return the figure at that path; NaN where there is none."""
    figure: Any = body
    for word in path:
        figure = figure.get(word) if isinstance(figure, Mapping) else None
    return math.nan if figure is None else float(figure)


def _figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the known figures that have no limit."""
    places = {
        "items that are the best of some user or round": ("actions", "distinct"),
        "items in the catalog": ("actions", "actions"),
        "share of the most frequent best item": ("actions", "modal_share"),
        "gain on hits": ("off_policy", "gain_on_hits"),
        "latency, median (ms)": ("latency", "median_ms"),
    }
    figures = {name: _figure(evaluation, *path) for name, path in places.items()}
    return {name: figure for name, figure in figures.items() if math.isfinite(figure)}


def gate_tables(result: Gate) -> list[tuple[str, pd.DataFrame]]:
    """Return tables with captions: the criteria, the reasons of a failure, the figures without a limit."""
    reasons = pd.DataFrame(
        {"reason": list(result.reasons)}, index=pd.RangeIndex(1, len(result.reasons) + 1, name="no.")
    )
    figures = pd.DataFrame(
        {"figure": [f"{figure:.4g}" for figure in result.figures.values()]},
        index=pd.Index(list(result.figures), name="reported without a limit"),
    )
    tables = [(f"Gate: {VERDICTS[result.verdict]}", result.table())]
    tables += [("Reasons", reasons)] if result.reasons else []
    return tables + ([("Figures without a limit", figures)] if result.figures else [])
