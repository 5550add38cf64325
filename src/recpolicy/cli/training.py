"""`recpolicy train` and `recpolicy demo`."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recpolicy.cli.command import Command
from recpolicy.cli.config_tables import read_config_with_data
from recpolicy.cli.evaluation import LikeModel
from recpolicy.cli.output import print_frame, print_json, print_text

if TYPE_CHECKING:
    from recpolicy.data.splits import Split
    from recpolicy.inference.predictor import Policy

Data = Annotated[str, typer.Option("--data", help="ml-100k, a MovieLens folder, or a CSV/Parquet file of ratings.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random draw.")]


def train(
    agent: Annotated[
        str, typer.Argument(help="linucb, lints, squarecb, eps_greedy, ...; of sessions: ppo, a2c, dqn, reinforce, ...")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the trained policy.")],
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="u1..u5, ua, ub, temporal, leave-last-N, tail-N or random (default: u1, or the saved split).",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="ml-100k (the default), a MovieLens folder, a CSV/Parquet file or a folder of ratings. A --log with"
            " its own ratings table needs none.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="TOML file with the tables \\[data], \\[train], \\[agent], \\[rating_model]; for a log with features"
            " \\[train], \\[agent], \\[features], \\[reward].",
        ),
    ] = None,
    mode: Annotated[str | None, typer.Option("--mode", help="online or offline; overrides the file.")] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            help="Learn from this log: a folder of `recpolicy log ingest`; of `recpolicy log simulate --sessions` for"
            " topk_reinforce, offpolicy_actor_critic, dqn and behavior_cloning; of `--slates` for topk_reinforce; a log"
            " with features, with --features.",
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            "--features",
            help="TOML file with a schema: of a log with features (see `features infer`), or of columns of users"
            " (context) and items (action) that join their embeddings.",
        ),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            "--init-from",
            help="Start with the networks of this policy: its folder, or that of a registry: then its champion.",
        ),
    ] = None,
    like_model: LikeModel = None,
    total_timesteps: Annotated[
        int | None,
        typer.Option("--total-timesteps", min=1, help="Length of the training in interactions."),
    ] = None,
    checkpoint_every_steps: Annotated[
        int | None, typer.Option("--checkpoint-every-steps", min=1, help="Interactions between two checkpoints.")
    ] = None,
    log_every_steps: Annotated[
        int | None,
        typer.Option(
            "--log-every-steps", min=1, help="Interactions between lines of progress on stdout (without a terminal)."
        ),
    ] = None,
    seed: Seed = 0,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=2,
            help="Train this number of policies of a session agent in one compiled program, with --seed and the"
            " following seeds; each in its folder OUT/seed-N.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metadata of the policy as JSON.")] = False,
) -> None:
    """Train an agent and write the policy to a folder; the same command continues an interrupted training."""
    from recpolicy.data.feature_log_files import is_feature_log
    from recpolicy.data.read_options import reading_for
    from recpolicy.workflows.artifacts import check_absent
    from recpolicy.workflows.policy_training import train as train_policy
    from recpolicy.workflows.several_seeds import check_seed_folders
    from recpolicy.workflows.training_data import training_data

    if seeds is not None:
        given = {"--mode": mode, "--log": log, "--features": features, "--init-from": init_from}
        for option in (name for name, value in given.items() if value is not None):
            raise typer.BadParameter("does not apply to several seeds; train once per --seed", param_hint=option)
        check_seed_folders(out, range(seed, seed + seeds))
    else:
        check_absent(out)  # before TensorFlow is imported
    if log is not None and is_feature_log(log):
        of_ratings = {
            "--data": data, "--split": split, "--mode": mode, "--total-timesteps": total_timesteps,
            "--checkpoint-every-steps": checkpoint_every_steps, "--log-every-steps": log_every_steps,
            "--like-model": like_model,
        }  # fmt: skip
        for option, value in of_ratings.items():
            if value is not None:
                raise typer.BadParameter("does not apply to a log with features", param_hint=option)
        _train_on_features(agent, out, log, features, config, init_from, seed, as_json)
        return

    tables, options = read_config_with_data(config, ("train", "agent", "rating_model", "features"))
    settings: dict[str, Any] = dict(tables.get("train", {}))
    schema = _attributes(tables, features)
    if schema is not None:
        settings["features"] = schema
    overrides = {
        "mode": mode, "total_timesteps": total_timesteps, "checkpoint_every_steps": checkpoint_every_steps,
        "log_every_steps": log_every_steps,
    }  # fmt: skip
    settings |= {key: value for key, value in overrides.items() if value is not None}
    with reading_for("config", config):
        parts = training_data(data, split, log, seed, options)
    logged = None
    if log is not None:
        from recpolicy.data.bandit_log import BanditLog
        from recpolicy.data.bandit_log_files import IdVocabulary
        from recpolicy.workflows.session_logs import read_log
        from recpolicy.workflows.session_plan import LEARN_FROM_SLATES
        from recpolicy.workflows.slate_logs import holds_slates, read_slate_log

        read = read_slate_log if agent in LEARN_FROM_SLATES and holds_slates(log) else read_log
        logged = read(log, IdVocabulary.from_ratings(parts.train))
        if isinstance(logged, BanditLog) and agent not in LEARN_FROM_SLATES:
            settings["mode"] = "log"
    if seeds is not None:
        _train_seeds(agent, parts, out, range(seed, seed + seeds), tables, settings, like_model, as_json)
        return
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # stdout is for the JSON only
        trained = train_policy(
            agent, parts, out, config=settings, agent_config=tables.get("agent", {}),
            model_config=tables.get("rating_model"), log=logged, init_from=init_from,
            like_model=like_model, seed=seed,
        )  # fmt: skip
    if as_json:
        print_json(trained.metadata)
        return
    print_text(f"trained {agent} on {trained.metadata['data']} (seed {seed}): {out}")
    if "share_positive" in trained.metadata["training"]:
        print_text(f"rewards: {trained.metadata['training']['share_positive']:.1%} positive")
    _print_state(trained)
    _print_divergence(trained.metadata)
    print_text(f"next: recpolicy evaluate {out}")


def _train_seeds(
    agent: str, parts: "Split", out: Path, seeds: range, tables: Mapping[str, Any], settings: Mapping[str, Any],
    like_model: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Train a policy per seed and print where they are."""
    from recpolicy.workflows.several_seeds import train_seeds

    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        policies = train_seeds(
            agent, parts, out, seeds, config=settings, agent_config=tables.get("agent", {}),
            model_config=tables.get("rating_model"), like_model=like_model,
        )  # fmt: skip
    if as_json:
        print_json([policy.metadata for policy in policies])
        return
    print_text(f"trained {agent} on {policies[0].metadata['data']} (seeds {seeds[0]} to {seeds[-1]}):")
    for seed in seeds:
        print_text(f"  {out / f'seed-{seed}'}")
    _print_state(policies[0])
    print_text(f"next: recpolicy compare {out}/seed-*")


