"""Validate the session simulator on a split and write its card: JSON for programs, a page for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recpolicy.core.config import build
from recpolicy.core.files import write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.data.splits import Split
from recpolicy.models.own_like_model import LikeFunction, read_like_model

if TYPE_CHECKING:
    from recpolicy.evaluation.simulator_gates import SimulatorCard
    from recpolicy.models.user_model import SessionWorldConfig

CARD_FILE, PAGE_FILE = "card.json", "card.html"

_RATING_NOTE = (
    "Proxies: a like is a rating of 4 or 5 of 5; the watch fraction is the rating, scaled to 0..1; a session is a"
    " run of ratings with short gaps. Ratings have no clicks, no watch times and no exposure. Likes are learned on"
    " items that users chose to rate: the probability of a like assumes that the user rates the item. It is no"
    " click-through rate, and no figure describes items that nobody chose."
)
_CLICK_NOTE = (
    "A click and watch log: likes are clicks or completed items, watch fractions come from watch times. Probabilities"
    " are those of a response to an impression of the system that logged it; no figure describes items that it never"
    " showed."
)
_CONTEXT_NOTE = (
    "The context of the log is in the responses only: it moves P(like) of all items alike, and a simulated user is"
    " always in their usual contexts. Session policies do not see it, so none of them can choose items by context."
)
_NOTES = (
    "Users are split into two halves: user models are fitted on one, all figures are measured on the other. The rating"
    " model is fitted on the training ratings of both. Likes are evaluated on test ratings. Sessions come from the"
    " train part, with cross-fitted expected ratings; real and simulated sessions have the same maximal length.",
    "Fatigue and the drift of interest are assumptions. No gate tests fatigue: the curve of continuation is fitted"
    " around it, so a simulator without fatigue or with ten times as much passes as well. A gain from looking ahead"
    " holds for users who tire as assumed, and for no others.",
)


def validate_simulator(
    split: Split,
    config: "SessionWorldConfig | Mapping[str, Any] | None" = None,
    seed: int = 0,
    out: Path | None = None,
    card: Mapping[str, Any] | None = None,
    like_model: "str | Path | LikeFunction | None" = None,
) -> "SimulatorCard":
    """Return the validation card of a simulator that is fitted on `split`.

    Args:
        split: The split; its ratings need timestamps.
        config: A SessionWorldConfig or its settings.
        seed: Seed of every random draw.
        out: A folder that gets card.json and card.html.
        card: Settings of CardConfig, such as {"replicates": 20}.
        like_model: Your own P(like), which replaces the fitted model; see `read_like_model`.

    Returns:
        The card: every gate with its figure, limit and verdict.

    Raises:
        DataError: The ratings have no timestamps.
        ConfigError: A setting is unknown or out of range.
    """
    require_extra("train", "the validation of the simulator")
    from recpolicy.evaluation.simulator_card import CardConfig, validate_world
    from recpolicy.models.user_model import SessionWorldConfig

    settings = build(SessionWorldConfig, config, "simulator") if isinstance(config, Mapping) else config
    own = None if like_model is None else read_like_model(like_model, split.train)
    result = validate_world(split, settings, build(CardConfig, card or {}, "card"), seed, own)
    if out is not None:
        write_json(Path(out) / CARD_FILE, result.as_dict())
        write_card_page(result, Path(out) / PAGE_FILE)
    return result


def _context_notes(card: "SimulatorCard") -> tuple[str, ...]:
    return (_CONTEXT_NOTE,) if any(name.startswith("context,") for name in card.figures) else ()


def write_card_page(card: "SimulatorCard", path: Path) -> None:
    """Write the card as an HTML page."""
    import pandas as pd

    from recpolicy.core.plotting import to_svg
    from recpolicy.evaluation import plots
    from recpolicy.evaluation.report_page import ReportContent, write_report

    figures = pd.DataFrame({"figure": list(card.figures.values())}, index=pd.Index(list(card.figures), name="reported"))
    content = ReportContent(
        title=f"Session simulator on {card.split}: {'PASS' if card.passed else 'FAIL'}",
        summary=[
            ("simulator", card.world),
            ("split", f"{card.split} (train {card.train_digest[:12]}, test {card.test_digest[:12]})"),
            *((name, f"{count:,}") for name, count in card.counts.items()),
            ("settings", ", ".join(f"{name} {value}" for name, value in card.config.items())),
            ("assumed, not tested", ", ".join(f"{name} {value:g}" for name, value in card.assumptions.items())),
            ("seed", str(card.seed)),
        ],
        tables=[
            ("Gates", card.table()),
            ("Intervals", card.interval_table()),
            ("Also measured", figures),
            ("Policies, in the simulator and on held-out choice", card.policy_table()),
        ],
        figures=[
            ("Calibration of likes on held-out test ratings", to_svg(plots.like_calibration_figure(card))),
            ("Session lengths", to_svg(plots.session_length_figure(card))),
            ("Engagement", to_svg(plots.engagement_figure(card))),
            ("Ranking of policies in the simulator and on held-out choice", to_svg(plots.policy_figure(card))),
        ],
        notes=(_CLICK_NOTE if card.clicks else _RATING_NOTE, *_context_notes(card), *_NOTES),
    )
    write_report(path, content)
