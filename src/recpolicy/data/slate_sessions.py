"""Turn logged slates into a session log: every place of every slate is a session of one step.

N slates of K slots make N K sessions, `EVENT:SLOT` (0 is the first). The candidates of a step are the items of its
shelf, or those that do not stand above it, and its propensity is the one of its slot given those. So an agent that
learns from sessions credits each place with its own reward, and sees every user before anything was shown. Ingested
rounds are such places already.
"""

import numpy as np

from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.session_log import SessionLog
from recpolicy.data.slate_log import SlateLog
from recpolicy.data.slate_rounds import rounds_from_slates


def sessions_from_slates(log: SlateLog) -> SessionLog:
    """Return the places of slates as sessions of one step; raises what `rounds_from_slates` raises."""
    return sessions_from_rounds(rounds_from_slates(log, log.scale if log.slot_reward is None else log.slot_scale))


def sessions_from_rounds(log: BanditLog) -> SessionLog:
    """Return rounds, such as the places of the lists of a server, as sessions of one step."""
    return SessionLog(
        event_id=log.event_id, time=log.time, user=log.user, session=log.event_id, step=np.zeros(len(log), np.int32),
        item=log.item, log_propensity=log.log_propensity, reward=log.reward, liked=log.reward > log.scale[0],
        ended=np.ones(len(log), bool), policy=log.policy, version=log.version, action_items=log.action_items,
        scale=log.scale, name=log.name, candidates=None if log.candidates is None else log.candidates.explicit(),
    )  # fmt: skip
