"""Gate a candidate, write the record of the gate, and register a policy that passed."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recpolicy.core.config import build, read_toml, reject_unknown_tables
from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.files import atomic_directory, file_digest, read_versioned_json, write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.session_log import SessionLog
from recpolicy.data.splits import Split
from recpolicy.evaluation.gate import VERDICTS, Gate, GateConfig, gate, gate_tables
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.predictor import Policy
from recpolicy.inference.tuned_scorer import served_digest
from recpolicy.models.own_like_model import LikeFunction
from recpolicy.registry.aliases import CHAMPION, STATE
from recpolicy.registry.artifact_kinds import read_manifest, verify
from recpolicy.registry.model_registry import Registry
from recpolicy.registry.version_files import migrate_gate
from recpolicy.workflows.artifacts import check_writable_folder
from recpolicy.workflows.candidate_evaluation import CandidateEvaluation, evaluate_candidate
from recpolicy.workflows.evaluation_files import read_candidate_evaluation, write_candidate_evaluation
from recpolicy.workflows.evaluation_rounds import read_gate_log
from recpolicy.workflows.feature_estimation import (
    FeatureEvaluation,
    evaluate_feature_candidate,
    read_evaluation_log,
    require_log,
)

RECORD_FORMAT, RECORD_VERSION = "recpolicy gate", 3
EVALUATION_FILE, RECORD_FILE, PAGE_FILE = "evaluation.json", "gate.json", "gate.html"
OFF = "off"
"""Value of a limit that is switched off, in files without null."""


def gate_evaluation(evaluation: Path, settings: Mapping[str, Any] | None = None) -> Gate:
    """Gate the evaluation in a file.

    Args:
        evaluation: A file that `write_candidate_evaluation` wrote.
        settings: Limits of GateConfig; None and "off" switch a criterion off.

    Returns:
        The verdict with its criteria.

    Raises:
        ArtifactError: The file is not an evaluation.
        ConfigError: A limit is unknown or out of range.
    """
    config = gate_config(settings)
    result = gate(read_candidate_evaluation(evaluation), config)
    return replace(result, policy={**result.policy, "evaluation": file_digest(evaluation)})


def gate_config(settings: Mapping[str, Any] | None = None, where: str = "gate") -> GateConfig:
    """Return the limits from plain values; None and "off" switch a criterion off. Raise ConfigError."""
    settings = {name: None if value == OFF else value for name, value in (settings or {}).items()}
    return build(GateConfig, settings, where)


def read_gate_config(config: Path | None) -> GateConfig:
    """Return the limits in the table [gate] of a TOML file, or the defaults. Raise ConfigError."""
    tables = read_toml(config) if config else {}
    reject_unknown_tables(tables, ("gate",), str(config))
    return gate_config(tables.get("gate"), f"{config}: gate")


def write_gate(result: Gate, record: Path, page: Path | None = None) -> None:
    """Write the record of a gate as JSON and, if `page` is given, as an HTML page.

    Args:
        result: The verdict.
        record: JSON file to write.
        page: HTML file to write, or None.
    """
    write_json(record, {"format": RECORD_FORMAT, "version": RECORD_VERSION, **result.as_dict()})
    if page is None:
        return
    require_extra("report", "the page of a gate")
    from recpolicy.evaluation.report_page import ReportContent, write_report
    from recpolicy.workflows.reports import page_origin, policy_summary

    (_, criteria), *tables = gate_tables(result)  # the title says the verdict
    content = ReportContent(
        title=f"Gate: {VERDICTS[result.verdict]}",
        summary=policy_summary(result.policy) + page_origin(),
        tables=[("Criteria", criteria), *tables],
        notes=[
            "A gain counts by the lower bound of its 95 % interval over users. If the logged rounds have too little"
            " overlap, there is no verdict, and the policy is not promoted.",
            *result.notes,
        ],
    )
    write_report(page, content)


def _current(body: dict[str, Any]) -> dict[str, Any]:
    return migrate_gate(body) or {}


def read_gate(record: Path) -> dict[str, Any]:
    """Return a gate record; raise ArtifactError for any other file."""
    return read_versioned_json(record, RECORD_FORMAT, RECORD_VERSION, {1: _current, 2: _current})


def read_record_of(policy: Path, record: Path) -> dict[str, Any]:
    """Return the gate record of a policy; raise ArtifactError for a damaged policy, or a record of another one."""
    verify(policy)
    gate, digest = read_gate(record), served_digest(read_manifest(policy))
    if gate["policy"]["policy_digest"] != digest:
        raise ArtifactError(
            f"{record}: belongs to another policy ({gate['policy']['policy_digest'][:12]}); gate this policy first"
        )
    return gate


def gate_candidate(
    policy: Policy, split: Split | None, log: Path | BanditLog | SessionLog | None, incumbent: Policy | None,
    config: GateConfig, seed: int = 0, out: Path | None = None, guardrails: GuardrailConfig | None = None,
    like_model: "str | Path | LikeFunction | None" = None,
) -> Gate:  # fmt: skip
    """Evaluate a policy on held-out ratings, on a log and in simulated sessions, and gate it.

    Args:
        policy: The candidate.
        split: The split of its training; None evaluates on the log only.
        log: A folder that `ingest_log` wrote, a file of rounds, a log of sessions, or the content of one; None
            evaluates session policies in simulated sessions only.
        incumbent: The policy in service; None is the logging policy, or in sessions the greedy rating model.
        config: The limits.
        seed: Seed of the intervals.
        out: A folder that gets evaluation.json, gate.json and gate.html after the verdict.
        guardrails: Guardrails under which both policies choose on logged rounds.
        like_model: Your own P(like) in the simulated sessions; see `compare_in_sessions`.

    Returns:
        The verdict with its criteria.

    Raises:
        DataError: The log is not readable, or the policy has learned from it.
        ConfigError: A policy of single rounds without a log, or a session policy with one of rounds; guardrails without
            a log of rounds; a policy that was trained with a like model of its own, and none is given.
        ArtifactError: `out` is a file.
    """
    if log is None and not policy.sequential and (incumbent is None or not incumbent.sequential):
        raise ConfigError(
            f"{policy.artifact.agent} is a policy of single rounds: the gate needs logged rounds (--log), such as a"
            " folder that recpolicy log ingest wrote"
        )
    if out is not None:
        check_writable_folder(out)
    rounds = read_gate_log(log, policy) if isinstance(log, Path) else log
    if guardrails is not None and rounds is None:
        raise ConfigError("guardrails are for logged rounds; give a log, or leave them out")
    evaluation = evaluate_candidate(
        policy, split, rounds, incumbent, seed, guardrails=guardrails, like_model=like_model
    )
    return _gated(evaluation, config, out)


def gate_feature_candidate(
    policy: FeaturePolicy, log: Path | None, incumbent: FeaturePolicy | None, config: GateConfig, seed: int = 0,
    out: Path | None = None, group: str | None = None,
) -> Gate:  # fmt: skip
    """Evaluate a feature policy on logged rounds, and gate it.

    Args:
        policy: The candidate.
        log: A folder that `ingest_feature_log` wrote, or another feature log.
        incumbent: The policy in service; None is the logging policy.
        config: The limits.
        seed: Seed of the intervals.
        out: A folder that gets evaluation.json, gate.json and gate.html after the verdict.
        group: A categorical context feature by whose values losses of groups are judged.

    Returns:
        The verdict with its criteria; no verdict where the lowest and the highest reward are unknown.

    Raises:
        DataError: There is no log, it is not readable, or the policy has learned from it.
        ArtifactError: `out` is a file.
    """
    if out is not None:
        check_writable_folder(out)
    rounds = read_evaluation_log(require_log(log))
    evaluation = evaluate_feature_candidate(policy, rounds, incumbent, group=group, seed=seed)
    return _gated(evaluation, config, out)


def _gated(evaluation: CandidateEvaluation | FeatureEvaluation, config: GateConfig, out: Path | None) -> Gate:
    """Return the verdict on an evaluation; write both to the folder `out`, if one is given."""
    result = gate(evaluation.as_dict(), config)
    if out is not None:
        write_candidate_evaluation(evaluation, out / EVALUATION_FILE)
        result = replace(result, policy={**result.policy, "evaluation": file_digest(out / EVALUATION_FILE)})
        write_gate(result, out / RECORD_FILE, out / PAGE_FILE)
    return result


NO_INCUMBENT = "incumbent and registry are both empty: name the policy in service, or the registry of its champion"


def get_incumbent(incumbent: str, registry: str) -> Path:
    """Return the artifact of the policy in service: the path `incumbent`, or else the champion of `registry`.

    Args:
        incumbent: Path of a policy, or "".
        registry: Folder of a registry, or "".

    Returns:
        Folder of the policy.

    Raises:
        ConfigError: Both are empty, or the registry has no champion.
        ArtifactError: The registry or the policy does not exist or is damaged.
    """
    if incumbent.strip():
        policy = Path(incumbent)
    elif registry.strip():
        try:
            policy = Registry(registry).resolve(CHAMPION)
        except (ArtifactError, ConfigError) as error:
            raise type(error)(f"no incumbent in the registry: {error}") from None
    else:
        raise ConfigError(NO_INCUMBENT)
    verify(policy)
    return policy


@dataclass(frozen=True)
class Registration:
    """The result of the registration of a policy that passed its gate."""

    verdict: str
    policy_digest: str
    registry: str
    """Folder of the registry; empty without one."""
    version: int = 0
    """Number in the registry; 0 without one."""
    champion: int | None = None
    """Champion of the registry after the registration."""
    not_promoted: str = ""
    """Reason why the version is not the champion; empty if it is, or without a registry."""


def register(
    policy: Path, record: Path, registered: Path, registry: str = "", *, promote: bool = False
) -> Registration:
    """Copy a policy that passed its gate and, if a registry is named, register it there.

    It becomes the champion if the registry has none, or if `promote` is true. It never does while there is a
    challenger, as during a rollout.

    Args:
        policy: The artifact.
        record: The record of its gate.
        registered: The folder for the copy.
        registry: The folder of a registry, or empty.
        promote: Replace the champion.

    Returns:
        Verdict, digest, version number, and the champion after the registration.

    Raises:
        ArtifactError: The policy is damaged, or the record is of another policy or not a pass.
    """
    gate, metadata = read_record_of(policy, record), read_manifest(policy)["metadata"]
    if gate["verdict"] != "pass":
        raise ArtifactError(f"{record}: the verdict is {gate['verdict']}; only a policy that passed can be registered")
    with atomic_directory(registered) as folder:
        shutil.copytree(policy, folder, dirs_exist_ok=True)
    result = Registration(gate["verdict"], served_digest(read_manifest(policy)), registry)
    if not registry:
        return result
    store = Registry(Path(registry))
    # A feature policy learns from a log, so it has no split.
    lineage = {"data": metadata["data"], "split": metadata.get("split"), "parents": metadata.get("parents", [])}
    author = {"by": "the registration of a gated policy"}
    version = store.register(policy, gate=gate, lineage=lineage, note=author)
    reason = store.promote_unattended(version.number, replace=promote, note=author)
    return replace(result, version=version.number, champion=store.aliases()[CHAMPION], not_promoted=reason)


def find_champion(registry: str) -> str:
    """Return the champion of a registry as text, such as "3 f442e77823df"; empty without a registry or champion.

    Raises ArtifactError if the champion is damaged.
    """
    if not registry.strip() or not (Path(registry) / STATE).is_file():
        return ""
    store = Registry(registry)
    number = store.aliases()[CHAMPION]
    if number is None:
        return ""
    verify(store.resolve(number))
    return f"{number} {store.version(number).digest[:12]}"


def champion_folder(registry: str, champion: str) -> Path:
    """Return the artifact of a champion that `find_champion` named; raise ArtifactError if it is another one now."""
    number, _, digest = champion.partition(" ")
    store = Registry(registry)
    if store.version(number).digest[:12] != digest:
        raise ArtifactError(f"{registry}: version {number} is another policy than at the start of the run")
    return store.resolve(number)
