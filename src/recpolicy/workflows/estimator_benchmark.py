"""The benchmark of the off-policy estimators in a world fitted on ratings: JSON, a page, and the simulated world.

U users, A items of the catalog, N rounds.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recpolicy.core.config import PositiveFraction, Size, Temperature, as_dict, config_dataclass
from recpolicy.core.files import write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.data.ratings import Ratings
from recpolicy.models.rating_model import RatingModel
from recpolicy.ope.benchmark.logged_world import LoggedWorld, cluster_actions
from recpolicy.ope.benchmark.run_benchmark import BenchmarkConfig, run_benchmark
from recpolicy.ope.benchmark.scores import BenchmarkResult
from recpolicy.workflows.artifacts import check_writable_folder
from recpolicy.workflows.interaction_logs import LogConfig, logging_probabilities
from recpolicy.workflows.policy_training import TrainConfig, training_world
from recpolicy.workflows.training_data import coerce, prepare_features

if TYPE_CHECKING:
    from recpolicy.evaluation.report_page import ReportContent

RESULT_FILE, PAGE_FILE = "estimators.json", "estimators.html"
ITEMS = 100
"""Size of the catalog by default."""
NEAR, FAR = "near", "far"
"""The logging policies: the target with more randomness, and the uniform choice."""

_NOTES = (
    "The world is simulated. Its expected ratings come from a model fitted on the train part, and its ratings are drawn"
    " around them. The target's true value is enumerated, not estimated. Users of a log are drawn from the simulated"
    " ones, each with a few rounds; intervals are by user.",
    "The estimators' reward model is the rating model by which the target ranks. It belongs to another model class than"
    " the world, so it is wrong, most of all where the target acts: dm shows by how much.",
    "A relative error on a scale of 1..5 looks small. Compare errors with the target's difference to the logging"
    " policy, in the summary.",
    "dm and mips have a bias that their intervals ignore: the reward model's, and that of the clusters (items with"
    " similar mean estimates). Coverage figures leave them out.",
)


@config_dataclass
class EstimatorBenchmarkConfig(BenchmarkConfig):
    """Settings of the benchmark and its policies: softmaxes over the rating model's estimates, in stars."""

    target_temperature: Temperature = 0.1
    """Temperature of the target policy; the smaller, the greedier."""
    near_temperature: Temperature = 0.3
    """Temperature of the logging policy near the target."""
    near_uniform_mix: PositiveFraction = 0.1
    """Fraction of uniform choices of that policy. The other logging policy is uniform."""
    clusters: Size = 20
    """Groups of items for mips."""


QUICK: Mapping[str, Any] = {"sizes": (1_000, 10_000), "repetitions": 60, "resamples": 200}
"""Settings for a run of one minute."""


def benchmark_estimators(
    train_ratings: Ratings,
    out: str | Path | None = None,
    *,
    config: EstimatorBenchmarkConfig | Mapping[str, Any] | None = None,
    train: TrainConfig | Mapping[str, Any] | None = None,
    model: RatingModel | None = None,
    model_config: Any = None,
    seed: int = 0,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> BenchmarkResult:
    """Run the benchmark of the estimators in a world fitted on ratings.

    Args:
        train_ratings: ratings for the world and for the rating model.
        out: folder for the JSON file and the page; None writes nothing.
        config: settings of the benchmark.
        train: settings of features and world; 100 items unless it says otherwise.
        model: the rating model; None fits one. model_config: its settings.
        seed: of all draws.
        workers: threads; None takes one per core. Their number does not change the result.
        show_progress: None shows a progress bar on a terminal.

    Returns:
        Errors and coverage of every estimator, by logging policy and size of the log.

    Raises:
        ConfigError: settings that are unknown or out of range.
    """
    require_extra("train", "the benchmark of the estimators")
    if out is not None:
        check_writable_folder(Path(out))
    settings = coerce(EstimatorBenchmarkConfig, config, "benchmark")
    items = min(ITEMS, train_ratings.shape[1])
    training = coerce(
        TrainConfig, train if isinstance(train, TrainConfig) else {"items": items, **(train or {})}, "train"
    )
    world = logged_world(train_ratings, settings, training, model, model_config, seed)
    result = run_benchmark(world, settings, seed, workers=workers or os.cpu_count() or 1, show_progress=show_progress)
    if out is not None:
        body = {**result.as_dict(), "config": as_dict(settings), "train": train_ratings.digest}
        write_json(Path(out) / RESULT_FILE, body)
        _write_page(result, settings, Path(out) / PAGE_FILE)
    return result


def logged_world(
    train_ratings: Ratings,
    settings: EstimatorBenchmarkConfig,
    training: TrainConfig,
    model: RatingModel | None = None,
    model_config: Any = None,
    seed: int = 0,
) -> LoggedWorld:
    """Return the training world with the rating model as reward model, and the three policies."""
    features = prepare_features(train_ratings, training, model=model, model_config=model_config, seed=seed)
    world = training_world(train_ratings, training, seed)
    score = features.model.linear[:, features.action_items]
    near = LogConfig(temperature=settings.near_temperature, uniform_mix=settings.near_uniform_mix)
    target = LogConfig(temperature=settings.target_temperature, uniform_mix=0.0)
    return LoggedWorld(
        expected=world.expected[:, features.action_items],
        scale=world.scale,
        target=logging_probabilities(score, target),
        logging_policies={
            NEAR: logging_probabilities(score, near),
            FAR: logging_probabilities(score, LogConfig(uniform_mix=1.0)),
        },
        q=np.clip(score, *world.scale),
        context=features.context,
        action_clusters=cluster_actions(score, settings.clusters),
        name=f"{world.name} on {train_ratings.name}",
    )


def _write_page(result: BenchmarkResult, settings: EstimatorBenchmarkConfig, path: Path) -> None:
    from recpolicy.evaluation.report_page import write_report

    write_report(path, _make_page(result, settings))


def _make_page(result: BenchmarkResult, settings: EstimatorBenchmarkConfig) -> "ReportContent":
    from recpolicy.core.plotting import to_svg
    from recpolicy.evaluation.report_page import ReportContent
    from recpolicy.ope.benchmark.score_plots import coverage_figure, error_figure

    tables, figures = [("Recommended estimator by kind of log", result.recommendations())], []
    for name in result.logging_policies:
        tables.append((f"Relative error (%) by log size, {name} logging policy", result.error_table(name)))
        figures.append((f"Relative error, {name} logging policy", to_svg(error_figure(result, name))))
        for cell in result.get_cells(name):
            kind = f"{name} logging policy, {cell.repetitions} logs of {cell.rounds:,} rounds"
            tables.append((f"Coverage (%) ± mean half-width, {kind}", result.coverage_table(name, cell.rounds)))
            figures.append((f"Coverage, {kind}", to_svg(coverage_figure(result, name, cell.rounds))))
    return ReportContent(
        title="Benchmark of the off-policy estimators",
        summary=[
            ("world", f"{result.world}, {result.users:,} users, {result.actions:,} items"),
            ("true value of the target", f"{result.true_value:.4f}"),
            *((f"{name} logging policy", result.describe(name)) for name in result.logging_policies),
            ("settings", ", ".join(f"{name} {value}" for name, value in as_dict(settings).items())),
            ("seed", str(result.seed)),
        ],
        tables=tables, figures=figures, notes=_NOTES,
    )  # fmt: skip
