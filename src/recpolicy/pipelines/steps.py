"""The steps of the pipelines as plain functions: paths in, paths out, figures returned. No Kubeflow in here.

An output folder appears whole or not at all. Every function returns its figures as plain numbers and words, which the
component notes as metadata.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from recpolicy.core.errors import ConfigError
from recpolicy.core.files import atomic_directory, write_json
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.ratings_store import load_saved_ratings, load_saved_split, save_ratings
from recpolicy.pipelines.artifact_uris import importable, is_address, log_folder
from recpolicy.pipelines.parameters import training_settings

Figures = dict[str, Any]
_MODEL, _SETTINGS = "rating_model", "features.json"


def fetch_data(ratings: str, *, data: str, split: str, seed: int) -> Figures:
    """Fetch (ml-100k) or read a table of ratings, check it and write it, with its split, to the folder `ratings`."""
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.movielens_download import fetch
    from recpolicy.data.splits import split as split_ratings

    if data == "ml-100k":
        fetch()
    table = load_ratings(data)
    parts = split_ratings(table, split, seed)
    save_ratings(table, Path(ratings), split=(split, seed))
    users, items = table.shape
    return {
        "ratings": len(table), "users": users, "items": items, "to_fit": len(parts.train),
        "held_out": len(parts.test), "digest": table.digest,
    }  # fmt: skip


def fit_embeddings(
    ratings: str, features: str, *, rating_model: str, rank: int, items: int, settings: Mapping[str, Any], seed: int
) -> Figures:
    """Fit the rating model on the train part, and write it with the embeddings of users and items to `features`."""
    from recpolicy.core.config import as_dict
    from recpolicy.evaluation.rating_accuracy import mae, rmse
    from recpolicy.models.rating_model_io import save_rating_model
    from recpolicy.workflows.training_features import FeatureConfig, prepare

    parts = load_saved_split(Path(ratings))
    config = FeatureConfig(rating_model=rating_model, rank=rank, items=items)
    made = prepare(parts.train, config, model_config=settings or None, seed=seed)
    with atomic_directory(Path(features)) as folder:
        save_rating_model(made.model, folder / _MODEL)
        write_json(folder / _SETTINGS, as_dict(config))
        for name, ids, table in (
            ("user", parts.train.users["user_id"], made.embeddings.user),
            ("item", parts.train.items["item_id"], made.embeddings.item),
        ):
            frame = pd.DataFrame(table, columns=[f"e{column}" for column in range(table.shape[1])])
            frame.insert(0, f"{name}_id", ids.to_numpy())
            frame.to_parquet(folder / f"{name}_embeddings.parquet", index=False)
    predicted = made.model.mean[parts.test.user, parts.test.item]
    return {
        "rmse": rmse(predicted, parts.test.rating), "mae": mae(predicted, parts.test.rating),
        "explained": float(made.embeddings.explained),
    }  # fmt: skip


def simulate_log(
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
    """Let a policy play the training world and write the events and rewards it logged to the folder `log`."""
    from recpolicy.workflows import interaction_logs

    fit = load_saved_split(Path(ratings)).train
    model, config = _features(features)
    written = interaction_logs.simulate_log(
        fit,
        log,
        logging_policy=logging_policy,
        config={"rounds": rounds, **settings},
        train={**config, "world": world},
        model=model,
        seed=seed,
    )
    return {"events": written, "logging_policy": logging_policy}


def ingest_log(
    log: str, rounds: str, *, ratings: str | None, policy: str | None, settings: Mapping[str, Any]
) -> Figures:
    """Check a log, join its rewards and split it by time; ids are those of `ratings`, or of `policy`."""
    from recpolicy.workflows.interaction_logs import ingest_log as ingest

    return dict(ingest(log, rounds, _tables(ratings, policy), settings).as_dict())


def find_incumbent(incumbent: str, registry: str, copy: str, address: str) -> str:
    """Say where the policy in service can be imported from; one that lies on a path goes to `copy`, if need be."""
    from recpolicy.workflows.registration import incumbent_of

    return incumbent if is_address(incumbent) else importable(incumbent_of(incumbent, registry), Path(copy), address)


def find_log(log: str, copy: str, address: str) -> str:
    """Say where the log can be imported from; one that lies on a path goes to `copy`, if need be."""
    return log if is_address(log) else importable(log_folder(log), Path(copy), address)


def train_policy(
    policy: str, *, ratings: str | None, features: str | None, rounds: str | None, incumbent: str | None, agent: str,
    learn_from: str, world: str, interactions: int, epochs: int, settings: Mapping[str, Any],
    agent_settings: Mapping[str, Any], seed: int,
) -> Figures:  # fmt: skip
    """Train an agent online or from a log, or train the incumbent on; writes the policy artifact to `policy`."""
    if incumbent is not None:
        trained = _retrained(policy, incumbent, rounds, epochs, seed)
    else:
        chosen = {**training_settings(agent, learn_from, world, interactions, epochs), **settings}
        trained = _trained(policy, ratings, features, rounds, agent, chosen, agent_settings, seed)
    training = {
        key: value for key, value in trained.metadata["training"].items() if isinstance(value, int | float | str)
    }
    return {"agent": trained.artifact.agent, "content": trained.metadata["content"], **training}


def evaluate_policy(
    policy: str, evaluation: str, page: str, *, ratings: str | None, rounds: str | None, incumbent: str | None,
    seed: int,
) -> tuple[Figures, Figures]:  # fmt: skip
    """Evaluate a policy on held-out ratings, on logged rounds, or both; returns the figures and the curve of likes."""
    from recpolicy.workflows.evaluate_candidate import evaluate_candidate_folder, write_candidate_evaluation

    parts = None if ratings is None else load_saved_split(Path(ratings))
    result = evaluate_candidate_folder(Path(policy), parts, _evaluation_rounds(rounds), _path(incumbent), seed)
    write_candidate_evaluation(result, Path(evaluation), Path(page))
    return result.figures(), result.likes


def validate_simulator(ratings: str, page: str, *, settings: Mapping[str, Any], seed: int) -> Figures:
    """Compare simulated with real sessions on held-out users; writes the card as a page."""
    from recpolicy.workflows.validate_simulator import validate_simulator as validate
    from recpolicy.workflows.validate_simulator import write_card_page

    card = validate(load_saved_split(Path(ratings)), settings, seed)
    write_card_page(card, Path(page))
    return {"passed": bool(card.passed), **{gate.name: float(gate.figure) for gate in card.gates}}


def gate_policy(evaluation: str, record: str, page: str, *, settings: Mapping[str, Any]) -> str:
    """Say pass, fail or no_verdict, with reasons; writes the record as JSON and as a page."""
    from recpolicy.workflows.gate_record import gate_evaluation, write_gate

    gate = gate_evaluation(Path(evaluation), settings)
    write_gate(gate, Path(record), Path(page))
    return gate.verdict


def register_policy(policy: str, record: str, registered: str, *, registry: str) -> Figures:
    """Copy the policy with its gate record to `registered` and, where a registry is named, make it the champion."""
    from recpolicy.workflows.registration import register

    return register(Path(policy), Path(record), Path(registered), registry)


def predict_batch(policy: str, predictions: str, table: str, *, users: str, items: str, batch: int) -> Figures:
    """Rating estimates of chosen users and items (all where "") as Parquet, and as CSV."""
    from recpolicy.inference.batch_predict import predict_to_files
    from recpolicy.inference.predictor import load_policy

    loaded = load_policy(policy)
    ids = loaded.artifact.users["user_id"], loaded.artifact.items["item_id"]
    chosen = [_ids(text, known) for text, known in zip((users, items), ids, strict=True)]
    rows = predict_to_files(loaded, Path(predictions), Path(table), users=chosen[0], items=chosen[1], batch=batch)
    return {"rows": rows}


def report(policy: str, ratings: str, page: str, *, user: str, seed: int) -> Figures:
    """The report of a policy as a page: training, figures beside the baselines, suggestions for one user."""
    import shutil
    import tempfile

    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.report import write_policy_report

    loaded, parts = load_policy(policy), load_saved_split(Path(ratings))
    chosen = _ids(user, loaded.artifact.users["user_id"])
    with tempfile.TemporaryDirectory() as scratch:  # the report notes its metrics beside the policy: an input here
        copy = Path(scratch) / "policy"
        shutil.copytree(policy, copy)
        verdict = write_policy_report(loaded, parts, copy, Path(page), user=chosen[0] if chosen else None, seed=seed)
    result = verdict.evaluation.policies[loaded.artifact.agent]
    return {"held_out_choice": result.held_out.value}


def plan_sweep(agents: list[str], seeds: list[float], grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trials of a sweep: every agent with every seed and every combination of the settings in `grid`."""
    from recpolicy.pipelines.sweep import trials

    return trials(agents, [int(seed) for seed in seeds], grid)  # numbers in a list travel as floats


