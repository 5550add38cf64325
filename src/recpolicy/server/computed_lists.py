"""The lists of a version: which items a request gets, as the JSON that is served and the texts that are stored.

A list has no parts that are new in each request, so plain requests of known users share it through the cache of the
version. K positions, I items, A arms.
"""

import threading
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.types import Bools
from recpolicy.inference.block_prediction import (
    NOTHING_SHOWN,
    USERS_AT_ONCE,
    BatchScores,
    UserInput,
    WeightChoice,
    arms_except,
    score_block,
)
from recpolicy.inference.guarded_draw import GuardedSlate
from recpolicy.inference.guarded_lists import guarded_slates
from recpolicy.inference.guardrails import Guardrails, of_request
from recpolicy.inference.new_item_slot import add_guarded, choose_with_slot, guard_with_slot
from recpolicy.inference.scorer import Array, FoldIn, History, Learned, Prediction, Scorer
from recpolicy.inference.slate_selection import (
    ExplorationConfig,
    Slate,
    allowed_rows,
    choose_slate,
    explain,
    untied_slates,
)
from recpolicy.inference.user_vectors import LearnedUser
from recpolicy.inference.weight_exploration import DrawnWeights
from recpolicy.server.candidate_lists import cut_candidates, score_candidates, scores_candidates_only
from recpolicy.server.db.guardrail_record import pack_list
from recpolicy.server.db.session_history import pack_history
from recpolicy.server.json_output import encode, finite
from recpolicy.server.live_models import LoadedVersion
from recpolicy.server.schemas.requests import Instance, RecommendRequest
from recpolicy.server.users.service import NO_USERS, DescribedUser, RequestUsers

NEVER = threading.Event()
"""Is never set: work that runs to its end."""
_LIST_OVERHEAD = 1_000
"""Bytes of a cached list beyond its texts."""

ListRequest = RecommendRequest | Instance
"""A request for a list."""


@dataclass(frozen=True)
class ComputedList:
    """A list of items without the parts that are new in each request."""

    items: bytes
    """The items of the response, JSON."""
    item_ids: str
    """Item ids [K], JSON."""
    propensities: str
    """Propensities [K], JSON."""
    ratings: str
    """Predicted ratings [K], JSON."""
    allowed: bytes | None
    """Packed bits over the catalog; None: every item was allowed."""
    context: bytes | None
    """The float32 context of a user whom a posterior or the request describes; None for one as in the training."""
    history: bytes | None
    """The packed session of the request; None for a policy of single rounds, if nothing was shown."""
    guardrails: bytes | None = None
    """The guardrails (db/guardrail_record.py); None: there were none."""
    note: bytes = b""
    """Further fields of the response, JSON after a comma: the posterior, the guardrails, why the list is short."""
    mean_std: float = float("nan")
    """Mean standard deviation of the predicted ratings of its items."""
    greedy: bool = True
    """False: it was drawn to explore, and its scores are not those of the best list."""
    posterior: str = ""
    """The start of the posterior that describes the user: prior or trained; empty: the user is as in the training."""
    explored: bool = False
    """True: it was drawn to explore, or shows a new item."""
    weights: str | None = None
    """The weights that ranked it as the event stores them, JSON; None: no ranking formula did."""
    fallback: bool = False
    """True: static weights, or the policy's own score, ranked in place of a tuned layer. It is not cached."""

    @property
    def size(self) -> int:
        """Approximate bytes in memory."""
        texts = len(self.items) + len(self.item_ids) + len(self.propensities) + len(self.ratings) + len(self.note)
        packed = (self.allowed, self.context, self.guardrails)
        return _LIST_OVERHEAD + texts + sum(len(part) for part in packed if part is not None)


def list_key(
    version: LoadedVersion, request: ListRequest, exploration: ExplorationConfig, user: DescribedUser | None = None
) -> tuple[Any, ...]:
    """Return the key of a plain request's list in the cache of its version; `user` is that of the request."""
    identity = request.user if user is None else user.cache_key
    return identity, request.list_size(version.list_size), request.exclude_rated, exploration.share, exploration.top


