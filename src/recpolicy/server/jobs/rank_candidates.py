"""Candidates of an evaluation: policies of learning settings, trained on the first ranks and evaluated on the last.

An operator names settings, or lets the server search for some. The search trains SquareCB with several models on the
first part, compares them on the second, and only the best one is evaluated on the third: an estimate of the best of
many on the rounds that chose it would be too large. Each candidate passes the gate on the third part. Its artifact
stays in a folder of the evaluation, so that an operator can apply it.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.config import build
from recpolicy.core.errors import RecpolicyError
from recpolicy.core.files import write_json
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.features.infer import infer_schema
from recpolicy.data.features.schema import FeatureSchema
from recpolicy.data.learned_events import is_learned
from recpolicy.data.reward_signals import RewardConfig
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.server.jobs.rank_estimates import estimates, new_rounds
from recpolicy.server.jobs.rank_workers import RankLog, gate_candidate, train_candidate
from recpolicy.server.jobs.subprocess_jobs import JobError, JobRequest
from recpolicy.server.rank.evaluation_files import LINEAGE, POLICY
from recpolicy.server.rank.learning_settings import (
    FOUND_NAME,
    LearningSettings,
    parse_learning_settings,
    settings_of_policy,
    settings_to_try,
)
from recpolicy.server.settings import JobsConfig
from recpolicy.workflows.artifacts import LOG_UNTIL

CUSTOM, FOUND = "Custom", "OfflineExperimentation"


@dataclass(frozen=True)
class _Parts:
    """The rounds of an evaluation in order of time, in parts that share no round."""

    training: FeatureLog
    evaluation: FeatureLog
    schema: FeatureSchema
    reward: RewardConfig


def evaluate_candidates(request: JobRequest, champion: FeaturePolicy | None, ranks: RankLog) -> dict[str, Any]:
    """Train the candidates, estimate their rewards, and gate them; return the estimates, the best one, and notes.

    Raises:
        JobError: The ranks are too few to be divided, or another process trains in this folder.
    """
    settings = build(JobsConfig, request.settings["jobs"], "evaluate")
    parts, notes = _divide(champion, ranks, settings)
    work = Path(request.parameters["folder"])
    try:
        work.mkdir(parents=True)
    except FileExistsError:
        raise JobError("another process trains the candidates of this evaluation; evaluate with another id") from None
    wanted = {
        policy["name"]: (CUSTOM, parse_learning_settings(policy["arguments"]))
        for policy in request.parameters["candidates"]
    }
    tried: list[dict[str, Any]] = []
    if request.parameters["optimize"]:
        best, tried = _search(settings_of_policy(champion) if champion else None, parts, settings, work / "search")
        if best is None:
            notes.append("no settings of the search can be estimated: the log has too little support")
        else:
            wanted[FOUND_NAME] = FOUND, best
    trained, folders = dict[str, FeaturePolicy](), dict[str, Path]()
    for place, (name, (_, candidate)) in enumerate(wanted.items()):
        folder = work / str(place)
        try:
            trained[name] = train_candidate(parts.training, parts.schema, candidate, parts.reward, folder / POLICY)
            folders[name] = folder
        except RecpolicyError as error:
            notes.append(f"{name}: {error}")
    if champion is None and not trained:
        raise JobError("no policy could be trained: " + "; ".join(notes))
    policies = estimates(champion, parts.evaluation, trained)
    for policy in policies:
        if policy["value"] is None:
            notes.append(f"{policy['name']}: {policy.get('reason', 'no estimate')}")
        if policy["name"] in trained:
            name, folder = policy["name"], folders[policy["name"]]
            gate = gate_candidate(trained[name], champion, parts.evaluation, folder, settings)
            lineage = {**trained[name].metadata, "policy_name": name, LOG_UNTIL: int(parts.training.time.max())}
            write_json(folder / LINEAGE, lineage)
            policy |= {"source": wanted[name][0], "folder": folder.name, "gate": gate["verdict"],
                       "gate_reasons": gate["reasons"]}  # fmt: skip
            notes.append(f"{name}: the gate says {gate['verdict']}" + "".join(f"; {each}" for each in gate["reasons"]))
    known = [policy for policy in policies if policy["value"] is not None and "arguments" in policy]
    best_name = max(known, key=lambda policy: policy["value"])["name"] if known else None
    counts = {"training": len(parts.training), "evaluation": len(parts.evaluation)}
    return {"policies": policies, "optimal": best_name, "notes": notes, "rounds": counts, "tried": tried}


def _divide(champion: FeaturePolicy | None, ranks: RankLog, settings: JobsConfig) -> tuple[_Parts, list[str]]:
    """Return the latest rounds that are new to the champion for evaluation, and all earlier ones for training."""
    log = ranks.log.select(np.argsort(ranks.log.time, kind="stable"), ranks.log.name)
    unlearned, notes = new_rounds(log, champion)
    learned = np.zeros(len(log), bool) if champion is None else is_learned(log, champion.learned_events)
    new = np.flatnonzero(~learned)
    evaluation = new[len(new) - round(settings.evaluation_share * len(unlearned)) :]
    if len(evaluation) < settings.min_evaluation_rounds:
        raise JobError(
            f"{len(evaluation)} ranks to evaluate candidates on, the latest {settings.evaluation_share:.0%} of"
            f" {len(new)}; expected {settings.min_evaluation_rounds} ([jobs] min_evaluation_rounds)"
        )
    training = log.take(0, int(evaluation[0]), log.name)
    if not len(training):
        raise JobError("there are no ranks before those of the evaluation to train candidates on")
    if champion is None:
        schema, _ = infer_schema(
            training.context, training.actions, action_id=training.action_id, reward=training.reward,
            chosen_action=training.chosen_action,
        )  # fmt: skip
    else:
        schema = champion.encoder.schema
    return _Parts(training, log.select(evaluation, log.name), schema, ranks.reward), notes


def _search(
    current: LearningSettings | None, parts: _Parts, settings: JobsConfig, work: Path
) -> tuple[LearningSettings | None, list[dict[str, Any]]]:
    """Return the settings with the largest estimate on the last of the training rounds, and all that were tried."""
    log = parts.training
    cut = len(log) - max(round(settings.evaluation_share * len(log)), 1)
    policies, by_name = dict[str, FeaturePolicy](), dict[str, LearningSettings]()
    for candidate in settings_to_try(current):
        name = str(candidate)
        try:
            policies[name] = train_candidate(
                log.take(0, cut, log.name), parts.schema, candidate, parts.reward, work / str(len(by_name))
            )
            by_name[name] = candidate
        except RecpolicyError:  # such as a model too large for these features
            continue
    if not policies:
        return None, []
    values = estimates(None, log.take(cut, len(log), log.name), policies)
    values = [entry for entry in values if entry["name"] in by_name]
    shutil.rmtree(work)
    tried = [{"arguments": entry["name"], "value": entry["value"]} for entry in values]
    known = [entry for entry in values if entry["value"] is not None]
    return (by_name[max(known, key=lambda entry: entry["value"])["name"]] if known else None), tried
