"""Do the intervals of slates and sessions hold the truth? Logs drawn again and again from the worlds of MovieLens 100K.

    python benchmarks/ope_coverage/run.py [--quick] --out results.json

README.md says what is drawn, judged and counted.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two logs at a time are quicker than one with two threads

import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ROOT, arguments, context, write_results

from recpolicy.core.tensorflow_setup import silence_libraries

silence_libraries()  # before TF-Agents is imported

import pages  # noqa: E402
import sessions  # noqa: E402
from counting import Truth, counted, dealt, in_threads  # noqa: E402

from recpolicy.core.seeds import generator  # noqa: E402
from recpolicy.data.loaders import load_ratings  # noqa: E402
from recpolicy.data.splits import Split, split  # noqa: E402
from recpolicy.ope.config import MultiStepConfig  # noqa: E402
from recpolicy.ope.estimators import SLATE_ESTIMATORS, TRAJECTORY_ESTIMATORS  # noqa: E402
from recpolicy.workflows.logging_policies import make_logging_policy  # noqa: E402
from recpolicy.workflows.policy_training import TrainConfig, train  # noqa: E402
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds  # noqa: E402
from recpolicy.workflows.session_training import train_sessions  # noqa: E402
from recpolicy.workflows.slate_logs import SlateLogConfig, shelves_by_year  # noqa: E402

SEED = 0
ITEMS = 100
FLOORS = {"near": 0.1, "between": 0.3, "random": 1.0}
"""Shares of uniform choices with which the target itself logs sessions."""
RIGHT = {
    "all": tuple(SLATE_ESTIMATORS), "cascade": ("ips", "snips", "rips", "cascade_dr"),
    "sessions": tuple(name for name in TRAJECTORY_ESTIMATORS if name != "fqe"),
}  # fmt: skip
"""Estimators whose assumptions hold, by what is judged; fqe's intervals do not count the bias of its model."""
FEWEST = 50
"""Logs with a verdict below which a coverage is not among the lowest."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is drawn."""

    logs: int = 200
    pages: tuple[int, int] = (1_000, 10_000)
    sessions: tuple[int, int] = (500, 5_000)
    truth_pages: int = 1_000_000
    truth_sessions: int = 500_000
    resamples: int = 400
    interactions: int = 50_000
    """Of the training of linucb."""
    timesteps: int = 60_000
    """Of the training of topk_reinforce."""


