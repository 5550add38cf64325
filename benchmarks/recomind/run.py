"""Does a policy that starts from the production ranker beat it? The study `recomind` with 5 seeds.

python benchmarks/recomind/run.py --out benchmarks/recomind/results.json
"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import arguments, context, write_results

from recpolicy.data.loaders import load_ratings
from recpolicy.data.splits import split
from recpolicy.workflows.recomind import run_recomind
from recpolicy.workflows.recomind_cells import QUICK, RecoMindConfig
from recpolicy.workflows.recomind_report import PLOT_FILE, answer, difference_table, figures, table, write_recomind

SETTINGS = {"seeds": 5, "episodes": 20_000}
"""100,000 sessions of each policy in each world, over all seeds."""


def main() -> None:
    asked = arguments("Does a policy that starts from the production ranker beat it?")
    config = RecoMindConfig(**(QUICK if asked.quick else SETTINGS))
    # The folder has a name of its own, so that a run that was killed continues.
    folder = Path(tempfile.gettempdir()) / f"recpolicy-recomind{'-quick' if asked.quick else ''}"
    study = run_recomind(split(load_ratings("ml-100k"), "u1"), folder, config)
    write_recomind(study, folder)
    print(answer(study), table(study).to_string(), difference_table(study).to_string(), sep="\n\n")
    settings = {"items": config.items, "steps": config.total_timesteps, "episodes_per_seed": config.episodes}
    write_results(asked.out, figures(study), context(range(config.seeds), **settings))
    if not asked.quick:
        shutil.copyfile(folder / PLOT_FILE, asked.out.with_name("likes.png"))


if __name__ == "__main__":
    main()
