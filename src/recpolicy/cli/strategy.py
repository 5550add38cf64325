"""`recpolicy strategy`: simulate a log, train, recommend, evaluate, and look into the Q-table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recpolicy.cli.output import print_frame, print_json, print_text

if TYPE_CHECKING:
    from recpolicy.strategies.item_parameters import ItemParameters

app = typer.Typer(
    help="Learn which strategy (energy, diversity, novelty) suits which profile and situation.", no_args_is_help=True
)

Policy = Annotated[Path, typer.Argument(help="Folder that `recpolicy strategy train` (`recommend`: or `dqn`) wrote.")]
Log = Annotated[
    Path, typer.Option("--log", help="Folder of a feature log with its signals, such as `strategy simulate` writes.")
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with the settings, such as configs/strategies.toml (default: built in)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


@app.command(epilog="Example: recpolicy strategy simulate --out runs/strategy_log --days 14")
def simulate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the log.")],
    config: Config = None,
    users: Annotated[int, typer.Option("--users", min=1, help="Number of users.")] = 300,
    days: Annotated[int, typer.Option("--days", min=1, help="Simulated days.")] = 14,
    logging_policy: Annotated[
        Path | None,
        typer.Option("--logging-policy", help="Folder of the policy that acts (default: uniform choices)."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="ml-100k or another ratings table: its users' genres seed the personalities."),
    ] = None,
    first_day: Annotated[
        int, typer.Option("--first-day", min=0, help="First simulated day, for a log that follows another one.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of every random draw.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Simulate a log of strategies with synthetic personalities and reactions, for a first try."""
    from recpolicy.workflows.strategy_simulation import LABEL, simulate_strategies

    report = simulate_strategies(
        out, config, users=users, days=days, policy=logging_policy, data=data, first_day=first_day, seed=seed
    )
    if as_json:
        print_json(report.as_dict())
        return
    print_text(
        f"{out}: {report.rounds:,} rounds of {report.users:,} users in {report.sessions:,} sessions,"
        f" {report.signals:,} signals ({LABEL})"
    )
    print_text(f"next: recpolicy strategy train --log {out} --out runs/strategy")


