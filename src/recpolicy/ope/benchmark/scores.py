"""The records of an estimator report card: scores, tables for people, and the estimator that a log calls for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recpolicy.core.errors import DataError
from recpolicy.ope.diagnostics import LEAST_EFFECTIVE_ROUNDS
from recpolicy.ope.results import MISSING

KINDS = ("bootstrap", "t", "sequence", "bernstein")
LEAST_COVERAGE = 0.93
"""A nominal 95 % interval that holds the truth as often as this is taken to cover."""
BIASED = ("dm", "mips")
"""Estimators whose intervals leave out a bias that no log size cures: the reward model's, and that of the clusters."""
FALLBACK = "dr"


@dataclass(frozen=True)
class Score:
    """One estimator over the repetitions of one kind of log."""

    bias: float
    rmse: float
    error: float
    """Mean of |estimate - truth| / |truth|; NaN where the truth is 0."""
    coverage: Mapping[str, float]
    """Share of the intervals of a kind that hold the truth."""
    half_width: Mapping[str, float]
    """Mean half-width by kind, in units of the reward."""


@dataclass(frozen=True)
class Cell:
    """One logging policy and log size."""

    logger: str
    rounds: int
    repetitions: int
    effective_rounds: float
    """Mean over the repetitions."""
    scores: Mapping[str, Score]

    @property
    def enough(self) -> bool:
        """Whether such logs allow a verdict."""
        return self.effective_rounds >= LEAST_EFFECTIVE_ROUNDS

    def covers(self, name: str) -> bool:
        """Whether the bootstrap intervals of an estimator hold the truth often enough, chance allowed for."""
        chance = 2 * np.sqrt(LEAST_COVERAGE * (1 - LEAST_COVERAGE) / self.repetitions)
        return self.scores[name].coverage["bootstrap"] >= LEAST_COVERAGE - chance

    def recommend(self) -> "Recommendation":
        """Choose the estimator for such logs, with the reason."""
        effective = f"{self.effective_rounds:,.0f} effective rounds of {self.rounds:,}"
        if not self.enough:
            why = f"{effective}, below {LEAST_EFFECTIVE_ROUNDS}: no estimator can make up for that; log more rounds"
            return Recommendation(None, f"{why}, or with a policy nearer to the target")
        covering = [name for name in self.scores if self.covers(name)]
        if not covering:
            why = f"no bootstrap interval covers; {effective} are enough for an estimator unbiased by design"
            return Recommendation(FALLBACK if FALLBACK in self.scores else None, why)
        best = min(covering, key=lambda name: self.scores[name].rmse)
        return Recommendation(best, f"{self._merits(best, covering)}; {effective}")

    def _merits(self, best: str, covering: list[str]) -> str:
        score = self.scores[best]
        said = (
            f"least rmse ({score.rmse:.4f}) of the {len(covering)} of {len(self.scores)} estimators whose bootstrap "
            f"interval covers ({100 * score.coverage['bootstrap']:.1f} %)"
        )
        if "ips" in self.scores and best != "ips" and score.rmse > 0:
            said += f", {self.scores['ips'].rmse / score.rmse:.1f} times less than ips"
        near = [name for name in covering if name != best and self.scores[name].rmse <= 1.05 * score.rmse]
        if near:
            said += f"; within 5 % of it: {', '.join(near)}"
        left = [name for name in self.scores if name not in covering]
        return said + (f"; does not cover: {', '.join(left)}" if left else "")


@dataclass(frozen=True)
class Recommendation:
    """The estimator to use, None for none, and why."""

    estimator: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.estimator or 'none'}: {self.reason}"


