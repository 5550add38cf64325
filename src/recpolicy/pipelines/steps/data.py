"""Steps that make data: ratings, embeddings, simulated logs, and rounds for training and evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from recpolicy.core.errors import ConfigError
from recpolicy.core.files import atomic_directory, write_json
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.ratings_store import load_saved_ratings, load_saved_split, save_ratings
from recpolicy.pipelines.artifact_uris import importable, is_address, log_folder
from recpolicy.pipelines.parameters import data_options
from recpolicy.pipelines.steps.values import MODEL, SETTINGS, Figures, load_features

_FETCH_PAUSES = (5, 30)
"""Seconds before each further try of a download."""


def fetch_data_step(ratings: str, *, data: str, settings: Mapping[str, Any], split: str, seed: int) -> Figures:
    """Download (ml-100k) or read a table of ratings, check it, and write it with its split to the folder `ratings`."""
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.read_options import reading_for
    from recpolicy.data.splits import split as split_ratings

    if data == "ml-100k":
        fetch_patiently()
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
        save_rating_model(prepared.model, folder / MODEL)
        write_json(folder / SETTINGS, as_dict(config))
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
    model, config = load_features(features)
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


def find_log_step(log: str, copy: str, copy_uri: str) -> str:
    """Return the uri of the log for an importer; on a cluster, copy one on a path to `copy`."""
    return log if is_address(log) else importable(log_folder(log), Path(copy), copy_uri)


def ingest_log_step(
    log: str, rounds: str, *, ratings: str | None, policy: str | None, settings: Mapping[str, Any]
) -> Figures:
    """Check a log, join its rewards and split it by time; `ratings` or `policy` has the known ids.

    A log with features needs neither: it has its own actions. Sessions have their rewards, and are split only.
    """
    from recpolicy.data.feature_log_files import is_feature_log
    from recpolicy.data.session_log_files import SESSIONS
    from recpolicy.workflows.feature_logs import ingest_feature_log
    from recpolicy.workflows.interaction_logs import ingest_log as ingest
    from recpolicy.workflows.session_logs import ingest_session_log

    if (Path(log) / SESSIONS).is_file():
        return ingest_session_log(log, rounds, _vocabulary(ratings, policy), settings).as_dict()
    if is_feature_log(Path(log)):
        report: Any = ingest_feature_log(log, rounds, settings)
    else:
        report = ingest(log, rounds, _vocabulary(ratings, policy), settings)
    figures = report.as_dict()
    rewards = figures.pop("rewards") or {}
    known = {f"reward_{name}": value for name, value in rewards.items() if value is not None}
    return {**figures, **known}


def fetch_patiently() -> None:
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


def _vocabulary(ratings: str | None, policy: str | None) -> IdVocabulary:
    from recpolicy.inference.predictor import load_policy

    if ratings is not None:
        return IdVocabulary.from_ratings(load_saved_ratings(Path(ratings)))
    if policy is None:
        raise ConfigError("ingest_log: neither ratings nor a policy is given; one of them must name the known ids")
    return IdVocabulary.from_policy(load_policy(policy))
