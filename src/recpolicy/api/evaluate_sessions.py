"""What a session policy earns in simulated sessions, beside the baselines, in the world it knows and in the judge's."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recpolicy.api.evaluate import METRICS_FILE, refuse_seen_rows
from recpolicy.api.features import Features, prepare, settings_of
from recpolicy.api.train_sessions import SessionTrainConfig, session_environment, worlds_of
from recpolicy.core.errors import ConfigError
from recpolicy.core.files import write_json
from recpolicy.core.seeds import generator
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.splits import Split
from recpolicy.evaluation.baselines import baseline_tables
from recpolicy.evaluation.bootstrap import Interval, paired_difference
from recpolicy.models.session_worlds import TwoWorlds
from recpolicy.serving.predictor import Policy

SESSIONS_PER_USER = 4


@dataclass(frozen=True)
class Returns:
    """One policy's sessions in one world."""

    reward: Interval
    """Mean reward of a session, with its user-bootstrap interval."""
    length: float
    """Mean number of movies shown."""
    like_share: float
    """Likes per movie shown."""
    gain: Interval | None
    """Reward beyond rating-model greedy in the same sessions; None for that policy itself."""


@dataclass(frozen=True)
class SessionVerdict:
    """Returns of every policy in both worlds."""

    train: Mapping[str, Returns]
    judge: Mapping[str, Returns]

    def table(self) -> pd.DataFrame:
        """All figures as text, one row a policy, the best in the judge world first."""
        rows = {
            name: {
                "judge reward": str(judged.reward),
                "gain on rating_model": "" if judged.gain is None else str(judged.gain),
                "movies": f"{judged.length:.1f}",
                "likes per movie": f"{judged.like_share:.3f}",
                "training-world reward": str(self.train[name].reward),
            }
            for name, judged in sorted(self.judge.items(), key=lambda item: -item[1].reward.value)
        }
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index.name = "policy"
        return table

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""

        def plain(returns: Returns) -> dict[str, Any]:
            gain = returns.gain
            return {
                "reward": _plain(returns.reward), "gain_on_rating_model": None if gain is None else _plain(gain),
                "length": returns.length, "like_share": returns.like_share,
            }  # fmt: skip

        worlds = {"train": self.train, "judge": self.judge}
        return {where: {name: plain(one) for name, one in found.items()} for where, found in worlds.items()}


def evaluate_sessions(
    policies: Mapping[str, Policy],
    split: Split,
    *,
    worlds: TwoWorlds | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> SessionVerdict:
    """Play the named session policies, greedily, beside the baselines; adds `sessions` to metrics.json in `out`.

    All must have been trained with the same catalogue, view-independent settings and simulator. Raises DataError as
    recpolicy.api.evaluate.evaluate does, ConfigError for a policy that is none of sessions.
    """
    silence_libraries()
    for name, policy in policies.items():
        refuse_seen_rows(name, policy, split)
        if not policy.sequential:
            raise ConfigError(f"{name} ({policy.artifact.agent}) was not trained in sessions")
    first = next(iter(policies.values()))
    settings = settings_of(SessionTrainConfig, first.about["config"]["train"], "train")
    described = first.about["rating_model"]
    features = prepare(split.fit, settings, model_config=first.about["config"]["rating_model"], seed=described["seed"])
    made = worlds or worlds_of(split, settings, first.about["seed"])
    train, judge = (_returns(policies, split, features, settings, world, seed) for world in (made.train, made.judge))
    verdict = SessionVerdict(train, judge)
    if out is not None:
        path = out / METRICS_FILE
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        write_json(path, {**before, "sessions": verdict.as_dict()})
    return verdict


def _returns(
    policies: Mapping[str, Policy], split: Split, features: Features, settings: SessionTrainConfig, world: Any,
    seed: int,
) -> dict[str, Returns]:  # fmt: skip
    from recpolicy.evaluation.sessions import SessionPlayer, session_baselines

    sessions = SESSIONS_PER_USER * len(world.users)
    environment = session_environment(world, features, settings, seed, batch_size=sessions)
    player = SessionPlayer(environment)
    tables = {name: table.score[:, features.catalogue] for name, table in _tables(split, features).items()}
    choices = {name: _greedy(policy) for name, policy in policies.items()} | session_baselines(environment, tables)
    played = {name: player.play(choose, seed) for name, choose in choices.items()}
    reference = played["rating_model"].by_user(played["rating_model"].reward)
    found = {}
    for name, results in played.items():
        earned = results.by_user(results.reward)
        rng = generator(seed, "evaluation/sessions")
        gain = None if name == "rating_model" else paired_difference(earned, reference, rng)
        shown = results.length.sum()
        found[name] = Returns(
            results.interval(generator(seed, "evaluation/sessions")), float(results.length.mean()),
            float(results.likes.sum() / shown), gain,
        )  # fmt: skip
    return found


def _tables(split: Split, features: Features) -> Mapping[str, Any]:
    return baseline_tables(split.fit, features.model)


def _greedy(policy: Policy) -> Any:
    from recpolicy.evaluation.sessions import best

    width = policy.artifact.context.shape[1]

    def choose(_: Any, observation: Any, mask: Any, rng: np.random.Generator) -> Any:
        return best(policy.session_scores(observation[:, :width], observation[:, width:]), mask, rng)

    return choose


def _plain(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "lo": interval.lo, "hi": interval.hi}
