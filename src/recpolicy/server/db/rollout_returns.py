"""Returns of a rollout's users after their first session of the stage, by variant.

A user counts once: with the first session of the stage, and only when the whole window after its end is over. So nobody
is censored, and a variant that brings users back more often does not count them more often. A session ends when the
user makes no request for the gap of sessions, with or without a session id. The return is the user's next request.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, Float, and_, case, cast, func, or_, select

from recpolicy.server.db.schema import events
from recpolicy.server.rollout.stage_metrics import VariantStats

DAY_MS = 86_400_000


@dataclass(frozen=True)
class VariantReturns:
    """Returns of the users of one variant."""

    rate: VariantStats
    """1 for a user with a return within the window, else 0."""
    days: VariantStats
    """Days until the return, at most the window."""


def variant_returns(
    connection: Connection, rollout: int, since: int, days: float, gap_ms: int, now: int
) -> dict[str, VariantReturns]:
    """Return the statistics by variant.

    Args:
        connection: The database.
        rollout: Its number.
        since: Events from this time on (milliseconds) are those of the stage.
        days: Length of the window.
        gap_ms: Milliseconds without a request after which a session has ended.
        now: The present time.
    """
    window = round(days * DAY_MS)
    following = func.lead(events.c.time).over(partition_by=events.c.user_key, order_by=(events.c.time, events.c.seq))
    visits = select(events.c.user_key, events.c.variant, events.c.time, events.c.seq, following.label("following"))
    visits = visits.where(events.c.rollout == rollout, events.c.time >= since)
    each = visits.subquery()
    last = or_(each.c.following.is_(None), each.c.following - each.c.time > gap_ms)
    place = func.row_number().over(partition_by=each.c.user_key, order_by=(each.c.time, each.c.seq))
    ends = select(each.c.variant, each.c.time, each.c.following, place.label("place")).where(last).subquery()
    waited = ends.c.following - ends.c.time
    back = and_(ends.c.following.is_not(None), waited <= window)
    returned = case((back, 1.0), else_=0.0)
    limited = case((back, cast(waited, Float) / DAY_MS), else_=float(days))
    sums = (func.count(), func.sum(returned), func.sum(limited), func.sum(limited * limited))
    query = select(ends.c.variant, *sums).where(ends.c.place == 1, ends.c.time + window <= now)
    return {
        variant: VariantReturns(
            VariantStats.from_sums(int(users), int(users), float(back), float(back)),
            VariantStats.from_sums(int(users), int(users), float(total), float(squares)),
        )
        for variant, users, back, total, squares in connection.execute(query.group_by(ends.c.variant))
    }
