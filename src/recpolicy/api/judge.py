"""A judgement of one policy: on held-out ratings beside the baselines, on logged rounds beside the incumbent, or both.

It is a JSON file; the gate reads it, and a page shows it to people. N rounds, U users, A movies of the catalogue.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.api.evaluate import Verdict, evaluate
from recpolicy.api.logs import read_rounds
from recpolicy.api.retrain import tables_of_policy
from recpolicy.core.errors import DataError
from recpolicy.core.extras import require_extra
from recpolicy.core.files import read_json_of, write_json
from recpolicy.data.logged_rounds import LoggedRounds
from recpolicy.data.splits import Split
from recpolicy.evaluation.bootstrap import Interval
from recpolicy.evaluation.off_policy.estimate import OffPolicyConfig, gain
from recpolicy.evaluation.off_policy.results import Gain
from recpolicy.evaluation.off_policy.rounds import LoggedChoices, target_of
from recpolicy.serving.heads import greedy
from recpolicy.serving.predictor import Policy, load_policy

FORMAT, FORMAT_VERSION = "recpolicy judgement", 1
ESTIMATOR = "dr"
"""Doubly robust: unbiased with true propensities, and sharper than weighting alone."""
_LIKE = 0.75
"""A like is a rating in the upper quarter of the scale: 4 and more on 1..5."""


@dataclass(frozen=True)
class Judgement:
    """What was found out about a policy."""

    policy: Mapping[str, Any]
    held_out: Verdict | None
    name: str
    """The policy's name in `held_out`."""
    off_policy: Gain | None
    against: str
    """Whom `off_policy` compares with."""
    seed: int
    likes: dict[str, Any] = field(default_factory=dict)
    """ROC curve and confusion matrix of likes on held-out ratings; empty without."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        body: dict[str, Any] = {"policy": dict(self.policy), "seed": self.seed}
        if self.held_out is not None:
            evaluation = self.held_out.evaluation
            gains = {
                other: _plain(evaluation.difference(self.name, other))
                for other in evaluation.policies
                if other != self.name
            }
            result = evaluation.policies[self.name]
            body["held_out"] = {
                **self.held_out.as_dict(), "gain": gains, "coverage": result.coverage, "rmse": result.rmse,
                "choice": _plain(result.held_out),
            }  # fmt: skip
        if self.off_policy is not None:
            found = self.off_policy.candidate
            body["off_policy"] = {
                "against": self.against, "estimator": self.off_policy.estimator,
                "gain": _plain(self.off_policy.intervals["bootstrap"]), "value": _plain(found.intervals["bootstrap"]),
                "effective_rounds": found.diagnostics.effective_rounds, "weight_off": found.diagnostics.weight_off,
                "details": self.off_policy.as_dict(),
            }  # fmt: skip
        return body

    def figures(self) -> dict[str, float | str]:
        """The main figures, flat."""
        body = self.as_dict()
        found: dict[str, float | str] = {"agent": self.policy["agent"]}
        if "held_out" in body:
            held_out = body["held_out"]
            found |= {"held_out_choice": held_out["choice"]["value"], "coverage": held_out["coverage"]}
            if held_out["rmse"] is not None:
                found["rmse"] = held_out["rmse"]
        if "off_policy" in body:
            logged = body["off_policy"]
            found |= {
                "off_policy_value": logged["value"]["value"], "gain": logged["gain"]["value"],
                "gain_lower": logged["gain"]["lo"], "gain_upper": logged["gain"]["hi"],
                "effective_rounds": logged["effective_rounds"],
            }  # fmt: skip
        if self.likes:
            found["auc"] = self.likes["auc"]
        return found


def judge_policy(
    folder: Path, split: Split | None, rounds: Path | None, incumbent: Path | None = None, seed: int = 0
) -> Judgement:
    """Judge the policy in `folder` on a split, on a file of rounds it has not learnt from, or on both.

    Raises DataError when neither is given, when the policy was fitted on other ratings than the split's, and when it
    has learnt from these very rounds.
    """
    policy = load_policy(folder)
    if split is None and rounds is None:
        raise DataError("judging a policy takes held-out ratings or logged rounds; neither is given")
    name = policy.artifact.agent
    held_out = None if split is None else evaluate({name: policy}, split, seed=seed)
    compared = None if incumbent is None else load_policy(incumbent)
    found = None
    if rounds is not None:
        found = off_policy_gain(policy, compared, read_rounds(rounds, tables_of_policy(policy)), seed)
    against = "the logging policy" if compared is None else f"incumbent {compared.about['content'][:8]}"
    likes = {} if split is None else _likes(policy, split)
    return Judgement(_described(policy), held_out, name, found, against, seed, likes)


def off_policy_gain(policy: Policy, incumbent: Policy | None, log: LoggedRounds, seed: int = 0) -> Gain:
    """By how much the policy, without exploring, earns more per round than the incumbent, or than who logged."""
    if log.digest == policy.about.get("log"):
        raise DataError(f"{log.name}: the policy has learnt from these very rounds; evaluate on others")
    score, rating = policy.scores()
    choices = LoggedChoices(
        action=log.arm(), reward=log.reward, logged_prob=log.propensity, user=log.user, actions=len(log.catalogue),
    )  # fmt: skip
    candidate = target_of(choices, _greedy_table(score, log))
    config = OffPolicyConfig(seed=seed, reward_range=log.scale)
    compared = None if incumbent is None else target_of(choices, _greedy_table(incumbent.scores()[0], log))
    return gain(choices, candidate, compared, ESTIMATOR, config, q=_rating_table(rating, log))


def write_judgement(judgement: Judgement, path: Path, page: Path | None = None) -> None:
    """Write the judgement as JSON and, for people, as a page."""
    write_json(path, {"format": FORMAT, "version": FORMAT_VERSION, **judgement.as_dict()})
    if page is not None:
        _write_page(judgement, page)


def read_judgement(path: Path) -> dict[str, Any]:
    """Read a judgement; raises ArtifactError for any other file."""
    return read_json_of(path, FORMAT, FORMAT_VERSION)


def _greedy_table(score: NDArray[np.floating], log: LoggedRounds) -> Any:
    """The greedy policy's probabilities [n, A] of a slice of rounds; ties share alike."""
    among = score[:, log.catalogue]

    def rows(part: slice) -> NDArray[np.floating]:
        return greedy(among[log.user[part]], log.allowed(part))

    return rows


