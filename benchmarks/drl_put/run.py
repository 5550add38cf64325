"""Does tuning the weights of a ranking formula by request pay, and which losses find it?

python benchmarks/drl_put/run.py --out benchmarks/drl_put/results.json

Every seed is stored in a folder next to the results when it is ready, so the same command continues a run that was
killed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import arguments, context, write_results

from recpolicy.core.config import as_dict
from recpolicy.core.json import to_plain
from recpolicy.workflows.ads_study import QUICK, AdsStudyConfig
from recpolicy.workflows.ads_study_report import (
    answer,
    continue_ads_study,
    diversity_table,
    study_figures,
    study_table,
    table,
)


def main() -> None:
    """Run the study and write its figures."""
    asked = arguments((__doc__ or "").splitlines()[0])
    config = AdsStudyConfig(**QUICK) if asked.quick else AdsStudyConfig()
    rows = continue_ads_study(config, asked.out.with_name(f"{asked.out.stem}_seeds"))
    seeds = range(config.seed, config.seed + config.seeds)
    facts = {"config": as_dict(config), "table": to_plain(study_table(rows))}
    write_results(asked.out, study_figures(rows), context(seeds, **facts))
    print(answer(rows))
    print(table(rows).to_string())
    print(diversity_table(rows).to_string())


if __name__ == "__main__":
    main()
