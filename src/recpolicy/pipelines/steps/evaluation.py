"""Steps that evaluate: a policy on held-out ratings or logged rounds, a simulator, the gate and the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recpolicy.data.ratings_store import load_saved_split
from recpolicy.inference.feature_artifact import is_feature_policy
from recpolicy.pipelines.steps.values import (
    Figures,
    optional_path,
    parse_ids,
)


def evaluate_policy_step(
    policy: str, evaluation: str, page: str, *, ratings: str | None, rounds: str | None, incumbent: str | None,
    seed: int, users: str = "all", sessions: bool = False, registry: str = "", champion: str = "",
) -> tuple[Figures, Figures]:  # fmt: skip
    """Evaluate a policy on held-out ratings, logged rounds, or both; return the figures and the ROC curve of likes.

    `users` are those whose rounds or sessions count: all, or a half of them, "selection" or "gate". The selection of a
    sweep leaves the held-out ratings to the gate. `sessions` plays policies of single rounds in sessions, too. With a
    `champion` of the registry, the policy is compared with it.
    """
    from recpolicy.workflows.candidate_evaluation import evaluate_candidate_folder
    from recpolicy.workflows.evaluation_files import write_candidate_evaluation
    from recpolicy.workflows.gating import champion_folder
    from recpolicy.workflows.reports import write_evaluation_page

    if is_feature_policy(Path(policy)):
        other = champion_folder(registry, champion) if champion else optional_path(incumbent)
        return _evaluate_features(policy, evaluation, page, rounds, other, seed), {}
    parts = None if ratings is None else load_saved_split(Path(ratings))
    other = champion_folder(registry, champion) if champion else optional_path(incumbent)
    result = evaluate_candidate_folder(
        Path(policy), parts, _evaluation_rounds(rounds), other, seed, users, sessions=sessions,
        held_out=users != "selection",
    )  # fmt: skip
    write_candidate_evaluation(result, Path(evaluation))
    write_evaluation_page(result, Path(page))
    return result.figures(), result.likes


def validate_simulator_step(ratings: str, page: str, *, settings: Mapping[str, Any], seed: int) -> Figures:
    """Compare simulated with real sessions of held-out users; write the card as a page."""
    from recpolicy.workflows.simulator_validation import validate_simulator as validate
    from recpolicy.workflows.simulator_validation import write_card_page

    card = validate(load_saved_split(Path(ratings)), settings, seed)
    write_card_page(card, Path(page))
    return {"passed": bool(card.passed), **{gate.name: float(gate.value) for gate in card.gates}}


def gate_policy_step(evaluation: str, record: str, page: str, *, settings: Mapping[str, Any]) -> str:
    """Return pass, fail or no_verdict; write the record with reasons as JSON and as a page."""
    from recpolicy.workflows.gating import gate_evaluation, write_gate

    gate = gate_evaluation(Path(evaluation), settings)
    write_gate(gate, Path(record), Path(page))
    return gate.verdict


def report_step(policy: str, ratings: str, page: str, *, user: str, seed: int) -> Figures:
    """Write the report of a policy: training, figures with the baselines, suggestions for one user."""
    import shutil
    import tempfile

    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.policy_report import write_policy_report

    loaded, parts = load_policy(policy), load_saved_split(Path(ratings))
    chosen = parse_ids(user, loaded.artifact.users["user_id"])
    with tempfile.TemporaryDirectory() as scratch:  # the report writes metrics into the policy, which is an input here
        copy = Path(scratch) / "policy"
        shutil.copytree(policy, copy)
        verdict = write_policy_report(loaded, parts, copy, Path(page), user=chosen[0] if chosen else None, seed=seed)
    result = verdict.evaluation.policies[loaded.artifact.agent]
    return {"held_out_choice": result.held_out_choice.value}


def _evaluate_features(
    policy: str, evaluation: str, page: str, rounds: str | None, incumbent: Path | None, seed: int
) -> Figures:
    from recpolicy.workflows.evaluation_files import write_candidate_evaluation
    from recpolicy.workflows.feature_estimation import (
        evaluate_feature_candidate,
        load_policies,
        read_evaluation_log,
        require_log,
    )
    from recpolicy.workflows.feature_report import write_feature_evaluation_page

    log = read_evaluation_log(require_log(optional_path(rounds)))
    candidate, other = load_policies(Path(policy), incumbent)
    result = evaluate_feature_candidate(candidate, log, other, seed=seed)
    write_candidate_evaluation(result, Path(evaluation))
    write_feature_evaluation_page(result, Path(page))
    return result.figures()


def _evaluation_rounds(rounds: str | None) -> Path | None:
    from recpolicy.data.log_ingest import EVALUATION

    return None if rounds is None else Path(rounds) / EVALUATION
