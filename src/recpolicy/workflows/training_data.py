"""Which ratings a training starts from, and how they are split: those given, those of its log, or MovieLens 100K."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log_files import EVENTS
from recpolicy.data.loaders import load_ratings
from recpolicy.data.ratings_store import is_saved_ratings, load_saved_split, saved_split_name
from recpolicy.data.splits import Split
from recpolicy.data.splits import split as split_ratings
from recpolicy.workflows.interaction_logs import RATINGS, TRAINING

DATA, SPLIT = "ml-100k", "u1"
"""What is taken where nothing says otherwise."""


def training_data(
    data: str | None = None,
    split: str | None = None,
    log: Path | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> tuple[Split, dict[str, Any]]:
    """The split to train on, and the arguments of `load_ratings` by which its table is found again.

    The table is `data`, or else the one that the ingest put into the folder `log`, or else DATA; the split is `split`,
    or else the one that was saved with the table, or else SPLIT. options: of `load_ratings`. Raises DataError for a log
    that is not there or was not ingested, or whose table has nothing held out while no split is given; ConfigError for
    a split by which rounds for evaluation would be fitted; and what `load_ratings` and `split` raise.
    """
    if log is not None and not log.exists():
        raise DataError(f"{log}: no such folder; expected a log that `recpolicy log ingest` wrote")
    if log is not None and (log / EVENTS).is_file() and not (log / TRAINING).exists():
        raise DataError(f"{log}: a raw log; ingest it first: recpolicy log ingest {log} --out ROUNDS")
    own = log is not None and data is None and (log / RATINGS).exists()
    where = str(log / RATINGS) if log is not None and own else data or DATA
    source = {"source": where, **(options or {})}
    saved = saved_split_name(Path(where)) if own or is_saved_ratings(Path(where)) else None
    if own and saved is None and split is None:
        raise DataError(
            f"{where}: nothing of this log is held out; ingest it again with more rounds for evaluation"
            " (--evaluation-share 0.2), or say by --split what to hold out (temporal, random)"
        )
    if own and saved is not None and split not in (None, saved):
        raise ConfigError(
            f"{log}: split {split!r} would fit rounds for evaluation; leave --split out: the log has its own ({saved})"
        )
    if saved is not None and split in (None, saved) and not options:
        return load_saved_split(Path(where)), source
    return split_ratings(load_ratings(**source), split or SPLIT, seed), source