@app.command(epilog="Example: recpolicy strategy train --log runs/strategy_log --days-back 14 --out runs/strategy")
def train(
    log: Log,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the policy.")],
    config: Config = None,
    incumbent: Annotated[
        Path | None, typer.Option("--from", help="Policy to continue from; rounds that it learned are left out.")
    ] = None,
    days_back: Annotated[float, typer.Option("--days-back", help="Learn from the last days of the log.")] = 7.0,
    min_interactions: Annotated[
        int, typer.Option("--min-interactions", help="Interactions in these days that a user needs.")
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Train a strategy policy on the last days of a log, or continue one; no round is learned twice."""
    from recpolicy.workflows.strategy_training import train_strategy

    training = train_strategy(
        log, out, config, incumbent=incumbent, days_back=days_back, min_interactions=min_interactions
    )
    if as_json:
        print_json(training.as_dict())
        return
    statistics, table = training.statistics, training.policy.stats()
    print_text(
        f"{out}: learned {statistics.interactions:,} rounds of {statistics.users:,} users in {statistics.sessions:,}"
        f" sessions; average reward {statistics.average_reward:.3f}, {statistics.share_positive:.1%} positive"
    )
    print_text(
        f"left out: {statistics.outside_window:,} outside the last {days_back:g} days, {statistics.few_interactions:,}"
        f" of users with fewer than {min_interactions} interactions, {statistics.already_learned:,} learned before"
    )
    print_text(
        f"{table['total_states']:,} states ({statistics.new_states:,} new), {table['total_state_actions']:,} cells,"
        f" exploration {table['epsilon']:.3f}"
    )


@app.command(epilog="Example: recpolicy strategy dqn --log runs/strategy_log --out runs/strategy_dqn")
def dqn(
    log: Log,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the feature policy.")],
    config: Config = None,
    incumbent: Annotated[
        Path | None, typer.Option("--from", help="Earlier result of `strategy dqn`: the first target network.")
    ] = None,
    days_back: Annotated[
        float | None, typer.Option("--days-back", help="Learn from the last days of the log (default: all of it).")
    ] = None,
    min_interactions: Annotated[
        int, typer.Option("--min-interactions", help="Interactions in these days that a user needs.")
    ] = 1,
    passes: Annotated[
        int, typer.Option("--passes", min=1, help="Regressions of a log with sessions; each uses the values before.")
    ] = 5,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes of the network over the log.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of weights and of the order of rounds.")] = 0,
) -> None:
    """Train deep Q-learning on continuous traits from the rounds of a log.

    A new network learns all rounds of the window, also those that the policy of --from has learned.
    """
    from recpolicy.workflows.strategy_dqn import train_strategy_dqn

    trained = train_strategy_dqn(
        log, out, config, settings={"passes": passes}, train={"epochs": epochs}, seed=seed, incumbent=incumbent,
        days_back=days_back, min_interactions=min_interactions,
    )  # fmt: skip
    print_text(
        f"{out}: learned {trained.rounds:,} rounds, {trained.with_next:,} with a next round in their session, in"
        f" {trained.passes} {'pass' if trained.passes == 1 else 'passes'}; {trained.left_out:,} left out by the window"
    )
    print_text(f"next: recpolicy strategy recommend {out} --request FILE, or recpolicy ope estimate {out} --log ...")


@app.command(
    epilog="Example: recpolicy strategy recommend runs/strategy --trait openness=80 --trait conscientiousness=40"
    " --trait extraversion=70 --trait agreeableness=55 --trait neuroticism=30 --content-type music --mood calm"
    " --time-of-day evening --event-id e1"
)
def recommend(
    policy: Policy,
    request: Annotated[
        Path | None, typer.Option("--request", help="JSON file with the traits and the situation.")
    ] = None,
    trait: Annotated[list[str] | None, typer.Option("--trait", help="NAME=VALUE, 0..100; repeat.")] = None,
    content_type: Annotated[str | None, typer.Option("--content-type", help="Such as music.")] = None,
    mood: Annotated[str | None, typer.Option("--mood", help="Such as calm.")] = None,
    time_of_day: Annotated[str | None, typer.Option("--time-of-day", help="Such as evening.")] = None,
    event_id: Annotated[
        str | None,
        typer.Option("--event-id", help="Seed of the draw: the same id gives the same answer (default: random)."),
    ] = None,
    items: Annotated[
        Path | None, typer.Option("--items", help="Folder of a policy of items, whose list the strategy re-ranks.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", help="With --items: user of the list.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="With --items: items of the list.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Draw a strategy for one request; with --items, list the items of a user as the strategy re-ranks them.

    Diversity, novelty and energy become weights of the list: dissimilar items, less popular ones, and the genres Action
    and Thriller.
    """
    from dataclasses import asdict

    from recpolicy.strategies.item_parameters import item_parameters
    from recpolicy.strategies.log_rounds import context_request
    from recpolicy.strategies.network_policy import read_any_strategy_policy

    loaded = read_any_strategy_policy(policy)
    situation = {"content_type": content_type, "mood": mood, "time_of_day": time_of_day}
    context = {**_read_request(request), **_traits(trait), **{k: v for k, v in situation.items() if v is not None}}
    answer = loaded.recommend(context_request(context, loaded.config), event_id)
    if (items is None) != (user is None):
        raise typer.BadParameter("--items and --user go together: whose list, by which policy", param_hint="--items")
    weights = item_parameters(answer.parameters)
    table = None if items is None or user is None else _reranked(items, user, k, weights)
    if as_json:
        listed = {} if table is None else {"items": table[["item_id", "title"]].to_dict("records")}
        body = {"item_weights": weights.as_dict(), "event_id": event_id, "policy_digest": loaded.policy_digest}
        print_json({**asdict(answer), **body, **listed})
        return
    words = ", ".join(f"{dimension} {level}" for dimension, level in answer.strategy.items())
    print_text(f"{words} (action {answer.action})")
    print_text("  ".join(f"{name}={value:g}" for name, value in answer.parameters.items()))
    print_text(
        f"propensity {answer.propensity:.4f}, expected reward {answer.expected_reward:.3f} from {answer.source}"
        f"{', explored' if answer.explored else ''}"
    )
    print_text("weights of items: " + "  ".join(f"{name}={value:g}" for name, value in weights.as_dict().items()))
    if table is not None:
        print_frame(table[["item_id", "title"]], f"\nItems for user {user}")


def _reranked(folder: Path, user: str, k: int, weights: "ItemParameters") -> Any:
    """Return the list of a user by a policy of items, under the weights of a strategy."""
    from recpolicy.cli.guardrail_options import warnings_on_stderr
    from recpolicy.cli.ids import parse_ids
    from recpolicy.inference.predictor import load_policy

    policy = load_policy(folder)
    (identity,) = parse_ids([user], policy.scorer.user_ids)
    with warnings_on_stderr():
        return policy.recommend(identity, k, guardrails=weights.guardrails(policy.scorer.genre_names))


@app.command(epilog="Example: recpolicy strategy evaluate runs/strategy --log runs/later_log --test-days 3")
def evaluate(
    policy: Policy,
    log: Log,
    test_days: Annotated[float, typer.Option("--test-days", help="Evaluate on the last days of the log.")] = 3.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the folds of the reward model.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Evaluate a policy on the last days of a log, which it must not have learned.

    Average reward, like rate and rate of each signal as logged; estimated value of the policy, with its gain over the
    logging policy, a bandit without traits, and the static strategy.
    """
    from recpolicy.workflows.strategy_evaluation import evaluate_strategy

    evaluation = evaluate_strategy(policy, log, test_days=test_days, seed=seed)
    if as_json:
        print_json(evaluation.as_dict())
        return
    for title, table in evaluation.tables().items():
        print_frame(table.reset_index(), title)
    used = ", ".join(f"{name} {share:.1%}" for name, share in evaluation.sources.items())
    print_text(f"\nGreedy actions rest on: {used}")


@app.command(epilog="Example: recpolicy strategy stats runs/strategy")
def stats(policy: Policy, as_json: AsJson = False) -> None:
    """Print the statistics of a Q-table: states, cells, average and largest Q-value, coverage."""
    from recpolicy.strategies.artifact import read_strategy_policy

    values = read_strategy_policy(policy).stats()
    if as_json:
        print_json(values)
        return
    width = max(map(len, values))
    for name, value in values.items():
        print_text(f"{name:<{width}}  {value:,}" if isinstance(value, int) else f"{name:<{width}}  {value:.6g}")


@app.command(epilog="Example: recpolicy strategy export runs/strategy --out runs/q_table.json")
def export(
    policy: Policy,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")],
) -> None:
    """Write a policy as JSON, one state a line; `strategy import` reads it without loss."""
    from recpolicy.core.errors import ArtifactError
    from recpolicy.strategies.artifact import read_strategy_policy
    from recpolicy.strategies.table_json import export_table

    if out.exists():
        raise ArtifactError(f"{out}: already exists; choose another file")
    loaded = read_strategy_policy(policy)
    export_table(loaded, out)
    print_text(f"{out}: {len(loaded.table.states):,} states")


@app.command("import", epilog="Example: recpolicy strategy import runs/q_table.json --out runs/imported")
def import_(
    file: Annotated[Path, typer.Argument(help="JSON file that `recpolicy strategy export` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the policy.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file with other settings; states and actions must be the same."),
    ] = None,
) -> None:
    """Read a policy from JSON and write its folder."""
    from recpolicy.strategies.artifact import write_strategy_policy
    from recpolicy.strategies.config import read_strategy_config
    from recpolicy.strategies.table_json import import_table
    from recpolicy.workflows.artifacts import check_absent

    check_absent(out)
    policy = import_table(file, None if config is None else read_strategy_config(config))
    write_strategy_policy(policy, out)
    print_text(f"{out}: {len(policy.table.states):,} states, {policy.rounds:,} rounds")


def _read_request(path: Path | None) -> dict[str, Any]:
    """Return the context features in a JSON file; none without a file."""
    import json

    from recpolicy.core.errors import DataError

    if path is None:
        return {}
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(body, dict):
        raise DataError(f"{path}: found {type(body).__name__}; expected an object with traits and situation")
    return body


def _traits(words: list[str] | None) -> dict[str, float]:
    """Return the traits of options NAME=VALUE."""
    traits = {}
    for word in words or ():
        name, sign, text = word.partition("=")
        try:
            traits[name] = float(text)
        except ValueError:
            sign = ""
        if not name or not sign:
            raise typer.BadParameter(f"{word!r}: expected NAME=VALUE, such as openness=80", param_hint="--trait")
    return traits
