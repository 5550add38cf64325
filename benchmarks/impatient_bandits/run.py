"""How much regret do early days save when new items are explored by delayed outcomes?

python benchmarks/impatient_bandits/run.py --out benchmarks/impatient_bandits/results.json
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bandit import FEEDBACK, Run, run_elimination, run_random, run_second_day, run_thompson
from common import ROOT, arguments, context, write_results
from movielens import item_panel, read_activity, user_panel
from scipy.stats import t as student
from worlds import Stay, fit_past, isotropic, make_gaussian, make_world

from recpolicy.coldstart.filter import ItemStatistics
from recpolicy.core.seeds import generator

ITEMS, USERS, DAYS, HORIZON, TRIALS = 200, 200, 180, 60, 10
ADMISSIBLE, FEW_USERS = 60, 50
SEEN = (0, 1, 2, 5, 10, 20, 30, 60)


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return mean and 95 % t interval over trials."""
    array = np.array(values)
    half = student.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)) if len(array) > 1 else 0.0
    return float(array.mean()), float(array.mean() - half), float(array.mean() + half)


def put(figures: dict[str, float], name: str, values: list[float]) -> None:
    figures[name], figures[f"{name}_lo"], figures[f"{name}_hi"] = interval(values)


def stationary(trial: int, days: int) -> dict[str, Run]:
    """Return the runs of one trial by name."""
    runs: dict[str, Run] = {}
    for name in ("stay", "blind_second_day", "shuffled", "shuffled_within"):
        world, prior = make_world(name, ITEMS, HORIZON, trial), fit_past(name, HORIZON, trial)
        label = "" if name == "stay" else f"{name}_"

        def rng(trial: int = trial) -> np.random.Generator:
            return generator(trial, "impatient bandit")

        for feedback in FEEDBACK[name.startswith("shuffled") :]:
            runs[f"{label}{feedback}"] = run_thompson(world, prior, feedback, days, USERS, rng())
        if not name.startswith("shuffled"):
            runs[f"{label}day_two"] = run_second_day(world, prior, days, USERS, rng())
        if name == "stay":
            runs["isotropic"] = run_thompson(world, isotropic(HORIZON), "progressive", days, USERS, rng())
            for share in (0.01, 0.04):
                runs[f"elimination_{share:.0%}".replace("%", "_percent")] = run_elimination(
                    world, prior, share, days, USERS, rng()
                )
            runs["random"] = run_random(world, days, USERS, rng())
    return runs


def gaussian(trial: int, days: int) -> dict[str, Run]:
    """Return the runs of one trial in the model's own world, with the parameters that past items taught."""
    prior = fit_past("stay", HORIZON, trial)
    world = make_gaussian(prior, ITEMS, trial)
    runs: dict[str, Run] = {}
    for name, model, feedback in (
        *((name, prior, name) for name in FEEDBACK), ("isotropic", isotropic(HORIZON), "progressive")
    ):  # fmt: skip
        rng = generator(trial, "impatient gaussian bandit")
        runs[f"gaussian_{name}"] = run_thompson(world, model, feedback, days, USERS, rng)
    return runs


def moving(trial: int, days: int) -> dict[str, Run]:
    """Return the runs of one trial in which 60 items may be shown, and each day one comes and one goes."""
    world, prior = make_world("stay", ADMISSIBLE + days, HORIZON, trial), fit_past("stay", HORIZON, trial)

    def admissible(day: int) -> np.ndarray:
        return np.arange(day, day + ADMISSIBLE)

    runs: dict[str, Run] = {
        feedback: run_thompson(
            world, prior, feedback, days, FEW_USERS, generator(trial, "impatient moving"), admissible
        )
        for feedback in ("oracle", "progressive", "delayed")
    }
    runs["random"] = run_random(world, days, FEW_USERS, generator(trial, "impatient moving"), admissible)
    return runs


