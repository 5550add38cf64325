"""The outcome of a run in words: the winner of a sweep, the verdict of the gate, the registration, the next command."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recpolicy.evaluation.gate import VERDICTS

_GATE, _REGISTER, _COMPARE, _TRAIN = "gate-policy", "register-policy", "compare-policies", "train-policy"


@dataclass(frozen=True)
class RunOutcome:
    """The decisions of a run, read from its artifacts; None for a part that the run does not have."""

    verdict: str | None = None
    """pass, fail or no_verdict."""
    reasons: tuple[str, ...] = ()
    """One line for each criterion that failed."""
    winner: Mapping[str, Any] | None = None
    """The best trial of a sweep: agent, settings, seed, value, trials, evidence, step."""
    registration: Mapping[str, Any] | None = None
    """Version, champion and the reason if they differ (workflows/gating.Registration)."""

    @classmethod
    def from_artifacts(cls, artifacts: Mapping[str, Mapping[str, str]]) -> "RunOutcome":
        """Read the outcome of a run.

        Args:
            artifacts: For each step, the paths of its artifacts by name.
        """
        gate = _read(artifacts, _GATE, "record") or {}
        winner = _read(artifacts, _COMPARE, "choice")
        if winner is not None:
            steps = (step for step, outputs in artifacts.items() if outputs.get("policy") == winner["policy"])
            winner = {**winner, "step": next((step for step in steps if step.startswith(_TRAIN)), "")}
        return cls(
            gate.get("verdict"), tuple(gate.get("reasons", ())), winner, _read(artifacts, _REGISTER, "registration")
        )

    def lines(self) -> list[str]:
        """Return one line for each statement, the last with the next command."""
        return [*self._winner(), *self._gate(), *self._registration()]

    def _winner(self) -> list[str]:
        if self.winner is None:
            return []
        winner = self.winner
        parts = [winner["agent"], winner["settings"], f"seed {winner['seed']}"]
        step = f"; its step: {winner['step']}" if winner["step"] else ""
        return [
            f"winner: {', '.join(part for part in parts if part)}: value {winner['value']}, best of"
            f" {winner['trials']} trials {winner['evidence']} of half the users{step}"
        ]

    def _gate(self) -> list[str]:
        if self.verdict is None:
            return []
        nothing = "" if self.verdict == "pass" else "; nothing was registered"
        return [f"gate: {VERDICTS.get(self.verdict, self.verdict)}{nothing}", *(f"  {line}" for line in self.reasons)]

    def _registration(self) -> list[str]:
        if self.registration is None:
            return []
        result = self.registration
        number, folder, champion = result["version"], result["registry"], result["champion"]
        if not number:
            return ["registered: nowhere, for the parameter registry is empty"]
        if champion == number:
            return [f"registered: version {number} of {folder}, its champion", f"next: recpolicy serve {folder}"]
        stays = f"the champion stays version {champion}" if champion else "there is no champion"
        if result["not_promoted"] != f"version {champion} is the champion":
            stays += f" ({result['not_promoted']})"
        return [
            f"registered: version {number} of {folder}; {stays}",
            f"next: recpolicy admin rollout start {number}, or without a server: recpolicy registry promote {folder}"
            f" {number}",
        ]


def _read(artifacts: Mapping[str, Mapping[str, str]], step: str, name: str) -> dict[str, Any] | None:
    """Return the JSON artifact of a step; None if the step was skipped or did not finish."""
    path = Path(artifacts.get(step, {}).get(name, ""))
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
