"""The five pipelines: their steps and the connections between them, with every parameter's default and description.

Memory and CPU limits suit MovieLens 100K. A retried training resumes from its last checkpoint. Steps that use a
registry, or look for a log, are never cached.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kfp import dsl
from kfp.dsl import Dataset, Model

from recpolicy.pipelines import components as step

_SMALL, _LARGE = ("1", "2G"), ("2", "8G")  # CPUs and memory


def _summary() -> Any:
    """Add the exit handler; never cached, since each run has its own end."""
    return _small(step.summarize_run()).set_caching_options(False)


def _fetched(data: Any, settings: Any, split: Any, seed: Any) -> Any:
    return _small(step.fetch_data(data=data, settings=settings, split=split, seed=seed))


def _champion(policy: Any, registry: Any) -> Any:
    """Add the look-up of the champion; never cached, since the registry changes."""
    champion = _small(step.find_champion(policy=policy, registry=registry))
    return champion.set_caching_options(False).outputs["Output"]


def _simulated_rounds(
    ratings: Any,
    features: Any,
    world: Any,
    logging_policy: Any,
    rounds: Any,
    log_settings: Any,
    ingest_settings: Any,
    seed: Any,
) -> Any:
    """Add the simulated log, and its ingest, as for a real log; return its rounds."""
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


def _gate_and_register(policy: Any, evaluation: Any, settings: Any, registry: Any, promote: Any) -> None:
    """Add the gate, and the registration if it says pass."""
    gate = _small(step.gate_policy(evaluation=evaluation, settings=settings))
    # KFP's local runner evaluates a condition on a step only for its unnamed output. A skipped step has the group's
    # name.
    with dsl.If(gate.outputs["Output"] == "pass", name="register-policy"):
        register = _small(
            step.register_policy(policy=policy, record=gate.outputs["record"], registry=registry, promote=promote)
        )
        register.set_caching_options(False)


def _imported(uri: Any, artifact_class: Any, name: str) -> Any:
    task = dsl.importer(artifact_uri=uri, artifact_class=artifact_class)
    return task.set_display_name(name).output


def _small(task: Any) -> Any:
    return _with_resources(task, *_SMALL)


def _large(task: Any) -> Any:
    return _with_resources(task, *_LARGE)


def _with_resources(task: Any, cpu: str, memory: str) -> Any:
    return task.set_cpu_request("500m").set_cpu_limit(cpu).set_memory_request("1G").set_memory_limit(memory)


def train(
    data: str = "ml-100k",
    data_settings: dict = {},
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
    total_timesteps: int = 200_000,
    train_settings: dict = {},
    agent_settings: dict = {},
    simulator: bool = False,
    gate_settings: dict = {},
    registry: str = "",
    promote: bool = False,
):
    """From ratings to a registered policy.

    Args:
        data: ml-100k (downloaded and verified), or the path of a CSV or Parquet file of ratings.
        data_settings: Options for reading the file: columns, scale, separator and others of the table [data], such as
            {"columns": {"user": "uid"}, "scale": [1, 10]}.
        split: u1..u5, ua, ub, temporal, leave-last-N or random.
        seed: Seed of every random draw.
        rating_model: bayesian_fm, svd, item_knn, bias or item_mean.
        rank: Length of the embeddings.
        items: Size of the catalog, the most rated items; 0 takes all.
        world: Model that pays the rewards in simulation; must differ from rating_model.
        logging_policy: Policy of the simulated log, the first training data: rating_model, highest_mean or random.
        log_rounds: Interactions to log.
        log_settings: Further settings of the log, such as {"temperature": 0.2, "uniform_mix": 0.01}.
        ingest_settings: Settings of the ingest: wait_hours, default_reward, evaluation_share, and the table reward.
        agent: Any agent: linucb, lints, eps_greedy, ppo, ...
        learn_from: log, online (in a simulated world), or auto: log if the agent can, else online.
        total_timesteps: Interactions of an online training.
        train_settings: Further settings of the training.
        agent_settings: Settings of the agent, such as {"alpha": 0.5}.
        simulator: Whether to validate the session simulator too.
        gate_settings: Limits of the gate, such as {"held_out_margin": 0.05}.
        registry: Folder of the registry (on a cluster a mounted path); empty keeps the policy as an artifact only.
        promote: Whether a policy that passes its gate replaces the champion. A registry without one always takes it.
    """
    with dsl.ExitHandler(_summary()):
        ratings = _fetched(data, data_settings, split, seed).outputs["ratings"]
        embedded = _large(
            step.fit_embeddings(ratings=ratings, rating_model=rating_model, rank=rank, items=items, seed=seed)
        )
        features = embedded.outputs["features"]
        rounds = _simulated_rounds(
            ratings, features, world, logging_policy, log_rounds, log_settings, ingest_settings, seed
        )
        trained = _large(
            step.train_policy(
                ratings=ratings,
                features=features,
                rounds=rounds,
                agent=agent,
                learn_from=learn_from,
                world=world,
                total_timesteps=total_timesteps,
                settings=train_settings,
                agent_settings=agent_settings,
                seed=seed,
            )
        ).set_retry(1)
        policy = trained.outputs["policy"]
        champion = _champion(policy, registry)
        evaluated = _large(
            step.evaluate_policy(
                policy=policy, ratings=ratings, rounds=rounds, registry=registry, champion=champion, seed=seed
            )
        )
        _large(step.report(policy=policy, ratings=ratings, seed=seed))
        with dsl.If(simulator == True, name="validate-simulator"):  # noqa: E712  a condition for Kubeflow, not for Python
            _large(step.validate_simulator(ratings=ratings, seed=seed))
        _gate_and_register(policy, evaluated.outputs["evaluation"], gate_settings, registry, promote)


def train_features(
    log: str,
    schema: dict = {},
    agent: str = "squarecb",
    ingest_settings: dict = {},
    train_settings: dict = {},
    agent_settings: dict = {},
    gate_settings: dict = {},
    registry: str = "",
    promote: bool = False,
    seed: int = 0,
):
    """From a log of contexts and actions with features to a registered policy.

    Args:
        log: Path or address (gs://, s3://, minio://) of a feature log: a folder with rounds.parquet.
        schema: Features with types, such as {"context": {"hour": {"type": "number"}}}; empty infers them from the log.
        agent: squarecb, linucb_shared, linucb_hybrid, lints, eps_greedy, boltzmann or neural_linucb.
        ingest_settings: Settings of the ingest: wait_hours, default_reward, evaluation_share, and the table reward.
        train_settings: Settings of the training, such as {"max_weight": 20}.
        agent_settings: Settings of the agent, such as {"model": "hashed"}.
        gate_settings: Limits of the gate, such as {"margin": 0.01}.
        registry: Folder of the registry (on a cluster a mounted path); empty keeps the policy as an artifact only.
        promote: Whether a policy that passes its gate replaces the champion. A registry without one always takes it.
        seed: Seed of every random draw.
    """
    with dsl.ExitHandler(_summary()):
        find_log = _small(step.find_log(log=log)).set_caching_options(False)
        log_uri = find_log.outputs["Output"]
        with dsl.If(log_uri != "", name="train-features"):  # always true, as in retrain
            new_log = _imported(log_uri, Dataset, "log")
            rounds = _small(step.ingest_log(log=new_log, settings=ingest_settings)).outputs["rounds"]
            trained = _large(
                step.train_policy(
                    rounds=rounds, schema=schema, agent=agent, settings=train_settings, agent_settings=agent_settings,
                    seed=seed,
                )
            )  # fmt: skip
            policy = trained.outputs["policy"]
            champion = _champion(policy, registry)
            evaluated = _large(
                step.evaluate_policy(policy=policy, rounds=rounds, registry=registry, champion=champion, seed=seed)
            )
            _gate_and_register(policy, evaluated.outputs["evaluation"], gate_settings, registry, promote)


def predict(policy: str, user_ids: str = "", item_ids: str = "", batch: int = 64):
    """Rating estimates of a policy for all or chosen users and items.

    Args:
        policy: Path or address (gs://, s3://, minio://) of a policy artifact.
        user_ids: User ids separated by commas; empty takes all.
        item_ids: Item ids separated by commas; empty takes all.
        batch: Users at once; bounds the memory.
    """
    with dsl.ExitHandler(_summary()):
        imported = dsl.importer(artifact_uri=policy, artifact_class=Model)
        _small(step.predict_batch(policy=imported.output, user_ids=user_ids, item_ids=item_ids, batch=batch))


def retrain(
    log: str,
    incumbent: str = "",
    ingest_settings: dict = {},
    epochs: int = 1,
    gate_settings: dict = {},
    registry: str = "",
    promote: bool = False,
    seed: int = 0,
):
    """Retrain the policy in service with a new log; register the result if it passes the gate.

    Args:
        log: Path or address (gs://, s3://, minio://) of a log: a folder with events, rounds or sessions.parquet.
        incumbent: Path or address of the policy in service; empty takes the champion of the registry.
        ingest_settings: Settings of the ingest: wait_hours, default_reward, evaluation_share, and the table reward.
        epochs: Passes over the log.
        gate_settings: Limits of the gate, such as {"margin": 0.01}.
        registry: Folder of the registry (on a cluster a mounted path); empty keeps the policy as an artifact only.
        promote: Whether a policy that passes its gate replaces the champion. A registry without one always takes it.
        seed: Seed of every random draw.
    """
    with dsl.ExitHandler(_summary()):
        find_incumbent = _small(step.find_incumbent(incumbent=incumbent, registry=registry)).set_caching_options(False)
        find_log = _small(step.find_log(log=log)).set_caching_options(False)
        incumbent_uri, log_uri = find_incumbent.outputs["Output"], find_log.outputs["Output"]
        # Always true. On a cluster an importer sees only the inputs of its group, not the outputs of other steps.
        with dsl.If(incumbent_uri != "", name="retrain"):
            old = _imported(incumbent_uri, Model, "incumbent")
            new_log = _imported(log_uri, Dataset, "log")
            rounds = _small(step.ingest_log(log=new_log, policy=old, settings=ingest_settings)).outputs["rounds"]
            trained = _large(step.train_policy(rounds=rounds, incumbent=old, epochs=epochs, seed=seed))
            policy = trained.outputs["policy"]
            evaluated = _large(step.evaluate_policy(policy=policy, rounds=rounds, incumbent=old, seed=seed))
            _gate_and_register(policy, evaluated.outputs["evaluation"], gate_settings, registry, promote)


def sweep(
    data: str = "ml-100k",
    data_settings: dict = {},
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
    total_timesteps: int = 200_000,
    gate_settings: dict = {},
    registry: str = "",
    promote: bool = False,
):
    """Train every agent with every seed and setting on one log; the best for half of the users is gated on the rest.

    Args:
        data: ml-100k (downloaded and verified), or the path of a CSV or Parquet file of ratings.
        data_settings: Options for reading the file: columns, scale, separator and others of the table [data], such as
            {"columns": {"user": "uid"}, "scale": [1, 10]}.
        split: u1..u5, ua, ub, temporal, leave-last-N or random.
        seed: Seed of the data, the features and the log, which all trials share.
        rating_model: bayesian_fm, svd, item_knn, bias or item_mean.
        rank: Length of the embeddings.
        items: Size of the catalog, the most rated items; 0 takes all.
        world: Model that pays the rewards in simulation; must differ from rating_model.
        logging_policy: Policy of the simulated log: rating_model, highest_mean or random.
        log_rounds: Interactions to log.
        log_settings: Further settings of the log.
        ingest_settings: Settings of the ingest: wait_hours, default_reward, evaluation_share, and the table reward.
        agents: Names of agents that learn from logs or in sessions. With one of the latter, all trials are compared in
            simulated sessions.
        seeds: Seeds of the trials.
        grid: Settings of agents with the values to try, such as {"alpha": [0.5, 1.0]}; an agent takes those it has.
        total_timesteps: Items shown in the training of a session agent.
        gate_settings: Limits of the gate.
        registry: Folder of the registry (on a cluster a mounted path); empty keeps the policy as an artifact only.
        promote: Whether a policy that passes its gate replaces the champion. A registry without one always takes it.
    """
    with dsl.ExitHandler(_summary()):
        ratings = _fetched(data, data_settings, split, seed).outputs["ratings"]
        embedded = _large(
            step.fit_embeddings(ratings=ratings, rating_model=rating_model, rank=rank, items=items, seed=seed)
        )
        features = embedded.outputs["features"]
        rounds = _simulated_rounds(
            ratings, features, world, logging_policy, log_rounds, log_settings, ingest_settings, seed
        )
        planned = _small(step.plan_sweep(agents=agents, seeds=seeds, grid=grid))
        with dsl.ParallelFor(items=planned.output, name="trials") as trial:
            trained = _large(
                step.train_policy(
                    ratings=ratings,
                    features=features,
                    rounds=rounds,
                    agent=trial.agent,
                    learn_from="auto",
                    world=world,
                    total_timesteps=total_timesteps,
                    agent_settings=trial.agent_settings,
                    seed=trial.seed,
                )
            )
            evaluated = _small(
                step.evaluate_policy(
                    policy=trained.outputs["policy"],
                    ratings=ratings,
                    rounds=rounds,
                    users="selection",
                    sessions=trial.sessions,
                    seed=seed,
                )
            )
        compared = _small(
            step.compare_policies(
                evaluations=dsl.Collected(evaluated.outputs["evaluation"]),
                policies=dsl.Collected(trained.outputs["policy"]),
            )
        )
        best = compared.outputs["best"]
        champion = _champion(best, registry)
        judged = _large(
            step.evaluate_policy(
                policy=best, ratings=ratings, rounds=rounds, users="gate", registry=registry, champion=champion,
                seed=seed,
            )
        ).set_display_name("evaluate-best")  # fmt: skip
        _gate_and_register(best, judged.outputs["evaluation"], gate_settings, registry, promote)


@dataclass(frozen=True)
class PipelineDefinition:
    """A pipeline function that is not built yet; building it takes Kubeflow a second."""

    function: Callable[..., None]
    description: str


PIPELINES: Mapping[str, PipelineDefinition] = {
    "train": PipelineDefinition(train, "From ratings to a registered policy."),
    "train_features": PipelineDefinition(train_features, "From a log with features to a registered policy."),
    "predict": PipelineDefinition(predict, "Rating estimates of a policy."),
    "retrain": PipelineDefinition(retrain, "Retrain the policy in service with a new log; keep the better one."),
    "sweep": PipelineDefinition(sweep, "Agents x seeds x settings on one log; the best goes to the gate."),
}


def build_pipeline(name: str) -> Any:
    """Return the pipeline of this name for Kubeflow's compiler."""
    definition = PIPELINES[name]
    return dsl.pipeline(name=f"recpolicy-{name}", description=definition.description)(definition.function)
