"""`recpolicy log`: simulate, import and ingest logs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recpolicy.cli.config_tables import read_config_with_data
from recpolicy.cli.output import print_json, print_text
from recpolicy.cli.policy import LikeModel

if TYPE_CHECKING:
    from recpolicy.data.bandit_log_files import IdVocabulary
    from recpolicy.data.log_ingest import IngestReport
    from recpolicy.data.reward_signals import RewardSummary
    from recpolicy.data.splits import Split
    from recpolicy.inference.predictor import Policy

app = typer.Typer(
    help="Logs of recommendations, with propensities and rewards: simulate, import, export, ingest.",
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


@app.command(epilog="Example:  recpolicy log simulate --rounds 200000 --out logs/week1")
def simulate(
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for events.parquet and rewards.parquet, sessions.parquet or slates.parquet."
        ),
    ],
    logging_policy: Annotated[
        str | None,
        typer.Option(
            "--logging-policy",
            help="random, highest_mean, rating_model (the default), or the folder of a trained policy. Of sessions:"
            " random (the default), popular, or the folder of a session policy.",
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="u1..u5, ua, ub, temporal, leave-last-N or random.")] = "u1",
    data: Annotated[
        str, typer.Option("--data", help="ml-100k, a MovieLens folder, or a CSV/Parquet file of ratings.")
    ] = "ml-100k",
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file with the tables \\[data], \\[train], \\[log], \\[rating_model]."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Number of rounds to log. Overrides the file.")
    ] = None,
    sessions: Annotated[
        int | None, typer.Option("--sessions", min=1, help="Number of complete sessions to log, instead of rounds.")
    ] = None,
    slates: Annotated[
        int | None, typer.Option("--slates", min=1, help="Number of slates of several items to log, instead of rounds.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            help="Temperature of the softmax over scores, in stars; of `popular` in nats. Overrides the file.",
        ),
    ] = None,
    uniform_mix: Annotated[
        float | None, typer.Option("--uniform-mix", help="Fraction of uniform choices, 0..1. Overrides the file.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="uniform: log slates (--slates) ranked by uniform weights of --heads, to tune."),
    ] = None,
    heads: Annotated[str | None, typer.Option("--heads", help="Heads of --weights, separated by commas.")] = None,
    points: Annotated[
        int | None, typer.Option("--points", min=2, help="Points of each weight of --weights (7).")
    ] = None,
    head_table: Annotated[
        Path | None, typer.Option("--head-table", help="Own heads: Parquet or CSV with user_id, item_id and numbers.")
    ] = None,
    item_table: Annotated[
        Path | None, typer.Option("--item-table", help="Own heads of items: Parquet or CSV with item_id and numbers.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Take a grid of more than 10,000 weight vectors.")] = False,
    like_model: LikeModel = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of every random draw.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Simulate a policy and write its log, with true propensities and delayed rewards."""
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.read_options import reading_for
    from recpolicy.data.splits import split as split_ratings
    from recpolicy.workflows.interaction_logs import simulate_log

    sizes = {"rounds": rounds, "sessions": sessions, "slates": slates}
    if sum(size is not None for size in sizes.values()) > 1:
        raise typer.BadParameter("give only one of them", param_hint="--rounds, --sessions, --slates")
    if like_model is not None and sessions is None:
        raise typer.BadParameter(
            "needs --sessions: worlds of single rounds have no like model", param_hint="--like-model"
        )
    logging_policy = logging_policy or ("rating_model" if sessions is None else "random")
    tables, source = read_config_with_data(config, ("train", "log", "rating_model"))
    options = {**sizes, "temperature": temperature, "uniform_mix": uniform_mix}
    settings = {**tables.get("log", {}), **{key: value for key, value in options.items() if value is not None}}
    with reading_for("config", config):
        parts = split_ratings(load_ratings(data, **source), split, seed)
    policy = _logging_policy(logging_policy)
    if weights is not None or heads is not None:
        _check_weights(weights, heads, policy, rounds, sessions)
        chosen = {name: value for name, value in (("slates", slates), ("points", points)) if value is not None}
        tables_of_heads = head_table, item_table
        _simulate_weights(
            parts, out, policy, heads or "", {**tables.get("log", {}), **chosen}, tables_of_heads, seed, force=force,
            as_json=as_json,
        )  # fmt: skip
        return
    if sessions is not None:
        _simulate_sessions(parts, out, policy, settings, tables.get("train"), like_model, seed, as_json=as_json)
        return
    if slates is not None:
        _simulate_slates(parts, out, policy, settings, tables, seed, as_json=as_json)
        return
    written = simulate_log(
        parts.train, out, logging_policy=policy, config=settings, train=tables.get("train"),
        model_config=tables.get("rating_model"), seed=seed,
    )  # fmt: skip
    if as_json:
        print_json(
            {
                "out": str(out),
                "logging_policy": logging_policy,
                "events": written,
                "data": parts.train.name,
                "seed": seed,
            }
        )
        return
    print_text(f"logged {written:,} events of {logging_policy} on {parts.train.name} (seed {seed}): {out}")
    tables_option = f" --policy {logging_policy}" if not isinstance(policy, str) else f" --data {data}"
    print_text(f"next: recpolicy log ingest {out}{tables_option} --out {out}-rounds")


