"""The steps of the pipelines as plain functions of paths, without Kubeflow.

A step reads and writes files and returns its figures as plain numbers and text, which the component stores as metadata.
An output folder appears complete or not at all.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.files import atomic_directory, write_json
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.ratings_store import load_saved_ratings, load_saved_split, save_ratings
from recpolicy.inference.feature_artifact import is_feature_policy
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.pipelines.artifact_uris import importable, is_address, log_folder
from recpolicy.pipelines.parameters import data_options, training_settings

Figures = dict[str, Any]
_FETCH_PAUSES = (5, 30)
"""Seconds before each further try of a download."""
_MODEL, _SETTINGS = "rating_model", "features.json"


def fetch_data_step(ratings: str, *, data: str, settings: Mapping[str, Any], split: str, seed: int) -> Figures:
    """Download (ml-100k) or read a table of ratings, check it, and write it with its split to the folder `ratings`."""
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.read_options import reading_for
    from recpolicy.data.splits import split as split_ratings

    if data == "ml-100k":
        _fetch_patiently()
    with reading_for("parameter"):
        table = load_ratings(data, **data_options(settings))
    parts = split_ratings(table, split, seed)
    save_ratings(table, Path(ratings), split=(split, seed))
    users, items = table.shape
    return {
        "ratings": len(table), "users": users, "items": items, "train": len(parts.train), "test": len(parts.test),
        "digest": table.digest,
    }  # fmt: skip


def fit_embeddings_step(
    ratings: str, features: str, *, rating_model: str, rank: int, items: int, settings: Mapping[str, Any], seed: int
) -> Figures:
    """Fit the rating model on the train part; write it with the embeddings of users and items to `features`."""
    from recpolicy.core.config import as_dict
    from recpolicy.evaluation.rating_accuracy import mae, rmse
    from recpolicy.models.rating_model_io import save_rating_model
    from recpolicy.workflows.training_data import FeatureConfig, prepare_features

    parts = load_saved_split(Path(ratings))
    config = FeatureConfig(rating_model=rating_model, rank=rank, items=items)
    prepared = prepare_features(parts.train, config, model_config=settings or None, seed=seed)
    with atomic_directory(Path(features)) as folder:
        save_rating_model(prepared.model, folder / _MODEL)
        write_json(folder / _SETTINGS, as_dict(config))
        for name, ids, table in (
            ("user", parts.train.users["user_id"], prepared.embeddings.user),
            ("item", parts.train.items["item_id"], prepared.embeddings.item),
        ):
            frame = pd.DataFrame(table, columns=[f"e{column}" for column in range(table.shape[1])])
            frame.insert(0, f"{name}_id", ids.to_numpy())
            frame.to_parquet(folder / f"{name}_embeddings.parquet", index=False)
    predicted = prepared.model.mean[parts.test.user, parts.test.item]
    return {
        "rmse": rmse(predicted, parts.test.rating), "mae": mae(predicted, parts.test.rating),
        "explained": float(prepared.embeddings.explained),
    }  # fmt: skip


def simulate_log_step(
    ratings: str,
    features: str,
    log: str,
    *,
    world: str,
    logging_policy: str,
    rounds: int,
    settings: Mapping[str, Any],
    seed: int,
) -> Figures:
    """Let a policy act in the training world; write its events and rewards to the folder `log`."""
    from recpolicy.workflows import interaction_logs

    train = load_saved_split(Path(ratings)).train
    model, config = _load_features(features)
    events = interaction_logs.simulate_log(
        train,
        log,
        logging_policy=logging_policy,
        config={"rounds": rounds, **settings},
        train={**config, "world": world},
        model=model,
        seed=seed,
    )
    return {"events": events, "logging_policy": logging_policy}


def ingest_log_step(
    log: str, rounds: str, *, ratings: str | None, policy: str | None, settings: Mapping[str, Any]
) -> Figures:
    """Check a log, join its rewards and split it by time; `ratings` or `policy` has the known ids.

    A log with features needs neither: it has its own actions.
    """
    from recpolicy.data.feature_log_files import is_feature_log
    from recpolicy.workflows.feature_logs import ingest_feature_log
    from recpolicy.workflows.interaction_logs import ingest_log as ingest

    if is_feature_log(Path(log)):
        report: Any = ingest_feature_log(log, rounds, settings)
    else:
        report = ingest(log, rounds, _vocabulary(ratings, policy), settings)
    figures = report.as_dict()
    rewards = figures.pop("rewards") or {}
    known = {f"reward_{name}": value for name, value in rewards.items() if value is not None}
    return {**figures, **known}


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


def find_log_step(log: str, copy: str, copy_uri: str) -> str:
    """Return the uri of the log for an importer; on a cluster, copy one on a path to `copy`."""
    return log if is_address(log) else importable(log_folder(log), Path(copy), copy_uri)


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
        other = champion_folder(registry, champion) if champion else _path(incumbent)
        return _evaluate_features(policy, evaluation, page, rounds, other, seed), {}
    parts = None if ratings is None else load_saved_split(Path(ratings))
    other = champion_folder(registry, champion) if champion else _path(incumbent)
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
    chosen = [_ids(text, known) for text, known in zip((users, items), ids, strict=True)]
    rows = predict_to_files(loaded, Path(predictions), Path(table), users=chosen[0], items=chosen[1], batch=batch)
    return {"rows": rows}


def report_step(policy: str, ratings: str, page: str, *, user: str, seed: int) -> Figures:
    """Write the report of a policy: training, figures with the baselines, suggestions for one user."""
    import shutil
    import tempfile

    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.policy_report import write_policy_report

    loaded, parts = load_policy(policy), load_saved_split(Path(ratings))
    chosen = _ids(user, loaded.artifact.users["user_id"])
    with tempfile.TemporaryDirectory() as scratch:  # the report writes metrics into the policy, which is an input here
        copy = Path(scratch) / "policy"
        shutil.copytree(policy, copy)
        verdict = write_policy_report(loaded, parts, copy, Path(page), user=chosen[0] if chosen else None, seed=seed)
    result = verdict.evaluation.policies[loaded.artifact.agent]
    return {"held_out_choice": result.held_out_choice.value}


def plan_sweep_step(agents: list[str], seeds: list[float], grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the trials of a sweep: every agent with every seed and every combination of the settings in `grid`."""
    from recpolicy.pipelines.sweep import plan_trials

    return plan_trials(agents, [int(seed) for seed in seeds], grid)  # Kubeflow passes numbers in a list as floats


