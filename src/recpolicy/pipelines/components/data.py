"""Components for ratings, features and logs."""

from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from recpolicy.pipelines.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fetch_data(ratings: Output[Dataset], data: str = "ml-100k", settings: dict = {}, split: str = "u1", seed: int = 0):
    """Download or read a table of ratings, check it, and split it.

    Args:
        ratings: The checked table with its split: ratings, users and items as Parquet.
        data: ml-100k (downloaded and verified), or the path of a CSV or Parquet file of ratings.
        settings: Options for reading the file: columns, scale, separator and others of the table [data].
        split: u1..u5, ua, ub, temporal, leave-last-N or random.
        seed: Seed of a random split.
    """
    from recpolicy.pipelines import steps

    ratings.metadata.update(steps.fetch_data_step(ratings.path, data=data, settings=settings, split=split, seed=seed))


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
        ratings: Output of fetch_data.
        features: Rating model and embeddings.
        metrics: RMSE and MAE of the rating model on the held-out ratings.
        rating_model: bayesian_fm, svd, item_knn, bias or item_mean.
        rank: Length of the embeddings.
        items: Size of the catalog, the most rated items; 0 takes all.
        settings: Settings of the rating model.
        seed: Seed of every random draw.
    """
    from recpolicy.pipelines import steps

    figures = steps.fit_embeddings_step(
        ratings.path, features.path, rating_model=rating_model, rank=rank, items=items, settings=settings, seed=seed
    )
    steps.write_metrics(metrics, figures)


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
    """Let a policy act in the simulated world; its log is the first training data.

    Args:
        ratings: Output of fetch_data.
        features: Output of fit_embeddings.
        log: Events with their exact propensities, and the later rewards, as Parquet.
        world: Model that pays the rewards; must differ from the rating model of the features.
        logging_policy: Policy that logs: rating_model, highest_mean or random.
        rounds: Interactions to log.
        settings: Further settings of the log, such as {"temperature": 0.2, "uniform_mix": 0.01}.
        seed: Seed of every random draw.
    """
    from recpolicy.pipelines import steps

    figures = steps.simulate_log_step(
        ratings.path,
        features.path,
        log.path,
        world=world,
        logging_policy=logging_policy,
        rounds=rounds,
        settings=settings,
        seed=seed,
    )
    log.metadata.update(figures)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def find_log(copy: Output[Dataset], log: str) -> str:
    """Find a log at an address or on a path that the steps can read.

    Args:
        copy: Copy of the log if it is on a path of a cluster; else empty.
        log: Path or address of a folder with events.parquet and rewards.parquet.

    Returns:
        Path or address that the importer reads.
    """
    from recpolicy.pipelines import steps

    return steps.find_log_step(log, copy.path, copy.uri)


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
        log: A folder with events.parquet and rewards.parquet, with rounds.parquet and actions.parquet, or with
            sessions.parquet.
        rounds: Rounds or sessions for training, and those for evaluation only.
        metrics: Counts of events and rewards, by outcome.
        ratings: Table with the known users and items; or give a policy.
        policy: Policy with the known users and items; or give ratings.
        settings: Settings of the ingest: wait_hours, default_reward, evaluation_share, and the table reward.
    """
    from recpolicy.pipelines import steps

    figures = steps.ingest_log_step(
        log.path,
        rounds.path,
        ratings=ratings.path if ratings else None,
        policy=policy.path if policy else None,
        settings=settings,
    )
    steps.write_metrics(metrics, figures)
