"""The pipelines: which step follows which. Every default and description of a parameter stands here, once.

Requests fit MovieLens 100K with room; fetching, which meets the network, is retried, and a retried training goes on
from its last checkpoint. What reads or writes a registry, or looks a log up, is never answered from a cache.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kfp import dsl
from kfp.dsl import Dataset, Model

from recpolicy.pipelines import components as step

_SMALL, _LARGE = ("1", "2G"), ("2", "8G")


def _summary() -> Any:
    """How this run ended, not how another did: never from a cache."""
    return _small(step.summarise_run()).set_caching_options(False)


def _fetched(data: Any, split: Any, seed: Any) -> Any:
    task = _small(step.fetch_data(data=data, split=split, seed=seed))
    return task.set_retry(2, backoff_duration="30s")


def _logged(
    ratings: Any,
    features: Any,
    world: Any,
    logging_policy: Any,
    rounds: Any,
    log_settings: Any,
    ingest_settings: Any,
    seed: Any,
) -> Any:
    """Rounds of a simulated log, ingested as a real one would be."""
    log = _large(
        step.simulate_log(
            ratings=ratings,
            features=features,
            world=world,
            logging_policy=logging_policy,
            rounds=rounds,
            settings=log_settings,
            seed=seed,
        )
    )
    return _small(step.ingest_log(log=log.outputs["log"], ratings=ratings, settings=ingest_settings)).outputs["rounds"]


def _gated(policy: Any, evaluation: Any, settings: Any, registry: Any) -> None:
    """The gate, and the registration behind it: nothing is replaced unless the verdict is pass."""
    gate = _small(step.gate_policy(evaluation=evaluation, settings=settings))
    # The local runner resolves a condition on a step only by its unnamed output.
    with dsl.If(gate.outputs["Output"] == "pass", name="passed"):
        register = _small(step.register_policy(policy=policy, record=gate.outputs["record"], registry=registry))
        register.set_caching_options(False)


def _imported(where: Any, kind: Any, name: str) -> Any:
    task = dsl.importer(artifact_uri=where, artifact_class=kind)
    return task.set_display_name(name).output


def _small(task: Any) -> Any:
    return _sized(task, *_SMALL)


def _large(task: Any) -> Any:
    return _sized(task, *_LARGE)


def _sized(task: Any, cpu: str, memory: str) -> Any:
    return task.set_cpu_request("500m").set_cpu_limit(cpu).set_memory_request("1G").set_memory_limit(memory)


def train(
    data: str = "ml-100k",
    split: str = "u1",
    seed: int = 0,
    rating_model: str = "bayesian_fm",
    rank: int = 20,
    items: int = 0,
    world: str = "svd",
    logging_policy: str = "rating_model",
    log_rounds: int = 200_000,
    log_settings: dict = {},
    ingest_settings: dict = {},
    agent: str = "linucb",
    learn_from: str = "auto",
    interactions: int = 200_000,
    train_settings: dict = {},
    agent_settings: dict = {},
    simulator: bool = False,
    gate_settings: dict = {},
    registry: str = "",
):
    """From ratings to a registered policy.

    Args:
        data: ml-100k (fetched and verified), or a path to a CSV or Parquet file of ratings.
        split: u1..u5, ua, ub, temporal, leave-last-N or random.
        seed: Fixes every random draw.
        rating_model: bayesian_fm, svd, item_knn, bias or item_mean.
        rank: Length of the embeddings.
        items: Size of the catalogue, the most rated items; 0 takes all.
        world: The model that pays rewards in simulation; of another class than rating_model.
        logger: The policy whose simulated log is the first training data: rating_model, highest_mean or random.
        log_rounds: Interactions to log.
        log_settings: Further settings of the log, such as {"temperature": 0.2, "floor": 0.01}.
        ingest_settings: wait_hours, default_reward, evaluation_share.
        agent: Any agent: linucb, lints, eps_greedy, ppo, ...
        learn_from: log, online (in a simulated world), or auto: log where the agent can, else online.
        interactions: Length of an online training.
        train_settings: Further settings of the training.
        agent_settings: Settings of the agent, such as {"alpha": 0.5}.
        simulator: Validate the session simulator, too.
        gate_settings: Limits of the gate, such as {"held_out_margin": 0.05}.
        registry: Folder of the registry (on a cluster a mounted path); empty keeps the policy as an artifact only.
    """
    with dsl.ExitHandler(_summary()):
        fetched = _fetched(data, split, seed)
        ratings = fetched.outputs["ratings"]
        embedded = _large(
            step.fit_embeddings(ratings=ratings, rating_model=rating_model, rank=rank, items=items, seed=seed)
        )
        features = embedded.outputs["features"]
        rounds = _logged(ratings, features, world, logging_policy, log_rounds, log_settings, ingest_settings, seed)
        trained = _large(
            step.train_policy(
                ratings=ratings, features=features, rounds=rounds, agent=agent, learn_from=learn_from, world=world,
                interactions=interactions, settings=train_settings, agent_settings=agent_settings, seed=seed,
            )
        ).set_retry(1)  # fmt: skip
        policy = trained.outputs["policy"]
        evaluated = _large(step.evaluate_policy(policy=policy, ratings=ratings, rounds=rounds, seed=seed))
        _large(step.report(policy=policy, ratings=ratings, seed=seed))
        with dsl.If(simulator == True, name="simulator"):  # noqa: E712  a condition for Kubeflow, not for Python
            _large(step.validate_simulator(ratings=ratings, seed=seed))
        _gated(policy, evaluated.outputs["evaluation"], gate_settings, registry)


def predict(policy: str, user_ids: str = "", item_ids: str = "", batch: int = 64):
    """Rating estimates of a policy for all or chosen users and items.

    Args:
        policy: Path or address (gs://, s3://, minio://) of a policy artifact.
        user_ids: User ids separated by commas; empty takes all.
        item_ids: Item ids separated by commas; empty takes all.
        batch: Users at once; bounds the memory.
    """
    with dsl.ExitHandler(_summary()):
        found = dsl.importer(artifact_uri=policy, artifact_class=Model)
        _small(step.predict_batch(policy=found.output, user_ids=user_ids, item_ids=item_ids, batch=batch))


def retrain(
    log: str,
    incumbent: str = "",
    ingest_settings: dict = {},
    epochs: int = 1,
    gate_settings: dict = {},
    registry: str = "",
    seed: int = 0,
):
    """Train the policy in service on with a new log; it is replaced only where the gate says pass.

    Args:
        log: Path or address (gs://, s3://, minio://) of a folder with events.parquet and rewards.parquet.
        incumbent: Path or address of the policy in service; empty takes the champion of the registry.
        ingest_settings: wait_hours, default_reward, evaluation_share.
        epochs: Passes over the log.
        gate_settings: Limits of the gate, such as {"margin": 0.01}.
        registry: Folder of the registry (on a cluster a mounted path); empty keeps the policy as an artifact only.
        seed: Fixes every random draw.
    """
    with dsl.ExitHandler(_summary()):
        found = _small(step.find_incumbent(incumbent=incumbent, registry=registry)).set_caching_options(False)
        written = _small(step.find_log(log=log)).set_caching_options(False)
        where, log_where = found.outputs["Output"], written.outputs["Output"]
        # Always so. On a cluster an importer knows only what its group was given, not what a step beside it returned.
        with dsl.If(where != "", name="found"):
            served, read = _imported(where, Model, "incumbent"), _imported(log_where, Dataset, "log")
            rounds = _small(step.ingest_log(log=read, policy=served, settings=ingest_settings)).outputs["rounds"]
            trained = _large(step.train_policy(rounds=rounds, incumbent=served, epochs=epochs, seed=seed))
            policy = trained.outputs["policy"]
            evaluated = _large(step.evaluate_policy(policy=policy, rounds=rounds, incumbent=served, seed=seed))
            _gated(policy, evaluated.outputs["evaluation"], gate_settings, registry)


def sweep(
    data: str = "ml-100k",
    split: str = "u1",
    seed: int = 0,
    rating_model: str = "bayesian_fm",
    rank: int = 20,
    items: int = 0,
    world: str = "svd",
    logging_policy: str = "rating_model",
    log_rounds: int = 200_000,
    log_settings: dict = {},
    ingest_settings: dict = {},
    agents: list = ["linucb", "lints"],
    seeds: list = [0],
    grid: dict = {},
    gate_settings: dict = {},
    registry: str = "",
):
    """Train every agent with every seed and setting on one log; the best by logged rounds goes to the gate.

    Args:
        data: ml-100k (fetched and verified), or a path to a CSV or Parquet file of ratings.
        split: u1..u5, ua, ub, temporal, leave-last-N or random.
        seed: Fixes the data, the features and the log, which all trials share.
        rating_model: bayesian_fm, svd, item_knn, bias or item_mean.
        rank: Length of the embeddings.
        items: Size of the catalogue, the most rated items; 0 takes all.
        world: The model that pays rewards in simulation; of another class than rating_model.
        logger: The policy that logs: rating_model, highest_mean or random.
        log_rounds: Interactions to log.
        log_settings: Further settings of the log.
        ingest_settings: wait_hours, default_reward, evaluation_share.
        agents: Names of agents that learn from logs.
        seeds: Seeds of the trials.
        grid: Settings of agents with the values to try, such as {"alpha": [0.5, 1.0]}; an agent takes those it has.
        gate_settings: Limits of the gate.
        registry: Folder of the registry (on a cluster a mounted path); empty keeps the policy as an artifact only.
    """
    with dsl.ExitHandler(_summary()):
        ratings = _fetched(data, split, seed).outputs["ratings"]
        embedded = _large(
            step.fit_embeddings(ratings=ratings, rating_model=rating_model, rank=rank, items=items, seed=seed)
        )
        features = embedded.outputs["features"]
        rounds = _logged(ratings, features, world, logging_policy, log_rounds, log_settings, ingest_settings, seed)
        planned = _small(step.plan_sweep(agents=agents, seeds=seeds, grid=grid))
        with dsl.ParallelFor(items=planned.output, name="trials") as trial:
            trained = _large(
                step.train_policy(
                    ratings=ratings, features=features, rounds=rounds, agent=trial.agent, learn_from="log", world=world,
                    agent_settings=trial.agent_settings, seed=trial.seed,
                )
            )  # fmt: skip
            evaluated = _large(
                step.evaluate_policy(policy=trained.outputs["policy"], ratings=ratings, rounds=rounds, seed=seed)
            )
        chosen = _small(
            step.compare_policies(
                evaluations=dsl.Collected(evaluated.outputs["evaluation"]),
                policies=dsl.Collected(trained.outputs["policy"]),
            )
        )
        _gated(chosen.outputs["best"], chosen.outputs["evaluation"], gate_settings, registry)


@dataclass(frozen=True)
class Graph:
    """A pipeline that has not been built yet: building takes Kubeflow a second."""

    function: Callable[..., None]
    description: str


PIPELINES: Mapping[str, Graph] = {
    "train": Graph(train, "Start up: from ratings to a registered policy."),
    "predict": Graph(predict, "A policy in, rating estimates out."),
    "retrain": Graph(retrain, "Recurrent: a new log makes the policy in service better, or not."),
    "sweep": Graph(sweep, "Agents x seeds x settings on one log; the best goes to the gate."),
}


def build(name: str) -> Any:
    """The pipeline of this name, as Kubeflow's compiler takes it."""
    graph = PIPELINES[name]
    return dsl.pipeline(name=f"recpolicy-{name}", description=graph.description)(graph.function)
