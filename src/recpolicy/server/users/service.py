"""The users of a request: what the server knows of each beyond the training of the version that answers.

Three modes (`[users] mode`). off: an unknown user is an error. prior: an unknown user gets the answers of the
population's prior. learn: the user's own ratings move the posterior, of known users, too.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from recpolicy.inference.scorer import Scorer
from recpolicy.inference.user_vectors import LearnedUser
from recpolicy.server.db.events import id_key
from recpolicy.server.live_models import LiveState
from recpolicy.server.users.reader import States, UserReader
from recpolicy.server.users.state import UserState, describe

OFF, PRIOR, LEARN = "off", "prior", "learn"
PRIOR_KEY = ("the population's prior",)
"""Stands for all users without a rating in the keys of cached lists; no user id is a tuple."""


@dataclass(frozen=True)
class DescribedUser:
    """A user whom a posterior describes, under one policy."""

    policy: Scorer
    """The policy as trained."""
    user: Hashable
    state: UserState | None
    """None: an unknown user without a rating."""

    @property
    def cache_key(self) -> Hashable:
        """The part of the key of a cached list that stands for the user."""
        return PRIOR_KEY if self.state is None else (self.user, self.state.stamp, self.state.database)

    @property
    def start(self) -> str:
        """The posterior before the first rating: prior or trained."""
        return "trained" if self.policy.knows(self.user) else "prior"

    @property
    def note(self) -> bytes:
        """The field of the response that tells where the posterior comes from, JSON after a comma."""
        ratings = 0 if self.state is None else self.state.ratings
        return b',"posterior":{"start":"%b","ratings":%d}' % (self.start.encode(), ratings)

    def learned(self) -> LearnedUser:
        """Return the input of a prediction."""
        vectors = self.policy.user_vectors
        return vectors.unknown_user if self.state is None else describe(vectors, self.user, self.state)


@dataclass(frozen=True)
class RequestUsers:
    """The users of one request, the same until the request is answered."""

    answers_unknown: bool = False
    """True: a user whom the version does not know gets the answers of the prior."""
    states: States = field(default_factory=dict)
    """The states of users with ratings."""

    def find(self, policy: Scorer, user: Hashable) -> DescribedUser | None:
        """Return the user under a policy as trained; None for one who is as trained, or whom the mode leaves out."""
        if self.states:
            state = self.states.get((policy.user_vectors.token, id_key(user)))
            if state is not None and state.ratings:
                return DescribedUser(policy, user, state)
        if not self.answers_unknown or policy.knows(user) or policy.is_mistyped(user):
            return None
        return DescribedUser(policy, user, None)

    def learned(self, policy: Scorer, users: Sequence[Hashable]) -> Mapping[Hashable, LearnedUser]:
        """Return the inputs of predictions for those users whom a posterior describes."""
        described = {user: self.find(policy, user) for user in users}
        return {user: each.learned() for user, each in described.items() if each is not None}


NO_USERS = RequestUsers()
"""Nothing is known of any user beyond the training."""


class UserService:
    """The users of one process.

    Args:
        mode: off, prior or learn.
        reader: Reads the ratings of users in the mode learn; None: the server stores nothing.
    """

    def __init__(self, mode: str, reader: UserReader | None = None):
        self.reader = reader if mode == LEARN else None
        self._at_rest = RequestUsers(answers_unknown=mode != OFF)
        self.unread = 0
        """Users who were answered without a look at the store, since the start."""

    async def read(self, live: LiveState, users: Sequence[Hashable]) -> RequestUsers:
        """Return what is known of users under all versions that may answer."""
        if self.reader is None or live.champion.ranks:
            return self._at_rest
        versions = [live.champion] if live.challenger is None else [live.champion, live.challenger]
        return await self.read_for([version.trained for version in versions if not version.ranks], users)

    async def read_for(self, policies: Sequence[Scorer], users: Sequence[Hashable]) -> RequestUsers:
        """Return what is known of users under policies as trained."""
        if self.reader is None:
            return self._at_rest
        keys = [id_key(user) for user in users]
        states, is_read = await self.reader.read([policy.user_vectors for policy in policies], keys)
        if not is_read:
            self.unread += len(keys)
        return RequestUsers(answers_unknown=True, states=states)

    def forget(self, live: LiveState, user_key: str) -> None:
        """Drop what this process has of a user."""
        if self.reader is None or live.champion.ranks:
            return
        versions = (live.champion, live.challenger)
        policies = [version.trained.user_vectors for version in versions if version is not None and not version.ranks]
        self.reader.forget(user_key, policies)
