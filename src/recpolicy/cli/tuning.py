"""`recpolicy tune`: weigh the heads of a trained policy's ranking formula, user by user."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recpolicy.cli.command import Command
from recpolicy.cli.output import print_frame, print_json, print_text

if TYPE_CHECKING:
    from recpolicy.inference.predictor import Policy
    from recpolicy.workflows.layer_tuning import TuningResult, WorldComparison


def tune(
    folder: Annotated[Path, typer.Argument(metavar="POLICY", help="Folder of a trained policy of single rounds.")],
    log: Annotated[
        Path,
        typer.Option("--log", help="Log of uniform weights, such as of `recpolicy log simulate --weights uniform`."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the policy with its tuned layer.")],
    heads: Annotated[
        str | None, typer.Option("--heads", help="The expected heads, separated by commas (default: those of the log).")
    ] = None,
    method: Annotated[
        str,
        typer.Option("--method", help="value_regression, or a policy gradient: reinforce, actor_critic_weighted, ..."),
    ] = "value_regression",
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Gradient steps (1,500).")] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option("--reward", help="OBJECTIVE=WEIGHT: like, session_continues or novelty (like=1)."),
    ] = None,
    static: Annotated[
        list[str] | None,
        typer.Option(
            "--static",
            help="HEAD=WEIGHT: the weights that serve today, one for each head; they are the fallback and the rival"
            " (default: the best of the log).",
        ),
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option("--head-table", help="Own heads: Parquet or CSV with user_id, item_id and numbers.")
    ] = None,
    items: Annotated[
        Path | None, typer.Option("--item-table", help="Own heads of items: Parquet or CSV with item_id and numbers.")
    ] = None,
    worlds: Annotated[
        bool, typer.Option("--worlds/--no-worlds", help="Compare in both simulated worlds, too; needs the ratings.")
    ] = True,
    data: Annotated[str | None, typer.Option("--data", help="The ratings, if their path has changed.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the halves of the log and of the training.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tune the weights of a ranking formula on a log of uniform weights, and pass it through three gates.

    The policy itself is not changed: the folder gets a copy of it with the layer, and is a policy itself. It is written
    whatever the gates say.
    """
    from recpolicy.core.config import build
    from recpolicy.core.optional_deps import require_extra
    from recpolicy.core.tensorflow_setup import silence_libraries
    from recpolicy.inference.predictor import load_policy

    policy = load_policy(folder).base
    require_extra("report", "recpolicy tune")
    if worlds:
        require_extra("train", "the comparison in simulated worlds (--no-worlds leaves it out)")
        silence_libraries()
    from recpolicy.workflows.layer_tuning import LayerTuningConfig, tune_layer

    agent: dict[str, Any] = {"method": method, "learning_rate": 0.003, **({} if steps is None else {"steps": steps})}
    settings: dict[str, Any] = {"agent": agent}
    if reward:
        settings["reward"] = _named_numbers(reward, "--reward", "OBJECTIVE=WEIGHT, such as like=1")
    if static:
        settings["static_weights"] = _named_numbers(static, "--static", "HEAD=WEIGHT, such as novelty=0.5")
    config = build(LayerTuningConfig, settings, "tune")
    result = tune_layer(
        policy,
        log,
        out,
        base=folder,
        heads=parse_heads(heads),
        config=config,
        own=own_heads(policy, pairs, items),
        seed=seed,
    )
    compared = _compared(result, policy, data, seed) if worlds else []
    if as_json:
        print_json({**result.as_dict(), "worlds": [part.as_dict() for part in compared], "out": str(out)})
    else:
        _print(result, compared)
        print_text(f"written: {out}")


def parse_heads(text: str | None) -> list[str] | None:
    """Return the names of a list with commas."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def own_heads(policy: "Policy", pairs: Path | None, items: Path | None) -> Any:
    """Return the heads of the user's files."""
    from recpolicy.inference.ranking_utility import read_own_heads

    return read_own_heads(policy.scorer, pairs, items)


def _named_numbers(words: list[str], option: str, expected: str) -> dict[str, float]:
    """Return numbers by name from NAME=NUMBER."""
    weights = {}
    for word in words:
        name, sign, text = word.partition("=")
        try:
            weights[name] = float(text)
        except ValueError:
            sign = ""
        if not name or not sign:
            raise typer.BadParameter(f"{word!r}: expected {expected}", param_hint=option)
    return weights


def _compared(result: "TuningResult", policy: "Policy", data: str | None, seed: int) -> "list[WorldComparison]":
    from recpolicy.cli.evaluation import load_training_split
    from recpolicy.models.session_worlds import fit_two_worlds
    from recpolicy.workflows.layer_tuning import compare_in_world

    worlds = fit_two_worlds(load_training_split(policy, data), None, int(policy.metadata.get("seed", 0)))
    return [compare_in_world(result, world, seed) for world in (worlds.training_world, worlds.evaluation_world)]


def _print(result: "TuningResult", compared: "list[WorldComparison]") -> None:
    import pandas as pd

    body = result.as_dict()
    print_text(result.gates.reason())
    for label in ("static_weights", "mean_weights"):
        text = ", ".join(f"{name} {value:.2f}" for name, value in body[label].items())
        print_text(f"{label.replace('_', ' ')}: {text}")
    for world in compared:
        table = pd.DataFrame(world.values).T.rename_axis("policy").reset_index().round(4)
        print_text()
        print_frame(table, f"Exact rewards per slate in {world.world}")
        for label, interval in (
            ("best static weights", world.over_static), ("the policy alone", world.over_policy),
            ("its own mean weights", world.over_mean_weights),
        ):  # fmt: skip
            print_text(f"tuned layer minus {label}: {interval.value:.4f} [{interval.lo:.4f}, {interval.hi:.4f}]")
        print_text()
        print_frame(pd.DataFrame(list(world.by_activity)).round(3), "Weights by activity of the user")


COMMANDS = (
    Command(tune, "Example:  recpolicy tune runs/linucb --heads like,novelty --log logs/weights --out runs/tuned"),
)