def compute_lists(
    version: LoadedVersion,
    requests: Sequence[ListRequest],
    exploration: ExplorationConfig,
    stop: threading.Event = NEVER,
    users: RequestUsers = NO_USERS,
) -> dict[tuple[Any, ...], ComputedList]:
    """Compute the lists of plain requests that are not cached, together, and cache them; return them by their keys.

    Leaves out users of whom nothing is known, and lists with ties: lots decide them, so another request may get another
    list. Ends early once `stop` is set.
    """
    missing: dict[int, dict[tuple[Any, ...], ListRequest]] = {}  # by length
    for request in requests:
        user = users.find(version.trained, request.user)
        key = list_key(version, request, exploration, user)
        if request.plain and key not in version.lists and (user is not None or version.scorer.knows(request.user)):
            missing.setdefault(request.list_size(version.list_size), {})[key] = request
    computed = {}
    for several in missing.values():
        for request, result in _compute_together(version, list(several.values()), exploration, users):
            key = list_key(version, request, exploration, users.find(version.trained, request.user))
            computed[key] = result
            if not result.fallback:
                version.lists.put(key, result, result.size)
            if stop.is_set():
                return computed
    return computed


def _compute_together(
    version: LoadedVersion, requests: Sequence[ListRequest], exploration: ExplorationConfig, users: RequestUsers
) -> Iterator[tuple[ListRequest, ComputedList]]:
    """Yield the best lists of plain requests of the same length, without those that have ties."""
    scorer, waiting = version.scorer, iter(requests)
    ids: list[Hashable] = [request.user for request in requests]
    learned, k = users.learned(version.trained, ids), requests[0].list_size(version.list_size)
    blocks: Iterator[UserInput | BatchScores] = (
        scorer.contexts(ids, {}, USERS_AT_ONCE, learned=learned)
        if version.candidates
        else scorer.score_batches(ids, learned=learned)
    )
    for part in blocks:
        block = list(islice(waiting, len(part.std)))
        allowed = np.ones((len(block), len(scorer.action_items)), bool)  # [n, A]
        for place, request in enumerate(block):
            if request.exclude_rated:
                allowed[place] = arms_except(scorer.artifact, scorer.rated(request.user, learned=learned))
        if isinstance(part, BatchScores):
            scores = part
        else:
            scores, allowed = _among_candidates(version, [each.user for each in block], part, learned, allowed, k)
        slates = _best_slates(version, scores, allowed, k, exploration)
        for place, (request, slate) in enumerate(zip(block, slates, strict=True)):
            if slate is not None:
                user = users.find(version.trained, request.user)
                answer = scores.of_user(place)
                computed = _as_json(version, request.user, slate, allowed[place], answer, learned=learned)
                yield request, computed if user is None else _with_posterior(computed, learned[request.user], user)


def _among_candidates(
    version: LoadedVersion, users: Sequence[Hashable], known: UserInput, learned: Learned, allowed: Bools, k: int
) -> tuple[BatchScores, Bools]:
    """Return the scores of n users at the begin of their sessions, and their candidates [n, A]."""
    scorer, rails = version.scorer, version.guardrails
    if scores_candidates_only(version, rails):
        return score_candidates(version, known, [NOTHING_SHOWN] * len(allowed), allowed, k)
    scores = scorer.rank(score_block(scorer.artifact, known), users, known, learned=learned)
    rows = zip(known.context, scores.score, scores.rating, allowed, strict=True)
    return scores, np.stack([cut_candidates(version, *row, k, rails) for row in rows])


