"""`recpolicy log ingest`: check a log, join its rewards, and split it by time.

Logs of rounds, of slates and of features have rewards to join; a log of sessions is only split.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recpolicy.cli.config_tables import read_config_with_data
from recpolicy.cli.output import print_json, print_text

if TYPE_CHECKING:
    from recpolicy.data.bandit_log_files import IdVocabulary
    from recpolicy.data.log_ingest import IngestReport
    from recpolicy.data.reward_signals import RewardSummary

EPILOG = "Example:  recpolicy log ingest logs/week1 --policy runs/linucb --out rounds/week1"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


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
    if report.returned is not None:
        _print_counts(
            (report.returned, "sessions with a return"),
            (report.censored or 0, "sessions without one: censored"),
            (report.users_without_return or 0, "users without any return"),
        )
    print_text(f"\nwritten: {out}")
    print_text(f"next: recpolicy ope estimate POLICY --log {out}")


def check_one_source(policy: Path | None, data: str | None) -> None:
    """Raise BadParameter if both a policy and ratings are given."""
    if policy is not None and data is not None:
        raise typer.BadParameter("give only one of them: both define users and items", param_hint="--policy, --data")


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
