"""`recpolicy log`: logs of a simulated policy or of other systems, and from raw logs to rounds to learn from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recpolicy.cli.output import print_json

if TYPE_CHECKING:
    from recpolicy.data.bandit_log_files import IdVocabulary
    from recpolicy.data.log_ingest import IngestReport
    from recpolicy.data.splits import Split
    from recpolicy.inference.predictor import Policy

app = typer.Typer(help="What a policy showed, with what probability, and what came of it.", no_args_is_help=True)

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
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Overrides the file.")] = None,
    sessions: Annotated[
        int | None, typer.Option("--sessions", min=1, help="Log so many whole sessions in place of single rounds.")
    ] = None,
    slates: Annotated[
        int | None, typer.Option("--slates", min=1, help="Log so many pages of several items in place of rounds.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="Of the softmax over scores, in stars; of `popular` in nats; overrides."),
    ] = None,
    uniform_mix: Annotated[
        float | None, typer.Option("--uniform-mix", help="Share of uniform choices, 0..1; overrides.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Fixes every random draw.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Let a policy play the simulated world and log it: true propensities, rewards that come later."""
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.splits import split as split_ratings
    from recpolicy.workflows.interaction_logs import simulate_log

    sizes = {"rounds": rounds, "sessions": sessions, "slates": slates}
    if sum(size is not None for size in sizes.values()) > 1:
        raise typer.BadParameter("say by one of them what to log", param_hint="--rounds, --sessions, --slates")
    logging_policy = logging_policy or ("rating_model" if sessions is None else "random")
    tables, source = _tables_of_config(config, ("train", "log", "rating_model"))
    given = {**sizes, "temperature": temperature, "uniform_mix": uniform_mix}
    settings = {**tables.get("log", {}), **{key: value for key, value in given.items() if value is not None}}
    parts, who = split_ratings(load_ratings(data, **source), split, seed), _logging_policy(logging_policy)
    if sessions is not None:
        _simulate_sessions(parts, out, who, settings, tables.get("train"), seed, as_json=as_json)
        return
    if slates is not None:
        _simulate_slates(parts, out, who, settings, tables, seed, as_json=as_json)
        return
    written = simulate_log(
        parts.train, out, logging_policy=who, config=settings, train=tables.get("train"),
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
    print(f"logged {written:,} events of {logging_policy} on {parts.train.name} (seed {seed}): {out}")
    known = (
        f" --policy {logging_policy}" if not isinstance(who, str) else "" if data == "ml-100k" else f" --data {data}"
    )
    print(f"next: recpolicy log ingest {out}{known} --out {out}-rounds")


def _simulate_sessions(
    parts: "Split", out: Path, who: "str | Policy", settings: dict[str, Any], train: Any, seed: int, *, as_json: bool
) -> None:
    from recpolicy.workflows.session_logs import simulate_sessions

    log = simulate_sessions(parts, out, logging_policy=who, config=settings, train=train, seed=seed)
    name = who if isinstance(who, str) else who.artifact.agent
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
    print(f"logged {count:,} sessions ({len(log):,} steps) of {name} on {parts.train.name} (seed {seed}): {out}")
    world = seed if isinstance(who, str) else who.metadata["seed"]
    print(f"next: recpolicy train topk_reinforce --split {parts.name} --log {out} --seed {world} --out {out}-policy")


def _simulate_slates(
    parts: "Split", out: Path, who: "str | Policy", settings: dict[str, Any], tables: dict[str, Any], seed: int,
    *, as_json: bool,
) -> None:  # fmt: skip
    from recpolicy.workflows.slate_logs import simulate_slates

    log = simulate_slates(
        parts,
        out,
        logging_policy=who,
        config=settings,
        train=tables.get("train"),
        model_config=tables.get("rating_model"),
        seed=seed,
    )
    name = who if isinstance(who, str) else who.artifact.agent
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
    print(f"logged {len(log):,} pages of {log.slots} items of {name} on {parts.train.name} (seed {seed}): {out}")
    print(f"likes on a page: {log.reward.mean():.3f} on average")
    print(f"next: recpolicy ope estimate POLICY --log {out}")


@app.command(
    epilog="Examples:  recpolicy log ingest logs/week1 --policy runs/linucb --out rounds/week1;  of a log that `log"
    " import` made with users and items of its own:  recpolicy log ingest logs/clicks --out rounds/clicks"
)
def ingest(
    folder: Annotated[Path, typer.Argument(help="Folder with events.parquet and, once some came, rewards.parquet.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for training.parquet and evaluation.parquet.")],
    policy: Annotated[
        Path | None, typer.Option("--policy", help="A trained policy says which users and items there are.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Or the ratings say it; without both, an imported log's own users and items, else ml-100k."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with the tables \\[data] and \\[ingest].")
    ] = None,
    wait_hours: Annotated[
        float | None, typer.Option("--wait-hours", help="How long after its event a reward may come; overrides.")
    ] = None,
    default_reward: Annotated[
        float | None, typer.Option("--default-reward", help="Of events without one; left out without it; overrides.")
    ] = None,
    evaluation_share: Annotated[
        float | None, typer.Option("--evaluation-share", help="Of the rounds, the latest; overrides.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a log, join its rewards and split it by time; says what became of every event and reward."""
    from recpolicy.workflows.import_log import has_own_tables
    from recpolicy.workflows.interaction_logs import RATINGS, ingest_log

    _refuse_both(policy, data)
    tables, source = _tables_of_config(config, ("ingest",))
    given = {"wait_hours": wait_hours, "default_reward": default_reward, "evaluation_share": evaluation_share}
    settings = {**tables.get("ingest", {}), **{key: value for key, value in given.items() if value is not None}}
    own = policy is None and data is None and has_own_tables(folder)
    if own and source:
        raise typer.BadParameter(
            f"the table [data] is about ratings, but {folder} has users and items of its own", param_hint="--config"
        )
    known = None if own else _catalogue(policy, data or "ml-100k", source)
    report = ingest_log(folder, out, known, settings)
    if as_json:
        print_json(report.as_dict())
        return
    _print_report(report)
    print(f"\nwritten: {out}" + (f", and the log as a table of ratings: {out / RATINGS}" if own else ""))
    if own:
        print(f"next: recpolicy train linucb --log {out} --out {out}-policy")


@app.command("import", epilog="Example:  recpolicy log import clicks.csv --format obd --out logs/clicks")
def import_(
    file: Annotated[Path, typer.Argument(help="The log of another system.")],
    form: Annotated[
        str, typer.Option("--format", help="obd: CSV as of the Open Bandit Dataset; vw: Vowpal Wabbit's JSON lines.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for events.parquet, rewards included.")],
    policy: Annotated[
        Path | None, typer.Option("--policy", help="A trained policy says which users and items there are.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Or the ratings say it; without both, the ids that occur.")
    ] = None,
    scale: Annotated[
        tuple[float, float], typer.Option("--scale", help="Lowest and highest reward (click, or -cost) of the file.")
    ] = (0.0, 1.0),
    user: Annotated[
        str, typer.Option("--user-id", help="vw: dotted name of the user's id among the shared features.")
    ] = "",
    item: Annotated[str, typer.Option("--item-id", help="vw: dotted name of the item's id within an action.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a log of ours from that of another system; says what of it is lost."""
    from recpolicy.workflows.import_log import import_log

    _refuse_both(policy, data)
    tables = _catalogue(policy, data or "", {}) if policy or data else None
    report = import_log(file, out, form, tables, scale, user=user, item=item)
    if as_json:
        print_json(report.as_dict())
        return
    print(f"imported {report.rounds:,} rounds of {report.users:,} users and {report.items:,} items: {out}")
    if report.skipped:
        print(f"left out {report.skipped:,} lines that are marked as not to be learnt from")
    print(f"lost: {', '.join(report.lost) or 'nothing'}")
    if report.derived:
        print("users and items are those that occur")
        print(f"next: recpolicy log ingest {out} --out {out}-rounds")


def _refuse_both(policy: Path | None, data: str | None) -> None:
    if policy is not None and data is not None:
        raise typer.BadParameter("say by one of them which users and items there are", param_hint="--policy, --data")


def _tables_of_config(config: Path | None, known: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables of a TOML file, and those options of [data] that are given."""
    from recpolicy.core.config import as_dict, build, read_toml, reject_unknown_tables
    from recpolicy.data.loaders import DataConfig

    tables = read_toml(config) if config else {}
    reject_unknown_tables(tables, ("data", *known), str(config))
    options = as_dict(build(DataConfig, tables.get("data", {}), f"{config}: data"))
    return tables, {name: value for name, value in options.items() if value is not None}


def _logging_policy(text: str) -> "str | Policy":
    """A name as it is, a folder as the policy in it."""
    from recpolicy.inference.predictor import load_policy

    return load_policy(text) if Path(text).is_dir() or Path(text).name != text else text


def _catalogue(policy: Path | None, data: str, source: dict[str, Any]) -> "IdVocabulary":
    if policy is not None:
        from recpolicy.data.bandit_log_files import IdVocabulary
        from recpolicy.inference.predictor import load_policy

        return IdVocabulary.from_policy(load_policy(policy))
    from recpolicy.data.bandit_log_files import IdVocabulary
    from recpolicy.data.loaders import load_ratings

    return IdVocabulary.from_ratings(load_ratings(data, **source))


def _print_report(report: "IngestReport") -> None:
    lines = (
        (report.events, "events"),
        (report.joined, "  with a reward of their own"),
        (report.defaulted, "  with the default reward"),
        (report.waiting, "  left for later: their reward may still come"),
        (report.left_out, "  left out: no reward came"),
        *(((report.with_context, "  left out: with a context vector"),) if report.with_context else ()),
        (report.training, "rounds to learn from"),
        (report.evaluation, "rounds for evaluation, all later"),
        (report.late_rewards, "rewards not used: outside the wait window"),
        (report.doubled_rewards, "rewards not used: of events that had one"),
        (report.unknown_rewards, "rewards not used: of events not in the log"),
    )
    width = max(len(f"{count:,}") for count, _ in lines)
    for count, what in lines:
        print(f"{count:>{width},}  {what}")