def _best_slates(
    version: LoadedVersion, scores: BatchScores, allowed: Bools, k: int, exploration: ExplorationConfig
) -> Sequence[Slate | None]:
    """Return the best slates of n users; None for those with ties, and those that are empty; allowed [n, A]."""
    rails, slot = version.guardrails, version.new_items
    if not isinstance(rails, Guardrails):
        if slot is None:
            return untied_slates(scores.score, allowed, k, exploration)
        others = slot.others(allowed, k)
        return slot.policy_lists(untied_slates(scores.score, others, k, exploration), allowed, others, k)
    rating, nobody = scores.rating[:, version.scorer.action_items], np.zeros(len(allowed), bool)
    base = rails.base_mask(allowed, rating) if slot is not None else allowed
    others = allowed if slot is None else slot.others(base, k, rails)
    slates = guarded_slates(scores.score, rating, others, k, rails, exploration, np.random.default_rng(), nobody)
    if slot is not None:
        slates = [
            add_guarded(slate, base[row], others[row], k, rails, slot, False, np.random.default_rng())
            for row, slate in enumerate(slates)
        ]
    return [slate if len(slate.arms) and not slate.tied else None for slate in slates]


def request_guardrails(version: LoadedVersion, request: RecommendRequest) -> Guardrails | None:
    """Return the guardrails of a request; None without any. Raises what `of_request` raises."""
    operator = version.guardrails if isinstance(version.guardrails, Guardrails) else None
    own = None if request.guardrails is None else request.guardrails.config()
    return of_request(operator, own, request.list_size(version.list_size), version.scorer)


def _choose(
    version: LoadedVersion, answer: Prediction | BatchScores, allowed: Bools, k: int, rails: Guardrails | None,
    exploration: ExplorationConfig, explored: bool, show_new: bool,
) -> Slate:  # fmt: skip
    """Return the slate of one request; raises DataError if guardrails leave no item."""
    score, slot, rng = answer.score, version.new_items, np.random.default_rng()
    if rails is None:
        if slot is None:
            return choose_slate(score, allowed, k, exploration, rng, explored)
        return choose_with_slot(score, allowed, k, slot, exploration, explored, show_new, rng)
    rating = answer.rating[version.scorer.action_items]
    if slot is None:
        slate = guarded_slates(
            score[np.newaxis], rating[np.newaxis], allowed[np.newaxis], k, rails, exploration, rng, np.array([explored])
        )[0]
    else:
        slate = guard_with_slot(score, rating, allowed, k, rails, slot, exploration, explored, show_new, rng)
    if not len(slate.arms):
        raise DataError(f"no item is left under the guardrails: {slate.reason}")
    return slate


