"""Does tuning the weights of a ranking formula by request pay, and which losses find it?

python benchmarks/drl_put/run.py --out benchmarks/drl_put/results.json
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import arguments, context, write_results

from recpolicy.core.config import as_dict
from recpolicy.core.json import to_plain
from recpolicy.workflows.ads_study import QUICK, AdsStudyConfig, StudyRow, run_ads_study
from recpolicy.workflows.ads_study_report import answer, diversity_table, study_figures, study_table, table


def main() -> None:
    """Run the study and write its figures."""
    asked = arguments(__doc__ or "")
    config = AdsStudyConfig(**QUICK) if asked.quick else AdsStudyConfig()
    started = time.perf_counter()
    done: list[list[StudyRow]] = []

    def store(_: int, rows: list[StudyRow]) -> None:
        """Write what is there after each seed: a run that is killed leaves its seeds."""
        done.append(rows)
        write_results(
            asked.out,
            {**study_figures(done), "minutes": (time.perf_counter() - started) / 60},
            context(
                range(config.seed, config.seed + len(done)), config=as_dict(config), table=to_plain(study_table(done))
            ),
        )

    rows = run_ads_study(config, store=store)
    print(answer(rows))
    print(table(rows).to_string())
    print(diversity_table(rows).to_string())


if __name__ == "__main__":
    main()
