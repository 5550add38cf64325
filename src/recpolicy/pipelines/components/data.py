"""From a table of ratings to logged rounds."""

from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from recpolicy.pipelines.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fetch_data(ratings: Output[Dataset], data: str = "ml-100k", split: str = "u1", seed: int = 0):
    """Fetch or read a table of ratings, check it, and fix its split.

    Args:
        ratings: The checked table with its split: ratings, users and items as Parquet.
        data: ml-100k (fetched and verified), or a path to a CSV or Parquet file of ratings.
        split: u1..u5, ua, ub, temporal, leave-last-N or random.
        seed: Seed of a random split.
    """
    from recpolicy.pipelines import steps

    ratings.metadata.update(steps.fetch_data(ratings.path, data=data, split=split, seed=seed))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fit_embeddings(
    ratings: Input[Dataset],
    features: Output[Model],
    metrics: Output[Metrics],
    rating_model: str = "bayesian_fm",
    rank: int = 20,
    items: int = 0,
    settings: dict = {},
    seed: int = 0,
):
    """Fit the rating model on the train part and derive the embeddings of users and items.

    Args:
        ratings: What fetch_data wrote.
        features: Rating model and embeddings.
        metrics: RMSE and MAE of the rating model on the held-out ratings.
        rating_model: bayesian_fm, svd, item_knn, bias or item_mean.
        rank: Length of the embeddings.
        items: Size of the catalogue, the most rated items; 0 takes all.
        settings: Settings of the rating model.
        seed: Fixes every random draw.
    """
    from recpolicy.core.files import write_json
    from recpolicy.pipelines import steps
    from pathlib import Path

    figures = steps.fit_embeddings(
        ratings.path, features.path, rating_model=rating_model, rank=rank, items=items, settings=settings, seed=seed
    )
    metrics.metadata.update(figures)
    write_json(Path(metrics.path), figures)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def simulate_log(
    ratings: Input[Dataset],
    features: Input[Model],
    log: Output[Dataset],
    world: str = "svd",
    logging_policy: str = "rating_model",
    rounds: int = 200_000,
    settings: dict = {},
    seed: int = 0,
):
    """Let a policy play the training world; its log is the first training data.

    Args:
        ratings: What fetch_data wrote.
        features: What fit_embeddings wrote.
        log: Events with true propensities, and the rewards that came later, as Parquet.
        world: The model that pays rewards; of another class than the features' rating model.
        logger: The policy that logs: rating_model, highest_mean or random.
        rounds: Interactions to log.
        settings: Further settings of the log, such as {"temperature": 0.2, "floor": 0.01}.
        seed: Fixes every random draw.
    """
    from recpolicy.pipelines import steps

    log.metadata.update(
        steps.simulate_log(
            ratings.path,
            features.path,
            log.path,
            world=world,
            logging_policy=logging_policy,
            rounds=rounds,
            settings=settings,
            seed=seed,
        )
    )


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def find_log(copy: Output[Dataset], log: str) -> str:
    """Find a log, at an address or on a path that the steps can read.

    Args:
        copy: The log, where it lay on a path of a cluster; else empty.
        log: Path or address of a folder with events.parquet and rewards.parquet.

    Returns:
        From where to import it.
    """
    from recpolicy.pipelines import steps

    return steps.find_log(log, copy.path, copy.uri)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest_log(
    log: Input[Dataset],
    rounds: Output[Dataset],
    metrics: Output[Metrics],
    ratings: Optional[Input[Dataset]] = None,
    policy: Optional[Input[Model]] = None,
    settings: dict = {},
):
    """Check a log, join its rewards by event id, and split it by time.

    Args:
        log: A folder with events.parquet and rewards.parquet.
        rounds: Rounds to learn from and rounds that only evaluation sees.
        metrics: What became of every event and every reward.
        ratings: Says which users and items there are; or policy does.
        policy: Says which users and items there are; or ratings does.
        settings: wait_hours, default_reward, evaluation_share.
    """
    from pathlib import Path

    from recpolicy.core.files import write_json
    from recpolicy.pipelines import steps

    figures = steps.ingest_log(
        log.path, rounds.path, ratings=ratings.path if ratings else None, policy=policy.path if policy else None,
        settings=settings,
    )  # fmt: skip
    metrics.metadata.update(figures)
    write_json(Path(metrics.path), figures)
