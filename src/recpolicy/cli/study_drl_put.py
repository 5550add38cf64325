"""`recpolicy study drl-put`: utility tuning in a synthetic world of ads."""

from pathlib import Path
from typing import Annotated, Any

import typer

from recpolicy.cli.output import print_frame, print_json, print_text

EPILOG = "Example:  recpolicy study drl-put --out runs/drl_put --quick"


def drl_put(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the study; the same command continues in it.")],
    rounds: Annotated[int | None, typer.Option("--rounds", min=100, help="Logged requests to train on.")] = None,
    evaluation_rounds: Annotated[
        int | None, typer.Option("--evaluation-rounds", min=100, help="Logged requests of the gates.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=10, help="Gradient steps of a training.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Number of seeds.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="First seed.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A small part: one seed, few requests and steps.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Tune the ranking formula of synthetic ads by every method, and compare gates with true values.

    After DRL-PUT (2509.05292), whose full text was not available: six configurations, rivals, two controls. Every seed
    is stored when it is ready, so a study that was killed continues.
    """
    from recpolicy.core.config import build
    from recpolicy.core.optional_deps import require_extra

    require_extra("report", "recpolicy study drl-put")
    from recpolicy.workflows.ads_study import QUICK, AdsStudyConfig
    from recpolicy.workflows.ads_study_report import (
        NOTE,
        answer,
        continue_ads_study,
        diversity_table,
        study_figures,
        table,
        write_ads_study,
    )

    given: dict[str, Any] = {
        "rounds": rounds, "evaluation_rounds": evaluation_rounds, "steps": steps, "seeds": seeds, "seed": seed,
    }  # fmt: skip
    settings = {**(QUICK if quick else {}), **{name: value for name, value in given.items() if value is not None}}
    config = build(AdsStudyConfig, settings, "study drl-put")
    rows = continue_ads_study(config, out)
    written = write_ads_study(rows, config, out)
    if as_json:
        print_json(study_figures(rows))
        return
    print_text(answer(rows))
    print_text()
    print_frame(table(rows), f"Gates and true values, {config.seeds} seeds (brackets: lowest and highest limit)")
    print_text()
    print_frame(diversity_table(rows), "Diversity over training")
    print_text(f"\n{NOTE}\nwritten: {', '.join(map(str, written))}")
