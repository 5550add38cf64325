"""Components that evaluate policies and the simulator."""

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
    users: str = "all",
    sessions: bool = False,
    registry: str = "",
    champion: str = "",
    seed: int = 0,
):
    """Evaluate a policy on held-out ratings, and on logged rounds that it did not learn from or in simulated sessions.

    Args:
        policy: The policy artifact.
        evaluation: All figures with their intervals, as JSON; input of the gate.
        metrics: The main figures.
        likes: ROC curve and confusion matrix of likes (ratings of 4 and more) on held-out ratings.
        page: The same as tables.
        ratings: Output of fetch_data; adds held-out choice, nDCG and RMSE, with the baselines.
        rounds: Output of ingest_log; adds the off-policy value and the gain over the incumbent. Session policies
            are evaluated in simulated sessions instead.
        incumbent: Policy to compare with; without one, the champion or the logging policy.
        users: Users whose rounds or sessions count: all, or a half of them, selection or gate. The selection leaves out
            the held-out ratings.
        sessions: Evaluate a policy of single rounds in simulated sessions, too.
        registry: Folder of the registry of the champion.
        champion: Output of find_champion; the policy is compared with it. Empty: there is none.
        seed: Seed of the resamples of the intervals.
    """
    import json
    from pathlib import Path

    from recpolicy.pipelines import steps

    figures, curve = steps.evaluate_policy_step(
        policy.path,
        evaluation.path,
        page.path,
        ratings=ratings.path if ratings else None,
        rounds=rounds.path if rounds else None,
        incumbent=incumbent.path if incumbent else None,
        users=users,
        sessions=sessions,
        registry=registry,
        champion=champion,
        seed=seed,
    )
    evaluation.metadata.update(figures)
    steps.write_metrics(metrics, figures)
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
    """Compare simulated with real sessions of held-out users.

    Args:
        ratings: Output of fetch_data, with timestamps.
        card: The validation card of the simulator.
        metrics: The figures of the card's gates.
        settings: Settings of the simulator.
        seed: Seed of every random draw.

    Returns:
        Whether all gates pass.
    """
    from recpolicy.pipelines import steps

    figures = steps.validate_simulator_step(ratings.path, card.path, settings=settings, seed=seed)
    steps.write_metrics(metrics, figures)
    return figures["passed"]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate_policy(
    evaluation: Input[Dataset],
    record: Output[Dataset],
    page: Output[HTML],
    settings: dict = {},
) -> str:
    """Decide whether a policy may go into service, with reasons.

    Args:
        evaluation: Output of evaluate_policy.
        record: Each criterion with its value and limit, as JSON.
        page: The same as a page.
        settings: Limits, such as {"margin": 0.01}.

    Returns:
        pass, fail, or no_verdict if the log has too little information.
    """
    from recpolicy.pipelines import steps

    verdict = steps.gate_policy_step(evaluation.path, record.path, page.path, settings=settings)
    record.metadata["verdict"] = verdict
    return verdict


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(policy: Input[Model], ratings: Input[Dataset], page: Output[HTML], user: str = "", seed: int = 0):
    """Write the report of a policy: training, figures with the baselines, suggestions for one user.

    Args:
        policy: The policy artifact.
        ratings: Output of fetch_data.
        page: The report, one self-contained page.
        user: User of the suggestions; empty takes the first user.
        seed: Seed of the resamples of the intervals.
    """
    from recpolicy.pipelines import steps

    page.metadata.update(steps.report_step(policy.path, ratings.path, page.path, user=user, seed=seed))
