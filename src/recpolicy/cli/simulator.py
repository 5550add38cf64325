"""`recpolicy simulator`: compare simulated sessions with real ones."""

from pathlib import Path
from typing import Annotated

import typer

from recpolicy.cli.config_tables import read_config_with_data
from recpolicy.cli.evaluation import LikeModel
from recpolicy.cli.output import print_text

app = typer.Typer(help="Validate the session simulator against real sessions.", no_args_is_help=True)

_FAILED = 1


@app.command(epilog="Example:  recpolicy simulator validate --split u1 --out runs/simulator")
def validate(
    split: Annotated[str, typer.Option("--split", help="u1..u5, ua, ub, temporal, leave-last-N or random.")] = "u1",
    data: Annotated[
        str, typer.Option("--data", help="ml-100k, a MovieLens folder, or a CSV/Parquet file of ratings with times.")
    ] = "ml-100k",
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with the tables \\[data], \\[simulator] and \\[card].")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of every random draw.")] = 0,
    like_model: LikeModel = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for card.json and card.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> int:
    """Fit the simulator on half of the users and compare it with the other half; exit code 1 if a gate fails."""
    from recpolicy.cli.output import print_frame, print_json
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.read_options import reading_for
    from recpolicy.data.splits import split as split_ratings
    from recpolicy.workflows.simulator_validation import CARD_FILE, PAGE_FILE, validate_simulator

    tables, source = read_config_with_data(config, ("simulator", "card"))
    with reading_for("config", config):
        parts = split_ratings(load_ratings(data, **source), split, seed)
    card = validate_simulator(parts, tables.get("simulator", {}), seed, out, tables.get("card"), like_model)
    if as_json:
        print_json(card.as_dict())
        return 0 if card.passed else _FAILED
    print_frame(card.table(), f"{card.world}, {card.counts['held-out users']} held-out users")
    print_text()
    if card.intervals:
        print_frame(card.interval_table())
        print_text()
    print_frame(card.policy_table(), "Policies in the simulator and on held-out choice")
    print_text()
    for name, figure in card.figures.items():
        print_text(f"{name}: {figure:.3f}")
    assumed = ", ".join(f"{name} {value:g}" for name, value in card.assumptions.items())
    print_text(f"assumed, not tested by any gate: {assumed}")
    if out is not None:
        print_text(f"written: {out / CARD_FILE}, {out / PAGE_FILE}")
    return 0 if card.passed else _FAILED