def compute_list(
    version: LoadedVersion,
    request: RecommendRequest,
    exploration: ExplorationConfig,
    explored: bool,
    users: RequestUsers = NO_USERS,
    show_new: bool = False,
    draw_weights: bool = False,
) -> ComputedList:
    """Return a list for any request.

    Args:
        version: The version that serves.
        request: The request.
        exploration: Share and pool of the exploration of items.
        explored: The list is drawn to explore.
        users: The users whom a posterior describes.
        show_new: The list has a new item, if the version has a place for one.
        draw_weights: The weights of the version's ranking formula are drawn; `explored` is False then.
    """
    scorer, fold_in = version.scorer, request.fold_in()
    context = None if request.context is None else np.array(request.context, np.float32)
    by_id = fold_in is None and context is None
    user = users.find(version.trained, request.user) if by_id else None
    learned: Learned = {} if user is None else {request.user: user.learned()}
    if by_id and user is None and not scorer.knows(request.user):
        raise scorer.unknown_user_error([request.user], "describe the user by `ratings` or `context`")
    excluded = [*request.exclude, *(each.item for each in request.history or ())]
    years = request.first_and_last_year()
    allowed = allowed_rows(
        scorer, request.user, request.exclude_rated, request.genres, years, excluded, fold_in, learned
    )
    rails, k = request_guardrails(version, request), request.list_size(version.list_size)
    session, drawn = _policy_history(scorer, request), version.weights if draw_weights else None
    raw = None if context is None else context[np.newaxis]
    answer: Prediction | BatchScores
    weights: DrawnWeights | None = None
    if drawn is None and scores_candidates_only(version, rails):
        known = next(scorer.contexts([request.user], fold_in or {}, 1, raw, learned))
        shown = scorer.histories([request.user], session)
        scores, candidates = score_candidates(version, known, shown, allowed[np.newaxis], k)
        answer, allowed = scores.of_user(0), candidates[0]
    else:
        source = scorer if drawn is None else scorer.base
        if request.plain:
            answer = next(source.score_batches([request.user], learned=learned)).of_user(0)
        else:
            answer = source.predict_one(request.user, fold_in, session, context, learned)
        if drawn is not None or version.candidates:
            known = next(scorer.contexts([request.user], fold_in or {}, 1, raw, learned))
        if drawn is not None:
            rated = scorer.rated(request.user, fold_in, learned)
            weights = drawn.draw(answer, request.user, known.context, rated, np.random.default_rng())
            answer = replace(answer, score=weights.score)
        if version.candidates:
            allowed = cut_candidates(version, known.context[0], answer.score, answer.rating, allowed, k, rails)
    slate = _choose(version, answer, allowed, k, rails, exploration, explored, show_new)
    if (
        weights is not None
    ):  # the probability of an item over all draws is unknown; logs of rounds leave out such a list
        slate = replace(slate, propensity=np.zeros(len(slate.arms)))
    vector = None if by_id else _context_bytes(scorer, request, fold_in, context)
    computed = _as_json(version, request.user, slate, allowed, answer, fold_in, vector, learned)
    if weights is not None:
        computed = _with_drawn_weights(computed, weights)
    if user is not None:
        computed = _with_posterior(computed, learned[request.user], user)
    if slate.explored:
        best = _choose(version, answer, allowed, k, rails, exploration, False, False)
        greedy = np.array_equal(answer.score[slate.arms], answer.score[best.arms])
        computed = replace(computed, greedy=greedy)
    return replace(computed, history=_packed_history(scorer, request)) if request.history else computed


def _as_json(
    version: LoadedVersion, user: Hashable, slate: Slate, allowed: Bools, answer: Prediction | BatchScores,
    fold_in: FoldIn | None = None, context: bytes | None = None, learned: Learned | None = None,
) -> ComputedList:  # fmt: skip
    """Return a slate in the form in which it is served and stored; allowed [A], answer: of this user, [I]."""
    rows = version.scorer.action_items[slate.arms]
    ratings, stds = _number_texts(answer.rating[rows]), _number_texts(answer.std[rows])
    values = ["null"] * len(rows) if answer.value is None else _number_texts(answer.value[rows])
    propensities = [repr(number) for number in slate.propensity.tolist()]
    nearest = explain(version.scorer, user, rows, fold_in, learned=learned)
    columns = zip(rows.tolist(), ratings, stds, values, propensities, nearest, strict=True)
    items = [
        f'{_item_json(version, row)},"rating":{rating},"std":{std},"value":{value},"propensity":{propensity},'
        f'"explanations":[{",".join([_item_json(version, near) + "}" for near in near_rows])}]}}'
        for row, rating, std, value, propensity, near_rows in columns
    ]
    computed = ComputedList(
        items=f"[{','.join(items)}]".encode(),
        item_ids=encode([version.scorer.item_ids[row] for row in rows.tolist()]),
        propensities=f"[{','.join(propensities)}]",
        ratings=f"[{','.join(ratings)}]",
        allowed=_packed(slate.allowed if isinstance(slate, GuardedSlate) else allowed),
        context=context,
        history=b"" if version.scorer.sequential else None,
        mean_std=float(answer.std[rows].mean()) if len(rows) else float("nan"),
        explored=slate.explored,
    )
    if answer.choice is not None:
        computed = _with_weights(computed, version.scorer, answer.choice)
    return with_guardrails(computed, slate) if isinstance(slate, GuardedSlate) else computed


