"""Components that train, register and use a policy."""

from typing import Optional

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from recpolicy.pipelines.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_policy(
    policy: Output[Model],
    metrics: Output[Metrics],
    ratings: Optional[Input[Dataset]] = None,
    features: Optional[Input[Model]] = None,
    rounds: Optional[Input[Dataset]] = None,
    incumbent: Optional[Input[Model]] = None,
    agent: str = "linucb",
    learn_from: str = "auto",
    world: str = "svd",
    total_timesteps: int = 200_000,
    epochs: int = 1,
    settings: dict = {},
    agent_settings: dict = {},
    schema: dict = {},
    seed: int = 0,
):
    """Train an agent online or from a log, or retrain an incumbent with a new log.

    Args:
        policy: The policy artifact.
        metrics: Figures of the training.
        ratings: Output of fetch_data; not needed with an incumbent.
        features: Output of fit_embeddings; not needed with an incumbent.
        rounds: Output of ingest_log; needed to learn from a log.
        incumbent: Policy to continue from; its agent, features and catalog are kept.
        agent: Any agent: linucb, lints, eps_greedy, ppo, ...
        learn_from: log, online (in a simulated world), or auto: log if the agent can, else online.
        world: Model that pays the rewards online; must differ from the rating model of the features.
        total_timesteps: Interactions of an online training.
        epochs: Passes over a log.
        settings: Further settings of the training; none with an incumbent.
        agent_settings: Settings of the agent, such as {"alpha": 0.5}.
        schema: Rounds with features: their names and types; empty infers them.
        seed: Seed of every random draw.
    """
    from recpolicy.pipelines import steps

    figures = steps.train_policy_step(
        policy.path,
        ratings=ratings.path if ratings else None,
        features=features.path if features else None,
        rounds=rounds.path if rounds else None,
        incumbent=incumbent.path if incumbent else None,
        epochs=epochs,
        seed=seed,
        agent=agent,
        learn_from=learn_from,
        world=world,
        total_timesteps=total_timesteps,
        settings=settings,
        agent_settings=agent_settings,
        schema=schema,
    )
    policy.metadata.update(figures)
    steps.write_metrics(metrics, figures)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def find_incumbent(copy: Output[Model], incumbent: str = "", registry: str = "") -> str:
    """Find the policy in service: the given one, or the champion of the registry.

    Args:
        copy: Copy of the policy if it is on a path of a cluster; else empty.
        incumbent: Path or address of a policy; empty takes the champion of the registry.
        registry: Folder of the registry (on a cluster a mounted path).

    Returns:
        Path or address that the importer reads.
    """
    from recpolicy.pipelines import steps

    return steps.find_incumbent_step(incumbent, registry, copy.path, copy.uri)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def find_champion(policy: Input[Model], registry: str = "") -> str:
    """Find the champion of the registry, which the new policy must beat.

    Args:
        policy: The new policy; the champion must know the same users and items.
        registry: Folder of the registry (on a cluster a mounted path); empty: there is no champion.

    Returns:
        Number and digest of the champion; empty without one, or if the new policy is the champion itself.
    """
    from recpolicy.pipelines import steps

    return steps.find_champion_step(policy.path, registry)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register_policy(
    policy: Input[Model],
    record: Input[Dataset],
    registered: Output[Model],
    registration: Output[Dataset],
    registry: str = "",
    promote: bool = False,
) -> int:
    """Register a policy that passed its gate; it becomes the champion only of a registry without one, or if asked.

    Args:
        policy: The policy artifact.
        record: The gate record; it must say pass.
        registered: The policy with its gate record, and its version in the metadata.
        registration: Version, champion, and the reason if they differ, as JSON.
        registry: Folder of the registry (on a cluster a mounted path); empty keeps the artifact only.
        promote: Replace the champion. Never while there is a challenger, as during a rollout.

    Returns:
        The version in the registry; 0 without a registry.
    """
    from recpolicy.pipelines import steps

    figures = steps.register_policy_step(
        policy.path, record.path, registered.path, registration.path, registry=registry, promote=promote
    )
    registered.metadata.update(figures)
    return figures["version"]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def predict_batch(
    policy: Input[Model],
    predictions: Output[Dataset],
    table: Output[Dataset],
    user_ids: str = "",
    item_ids: str = "",
    batch: int = 64,
):
    """Write rating estimates, their uncertainty and propensities, for all or chosen users and items.

    Args:
        policy: The policy artifact.
        predictions: The estimates as Parquet.
        table: The same as CSV.
        user_ids: User ids separated by commas; empty takes all.
        item_ids: Item ids separated by commas; empty takes all.
        batch: Users at once; bounds the memory.
    """
    from recpolicy.pipelines import steps

    figures = steps.predict_batch_step(
        policy.path, predictions.path, table.path, users=user_ids, items=item_ids, batch=batch
    )
    predictions.metadata.update(figures)
    table.metadata.update(figures)