def compare_policies_step(evaluations: list[str], policies: list[str], best: str, choice: str, page: str) -> Figures:
    """Write one table of the trials, best first by their value on logged rounds; copy the best one to `best`."""
    from recpolicy.pipelines.sweep import choose_best

    return choose_best(
        [Path(path) for path in evaluations], [Path(path) for path in policies], Path(best), Path(choice), Path(page)
    )


def write_metrics(artifact: Any, figures: Figures) -> None:
    """Store figures in a Metrics artifact of Kubeflow: as metadata, and in its file, which the local cache needs."""
    artifact.metadata.update(figures)
    write_json(Path(artifact.path), figures)


def _fetch_patiently() -> None:
    """Download MovieLens 100K; try again only when the network fails, not when the data are faulty."""
    import time

    from recpolicy.core.errors import FetchError
    from recpolicy.data.movielens_download import fetch

    for pause in (*_FETCH_PAUSES, None):
        try:
            fetch()
            return
        except FetchError as error:
            if pause is None:
                raise
            print(f"{error}; trying again in {pause} s", flush=True)
            time.sleep(pause)


def _load_features(folder: str) -> tuple[Any, dict[str, Any]]:
    """Return the rating model and the settings (of FeatureConfig) that `fit_embeddings` wrote."""
    import json

    from recpolicy.models.rating_model_io import load_rating_model

    settings: dict[str, Any] = json.loads((Path(folder) / _SETTINGS).read_text(encoding="utf-8"))
    return load_rating_model(Path(folder) / _MODEL), settings


def _vocabulary(ratings: str | None, policy: str | None) -> IdVocabulary:
    from recpolicy.inference.predictor import load_policy

    if ratings is not None:
        return IdVocabulary.from_ratings(load_saved_ratings(Path(ratings)))
    if policy is None:
        raise ConfigError("ingest_log: neither ratings nor a policy is given; one of them must name the known ids")
    return IdVocabulary.from_policy(load_policy(policy))


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _evaluation_rounds(rounds: str | None) -> Path | None:
    from recpolicy.data.log_ingest import EVALUATION

    return None if rounds is None else Path(rounds) / EVALUATION


def _retrain(policy: str, incumbent: str, rounds: str | None, epochs: int, seed: int) -> Any:
    from recpolicy.data.log_ingest import TRAINING
    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.interaction_logs import read_rounds
    from recpolicy.workflows.retraining import retrain

    if rounds is None:
        raise ConfigError("train_policy: an incumbent learns from a log; give the output of ingest_log as rounds")
    if is_feature_policy(Path(incumbent)):
        from recpolicy.data.feature_log_files import read_training_log
        from recpolicy.workflows.feature_retraining import retrain_features

        return retrain_features(incumbent, read_training_log(Path(rounds)), policy)
    log = read_rounds(Path(rounds) / TRAINING, IdVocabulary.from_policy(load_policy(incumbent)))
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
    parts, (model, feature_settings) = load_saved_split(Path(ratings)), _load_features(features)
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

    log = read_evaluation_log(require_log(_path(rounds)))
    candidate, other = load_policies(Path(policy), incumbent)
    result = evaluate_feature_candidate(candidate, log, other, seed=seed)
    write_candidate_evaluation(result, Path(evaluation))
    write_feature_evaluation_page(result, Path(page))
    return result.figures()


def _ids(text: str, known: "pd.Series[Any]") -> list[Any] | None:
    """Return the ids, separated by commas, with the type of the table's ids; None for all."""
    if not text.strip():
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if known.dtype.kind not in "iu":
        return list(words)
    invalid = [word for word in words if not re.fullmatch(r"-?\d+", word)]
    if invalid:
        raise ConfigError(f"id {invalid[0]!r}: expected integers, separated by commas")
    return [int(word) for word in words]