def _print_state(trained: "Policy") -> None:
    """Print the width of the state that the policy sees, and a circular reward."""
    from recpolicy.workflows.session_training import CIRCULAR

    user, width = trained.artifact.context.shape[1], trained.metadata["state_dim"]
    parts = f" ({user} of the user, {width - user} of the session)" if trained.sequential else ""
    print_text(f"state: {width} numbers{parts}")
    if trained.metadata["training"].get("rewards") == CIRCULAR:
        print_text("reward: similarity of embeddings that the policy sees: circular, no feedback is in it")
    _print_context(trained)


def _print_context(trained: "Policy") -> None:
    """Print that a session policy does not see the context of a click and watch log, if there is one."""
    column = ((trained.metadata["source"] or {}).get("signals") or {}).get("context")
    if trained.sequential and column is not None:
        print_text(
            f"context: {column} moves the simulated responses, but is not in the state: the policy does not see it"
        )


def _print_divergence(metadata: Mapping[str, Any]) -> None:
    """Print the divergence from the initial policy, if the training limited it."""
    training = metadata["training"]
    if "reference_kl" not in training:
        return
    maximum = metadata["config"]["agent"]["max_reference_kl"]
    limit = f"limit {maximum:g}" if maximum else "no limit"
    end = "; the training ended at the limit" if training["stopped_at_limit"] else ""
    print_text(f"divergence from the initial policy: {training['reference_kl']:.4f} nats ({limit}{end})")