@dataclass(frozen=True)
class EstimatorCard:
    """All scores of one world."""

    world: str
    truth: float
    """What the target earns per round."""
    users: int
    actions: int
    logged_values: Mapping[str, float]
    """What each logging policy earns."""
    largest_weights: Mapping[str, float]
    cells: tuple[Cell, ...]
    level: float
    seed: int

    def cell(self, logger: str, rounds: int) -> Cell:
        """The scores of one logging policy and log size; raises DataError for one that was not drawn."""
        for cell in self.cells:
            if (cell.logger, cell.rounds) == (logger, rounds):
                return cell
        drawn = ", ".join(f"{cell.logger} {cell.rounds:,}" for cell in self.cells)
        raise DataError(f"estimator card: no logs of {rounds:,} rounds by {logger!r}; drawn were: {drawn}")

    @property
    def loggers(self) -> tuple[str, ...]:
        """The logging policies."""
        return tuple(self.logged_values)

    def about_logger(self, logger: str) -> str:
        """What a logging policy earns beside the target, and the weights it leads to, in a line."""
        value = self.logged_values[logger]
        return (
            f"earns {value:.4f}; the target gains {self.truth - value:+.4f} over it; weights up to "
            f"{self.largest_weights[logger]:.1f}"
        )

    def of(self, logger: str) -> list[Cell]:
        """The cells of one logging policy, from small logs to large ones."""
        return [cell for cell in self.cells if cell.logger == logger]

    def rows(self) -> pd.DataFrame:
        """One row of numbers for each logging policy, log size and estimator; NaN where there is none."""
        rows = []
        for cell in self.cells:
            for name, score in cell.scores.items():
                row: dict[str, Any] = {"logger": cell.logger, "rounds": cell.rounds, "estimator": name}
                row |= {"repetitions": cell.repetitions, "bias": score.bias, "rmse": score.rmse, "error": score.error}
                row |= {f"coverage_{kind}": score.coverage.get(kind, np.nan) for kind in KINDS}
                row |= {f"half_width_{kind}": score.half_width.get(kind, np.nan) for kind in KINDS}
                rows.append(row)
        return pd.DataFrame(rows)

    def error_table(self, logger: str) -> pd.DataFrame:
        """Relative error in per cent by log size, for people."""
        cells = self.of(logger)
        columns = {
            f"{cell.rounds:,}": {name: f"{100 * score.error:.2f}" for name, score in cell.scores.items()}
            for cell in cells
        }
        return pd.DataFrame(columns, index=pd.Index(list(cells[0].scores), name="estimator"))

    def coverage_table(self, logger: str, rounds: int) -> pd.DataFrame:
        """Coverage in per cent with the mean half-width, for people; a dash where an estimator has no such interval."""
        cell = self.cell(logger, rounds)
        rows = []
        for score in cell.scores.values():
            row = {"bias": f"{score.bias:+.4f}", "rmse": f"{score.rmse:.4f}"}
            for kind in KINDS:
                known = kind in score.coverage
                row[kind] = f"{100 * score.coverage[kind]:.1f} ± {score.half_width[kind]:.3f}" if known else MISSING
            rows.append(row)
        return pd.DataFrame(rows, index=pd.Index(list(cell.scores), name="estimator"))

    def recommendations(self) -> pd.DataFrame:
        """What to use on which log, and why."""
        found = [(cell, cell.recommend()) for cell in self.cells]
        return pd.DataFrame(
            {
                "rounds": [f"{cell.rounds:,}" for cell, _ in found],
                "use": [one.estimator or MISSING for _, one in found],
                "why": [one.reason for _, one in found],
            },
            index=pd.Index([cell.logger for cell, _ in found], name="logging policy"),
        )

    def coverage(self, kind: str, rounds: int, *, lowest: bool = False) -> float:
        """Coverage of a kind of interval at a log size over logging policies and estimators, those in BIASED left out.

        The mean, or the lowest of any estimator and policy. Raises DataError where no such interval was made.
        """
        found = [
            score.coverage[kind]
            for cell in self.cells
            if cell.rounds == rounds
            for name, score in cell.scores.items()
            if name not in BIASED and kind in score.coverage
        ]
        if not found:
            raise DataError(f"estimator card: no {kind} intervals at {rounds:,} rounds")
        return min(found) if lowest else float(np.mean(found))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able values; None where there is no number."""
        cells = [
            {
                "logger": cell.logger, "rounds": cell.rounds, "repetitions": cell.repetitions,
                "effective_rounds": cell.effective_rounds,
                "recommended": cell.recommend().estimator, "reason": cell.recommend().reason,
                "scores": {
                    name: {
                        "bias": score.bias, "rmse": score.rmse,
                        "error": None if np.isnan(score.error) else score.error,
                        "coverage": dict(score.coverage), "half_width": dict(score.half_width),
                    }
                    for name, score in cell.scores.items()
                },
            }
            for cell in self.cells
        ]  # fmt: skip
        return {
            "world": self.world, "truth": self.truth, "users": self.users, "actions": self.actions,
            "logged_values": dict(self.logged_values), "largest_weights": dict(self.largest_weights),
            "level": self.level, "seed": self.seed, "cells": cells,
        }  # fmt: skip