def _simulate_sessions(
    parts: "Split", out: Path, policy: "str | Policy", settings: dict[str, Any], train: Any, like_model: str | None,
    seed: int, *, as_json: bool,
) -> None:  # fmt: skip
    from recpolicy.workflows.session_logs import simulate_session_log

    log = simulate_session_log(
        parts, out, logging_policy=policy, config=settings, train=train, like_model=like_model, seed=seed
    )
    name = policy if isinstance(policy, str) else policy.artifact.agent
    count = len(log.length)
    if as_json:
        metadata = {
            "logging_policy": name,
            "sessions": count,
            "steps": len(log),
            "data": parts.train.name,
            "seed": seed,
        }
        print_json({"out": str(out), **metadata})
        return
    print_text(f"logged {count:,} sessions ({len(log):,} steps) of {name} on {parts.train.name} (seed {seed}): {out}")
    world = seed if isinstance(policy, str) else policy.metadata["seed"]
    print_text(
        f"next: recpolicy train topk_reinforce --split {parts.name} --log {out} --seed {world} --out {out}-policy"
    )


def _check_weights(
    weights: str | None, heads: str | None, policy: "str | Policy", rounds: int | None, sessions: int | None
) -> None:
    if weights != "uniform":
        raise typer.BadParameter("expected uniform, with --heads", param_hint="--weights")
    if not heads:
        raise typer.BadParameter("needed with --weights, such as like,novelty,genre_match", param_hint="--heads")
    if isinstance(policy, str):
        raise typer.BadParameter("weights rank a trained policy; give its folder", param_hint="--logging-policy")
    if rounds is not None or sessions is not None:
        raise typer.BadParameter("a log of weights has slates; use --slates", param_hint="--rounds, --sessions")


def _simulate_weights(
    parts: "Split", out: Path, policy: Any, heads: str, settings: dict[str, Any],
    own: tuple[Path | None, Path | None], seed: int, *, force: bool, as_json: bool,
) -> None:  # fmt: skip
    from recpolicy.cli.tuning import own_heads, parse_heads
    from recpolicy.models.session_worlds import fit_two_worlds
    from recpolicy.workflows.weight_logs import simulate_weight_log

    world = fit_two_worlds(parts, None, int(policy.metadata.get("seed", 0))).training_world
    written = simulate_weight_log(
        policy,
        world,
        parse_heads(heads) or [],
        out,
        config=settings,
        own=own_heads(policy, *own),
        force=force,
        seed=seed,
    )
    if as_json:
        print_json({"out": str(out), "world": world.name, **written})
        return
    print_text(
        f"logged {int(written['slates']):,} slates of uniform weights of {heads} on {policy.artifact.agent}: {out}"
    )
    print_text(f"likes per slate: {written['like']:.3f}; sessions that go on: {written['session_continues']:.3f}")
    print_text(f"next: recpolicy tune POLICY --log {out} --out {out}-tuned")


