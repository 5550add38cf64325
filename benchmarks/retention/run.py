"""Does an agent of return days bring users back sooner than an agent of likes, where they conflict?

python benchmarks/retention/run.py --out benchmarks/retention/results.json
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import arguments, context, write_results

from recpolicy.data.loaders import load_ratings
from recpolicy.data.splits import split
from recpolicy.workflows.retention_study import LABEL, QUICK, RetentionStudyConfig, run_retention_study

SEEDS = 5


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    config = RetentionStudyConfig(**(QUICK if options.quick else {"seeds": SEEDS}))
    began = time.monotonic()
    study = run_retention_study(split(load_ratings("ml-100k"), "u1"), config)
    for world in study.results:
        print(f"\n{world} world ({LABEL})\n{study.table(world).to_string()}")
    seconds = time.monotonic() - began
    figures = study.figures() | {"seconds": seconds}
    print(f"\ncontrol, independent random numbers: {study.independent_gain()}; {seconds:.0f} s")
    circumstances = context(range(config.seeds), label=LABEL, study=study.facts)
    write_results(options.out, figures, circumstances, study.trials())


if __name__ == "__main__":
    main()
