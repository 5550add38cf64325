"""`recpolicy log`, and `recpolicy log simulate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recpolicy.cli.config_tables import read_config_with_data
from recpolicy.cli.evaluation import LikeModel
from recpolicy.cli.log_ingest import AsJson
from recpolicy.cli.output import print_json, print_text

if TYPE_CHECKING:
    from recpolicy.data.splits import Split
    from recpolicy.inference.predictor import Policy

app = typer.Typer(
    help="Logs of recommendations, with propensities and rewards: simulate, import, export, ingest.",
    no_args_is_help=True,
)


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
        typer.Option(
            "--config",
            help="TOML file with the tables \\[data], \\[train], \\[log], \\[rating_model] and \\[retention].",
        ),
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
    share_range: Annotated[
        str | None,
        typer.Option(
            "--share-range",
            help="LOW,HIGH: bounds of each weight of --weights by the part that the head has in the utility of a slate,"
            " such as 0.05,0.4 (default: weights of 0 to 1).",
        ),
    ] = None,
    head_table: Annotated[
        Path | None, typer.Option("--head-table", help="Own heads: Parquet or CSV with user_id, item_id and numbers.")
    ] = None,
    item_table: Annotated[
        Path | None, typer.Option("--item-table", help="Own heads of items: Parquet or CSV with item_id and numbers.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Take a grid of more than 10,000 weight vectors.")] = False,
    returns: Annotated[
        bool,
        typer.Option(
            "--returns",
            help="With --sessions: sessions of a user follow each other, and the log has the days between them. Their"
            " influence on the return is assumed (\\[retention]).",
        ),
    ] = False,
    return_model: Annotated[
        Path | None, typer.Option("--return-model", help="With --returns: a file of `recpolicy session fit-returns`.")
    ] = None,
    days: Annotated[float | None, typer.Option("--days", help="Days that the log covers. Overrides the file.")] = None,
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
    if return_model is not None and not returns:
        raise typer.BadParameter("needs --returns", param_hint="--return-model")
    if returns and sessions is None:
        raise typer.BadParameter("needs --sessions: only whole sessions have a return", param_hint="--returns")
    logging_policy = logging_policy or ("rating_model" if sessions is None else "random")
    tables, source = read_config_with_data(config, ("train", "log", "rating_model", "retention"))
    options = {**sizes, "temperature": temperature, "uniform_mix": uniform_mix, "days": days}
    settings = {**tables.get("log", {}), **{key: value for key, value in options.items() if value is not None}}
    with reading_for("config", config):
        parts = split_ratings(load_ratings(data, **source), split, seed)
    policy = _logging_policy(logging_policy)
    if weights is not None or heads is not None:
        _check_weights(weights, heads, policy, rounds, sessions)
        policy = policy if isinstance(policy, str) else policy.base
        given = {"slates": slates, "points": points, "share_range": _parse_shares(share_range)}
        chosen = {name: value for name, value in given.items() if value is not None}
        tables_of_heads = head_table, item_table
        _simulate_weights(
            parts, out, policy, heads or "", {**tables.get("log", {}), **chosen}, tables_of_heads, seed, force=force,
            as_json=as_json,
        )  # fmt: skip
        return
    if sessions is not None:
        effects = tables.get("retention", {}) if returns else None
        _simulate_sessions(
            parts, out, policy, settings, tables.get("train"), like_model, effects, return_model, seed, as_json=as_json
        )
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
    effects: dict[str, Any] | None, return_model: Path | None, seed: int, *, as_json: bool,
) -> None:  # fmt: skip
    from recpolicy.workflows.session_logs import simulate_session_log

    log = simulate_session_log(
        parts,
        out,
        logging_policy=policy,
        config=settings,
        train=train,
        like_model=like_model,
        returns=effects,
        return_model=return_model,
        seed=seed,
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
        if log.returns is not None:
            metadata["returned"] = int(log.returns.returned.sum())
        print_json({"out": str(out), **metadata})
        return
    print_text(f"logged {count:,} sessions ({len(log):,} steps) of {name} on {parts.train.name} (seed {seed}): {out}")
    if log.returns is not None:
        back, alone = int(log.returns.returned.sum()), log.returns.without_return(log.session_user)
        print_text(f"{back:,} sessions with a return, {count - back:,} censored; {alone:,} users without any return")
        print_text(f"next: recpolicy session fit-returns {out} --out {out}-returns.json")
    world = seed if isinstance(policy, str) else policy.metadata["seed"]
    print_text(
        f"next: recpolicy train topk_reinforce --split {parts.name} --log {out} --seed {world} --out {out}-policy"
    )


def _parse_shares(text: str | None) -> list[float] | None:
    """Return two numbers with a comma between them."""
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: expected two shares, such as 0.05,0.4", param_hint="--share-range"
        ) from None
    return [low, high]


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


def _logging_policy(text: str) -> "str | Policy":
    """Return the name of a baseline, or the policy in a folder."""
    from recpolicy.inference.predictor import load_policy

    return load_policy(text) if Path(text).is_dir() or Path(text).name != text else text