def _attributes(tables: dict[str, Any], features: Path | None) -> dict[str, Any] | None:
    """Return the schema of attributes of users and items, of --features or of the table [features]."""
    from recpolicy.core.errors import ConfigError
    from recpolicy.data.features import read_schema

    if features is not None and "features" in tables:
        raise ConfigError(f"{features}: the file of --config has the table [features], too; give one schema")
    return tables.get("features") if features is None else read_schema(features).as_dict()


def _train_on_features(
    agent: str, out: Path, log: Path, features: Path | None, config: Path | None, init_from: Path | None, seed: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Train a feature policy and print where it is."""
    from recpolicy.core.config import read_toml, reject_unknown_tables
    from recpolicy.core.errors import ConfigError
    from recpolicy.data.feature_log_files import EVALUATION, read_training_log
    from recpolicy.data.features import read_schema, schema_from_dict
    from recpolicy.workflows.feature_training import train_feature_policy

    tables = read_toml(config) if config else {}
    reject_unknown_tables(tables, ("train", "agent", "features", "reward"), str(config))
    given = (features is not None) + ("features" in tables)
    if given > 1 or (not given and init_from is None):
        raise ConfigError(
            f"{log}: a log with features needs one schema, by --features or as the table [features] of --config;"
            " `recpolicy features infer` proposes one"
        )
    schema = None if features is None else read_schema(features)
    if "features" in tables:
        schema = schema_from_dict(tables["features"], f"{config}: features")
    policy = train_feature_policy(
        read_training_log(log), schema, agent, out, config=tables.get("train"), agent_config=tables.get("agent"),
        reward=tables.get("reward"), init_from=init_from, seed=seed,
    )  # fmt: skip
    if as_json:
        print_json({"agent": policy.agent, **policy.metadata})
        return
    figures = policy.metadata["training"]
    print_text(f"trained {agent} on {policy.metadata['data']} (seed {seed}): {out}")
    print_text(
        f"{figures['rows']:,} rounds: mean reward {figures['mean']:.4g}, {figures['share_positive']:.1%} positive,"
        f" weighted squared error {figures['last_loss']:.4g}"
    )
    if policy.reward_range is None:
        print_text("the range of rewards is unknown: set min_reward and max_reward in [reward], or there is no verdict")
    print_text(f"next: recpolicy rank {out} --context context.json --actions actions.json")
    if (log / EVALUATION).is_dir():
        print_text(f"      recpolicy gate {out} --log {log}")


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the policy and the report.")] = Path("runs/demo"),
    user: Annotated[
        str | None, typer.Option("--user", help="User whose ratings are estimated (default: the first one).")
    ] = None,
    total_timesteps: Annotated[int, typer.Option("--total-timesteps", min=1, help="Simulated interactions.")] = 200_000,
    items: Annotated[
        int, typer.Option("--items", min=0, help="Size of the catalog, the most rated items; 0: all.")
    ] = 0,
    data: Data = "ml-100k",
    seed: Seed = 0,
) -> None:
    """Run the demo: fetch MovieLens 100K, learn embeddings, train LinUCB, evaluate it, estimate ratings, report."""
    from recpolicy.core.optional_deps import require_extra
    from recpolicy.data.movielens_download import fetch
    from recpolicy.data.read_options import reading_for
    from recpolicy.workflows.demo import run_demo
    from recpolicy.workflows.policy_training import TrainConfig

    require_extra("train", "recpolicy demo")
    if data == "ml-100k":
        files = fetch()
        origin = f"fetched from {files.source}" if files.fetched else "already there"
        _say("Data", f"{files.folder}, {origin}, verified by md5")
    config = TrainConfig(total_timesteps=total_timesteps, items=items)
    with reading_for("file"):
        run_demo(data, out, _say, user=user, seed=seed, config=config)


def _say(title: str, value: Any) -> None:
    if hasattr(value, "columns"):
        print_text()
        print_frame(value, title)
        print_text()
    else:
        print_text(f"{title}: {value}", flush=True)


COMMANDS = (
    Command(
        train,
        "Example:  recpolicy train ppo --split u1 --total-timesteps 100000 --out runs/ppo; on features: "
        " recpolicy train squarecb --log rounds --features schema.toml --out runs/offers",
    ),
    Command(demo, "Example:  recpolicy demo --user 196"),
)