def compare_policies(evaluations: list[str], policies: list[str], best: str, evaluation: str, page: str) -> Figures:
    """Put the trials into one table, best first by their value on logged rounds; copy the best one on."""
    from recpolicy.pipelines.sweep import choose_best

    return choose_best(
        [Path(one) for one in evaluations], [Path(one) for one in policies], Path(best), Path(evaluation), Path(page)
    )


def _features(folder: str) -> tuple[Any, dict[str, Any]]:
    """The rating model and the settings (of FeatureConfig) that `fit_embeddings` wrote."""
    import json

    from recpolicy.models.rating_model_io import load_rating_model

    settings: dict[str, Any] = json.loads((Path(folder) / _SETTINGS).read_text(encoding="utf-8"))
    return load_rating_model(Path(folder) / _MODEL), settings


def _tables(ratings: str | None, policy: str | None) -> IdVocabulary:
    from recpolicy.data.bandit_log_files import IdVocabulary
    from recpolicy.inference.predictor import load_policy

    if ratings is not None:
        return IdVocabulary.from_ratings(load_saved_ratings(Path(ratings)))
    if policy is None:
        raise ConfigError("ingest_log: neither ratings nor a policy is given; one of them says which ids there are")
    return IdVocabulary.from_policy(load_policy(policy))


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _evaluation_rounds(rounds: str | None) -> Path | None:
    from recpolicy.workflows.interaction_logs import EVALUATION

    return None if rounds is None else Path(rounds) / EVALUATION


