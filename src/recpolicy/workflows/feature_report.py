"""The page of a feature policy's evaluation on a log, for people."""

from pathlib import Path

import pandas as pd

from recpolicy.core.optional_deps import require_extra
from recpolicy.core.plotting import to_svg
from recpolicy.ope.engine import estimate_from_inputs
from recpolicy.workflows.feature_estimation import FeatureEvaluation
from recpolicy.workflows.log_evaluation import COMPARED
from recpolicy.workflows.reports import page_origin, policy_summary


def write_feature_evaluation_page(evaluation: FeatureEvaluation, page: Path) -> None:
    """Write the value and gain on the log, the baselines, the groups and all estimators as an HTML page.

    Args:
        evaluation: The evaluation.
        page: File to write.
    """
    require_extra("report", "the page of an evaluation")
    from recpolicy.evaluation.report_page import ReportContent, write_report
    from recpolicy.ope import plots

    comparison, gain = evaluation.comparison, evaluation.comparison.gain
    estimates = estimate_from_inputs(comparison.inputs(), COMPARED)
    rows = {
        "candidate": str(gain.candidate.intervals["t"]),
        evaluation.baseline: str(gain.incumbent.intervals["t"]),
        "gain": str(gain.limits["t"]),
        **{f"gain over: {name}": str(each.limits["t"]) for name, each in comparison.baselines().items()},
    }
    frame = pd.DataFrame({"reward per round": list(rows.values())}, index=pd.Index(list(rows), name="policy"))
    tables = [(f"On logged rounds ({gain.estimator}, 95 % intervals over users)", frame)]
    if evaluation.groups:
        groups = pd.DataFrame(
            {
                "users": [group.users for group in evaluation.groups.values()],
                "gain": [str(group.interval) for group in evaluation.groups.values()],
            },
            index=pd.Index(list(evaluation.groups), name="group"),
        )
        tables.append((f"Gain over {evaluation.baseline}, by group", groups))
    columns = ["value", "bootstrap", "t", "effective sample size", "max weight", "tuned", "verdict"]
    tables.append(("Estimators side by side", estimates.table()[columns]))
    weights = plots.weights_figure(comparison.candidate.prob, comparison.feedback.behavior_prob)
    content = ReportContent(
        title=f"Evaluation: {evaluation.policy['agent']}",
        summary=policy_summary(evaluation.policy) + page_origin(),
        tables=tables,
        figures=[("Importance weights of the rounds", to_svg(weights))],
        notes=list(comparison.notes),
    )
    write_report(page, content)
