"""`recpolicy study recomind`: reinforcement learning that starts from the production ranker."""

from pathlib import Path
from typing import Annotated, Any

import typer

from recpolicy.cli.output import print_frame, print_json, print_text

EPILOG = "Example:  recpolicy study recomind --out runs/recomind --quick"


def recomind(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the study; the same command continues in it.")],
    split: Annotated[str, typer.Option("--split", help="u1..u5, ua, ub, temporal, leave-last-N or random.")] = "u1",
    data: Annotated[
        str, typer.Option("--data", help="ml-100k, a MovieLens folder, or a CSV/Parquet file of ratings with times.")
    ] = "ml-100k",
    ranker: Annotated[
        Path | None,
        typer.Option(
            "--ranker",
            help="Production ranker: folder of a policy (dqn or a linear agent), or of a registry: then its champion"
            " (default: the rating model).",
        ),
    ] = None,
    row: Annotated[
        list[str] | None, typer.Option("--row", help="Policy of the study, repeatable (default: all).")
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Run the negative and the positive control, too.")
    ] = True,
    items: Annotated[int | None, typer.Option("--items", help="Size of the catalog; 0 takes all (400).")] = None,
    gamma: Annotated[float | None, typer.Option("--gamma", help="Discount per item (0.75).")] = None,
    tau: Annotated[
        float | None, typer.Option("--tau", help="Share of new weights in the target network per update (0.001).")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Number of best items among which exploration draws (50).")
    ] = None,
    total_timesteps: Annotated[
        int | None, typer.Option("--total-timesteps", help="Items recommended in each training (150,000).")
    ] = None,
    episodes: Annotated[
        int | None, typer.Option("--episodes", help="Simulated sessions per policy, world and seed (100,000).")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Number of seeds (5).")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small part: 2 seeds, short trainings, few sessions.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the worlds and of the rating model.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare reinforcement learning that starts from the production ranker with the ranker and other baselines.

    After RecoMind (2508.00201). Every cell is stored when it is ready, so a study that was killed continues.
    """
    from recpolicy.core.config import build
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.splits import split as split_ratings
    from recpolicy.workflows.recomind import check_rows, run_recomind
    from recpolicy.workflows.recomind_cells import QUICK, ROWS, RecoMindConfig

    check_rows(row)
    given: dict[str, Any] = {
        "items": items, "gamma": gamma, "tau": tau, "exploration_top_k": top_k, "total_timesteps": total_timesteps,
        "episodes": episodes, "seeds": seeds, "seed": seed,
    }  # fmt: skip
    settings = {**(QUICK if quick else {}), **{name: value for name, value in given.items() if value is not None}}
    config = build(RecoMindConfig, settings, "study recomind")
    parts = split_ratings(load_ratings(data), split, seed)
    study = run_recomind(parts, out, config, rows=row, controls=controls, ranker=ranker)

    from recpolicy.workflows.recomind_report import answer, difference_table, figures, table, write_recomind

    written = write_recomind(study, out)
    if as_json:
        print_json(figures(study))
        return
    print_text(answer(study))
    print_text()
    print_frame(table(study), f"{len(ROWS)} policies at most, 95 % intervals over {config.seeds} seeds")
    if len(difference_table(study)):
        print_text()
        print_frame(difference_table(study), "Differences in likes per session")
    print_text(f"written: {', '.join(str(path) for path in written)}")
