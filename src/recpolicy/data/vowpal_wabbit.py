"""Read logs of Vowpal Wabbit for contextual bandits (cb json, dsjson, text): one choice a line, or several slots.

    {"_label_cost": -1, "_label_probability": 0.8, "_label_Action": 2, "Timestamp": "...", "EventId": "...",
     "a": [2, 1], "p": [0.8, 0.2], "c": {"User": {"id": "u7"}, "_multi": [{"_tag": "m11"}, {"_tag": "m12"}]}}

The reward is -cost. Actions are counted from 1; `a` has their numbers in order, `p` their probabilities; vw_records.py
reads other forms of the label. Without `_multi`, actions are the numbers in `a`. An action that is offered several
times is one item with the sum of its probabilities. `user` and `item` are dotted names of the ids within the shared
features and within an action ("User.id"). By default, an item is its `_tag` or else all its features. Without `user`
the log names nobody: rounds with the same shared features have one user, and the round is the unit of intervals.

In lines of slots (vw_slots.py), each slot is a round `EVENT:SLOT`. Its candidates are the actions that the slot could
show, and its propensity is the one given the slots before it. The line is then the unit of intervals, because rewards
of its slots depend on each other. If all lines have the same number of slots, the log is a slate log, too
(vw_slates.py). Lost: all other features, and the probabilities of actions that were not shown.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_import import UNIT, Batch, Imported, assemble
from recpolicy.data.vw_reader import Decision, DecisionReader, SlateDecision, event_id, milliseconds
from recpolicy.data.vw_slates import SlotCounts, check_regular, slates_from_rounds, with_slate_unit

_LINES = 1 << 14
_LOST = ("features of users and actions beyond their ids", "probabilities of actions not shown")


def read_vowpal_wabbit(
    path: Path,
    tables: IdVocabulary | None = None,
    scale: tuple[float, float] = UNIT,
    policy: str = "vowpal_wabbit",
    *,
    user: str = "",
    item: str = "",
    unit: str = "",
    skip_damaged: bool = False,
) -> Imported:
    """Read the log.

    Args:
        path: The file; one that ends in .gz is uncompressed.
        tables: See `assemble`, also for `scale` and errors.
        scale: Lowest and highest reward of the file.
        policy: Name of the logging policy.
        user: Dotted name of the user's id among the shared features.
        item: Dotted name of the item's id within an action.
        unit: user or round; by default round unless `user` names the users.
        skip_damaged: Leave out and count lines that are no JSON, instead of raising an error.

    Raises:
        DataError: A line is wrong; names file and line.
    """
    reader = DecisionReader(path, user, item, skip_damaged)
    dropped = _DroppedShare()
    counts = SlotCounts()
    batches = _batches(reader, dropped, counts)
    rounds, ids = assemble(path, policy, batches, scale, tables, unit or ("user" if user else "round"))
    lost = (*_LOST, f"pdrop {dropped.share:g}: the log is a sample of its events") if dropped.share else _LOST
    if reader.kind == "choice":
        return Imported(rounds, ids, lost, reader.left_out)
    rounds = with_slate_unit(rounds)
    shelf = reader.shelf if reader.kind == "slates" else None
    if shelf is not None:
        check_regular(counts, str(path))
    slates = slates_from_rounds(rounds, counts.most, ids, shelf) if counts.regular else None
    return Imported(rounds, ids, (*lost, "features of slots"), reader.left_out, slates, counts.most)


@dataclass
class _DroppedShare:
    """The `pdrop` of the lines; all must have the same, since rounds of a BanditLog have no weights."""

    share: float | None = None

    def check(self, path: Path, decision: Decision | SlateDecision) -> None:
        """Raise DataError for a line with another share than the lines before it."""
        if self.share is not None and decision.dropped_share != self.share:
            raise DataError(
                f"{path}:{decision.line}: pdrop is {decision.dropped_share:g}, but {self.share:g} in earlier lines:"
                " they stand for different numbers of events, and these rounds have no weights; import the lines of"
                " each pdrop as a log, or give --keep-features, which keeps weights"
            )
        self.share = decision.dropped_share


def _batches(reader: DecisionReader, dropped: _DroppedShare, counts: SlotCounts) -> Iterator[Batch]:
    """Yield the rounds, those of some thousand lines at a time."""
    rows, occurrences = _Rows(), Counter[str]()
    for number, decision in enumerate(reader.decisions(), 1):
        dropped.check(reader.path, decision)
        if isinstance(decision, SlateDecision):
            counts.add(decision)
            rows.add_slots(decision, event_id(decision, occurrences))
        else:
            rows.add(decision, decision.shown, decision.probability, decision.cost, tuple(decision.actions))
            rows.event_id.append(decision.event_id)
        if number % _LINES == 0:
            yield rows.batch(reader.timed, reader.path)
            rows = _Rows()
    if rows.line:
        yield rows.batch(reader.timed, reader.path)


@dataclass
class _Rows:
    """Columns that grow line by line."""

    line: list[int] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    propensity: list[float] = field(default_factory=list)
    user: list[str] = field(default_factory=list)
    item: list[str] = field(default_factory=list)
    count: list[int] = field(default_factory=list)
    candidate: list[str] = field(default_factory=list)
    event_id: list[str | None] = field(default_factory=list)
    time: list[str] = field(default_factory=list)

    def add(
        self, decision: Decision | SlateDecision, shown: str, probability: float, cost: float, offered: tuple[str, ...]
    ) -> None:
        """Add a round; its event id is added apart."""
        self.line.append(decision.line)
        self.reward.append(-cost)
        self.propensity.append(probability)
        self.user.append(decision.user)
        self.item.append(shown)
        self.count.append(len(offered))
        self.candidate.extend(offered)
        self.time.append(str(decision.timestamp))

    def add_slots(self, decision: SlateDecision, event: str) -> None:
        """Add a round for each slot; a line with one cost gives it to all its slots."""
        for number, slot in enumerate(decision.slots):
            cost = decision.cost if slot.cost is None else slot.cost
            assert cost is not None
            self.add(decision, slot.shown, slot.probability, cost, slot.offered)
            self.event_id.append(f"{event}:{number}")

    def batch(self, timed: bool | None, path: Path) -> Batch:
        """Return the columns as arrays; lines without a time are a second apart from 1970 on."""
        line = np.array(self.line)
        time = 1000 * line
        if timed:
            time = milliseconds(path, line, self.time)
        return Batch(
            line, time, np.array(self.user, object), np.array(self.item, object), np.array(self.propensity),
            np.array(self.reward), np.array(self.event_id, object), np.array(self.count),
            np.array(self.candidate, object), bool(timed),
        )  # fmt: skip
