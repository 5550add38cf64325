"""Replay one logged session with another policy: at each step, the logged item and the one that the policy would show.

T steps, I items, A items of the policy's catalog. Each step keeps the logged history: the table says how the policy
would have deviated once, not how a session under it would have gone on. P(like) comes from the response model of
models/user_model.py, fitted on the train part of all users with the rating model of the evaluation world; it is an
estimate under the assumptions of docs/explanation/simulator.md.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recpolicy.core.errors import ConfigError, DataError, suggest_name, unknown_name_error
from recpolicy.core.types import Array
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.session_log import SessionLog
from recpolicy.data.session_log_files import SESSIONS, read_sessions
from recpolicy.data.splits import Split
from recpolicy.inference.predictor import Policy
from recpolicy.inference.session_replay import ACTS, moments
from recpolicy.models.logistic import sigmoid
from recpolicy.models.own_like_model import LikeFunction, read_like_model
from recpolicy.models.session_history import history_of_all_items
from recpolicy.models.session_worlds import EVALUATION_MODEL
from recpolicy.models.user_model import UserModel, fit_user_model
from recpolicy.workflows.policy_feedback import longest_session
from recpolicy.workflows.session_players import session_settings

EXPLORING, GREEDY = "exploring", "greedy"


@dataclass(frozen=True)
class SessionReplay:
    """One logged session, and the choices of a policy at its steps."""

    session: str
    user: Any
    """The user's id."""
    logged_by: str
    """Name of the logging policy."""
    policy: str
    """Agent of the policy that replays it."""
    steps: pd.DataFrame
    """One row per step; see `replay_session`."""
    notes: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """Return the steps as text."""
        text = {
            name: [("" if np.isnan(value) else f"{value:.3g}") for value in self.steps[name]]
            for name in ("propensity", "policy_probability", "p_like", "policy_p_like")
        }
        response = np.where(self.steps["liked"], "like", "skip")
        choice = np.where(self.steps["same"], "=", self.steps["policy_title"])
        frame = self.steps.assign(response=response, choice=choice, **text)
        columns = {
            "item_id": "item", "title": "title", "propensity": "propensity", "response": "response",
            "p_like": "P(like)", "policy_item_id": "what if", "choice": "title ",
            "policy_probability": "P(logged item)", "policy_p_like": "P(like) ",
        }  # fmt: skip
        return frame.set_index("step")[list(columns)].rename(columns=columns)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; None where a figure is missing."""
        rows = self.steps.astype(object).where(self.steps.notna(), None).to_dict(orient="records")
        return {
            "session": self.session, "user_id": self.user, "logged_by": self.logged_by, "policy": self.policy,
            "steps": rows, "notes": list(self.notes),
        }  # fmt: skip


def read_session(path: str | Path, session: str | None, policy: Policy) -> SessionLog:
    """Return one session of a log as steps over the catalog of the policy.

    Args:
        path: File `sessions.parquet`, or a folder with one.
        session: Id of the session; None is the first one.
        policy: The policy that is to replay it.

    Raises:
        DataError: There is no such session, or it has items that the policy does not know or more steps than a session
            of the policy; or the log is wrong.
    """
    path = Path(path)
    path = path / SESSIONS if path.is_dir() else path
    log = read_sessions(path, IdVocabulary.from_policy(policy))
    ids = log.session[log.start[:-1]]
    session = str(ids[0]) if session is None else session
    if session not in ids:
        known = [str(each) for each in ids]
        raise DataError(f"{path}: no session {session!r} among {len(ids):,}.{suggest_name(session, known[:10_000])}")
    log = log.select_sessions(ids == session)
    artifact = policy.artifact
    unknown = np.flatnonzero(~np.isin(log.item, artifact.action_items))
    if len(unknown):
        item = artifact.items["item_id"].iloc[log.item[unknown[0]]]
        raise DataError(
            f"{path}: session {session!r}, step {log.step[unknown[0]]}: item {item} is unknown to the policy"
            f" ({artifact.agent}), which chooses among {len(artifact.action_items):,} items"
        )
    longest = longest_session(policy, log)
    if len(log) > longest:
        raise DataError(
            f"{path}: session {session!r} has {len(log)} steps, but sessions of the policy ({artifact.agent}) have at"
            f" most {longest}; train one with max_episode_steps = {len(log)} or more"
        )
    return log


def fit_response_model(policy: Policy, split: Split, like_model: str | Path | LikeFunction | None = None) -> UserModel:
    """Return the model of the users' responses, fitted on the train part of all users; P(like) may be your own.

    Its rating model is that of the evaluation world, of another class than the policy's features.

    Raises:
        DataError: The ratings have no timestamps.
    """
    config = replace(session_settings(policy).simulator, rating_model=EVALUATION_MODEL, rating_model_config=None)
    own = None if like_model is None else read_like_model(like_model, split.train)
    return fit_user_model(split.train, np.unique(split.train.user), config, policy.metadata["seed"], own)


def replay_session(policy: Policy, log: SessionLog, responses: UserModel | None, mode: str = GREEDY) -> SessionReplay:
    """Return the choices of a policy at each step of a session.

    Args:
        policy: The policy, of sessions or of single rounds.
        log: One session, from `read_session`.
        responses: A fitted response model, from `fit_response_model`; None leaves P(like) out.
        mode: "greedy": the policy's best item is its choice; "exploring": its most probable one.

    Returns:
        The replay. Columns of its steps: `step`; `item_id`, `title`, `propensity` (NaN where none was logged), `liked`
        and `reward` of the log; `policy_item_id`, `policy_title`, the policy's choice; `same`, True if it is the logged
        item; `policy_probability`, that of the logged item under the exploring policy; `p_like` of the logged item and
        `policy_p_like` of the choice.

    Raises:
        ConfigError: The mode is unknown.
    """
    if mode not in ACTS:
        raise unknown_name_error("mode", mode, ACTS)
    artifact, notes = policy.artifact, []
    candidates = log.candidates
    if candidates is not None and not np.array_equal(log.action_items, artifact.action_items):
        candidates = None
        notes.append(
            "The log has another catalog: its candidates are left out, the policy chooses among all its items."
        )
    log = replace(log, action_items=artifact.action_items, candidates=candidates)
    chosen, probability = np.empty(len(log), np.intp), np.empty(len(log))
    for moment in moments(artifact, log):
        rows = np.arange(len(moment.row))
        chosen[moment.row] = ACTS[mode](artifact, moment.estimate, moment.allowed).argmax(axis=1)
        exploring = ACTS[EXPLORING](artifact, moment.estimate, moment.allowed)
        probability[moment.row] = np.minimum(exploring[rows, moment.arm], 1.0)
    own = artifact.action_items[chosen]
    p_like = _like_probabilities(log, responses)
    steps, ids, titles = np.arange(len(log)), artifact.items["item_id"].array, artifact.items["title"].array
    propensity = np.full(len(log), np.nan) if log.log_propensity is None else np.exp(log.log_propensity)
    frame = pd.DataFrame({
        "step": log.step, "item_id": ids[log.item], "title": titles[log.item], "propensity": propensity,
        "liked": log.liked, "reward": log.reward, "policy_item_id": ids[own], "policy_title": titles[own],
        "same": own == log.item, "policy_probability": probability, "p_like": p_like[steps, log.item],
        "policy_p_like": p_like[steps, own],
    })  # fmt: skip
    return SessionReplay(
        str(log.session[0]), artifact.users["user_id"].tolist()[log.user[0]], str(log.policy[0]), artifact.agent, frame,
        (*_summary(frame), *notes),
    )  # fmt: skip


def _like_probabilities(log: SessionLog, responses: UserModel | None) -> Array:
    """Return the probability [T, I] of a like of every item at every step; NaN without a model."""
    items = int(log.action_items.max()) + 1
    if responses is None:
        return np.full((len(log), items), np.nan)
    user = int(log.user[0])
    if user >= len(responses.preference) or items > responses.preference.shape[1]:
        raise ConfigError("the response model has other users or items than the policy; fit it on the policy's ratings")
    history = history_of_all_items(log.item, log.liked, user, responses.tastes)
    odds = responses.like.odds(responses.preference[user].astype(np.float64), history, responses.drift)
    return sigmoid(odds + responses.usual_context[user])


def _summary(frame: pd.DataFrame) -> list[str]:
    same = f"The policy chooses the logged item at {int(frame['same'].sum())} of {len(frame)} steps."
    if frame["p_like"].isna().any():
        return [same]
    return [
        f"{same} Likes expected by the response model: {frame['p_like'].sum():.2f} of the logged items,"
        f" {frame['policy_p_like'].sum():.2f} of the policy's; observed: {int(frame['liked'].sum())}.",
        "Each step keeps the logged history. A session under the policy would have gone on with its own items.",
    ]