def run_trial(trial: int, days: int) -> tuple[dict, dict]:
    """Return the runs of one trial with fixed and with changing items."""
    start = time.perf_counter()
    runs, moved = stationary(trial, days) | gaussian(trial, days), moving(trial, days)
    for each in (runs, moved):
        total = {name: round(run.regret.sum(), 1) for name, run in each.items()}
        print(trial, round(time.perf_counter() - start), "s", total, flush=True)
    return runs, moved


def stickiness_errors(trial: int, traces: int) -> dict[int, float]:
    """Return the mean absolute error of forecasts of 200 new items by the days seen of their traces."""
    world, prior = make_world("stay", ITEMS, HORIZON, trial), fit_past("stay", HORIZON, trial)
    return _errors_of(world, prior, traces, generator(trial, "impatient stickiness"))


def _errors_of(world: Stay, prior, traces: int, rng: np.random.Generator) -> dict[int, float]:
    item = np.repeat(np.arange(ITEMS), traces)
    outcomes, exact = world.draw(item, rng), prior.filter()
    errors = {}
    for seen in SEEN:
        statistics = ItemStatistics.from_traces(item, outcomes, np.full(len(item), seen), ITEMS, exact.whitening)
        belief = exact.belief(prior.coefficients[0], statistics)
        errors[seen] = float(np.abs(belief.mean - world.worth).mean())
    return errors


def main() -> None:
    options = arguments(__doc__ or "")
    trials, days = (2, 90) if options.quick else (TRIALS, DAYS)
    figures: dict[str, float] = {}
    results = [run_trial(trial, days) for trial in range(trials)]
    runs, moved = [each[0] for each in results], [each[1] for each in results]
    by_trial: dict[str, list[float]] = {}
    for prefix, each in (("", runs), ("moving_", moved)):
        for name in each[0]:
            by_trial[f"{prefix}regret_{name}"] = [float(run[name].regret.sum()) for run in each]
            by_trial[f"{prefix}entropy_day_90_{name}"] = [float(run[name].entropy[min(89, days - 1)]) for run in each]
    for name, values in by_trial.items():
        put(figures, name, values)
    for name in runs[0]:
        half = days // 2
        put(figures, f"daily_regret_second_half_{name}", [float(run[name].regret[half:].mean()) for run in runs])
    for label in ("", "gaussian_", "blind_second_day_", "shuffled_", "shuffled_within_"):
        ratio = [run[f"{label}progressive"].regret.sum() / run[f"{label}delayed"].regret.sum() for run in runs]
        put(figures, f"{label}regret_progressive_over_delayed", [float(value) for value in ratio])
    for label in ("", "gaussian_"):
        ratio = [run[f"{label}isotropic"].regret.sum() / run[f"{label}delayed"].regret.sum() for run in runs]
        put(figures, f"{label}regret_isotropic_over_delayed", [float(value) for value in ratio])
    quarter = days // 4
    put(figures, "blind_second_day_day_two_slope_change", [
        float(run["blind_second_day_day_two"].regret[-quarter:].mean()
              - run["blind_second_day_day_two"].regret[2 * quarter : 3 * quarter].mean()) for run in runs
    ])  # fmt: skip
    for name in moved[0]:
        put(figures, f"moving_newest_share_{name}", [float(run[name].newest[days // 3 :].mean()) for run in moved])
    for traces in (10, 100, 1_000):
        errors = [stickiness_errors(trial, traces) for trial in range(min(trials, 5))]
        for seen in SEEN:
            put(figures, f"error_{traces}_traces_{seen}_days", [each[seen] for each in errors])
    data = read_activity(ROOT / "ml-100k")
    for panel, errors in (("users", user_panel(data)), ("items", item_panel(data, 0))):
        for name, by_days in errors.items():
            for seen, value in by_days.items():
                figures[f"movielens_{panel}_{name}_{seen}"] = value
    about = {
        "items": ITEMS, "users_a_day": USERS, "days": days, "horizon": HORIZON, "moving_users_a_day": FEW_USERS,
        "moving_admissible": ADMISSIBLE,
    }  # fmt: skip
    write_results(options.out, figures, context(list(range(trials)), **about), by_trial)


if __name__ == "__main__":
    main()
