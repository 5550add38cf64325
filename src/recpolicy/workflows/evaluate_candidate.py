"""A evaluation of one policy: on held-out ratings beside the baselines, on logged rounds beside the incumbent, or both.

It is a JSON file; the gate reads it, and a page shows it to people. N rounds, U users, An items of the catalogue.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import read_versioned_json, rename_keys, write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.statistics import Interval
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.session_log_files import SESSIONS, is_session_log
from recpolicy.data.splits import Split
from recpolicy.evaluation.diversity import ActionDiversity, action_diversity
from recpolicy.evaluation.groups import GroupFigure, groups_of
from recpolicy.evaluation.ranking import top_items
from recpolicy.evaluation.rating_accuracy import Calibration, rating_calibration
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.ope.results import PolicyComparison
from recpolicy.workflows.evaluate import HeldOutEvaluation, evaluate
from recpolicy.workflows.interaction_logs import EVALUATION, read_rounds
from recpolicy.workflows.latency import Latency, measure_latency
from recpolicy.workflows.log_evaluation import LogComparison, compare_on_log, off_policy_gain

__all__ = [
    "FORMAT", "FORMAT_VERSION", "INCUMBENT", "CandidateEvaluation", "evaluate_candidate",
    "evaluate_candidate_folder", "off_policy_gain", "read_candidate_evaluation", "read_trial_rounds",
    "write_candidate_evaluation",
]  # fmt: skip

FORMAT, FORMAT_VERSION = "recpolicy evaluation", 2
INCUMBENT = "incumbent"
"""The incumbent's name among the policies of the held-out evaluation."""
_OF_SESSIONS = "a log of sessions; expected rounds. Policies of sessions are judged by recpolicy ope estimate --log"
_LIKE = 0.75
"""A like is a rating in the upper quarter of the scale: 4 and more on 1..5."""


@dataclass(frozen=True)
class CandidateEvaluation:
    """What was found out about a policy."""

    policy: Mapping[str, Any]
    held_out: HeldOutEvaluation | None
    name: str
    """The policy's name in `held_out`."""
    trial: LogComparison | None
    """The policy on logged rounds."""
    baseline: str
    """Whom `trial` compares with."""
    seed: int
    actions: ActionDiversity
    """Spread of the policy's best items, over the logged rounds or, without a log, over all users."""
    log_groups: Mapping[str, GroupFigure]
    """Gain on the log by group of users; empty without a log."""
    latency: Latency
    inputs: Mapping[str, str | None]
    """Digests of all that was looked at."""
    calibration: Calibration | None = None
    likes: dict[str, Any] = field(default_factory=dict)
    """ROC curve and confusion matrix of likes on held-out ratings; empty without."""

    @property
    def off_policy(self) -> PolicyComparison | None:
        """The gain on logged rounds."""
        return None if self.trial is None else self.trial.gain

    @property
    def held_out_against(self) -> str:
        """Whom the groups' held-out choice is compared with: the incumbent where both know the same train part."""
        known = {} if self.held_out is None else self.held_out.evaluation.policies
        return INCUMBENT if INCUMBENT in known else "most_popular"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        body: dict[str, Any] = {
            "policy": dict(self.policy), "seed": self.seed, "inputs": dict(self.inputs),
            "actions": {**asdict(self.actions), "over": "all users" if self.trial is None else "logged rounds"},
            "latency": asdict(self.latency),
        }  # fmt: skip
        if self.held_out is not None:
            body["held_out"] = self._held_out(self.held_out)
        if self.trial is not None:
            body["off_policy"] = self._off_policy(self.trial)
        return body

    def _held_out(self, verdict: HeldOutEvaluation) -> dict[str, Any]:
        evaluation = verdict.evaluation
        others = [one for one in evaluation.policies if one != self.name]
        gains = {other: _plain(evaluation.difference(self.name, other)) for other in others}
        result, baseline = evaluation.policies[self.name], self.held_out_against
        groups = _plain_groups(evaluation.group_difference(self.name, baseline))
        return {
            **verdict.as_dict(), "gain": gains, "coverage": result.coverage, "rmse": result.rmse,
            "held_out_choice": _plain(result.held_out_choice), "group_gain": {"baseline": baseline, "groups": groups},
            "calibration": None if self.calibration is None else asdict(self.calibration),
        }  # fmt: skip

    def _off_policy(self, trial: LogComparison) -> dict[str, Any]:
        found = trial.gain.candidate
        relative = trial.relative_gain
        return {
            "baseline": self.baseline, "estimator": trial.gain.estimator,
            "gain": _plain(trial.gain.intervals["bootstrap"]), "value": _plain(found.intervals["bootstrap"]),
            "effective_sample_size": found.diagnostics.effective_sample_size,
            "mean_weight_z": found.diagnostics.mean_weight_z,
            "relative_gain": None if relative is None else _plain(relative), "gain_on_hits": trial.gain_on_hits,
            "group_gain": {"baseline": self.baseline, "groups": _plain_groups(self.log_groups)},
            "details": trial.gain.as_dict(),
        }  # fmt: skip

    def figures(self) -> dict[str, float | str]:
        """The main figures, flat."""
        body = self.as_dict()
        found: dict[str, float | str] = {"agent": self.policy["agent"]}
        if "held_out" in body:
            held_out = body["held_out"]
            found |= {"held_out_choice": held_out["held_out_choice"]["value"], "coverage": held_out["coverage"]}
            if held_out["rmse"] is not None:
                found["rmse"] = held_out["rmse"]
        if "off_policy" in body:
            logged = body["off_policy"]
            found |= {
                "off_policy_value": logged["value"]["value"], "gain": logged["gain"]["value"],
                "gain_lower": logged["gain"]["lo"], "gain_upper": logged["gain"]["hi"],
                "effective_sample_size": logged["effective_sample_size"],
            }  # fmt: skip
        if self.likes:
            found["auc"] = self.likes["auc"]
        return found


