"""Steps that make, find and use policies: training, the policy in service, registration and predictions."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.files import write_json
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.ratings_store import load_saved_split
from recpolicy.inference.feature_artifact import is_feature_policy
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.pipelines.artifact_uris import importable, is_address
from recpolicy.pipelines.parameters import training_settings
from recpolicy.pipelines.steps.values import Figures, load_features, parse_ids


def train_policy_step(
    policy: str, *, ratings: str | None, features: str | None, rounds: str | None, incumbent: str | None, epochs: int,
    seed: int, **settings: Any,
) -> Figures:  # fmt: skip
    """Train an agent online or from a log, or retrain the incumbent; write the policy artifact to `policy`.

    `settings` are those of a new training: agent, learn_from, world, total_timesteps, settings, agent_settings, and
    the schema of rounds with features.
    """
    schema = settings.pop("schema", {})
    if incumbent is not None:
        trained = _retrain(policy, incumbent, rounds, epochs, seed)
    elif rounds is not None and ratings is None:
        trained = _train_features(
            policy, rounds, settings["agent"], schema, settings["settings"], settings["agent_settings"], seed
        )
    else:
        trained = _train(policy, ratings, features, rounds, epochs, seed, **settings)
    training = {
        key: value for key, value in trained.metadata["training"].items() if isinstance(value, int | float | str)
    }
    agent = trained.agent if isinstance(trained, FeaturePolicy) else trained.artifact.agent
    return {"agent": agent, "policy_digest": trained.metadata["policy_digest"], **training}


def find_incumbent_step(incumbent: str, registry: str, copy: str, copy_uri: str) -> str:
    """Return the uri of the policy in service for an importer; on a cluster, copy one on a path to `copy`."""
    from recpolicy.workflows.gating import get_incumbent

    return incumbent if is_address(incumbent) else importable(get_incumbent(incumbent, registry), Path(copy), copy_uri)


def find_champion_step(policy: str, registry: str) -> str:
    """Return number and digest of the registry's champion; "" without one, or if it is this very policy.

    Raises DataError if the champion knows other users or items.
    """
    from recpolicy.workflows.feature_estimation import load_policies
    from recpolicy.workflows.gating import champion_folder, find_champion
    from recpolicy.workflows.log_evaluation import check_same_ids

    text = find_champion(registry)
    if not text:
        return ""
    try:
        candidate, champion = load_policies(Path(policy), champion_folder(registry, text))
        if champion.metadata["policy_digest"] == candidate.metadata["policy_digest"]:
            return ""
        if not isinstance(candidate, FeaturePolicy):
            check_same_ids(candidate, champion)
    except (DataError, ConfigError) as error:
        raise DataError(f"registry {registry}: {error}. Give these data a registry of their own") from None
    return text


def register_policy_step(
    policy: str, record: str, registered: str, registration: str, *, registry: str, promote: bool
) -> Figures:
    """Copy the policy with its gate record to `registered`, and register it; write the result to `registration`."""
    from recpolicy.workflows.gating import register

    result = asdict(register(Path(policy), Path(record), Path(registered), registry, promote=promote))
    write_json(Path(registration), result)
    return {key: value for key, value in result.items() if value is not None}


def predict_batch_step(policy: str, predictions: str, table: str, *, users: str, items: str, batch: int) -> Figures:
    """Write the rating estimates of chosen users and items (all if "") as Parquet and as CSV."""
    from recpolicy.inference.batch_predict import predict_to_files
    from recpolicy.inference.predictor import load_policy

    loaded = load_policy(policy)
    ids = loaded.artifact.users["user_id"], loaded.artifact.items["item_id"]
    chosen = [parse_ids(text, known) for text, known in zip((users, items), ids, strict=True)]
    rows = predict_to_files(loaded, Path(predictions), Path(table), users=chosen[0], items=chosen[1], batch=batch)
    return {"rows": rows}


def _retrain(policy: str, incumbent: str, rounds: str | None, epochs: int, seed: int) -> Any:
    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.retraining import retrain
    from recpolicy.workflows.session_logs import read_log

    if rounds is None:
        raise ConfigError("train_policy: an incumbent learns from a log; give the output of ingest_log as rounds")
    if is_feature_policy(Path(incumbent)):
        from recpolicy.data.feature_log_files import read_training_log
        from recpolicy.workflows.feature_retraining import retrain_features

        return retrain_features(incumbent, read_training_log(Path(rounds)), policy)
    log = read_log(rounds, IdVocabulary.from_policy(load_policy(incumbent)))
    return retrain(incumbent, log, policy, epochs=epochs, seed=seed)


def _train(
    policy: str, ratings: str | None, features: str | None, rounds: str | None, epochs: int, seed: int, *, agent: str,
    learn_from: str, world: str, total_timesteps: int, settings: Mapping[str, Any], agent_settings: Mapping[str, Any],
) -> Any:  # fmt: skip
    from recpolicy.data.log_ingest import TRAINING
    from recpolicy.workflows.interaction_logs import read_rounds
    from recpolicy.workflows.policy_training import train

    if ratings is None or features is None:
        raise ConfigError("train_policy: without an incumbent, ratings and features are needed")
    parts, (model, feature_settings) = load_saved_split(Path(ratings)), load_features(features)
    config = {**feature_settings, **training_settings(agent, learn_from, world, total_timesteps, epochs), **settings}
    log = None
    if config.get("mode") == "log":
        if rounds is None:
            raise ConfigError("train_policy: learning from a log needs rounds, but none are given")
        log = read_rounds(Path(rounds) / TRAINING, IdVocabulary.from_ratings(parts.train))
    return train(agent, parts, policy, config=config, agent_config=agent_settings, model=model, log=log, seed=seed)


def _train_features(
    policy: str, rounds: str, agent: str, schema: Mapping[str, Any], settings: Mapping[str, Any],
    agent_settings: Mapping[str, Any], seed: int,
) -> FeaturePolicy:  # fmt: skip
    from recpolicy.data.feature_log_files import is_feature_log, read_training_log
    from recpolicy.data.features import schema_from_dict
    from recpolicy.data.features.rounds_table import read_rounds_table
    from recpolicy.workflows.feature_training import train_feature_policy

    if not is_feature_log(Path(rounds)):
        raise ConfigError("train_policy: without ratings, rounds with features are needed; these are rounds of items")
    log = read_training_log(Path(rounds))
    chosen = schema_from_dict(schema, "parameter schema") if schema else read_rounds_table(Path(rounds)).infer()[0]
    return train_feature_policy(log, chosen, agent, policy, config=settings, agent_config=agent_settings, seed=seed)
