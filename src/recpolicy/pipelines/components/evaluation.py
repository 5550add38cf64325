"""Policies and simulators are judged."""

from typing import Optional

from kfp import dsl
from kfp.dsl import HTML, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from recpolicy.pipelines.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate_policy(
    policy: Input[Model],
    evaluation: Output[Dataset],
    metrics: Output[Metrics],
    likes: Output[ClassificationMetrics],
    page: Output[HTML],
    ratings: Optional[Input[Dataset]] = None,
    rounds: Optional[Input[Dataset]] = None,
    incumbent: Optional[Input[Model]] = None,
    seed: int = 0,
):
    """Judge a policy on held-out ratings, on logged rounds it has not learnt from, or on both.

    Args:
        policy: The policy artifact.
        evaluation: All figures with their intervals, as JSON: what the gate reads.
        metrics: The main figures.
        likes: How well the rating estimates tell likes (4 and more) from the rest, on held-out ratings.
        page: Tables for people.
        ratings: What fetch_data wrote; gives held-out choice, nDCG and RMSE beside the baselines.
        rounds: What ingest_log wrote; gives the off-policy value and the gain over the incumbent.
        incumbent: The policy to compare with; without one, the policy that logged.
        seed: Fixes the resamples of the intervals.
    """
    import json
    from pathlib import Path

    from recpolicy.core.files import write_json
    from recpolicy.pipelines import steps

    figures, curve = steps.evaluate_policy(
        policy.path, evaluation.path, page.path, ratings=ratings.path if ratings else None,
        rounds=rounds.path if rounds else None, incumbent=incumbent.path if incumbent else None, seed=seed,
    )  # fmt: skip
    evaluation.metadata.update(figures)
    metrics.metadata.update(figures)
    write_json(Path(metrics.path), figures)
    if curve:
        likes.log_roc_curve(curve["fpr"], curve["tpr"], curve["threshold"])
        likes.log_confusion_matrix(["no like", "like"], curve["confusion"])
    Path(likes.path).write_text(json.dumps(curve), encoding="utf-8")


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def validate_simulator(
    ratings: Input[Dataset],
    card: Output[HTML],
    metrics: Output[Metrics],
    settings: dict = {},
    seed: int = 0,
) -> bool:
    """Compare simulated with real sessions, on held-out users.

    Args:
        ratings: What fetch_data wrote; needs timestamps.
        card: The simulator's card.
        metrics: The figures behind the gates.
        settings: Settings of the simulator.
        seed: Fixes every random draw.

    Returns:
        Whether all gates pass.
    """
    from pathlib import Path

    from recpolicy.core.files import write_json
    from recpolicy.pipelines import steps

    figures = steps.validate_simulator(ratings.path, card.path, settings=settings, seed=seed)
    metrics.metadata.update(figures)
    write_json(Path(metrics.path), figures)
    return figures["passed"]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate_policy(
    evaluation: Input[Dataset],
    record: Output[Dataset],
    page: Output[HTML],
    settings: dict = {},
) -> str:
    """Say whether a policy may go into service, with the reasons.

    Args:
        evaluation: What evaluate_policy wrote.
        record: Every criterion with its figure and limit, as JSON.
        page: The same for people.
        settings: Limits, such as {"margin": 0.01}.

    Returns:
        pass, fail, or no_verdict where the log says too little.
    """
    from recpolicy.pipelines import steps

    verdict = steps.gate_policy(evaluation.path, record.path, page.path, settings=settings)
    record.metadata["verdict"] = verdict
    return verdict


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(policy: Input[Model], ratings: Input[Dataset], page: Output[HTML], user: str = "", seed: int = 0):
    """The report of a policy: its training, its figures beside the baselines, suggestions for one user.

    Args:
        policy: The policy artifact.
        ratings: What fetch_data wrote.
        page: The report, one page that needs nothing but itself.
        user: Whose suggestions are shown; empty takes the first user.
        seed: Fixes the resamples of the intervals.
    """
    from recpolicy.pipelines import steps

    page.metadata.update(steps.report(policy.path, ratings.path, page.path, user=user, seed=seed))
