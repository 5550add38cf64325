"""`recpolicy study retention`: agents of return days against agents of likes, with controls."""

from pathlib import Path
from typing import Annotated

import typer

from recpolicy.cli.output import print_frame, print_json, print_text

EPILOG = "Example:  recpolicy study retention --out runs/retention --quick"


def retention(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for retention.json.")],
    split: Annotated[str, typer.Option("--split", help="u1..u5, ua, ub, temporal, leave-last-N or random.")] = "u1",
    data: Annotated[
        str, typer.Option("--data", help="ml-100k, a MovieLens folder, or a CSV/Parquet file of ratings with times.")
    ] = "ml-100k",
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Policy whose heads are weighted (default: the rating model).")
    ] = None,
    items: Annotated[int | None, typer.Option("--items", help="Size of the catalog, without --policy (200).")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Number of training seeds (3).")] = None,
    blocks: Annotated[
        int | None, typer.Option("--blocks", help="Blocks of 12,800 requests in each training (20).")
    ] = None,
    chains: Annotated[int | None, typer.Option("--chains", help="Chains of each user in an evaluation (10).")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small part: 1 seed, 4 blocks, 2 chains.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the worlds and of the rating model.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare agents that bring users back with agents of likes, in simulated chains of sessions.

    Three worlds: one with a conflict of likes and return, one without, and one in which no policy moves the return.
    """
    from recpolicy.core.config import build
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.splits import split as split_ratings
    from recpolicy.inference.predictor import load_policy
    from recpolicy.workflows.retention_study import LABEL, QUICK, RetentionStudyConfig, run_retention_study

    given = {"items": items, "seeds": seeds, "blocks": blocks, "chains": chains}
    settings = {**(QUICK if quick else {}), **{name: value for name, value in given.items() if value is not None}}
    config = build(RetentionStudyConfig, settings, "study retention")
    parts = split_ratings(load_ratings(data), split, seed)
    loaded = None if policy is None else load_policy(policy)
    study = run_retention_study(parts, config, policy=loaded, out=out, seed=seed)
    if as_json:
        print_json(study.as_dict())
        return
    for world in study.results:
        print_frame(study.table(world).reset_index(), f"\n{world} world ({LABEL})")
    gain = study.independent_gain()
    print_text(f"\ncontrol with independent random numbers: rlur {gain} days sooner; expected 0")
    print_text(f"written: {out / 'retention.json'}")