def evaluate_candidate_folder(
    folder: Path, split: Split | None, rounds: Path | None, incumbent: Path | None = None, seed: int = 0
) -> CandidateEvaluation:
    """Judge the policy in `folder` on a split, on a file of rounds it has not learnt from, or on both.

    Raises DataError when neither is given, when the policy was fitted on other ratings than the split's, and when it
    has learnt from these very rounds.
    """
    policy = load_policy(folder)
    compared = None if incumbent is None else load_policy(incumbent)
    log = None if rounds is None else read_trial_rounds(rounds, policy)
    return evaluate_candidate(policy, split, log, compared, seed)


def evaluate_candidate(
    policy: Policy, split: Split | None, log: BanditLog | None, incumbent: Policy | None = None, seed: int = 0
) -> CandidateEvaluation:
    """Evaluate a loaded policy; the incumbent takes part in the held-out evaluation if it knows the same train part."""
    if split is None and log is None:
        raise DataError("evaluating a policy takes held-out ratings or logged rounds; neither is given")
    name = policy.artifact.agent
    held_out = None
    if split is not None:
        fair = incumbent is not None and incumbent.metadata["split"]["train"] == split.train.digest
        known = {name: policy} | ({INCUMBENT: incumbent} if fair and incumbent is not None else {})
        held_out = evaluate(known, split, seed=seed)
    trial = None if log is None else compare_on_log(policy, incumbent, log, seed)
    artifact = policy.artifact
    groups = groups_of(artifact.users, np.bincount(artifact.rated_user, minlength=len(artifact.users)))
    return CandidateEvaluation(
        policy=_described(policy),
        held_out=held_out,
        name=name,
        trial=trial,
        baseline="the logging policy" if incumbent is None else f"incumbent {incumbent.metadata['content'][:8]}",
        seed=seed,
        actions=_actions_of_users(policy) if trial is None else trial.actions,
        log_groups={} if trial is None else trial.group_gains(groups),
        latency=measure_latency(policy),
        inputs=_inputs(policy, incumbent, split, log),
        calibration=None if split is None else rating_calibration(_estimates(policy, split), split.test.rating),
        likes={} if split is None else _likes(policy, split),
    )


def read_trial_rounds(path: Path, policy: Policy) -> BanditLog:
    """Read the rounds for evaluation from a file, or from the folder that `recpolicy log ingest` wrote.

    Raises DataError for a log of sessions, for a raw log, and for whatever is wrong with the rounds.
    """
    if path.is_dir():
        if (path / SESSIONS).is_file():
            raise DataError(f"{path}: {_OF_SESSIONS}")
        if not (path / EVALUATION).is_file():
            raise DataError(
                f"{path}: no {EVALUATION} in this folder; turn a raw log into rounds first: recpolicy log ingest"
            )
        path = path / EVALUATION
    elif is_session_log(path):
        raise DataError(f"{path}: {_OF_SESSIONS}")
    return read_rounds(path, IdVocabulary.from_policy(policy))


