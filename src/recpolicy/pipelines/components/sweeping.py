"""Components of a sweep, and the summary of a run."""

from typing import List

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Markdown, Model, Output, PipelineTaskFinalStatus

from recpolicy.pipelines.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan_sweep(agents: list, seeds: list, grid: dict) -> list:
    """List the trials of a sweep: agents x seeds x settings.

    Args:
        agents: Names of agents that learn from logs or in sessions.
        seeds: Seeds; every agent is trained with each.
        grid: Settings of agents with the values to try, such as {"alpha": [0.5, 1.0]}; an agent takes those it has.

    Returns:
        One mapping a trial: agent, seed, agent_settings, and whether the trials are compared in sessions.
    """
    from recpolicy.pipelines import steps

    return steps.plan_sweep_step(agents, seeds, grid)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def compare_policies(
    evaluations: Input[List[Dataset]],
    policies: Input[List[Model]],
    best: Output[Model],
    choice: Output[Dataset],
    page: Output[HTML],
):
    """Compare the trials in one table and pass the best one on.

    Args:
        evaluations: Output of evaluate_policy for every trial.
        policies: The trials' policies, in the same order.
        best: The policy with the highest value on logged rounds, or in sessions if any trial is a session policy.
        choice: Its agent, settings, seed and value, as JSON.
        page: All trials, best first.
    """
    from recpolicy.pipelines import steps

    figures = steps.compare_policies_step(
        [item.path for item in evaluations], [item.path for item in policies], best.path, choice.path, page.path
    )
    best.metadata.update(figures)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def summarize_run(status: PipelineTaskFinalStatus, summary: Output[Markdown]):
    """Write how the run ended, after success and after failure.

    Args:
        status: Final state of the run, from Kubeflow.
        summary: State and error.
    """
    from pathlib import Path

    lines = [f"# Run: {status.state}", ""]
    if status.error_message:
        lines += [f"Error {status.error_code}: {status.error_message}", ""]
    Path(summary.path).write_text("\n".join(lines) + "\n", encoding="utf-8")