def _rating_table(rating: NDArray[np.floating], log: LoggedRounds) -> Any:
    among = np.clip(rating[:, log.catalogue], *log.scale)

    def rows(part: slice) -> NDArray[np.floating]:
        return np.asarray(among[log.user[part]])

    return rows


def _described(policy: Policy) -> dict[str, Any]:
    about = policy.about
    return {
        "agent": policy.artifact.agent, "content": about["content"], "data": about["data"],
        "settings": about["config"]["agent"], "seed": about["seed"], "log": about.get("log"),
        "parents": [one["content"] for one in about.get("parents", [])],
    }  # fmt: skip


def _plain(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "lo": interval.lo, "hi": interval.hi}


def _likes(policy: Policy, split: Split, points: int = 200) -> dict[str, Any]:
    """How well the estimates tell likes from the rest of the held-out ratings; empty where there is but one kind."""
    require_extra("train", "the curve of likes")
    from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

    low, high = split.test.scale
    limit = low + _LIKE * (high - low)
    like = split.test.rating >= limit
    if like.all() or not like.any():
        return {}
    estimate = policy.scores()[1][split.test.user, split.test.movie]
    fpr, tpr, threshold = roc_curve(like, estimate)
    kept = np.unique(np.linspace(0, len(fpr) - 1, points).astype(int))
    return {
        "auc": float(roc_auc_score(like, estimate)),
        "fpr": fpr[kept].tolist(), "tpr": tpr[kept].tolist(),
        "threshold": np.minimum(threshold[kept], high).tolist(),  # the first is infinite
        "confusion": confusion_matrix(like, estimate >= limit).tolist(),
    }  # fmt: skip


def _write_page(judgement: Judgement, page: Path) -> None:
    require_extra("train", "the page of a judgement")
    import pandas as pd

    from recpolicy.evaluation.report import ReportContent, write_report

    tables = []
    if judgement.off_policy is not None:
        found = judgement.off_policy
        rows = {
            "candidate": found.candidate.intervals["bootstrap"],
            judgement.against: found.incumbent.intervals["bootstrap"],
            "gain": found.intervals["bootstrap"],
        }
        frame = pd.DataFrame({"reward per round": [str(one) for one in rows.values()]}, index=pd.Index(list(rows)))
        frame.index.name = "policy"
        tables.append((f"On logged rounds ({found.estimator}, 95 % intervals over users)", frame))
    if judgement.held_out is not None:
        tables.append(("On held-out ratings, beside the baselines", judgement.held_out.table()))
    content = ReportContent(
        title=f"Judgement of {judgement.name}",
        summary=[(key, str(value)) for key, value in judgement.policy.items()],
        tables=tables,
        notes=[
            "Values on logged rounds are off-policy estimates: what the policy, without exploring, would have earned in"
            " the rounds that another policy logged. They rest on true propensities and on overlap; the effective"
            " number of rounds says how much of the log speaks for this policy."
        ],
    )
    write_report(page, content)