QUICK = Size(
    logs=20, pages=(200, 1_000), sessions=(100, 500), truth_pages=20_000, truth_sessions=5_000, resamples=100,
    interactions=5_000, timesteps=5_000,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One way to draw logs, judged at several sizes."""

    kind: str
    """Whose assumptions hold: a name in RIGHT."""
    name: str
    truth: Truth
    logged: Truth
    cells: Mapping[str, Mapping[str, Any]]
    """By size of a log: figures by estimator (counting.py)."""


def slates(parts: Split, size: Size, seed: int, out: Path) -> Iterator[Case]:
    """Pages of both layouts and both ways to read; the target is a linucb policy, the rating model logs."""
    config = TrainConfig(items=ITEMS, total_timesteps=size.interactions)
    policy = train("linucb", parts, out / "linucb", config=config, seed=0, show_progress=False)
    rating_model, settings = make_logging_policy("rating_model", parts.train, config, None, None, 0), SlateLogConfig()
    arms = policy.artifact.action_items
    score, rating = (table[:, arms] for table in policy.scores())
    world = make_worlds(parts, SessionTrainConfig(items=ITEMS), 0).training_world
    logger = pages.exploring(rating_model.score, settings.temperature, settings.uniform_mix)
    targets = {
        "near": pages.exploring(score, 0.2, 0.0), "far": pages.exploring(score, 0.1, 0.0), "greedy": pages.best(score),
    }  # fmt: skip
    shelves = shelves_by_year(parts.train.items, arms, pages.SLOTS)
    for reading in ("all", "cascade"):
        shop = pages.Shop(world, arms, shelves, reading)
        yield from _of_shop(shop, logger, targets, rating, size, seed, "shelves")
        shop = pages.Shop(world, arms, None, reading)
        small = replace(size, pages=size.pages[:1])
        yield from _of_shop(shop, logger, {"near": targets["near"]}, rating, small, seed, "list")


def _of_shop(
    shop: pages.Shop, logger: pages.Chance, targets: Mapping[str, pages.Chance], rating: Any, size: Size, seed: int,
    layout: str,
) -> Iterator[Case]:  # fmt: skip
    """One shop with one logging policy: a case for each target, and the controls for the near one."""
    most = max(size.pages)
    spare = (pages.EACH - 1) * len(shop.world.users)  # a person's last pages, too few to make a user
    played = shop.play(logger, size.logs * most + spare, seed)
    logged = shop.truth(logger, size.truth_pages, seed + 1)
    rows = dealt(played.user, pages.EACH, size.logs, most, generator(seed, f"{layout}/{shop.reading}"))
    for name, target in targets.items():
        draw = Draw(size, shop, played, target, pages.seen(shop, played, target, rating), logger)
        truth = shop.truth(target, size.truth_pages, seed + 2)
        label, users = f"{shop.reading}, {layout}, {name}", np.arange(most) // pages.EACH
        found = {str(count): in_threads(draw.asking(rows[:, :count], users), size.logs) for count in size.pages}
        cells = {count: counted(asked, truth, logged) for count, asked in found.items()}
        yield Case(shop.reading, label, truth, logged, cells)
        if label == "all, shelves, near":
            mixed = counted(in_threads(draw.asking(rows, users, seed), size.logs), truth, logged)
            yield Case("control", f"{label}, shuffled propensities", truth, logged, {str(most): mixed})
            as_played = np.arange(size.logs * most).reshape(size.logs, most)
            again = {
                str(count): counted(in_threads(draw.asking(as_played[:, :count]), size.logs), truth, logged)
                for count in size.pages
            }
            yield Case("again", f"{label}, people who come again", truth, logged, again)


@dataclass(frozen=True)
class Draw:
    """The shown pages under one target."""

    size: Size
    shop: pages.Shop
    played: Any
    target: pages.Chance
    seen: pages.Seen
    logger: pages.Chance

    def asking(self, rows: Any, users: Any = None, shuffle: int | None = None) -> Any:
        """A function from the number of a log to what it says; rows [R, n].

        users [n]: whose pages they are, None: the people's own. shuffle: the seed by which propensities are mixed up.
        """
        shelved = self.shop.shelves is not None and shuffle is None
        whole, pseudo = self.shop.largest(self.target, self.logger) if shelved else (np.inf, None)
        span = (0.0, float(pages.SLOTS if self.shop.reading == "all" else 1))

        def ask(number: int) -> Any:
            mine = rows[number]
            log = pages.log_of(self.seen, mine, self.played.user[mine] if users is None else users[: len(mine)])
            config = MultiStepConfig(resamples=self.size.resamples, seed=number, reward_range=span, weight_bound=whole)
            if shuffle is not None:
                log = pages.shuffled(log, generator(shuffle, f"shuffled/{number}"))
            return pages.asked(log, config, pseudo)

        return ask


def in_sessions(parts: Split, size: Size, seed: int, out: Path) -> Iterator[Case]:
    """Sessions logged by the target with three shares of uniform choices; the target is a topk_reinforce policy."""
    config = SessionTrainConfig(items=ITEMS, total_timesteps=size.timesteps)
    worlds = make_worlds(parts, config, 0)
    policy = train_sessions(
        "topk_reinforce", parts, out / "topk", config=config, worlds=worlds, seed=0, show_progress=False
    )
    stage = sessions.Stage(worlds.training_world, policy)
    truth = Truth.of(sessions.Sessions(stage.play(0.0, size.truth_sessions, seed + 2)).earned)
    for name, floor in FLOORS.items():
        yield from _of_stage(stage, name, floor, truth, size, seed)


def _of_stage(stage: sessions.Stage, name: str, floor: float, truth: Truth, size: Size, seed: int) -> Iterator[Case]:
    """One logging policy of sessions: its case, and the control for the near one."""
    most, steps = max(size.sessions), int(stage.parts.policy["steps"])
    spare = (sessions.EACH - 1) * len(stage.world.users)
    played = sessions.Sessions(stage.play(floor, size.logs * most + spare, seed + 3))
    logged = Truth.of(played.earned)
    rows = dealt(played.person, sessions.EACH, size.logs, most, generator(seed, f"sessions/{name}"))
    bound = (1 - floor) ** -steps if floor < 1 else np.inf

    def ask(number: int) -> Any:
        user = np.arange(most) // sessions.EACH
        log = sessions.seen(stage.parts, played.taken(rows[number]), user)
        config = MultiStepConfig(
            resamples=size.resamples, seed=number, reward_range=(0.0, float(steps)), weight_bound=bound
        )
        found = [sessions.asked(log.first(count), config) for count in size.sessions]
        if name == "near":
            mixed = log.shuffled(generator(seed, f"shuffled/{number}"))
            found.append(sessions.asked(mixed, replace(config, weight_bound=np.inf)))
        return found

    columns = list(zip(*in_threads(ask, size.logs), strict=True))  # by size, then the control
    cells = [counted(column, truth, logged) for column in columns]
    named = {str(count): cell for count, cell in zip(size.sessions, cells, strict=False)}
    yield Case("sessions", f"sessions, {name}", truth, logged, named)
    if name == "near":
        yield Case("control", f"sessions, {name}, shuffled propensities", truth, logged, {str(most): cells[-1]})


def figures_of(cases: list[Case]) -> dict[str, float]:
    """Coverage of logs with a verdict by estimators whose assumptions hold: pooled, and the lowest of one estimator."""
    figures = {}
    for what, kinds in (("slates", ("all", "cascade")), ("sessions", ("sessions",))):
        right = [
            told
            for case in cases
            if case.kind in kinds
            for cell in case.cells.values()
            for name, told in cell.items()
            if name in RIGHT[case.kind]
        ]
        for kind in ("bootstrap", "t", "sequence", "bernstein"):
            for suffix, of in (("", right), ("_gain", [one["gain"] for one in right])):
                held = [one["intervals"][kind]["judged"] for one in of if kind in one["intervals"]]
                figures |= _pooled(f"coverage_{what}_{kind}{suffix}", [one for one in held if one is not None])
    return figures


def _pooled(name: str, shares: list[dict[str, float]]) -> dict[str, float]:
    """The share of all logs together, and the lowest of those of many logs, where there are any."""
    if not shares:
        return {}
    of_many = [one["share"] for one in shares if one["logs"] >= FEWEST]
    pooled = float(np.average([one["share"] for one in shares], weights=[one["logs"] for one in shares]))
    return {name: pooled, **({f"{name}_lowest": min(of_many)} if of_many else {})}


def rounded(told: Any) -> Any:
    """Plain values with numbers of five significant digits, None if infinite; a share with its interval as one text."""
    if isinstance(told, Mapping):
        if told.keys() == {"share", "lo", "hi", "logs"}:
            return "{share:.3f} [{lo:.3f}, {hi:.3f}] of {logs}".format(**told)
        return {name: rounded(one) for name, one in told.items()}
    if isinstance(told, float):
        return float(f"{told:.5g}") if math.isfinite(told) else None
    return told


def show(case: Case) -> None:
    """Print one case."""
    print(f"\n{case.name}: truth {case.truth.value:.4f} ± {case.truth.error:.4f}, logged {case.logged.value:.4f}")
    for size, cell in case.cells.items():
        print(f"  {size}:")
        for name, told in cell.items():
            held = {
                kind: (one["all"]["share"], one["judged"] and one["judged"]["share"], one["half_width"])
                for kind, one in told["intervals"].items()
            }
            line = "  ".join(
                f"{kind} {100 * every:5.1f}" + ("      " if some is None else f" ({100 * some:5.1f})") + f" ±{half:.3f}"
                for kind, (every, some, half) in held.items()
            )
            print(
                f"    {name:18} off {told['bias']:+.4f} ± {told['bias_error']:.4f} rmse {told['rmse']:.4f}"
                f" ess {told['effective']:7.0f} none {100 * told['no_verdict']:5.1f}  {line}"
            )


def main() -> None:
    """Draw, ask, count, write."""
    options = arguments(__doc__ or "")
    size = QUICK if options.quick else Size()
    parts, start = split(load_ratings(ROOT / "ml-100k"), "u1"), time.perf_counter()
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for judged in (slates, in_sessions):
            for case in judged(parts, size, SEED, Path(folder)):
                show(case)
                print(f"  {time.perf_counter() - start:.0f} s", flush=True)
                cases.append(case)
    figures = figures_of(cases)
    figures["seconds"] = time.perf_counter() - start
    for name, value in figures.items():
        print(f"{name:40} {value:9.4f}")
    told = context(
        [SEED], data=parts.train.digest, size=asdict(size), quick=options.quick,
        cases={case.name: rounded(asdict(case)) for case in cases},
    )  # fmt: skip
    write_results(options.out, figures, told)


if __name__ == "__main__":
    main()