def _retrained(policy: str, incumbent: str, rounds: str | None, epochs: int, seed: int) -> Any:
    from recpolicy.data.bandit_log_files import IdVocabulary
    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.interaction_logs import TRAINING, read_rounds
    from recpolicy.workflows.retrain import retrain

    if rounds is None:
        raise ConfigError("train_policy: an incumbent learns from a log; give the rounds that ingest_log wrote")
    log = read_rounds(Path(rounds) / TRAINING, IdVocabulary.from_policy(load_policy(incumbent)))
    return retrain(incumbent, log, policy, epochs=epochs, seed=seed)


def _trained(
    policy: str, ratings: str | None, features: str | None, rounds: str | None, agent: str,
    settings: Mapping[str, Any], agent_settings: Mapping[str, Any], seed: int,
) -> Any:  # fmt: skip
    from recpolicy.data.bandit_log_files import IdVocabulary
    from recpolicy.workflows.interaction_logs import TRAINING, read_rounds
    from recpolicy.workflows.train import train

    if ratings is None or features is None:
        raise ConfigError("train_policy: ratings and features are needed where there is no incumbent")
    parts, (model, config) = load_saved_split(Path(ratings)), _features(features)
    log = None
    if settings.get("mode") == "log":
        if rounds is None:
            raise ConfigError("train_policy: it is to learn from a log, but no rounds are given")
        log = read_rounds(Path(rounds) / TRAINING, IdVocabulary.from_ratings(parts.train))
    chosen = {**config, **settings}
    return train(agent, parts, policy, config=chosen, agent_config=agent_settings, model=model, log=log, seed=seed)


def _ids(text: str, known: "pd.Series[Any]") -> list[Any] | None:
    """Ids separated by commas, of the type that the table has; None for all."""
    if not text.strip():
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if known.dtype.kind not in "iu":
        return list(words)
    wrong = [word for word in words if not word.lstrip("-").isdigit()]
    if wrong:
        raise ConfigError(f"id {wrong[0]!r}: this policy's ids are integers, separated by commas")
    return [int(word) for word in words]