def write_candidate_evaluation(evaluation: CandidateEvaluation, path: Path, page: Path | None = None) -> None:
    """Write the evaluation as JSON and, for people, as a page."""
    write_json(path, {"format": FORMAT, "version": FORMAT_VERSION, **evaluation.as_dict()})
    if page is not None:
        require_extra("train", "the page of an evaluation")
        from recpolicy.workflows.evaluation_page import write_evaluation_page

        write_evaluation_page(evaluation, page)


def read_candidate_evaluation(path: Path) -> dict[str, Any]:
    """Read an evaluation; raises ArtifactError for any other file."""
    return read_versioned_json(path, FORMAT, FORMAT_VERSION, {1: _from_version_1}, former_format="recpolicy judgement")


def _from_version_1(body: dict[str, Any]) -> dict[str, Any]:
    """Return the content with the names of version 2."""
    renamed = {
        "judge_regret": "evaluation_regret", "against": "baseline",
        "effective_rounds": "effective_sample_size", "weight_off": "mean_weight_z",
        "largest_weight": "max_weight", "share_tamed": "share_clipped",
    }  # fmt: skip
    body = {**rename_keys(body, renamed, nested=True), "format": FORMAT}
    choices = {"held_out": "held_out_choice", "choice": "held_out_choice", "place": "normalized_choice"}
    parts = {"held_out": choices, "off_policy": {"choice": "tuning"}}
    return {**body, **{key: rename_keys(body[key], names, nested=True) for key, names in parts.items() if key in body}}


def _described(policy: Policy) -> dict[str, Any]:
    metadata = policy.metadata
    return {
        "agent": policy.artifact.agent, "content": metadata["content"], "data": metadata["data"],
        "settings": metadata["config"]["agent"], "seed": metadata["seed"], "log": metadata.get("log"),
        "parents": [one["content"] for one in metadata.get("parents", [])],
    }  # fmt: skip


def _plain(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "lo": interval.lo, "hi": interval.hi}


def _plain_groups(figures: Mapping[str, GroupFigure]) -> dict[str, dict[str, float]]:
    return {name: {**_plain(one.interval), "users": one.users} for name, one in figures.items()}


def _inputs(
    policy: Policy, incumbent: Policy | None, split: Split | None, log: BanditLog | None
) -> dict[str, str | None]:
    return {
        "candidate": policy.metadata["content"],
        "incumbent": None if incumbent is None else incumbent.metadata["content"],
        "train": None if split is None else split.train.digest,
        "test": None if split is None else split.test.digest,
        "rounds": None if log is None else log.digest,
    }


def _actions_of_users(policy: Policy) -> ActionDiversity:
    """How the best items of all users spread over the policy's catalogue."""
    score = policy.scores()[0][:, policy.artifact.catalogue]
    return action_diversity(top_items(score, np.zeros(score.shape, bool), k=1).count)


def _estimates(policy: Policy, split: Split) -> NDArray[np.floating]:
    """Rating estimates of the held-out ratings [N]."""
    return np.asarray(policy.scores()[1][split.test.user, split.test.item])


def _likes(policy: Policy, split: Split, points: int = 200) -> dict[str, Any]:
    """How well the estimates tell likes from the rest of the held-out ratings; empty where there is but one kind."""
    require_extra("train", "the curve of likes")
    from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

    low, high = split.test.scale
    limit = low + _LIKE * (high - low)
    like = split.test.rating >= limit
    if like.all() or not like.any():
        return {}
    estimate = _estimates(policy, split)
    fpr, tpr, threshold = roc_curve(like, estimate)
    kept = np.unique(np.linspace(0, len(fpr) - 1, points).astype(int))
    return {
        "auc": float(roc_auc_score(like, estimate)),
        "fpr": fpr[kept].tolist(), "tpr": tpr[kept].tolist(),
        "threshold": np.minimum(threshold[kept], high).tolist(),  # the first is infinite
        "confusion": confusion_matrix(like, estimate >= limit).tolist(),
    }  # fmt: skip
