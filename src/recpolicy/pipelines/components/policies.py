"""A policy is trained, registered, and used."""

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
    interactions: int = 200_000,
    epochs: int = 1,
    settings: dict = {},
    agent_settings: dict = {},
    seed: int = 0,
):
    """Train an agent online or from a log, or train an incumbent on with a new log.

    Args:
        policy: The policy artifact.
        metrics: Figures of the training.
        ratings: What fetch_data wrote; not needed with an incumbent.
        features: What fit_embeddings wrote; not needed with an incumbent.
        rounds: What ingest_log wrote; needed to learn from a log.
        incumbent: A policy to go on from; its agent, features and catalogue are kept.
        agent: Any agent: linucb, lints, eps_greedy, ppo, ...
        learn_from: log, online (in a simulated world), or auto: log where the agent can, else online.
        world: The model that pays rewards online; of another class than the features' rating model.
        interactions: Length of an online training.
        epochs: Passes over a log.
        settings: Further settings of the training; none with an incumbent.
        agent_settings: Settings of the agent, such as {"alpha": 0.5}.
        seed: Fixes every random draw.
    """
    from pathlib import Path

    from recpolicy.core.files import write_json
    from recpolicy.pipelines import steps

    figures = steps.train_policy(
        policy.path, ratings=ratings.path if ratings else None, features=features.path if features else None,
        rounds=rounds.path if rounds else None, incumbent=incumbent.path if incumbent else None, agent=agent,
        learn_from=learn_from, world=world, interactions=interactions, epochs=epochs, settings=settings,
        agent_settings=agent_settings, seed=seed,
    )  # fmt: skip
    policy.metadata.update(figures)
    metrics.metadata.update(figures)
    write_json(Path(metrics.path), figures)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def find_incumbent(copy: Output[Model], incumbent: str = "", registry: str = "") -> str:
    """Find the policy in service: the one that is named, or the champion of the registry.

    Args:
        copy: The policy, where it lay on a path of a cluster; else empty.
        incumbent: Path or address of a policy; empty takes the champion of the registry.
        registry: Folder of the registry (on a cluster a mounted path).

    Returns:
        From where to import it.
    """
    from recpolicy.pipelines import steps

    return steps.find_incumbent(incumbent, registry, copy.path, copy.uri)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register_policy(policy: Input[Model], record: Input[Dataset], registered: Output[Model], registry: str = "") -> int:
    """Keep a policy that passed its gate; where a registry is named, it becomes the champion there.

    Args:
        policy: The policy artifact.
        record: The gate record that says pass; any other is refused.
        registered: The policy, with its gate record and version in the metadata.
        registry: Folder of the registry (on a cluster a mounted path); empty keeps the artifact only.

    Returns:
        The number in the registry; 0 without one.
    """
    from recpolicy.pipelines import steps

    figures = steps.register_policy(policy.path, record.path, registered.path, registry=registry)
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
    """Rating estimates, their uncertainty and propensities, for all or chosen users and items.

    Args:
        policy: The policy artifact.
        predictions: The estimates as Parquet.
        table: The same as CSV.
        user_ids: User ids separated by commas; empty takes all.
        item_ids: Item ids separated by commas; empty takes all.
        batch: Users at once; bounds the memory.
    """
    from recpolicy.pipelines import steps

    figures = steps.predict_batch(
        policy.path, predictions.path, table.path, users=user_ids, items=item_ids, batch=batch
    )
    predictions.metadata.update(figures)
    table.metadata.update(figures)