def _simulate_slates(
    parts: "Split", out: Path, policy: "str | Policy", settings: dict[str, Any], tables: dict[str, Any], seed: int,
    *, as_json: bool,
) -> None:  # fmt: skip
    from recpolicy.workflows.slate_logs import simulate_slate_log

    log = simulate_slate_log(
        parts,
        out,
        logging_policy=policy,
        config=settings,
        train=tables.get("train"),
        model_config=tables.get("rating_model"),
        seed=seed,
    )
    name = policy if isinstance(policy, str) else policy.artifact.agent
    if as_json:
        metadata = {
            "logging_policy": name,
            "slates": len(log),
            "slots": log.slots,
            "data": parts.train.name,
            "seed": seed,
        }
        print_json({"out": str(out), **metadata, "mean_reward": float(log.reward.mean())})
        return
    print_text(f"logged {len(log):,} slates of {log.slots} items of {name} on {parts.train.name} (seed {seed}): {out}")
    print_text(f"likes per slate: {log.reward.mean():.3f} on average")
    print_text(f"next: recpolicy ope estimate POLICY --log {out}")


@app.command(epilog="Example:  recpolicy log ingest logs/week1 --policy runs/linucb --out rounds/week1")
def ingest(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder with events.parquet and, if there are rewards, rewards.parquet; or a feature log, or a log of"
            " sessions."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the rounds for training and evaluation.")],
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Trained policy that defines users and items.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Ratings that define users and items, such as ml-100k (default: those of the log).",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with the tables \\[data], \\[ingest] and \\[reward].")
    ] = None,
    wait_hours: Annotated[
        float | None,
        typer.Option("--wait-hours", help="Maximal delay of a reward after its event. Overrides the file."),
    ] = None,
    default_reward: Annotated[
        float | None,
        typer.Option(
            "--default-reward", help="Reward of events without one; by default, they are dropped. Overrides the file."
        ),
    ] = None,
    evaluation_share: Annotated[
        float | None,
        typer.Option(
            "--evaluation-share", help="Fraction of rounds for evaluation, the latest ones. Overrides the file."
        ),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            "--unit",
            help="Unit of intervals: user, or round if each round is of another person (default: as the log says, else"
            " user).",
        ),
    ] = None,
    scale: Annotated[
        tuple[float, float] | None,
        typer.Option("--scale", help="Without --policy and --data: lowest and highest reward (default: 0 1)."),
    ] = None,
    users: Annotated[
        Path | None,
        typer.Option("--users", help="Logs with features: table of users whose columns join the contexts by user_id."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a log, join its rewards, split it by time, and print the counts of events and rewards."""
    from recpolicy.data.feature_log_files import is_feature_log
    from recpolicy.data.log_ingest import RATINGS
    from recpolicy.data.read_options import reading_for
    from recpolicy.data.session_log_files import SESSIONS
    from recpolicy.workflows.interaction_logs import ingest_log

    check_one_source(policy, data)
    tables, source = read_config_with_data(config, ("ingest", "reward"))
    options = {
        "wait_hours": wait_hours, "default_reward": default_reward, "evaluation_share": evaluation_share, "unit": unit,
        "users": None if users is None else str(users),
    }  # fmt: skip
    settings = {**tables.get("ingest", {}), **{key: value for key, value in options.items() if value is not None}}
    if "reward" in tables:
        settings["reward"] = tables["reward"]
    if is_feature_log(folder):
        unused = {"--policy": policy, "--data": data, "--scale": scale}
        names = [name for name, value in unused.items() if value is not None]
        if names:
            raise typer.BadParameter("a log with features has its own actions and rewards", param_hint=", ".join(names))
        _ingest_features(folder, out, settings, as_json=as_json)
        return
    own = policy is None and data is None
    if own and source:
        raise typer.BadParameter(
            "the table [data] is about ratings; name them with --data, or leave it out for the log's own users and"
            " items",
            param_hint="--config",
        )
    if scale is not None and not own:
        raise typer.BadParameter("rewards are on the scale of the policy or ratings", param_hint="--scale")
    sessions = (folder / SESSIONS).is_file()
    if own and sessions:
        raise typer.BadParameter(
            "a log of sessions; name its users and items with --policy or --data", param_hint="FOLDER"
        )
    with reading_for("config", config):
        vocabulary = None if own else vocabulary_of(policy, data or "", source)
    if vocabulary is not None and sessions:
        _ingest_sessions(folder, out, vocabulary, settings, as_json=as_json)
        return
    report = ingest_log(folder, out, vocabulary, settings, scale=scale or (0.0, 1.0))
    if as_json:
        print_json(report.as_dict())
        return
    _print_report(report)
    print_text(f"\nwritten: {out}" + (f", and the log as a table of ratings: {out / RATINGS}" if own else ""))
    if own:
        print_text(f"next: recpolicy train linucb --log {out} --out {out}-policy")


def _ingest_features(folder: Path, out: Path, settings: dict[str, Any], *, as_json: bool) -> None:
    from recpolicy.workflows.feature_logs import ingest_feature_log

    report = ingest_feature_log(folder, out, settings)
    if as_json:
        print_json(report.as_dict())
        return
    _print_counts(
        (report.events, "events"),
        (report.joined, "  with a reward, or signals that settle it"),
        (report.defaulted, "  with the default reward"),
        (report.waiting, "  waiting: their reward may still arrive"),
        (report.left_out, "  dropped: without a reward"),
        (report.training, "rounds for training"),
        (report.evaluation, "rounds for evaluation, all later"),
        (report.late_signals, "signals not used: outside the wait window"),
        (report.unused_signals, "signals not used: of events whose reward is settled"),
        (report.unknown_signals, "signals not used: of events not in the log"),
    )
    print_rewards(report.rewards)
    print_text(f"\nwritten: {out}")
    print_text(f"next: recpolicy features infer {out} --out schema.toml")


def _ingest_sessions(
    folder: Path, out: Path, vocabulary: "IdVocabulary", settings: dict[str, Any], *, as_json: bool
) -> None:
    from recpolicy.workflows.session_logs import ingest_session_log

    report = ingest_session_log(folder, out, vocabulary, settings)
    if as_json:
        print_json(report.as_dict())
        return
    _print_counts(
        (report.sessions, "sessions"),
        (report.steps, "  items shown"),
        (report.training, "sessions for training"),
        (report.evaluation, "sessions for evaluation, all of which ended later"),
    )
    print_text(f"\nwritten: {out}")
    print_text(f"next: recpolicy ope estimate POLICY --log {out}")


def check_one_source(policy: Path | None, data: str | None) -> None:
    """Raise BadParameter if both a policy and ratings are given."""
    if policy is not None and data is not None:
        raise typer.BadParameter("give only one of them: both define users and items", param_hint="--policy, --data")


def _logging_policy(text: str) -> "str | Policy":
    """Return the name of a baseline, or the policy in a folder."""
    from recpolicy.inference.predictor import load_policy

    return load_policy(text) if Path(text).is_dir() or Path(text).name != text else text


def vocabulary_of(policy: Path | None, data: str, source: dict[str, Any]) -> "IdVocabulary":
    """Return the users and items of a policy, or of ratings."""
    if policy is not None:
        from recpolicy.data.bandit_log_files import IdVocabulary
        from recpolicy.inference.predictor import load_policy

        return IdVocabulary.from_policy(load_policy(policy))
    from recpolicy.data.bandit_log_files import IdVocabulary
    from recpolicy.data.loaders import load_ratings

    return IdVocabulary.from_ratings(load_ratings(data, **source))


def _print_report(report: "IngestReport") -> None:
    _print_counts(
        (report.events, "events"),
        (report.joined, "  with their own reward"),
        (report.defaulted, "  with the default reward"),
        (report.waiting, "  waiting: their reward may still arrive"),
        (report.left_out, "  dropped: without a reward"),
        *(((report.with_context, "  dropped: with a context vector"),) if report.with_context else ()),
        (report.training, "rounds for training"),
        (report.evaluation, "rounds for evaluation, all later"),
        (report.late_rewards, "rewards not used: outside the wait window"),
        (report.doubled_rewards, "rewards not used: of events with an earlier reward"),
        (report.unknown_rewards, "rewards not used: of events not in the log"),
    )
    if report.rewards is not None:
        print_rewards(report.rewards)


def print_rewards(rewards: "RewardSummary") -> None:
    """Print the distribution of rewards, and warnings of constant and sparse ones."""
    print_text(rewards.line())
    for warning in rewards.warnings():
        print_text(f"warning: {warning}")


def _print_counts(*lines: tuple[int, str]) -> None:
    width = max(len(f"{count:,}") for count, _ in lines)
    for count, label in lines:
        print_text(f"{count:>{width},}  {label}")