def _with_weights(computed: ComputedList, scorer: Scorer, choice: WeightChoice) -> ComputedList:
    """Return a list with the weights of a tuned layer, for the event and for the response."""
    action, fallback = int(choice.action[0]), bool(choice.fallback[0])
    record = encode({"action": action, "fallback": fallback})
    note = _weights_note(scorer.weights(choice), fallback)
    return replace(computed, weights=record, fallback=fallback, note=computed.note + note)


def _with_drawn_weights(computed: ComputedList, drawn: DrawnWeights) -> ComputedList:
    """Return a list with drawn weights: it explores, and is not the list that the version would serve."""
    fallback = bool(drawn.record["fallback"])
    note = computed.note + _weights_note(drawn.values, fallback)
    record = encode(drawn.record)
    return replace(computed, weights=record, fallback=fallback, note=note, explored=True, greedy=False)


def _weights_note(values: dict[str, float], fallback: bool) -> bytes:
    """Return what a response says about the weights of a list."""
    return f',"weights":{encode({"values": values, "fallback": fallback})}'.encode()


def _with_posterior(computed: ComputedList, learned: LearnedUser, user: DescribedUser) -> ComputedList:
    """Return a list with the context that the policy saw, and what the response says about the posterior."""
    note = user.note + computed.note
    return replace(computed, context=learned.context.tobytes(), note=note, posterior=user.start)


def with_guardrails(computed: ComputedList, slate: GuardedSlate) -> ComputedList:
    """Return a list with the record of its guardrails, and what the response says about them."""
    return replace(
        computed,
        guardrails=pack_list(slate.digest, slate.closed_at, len(slate.arms)),
        note=computed.note + _note(slate.digest, slate.reason),
    )


def _packed(allowed: Bools) -> bytes | None:
    """Return the bits of the allowed items [A]; None if all are."""
    return None if allowed.all() else np.packbits(allowed).tobytes()


@lru_cache(1_000)
def _note(digest: str, reason: str | None) -> bytes:
    """Return what a response says about the guardrails of a list."""
    return f',"guardrails":{encode({"digest": digest, "reason": reason})}'.encode()


def _item_json(version: LoadedVersion, row: int) -> str:
    """Return the JSON of an item, with id and title, up to its closing brace."""
    text = version.item_json.get(row)
    if text is None:
        scorer = version.scorer
        text = encode({"item_id": scorer.item_ids[row], "title": scorer.titles[row]})[:-1]
        version.item_json[row] = text
    return text


def _number_texts(values: Array) -> list[str]:
    """Return the numbers as JSON; null where one is not finite."""
    return ["null" if number is None else repr(number) for number in finite(values)]


def _policy_history(scorer: Scorer, request: RecommendRequest) -> History | None:
    """Return the history that the policy reads; None for a policy of single rounds, which only leaves its items out."""
    if scorer.sequential or not request.history:
        return request.session()
    if request.session_id is None:
        raise ConfigError(
            f"{scorer.artifact.agent} does not use the session: leave out `history`; or name the session by"
            " `session_id`, and its items are left out of the list"
        )
    return None


def _packed_history(scorer: Scorer, request: RecommendRequest) -> bytes:
    """Return the session so far as the event stores it."""
    shown = request.history or ()
    return pack_history(scorer.item_rows([each.item for each in shown]), [each.liked for each in shown])


def _context_bytes(scorer: Scorer, request: RecommendRequest, fold_in: FoldIn | None, context: Any) -> bytes:
    """Return the context that the policy used for a user whom it does not know."""
    contexts = None if context is None else context[np.newaxis]
    user = next(scorer.contexts([request.user], fold_in or {}, 1, contexts))
    return bytes(user.context[0].astype(np.float32).tobytes())
