"""Train an agent on a split: rating model, embeddings, a world to play in, the online or offline loop, the artifact."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import as_dict, build
from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.extras import require_extra
from recpolicy.core.files import atomic_directory, content_digest, write_json
from recpolicy.core.seeds import integer_seed
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.ratings import Ratings
from recpolicy.data.splits import Split
from recpolicy.evaluation.baselines import baseline_tables
from recpolicy.evaluation.regret import regret_by_user
from recpolicy.models.context import contexts
from recpolicy.models.embeddings import Embeddings, embed
from recpolicy.models.rating_model import RatingModel, check_not_negative, check_positive
from recpolicy.models.registry import fit_rating_model
from recpolicy.models.world import World, world_of
from recpolicy.serving.artifact import Artifact, finish, write_arrays
from recpolicy.serving.estimators import pack_symmetric
from recpolicy.serving.predictor import Policy, load_policy

if TYPE_CHECKING:
    from recpolicy.agents.learner import BanditAgent
    from recpolicy.environments.movie_bandit import MovieBandit

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a training is made of, besides the agent's own settings."""

    mode: Literal["online", "offline"] = "online"
    """`online`: play rounds in a simulated world; `offline`: learn from the fit ratings as they are."""
    interactions: int = 200_000
    """Interactions of the online mode."""
    batch_size: int = 64
    """Users served at once; the agent learns after each batch."""
    epochs: int = 1
    """Passes over the fit ratings in the offline mode."""
    movies: int = 0
    """Size of the catalogue: the most rated movies of the fit part; 0 takes all."""
    rank: int = 20
    """Length of user and movie embeddings."""
    rating_model: str = "bayesian_fm"
    """The model that embeddings come from (a name in RATING_MODELS)."""
    world: str = "svd"
    """The model that pays rewards online; of another class than `rating_model`, fitted on the same fit part."""
    demographics: bool = False
    """Append age, gender and occupation to the contexts."""
    drift_period: int = 0
    """Rounds in which the world's preferences drift away and back; 0 keeps them still."""
    exploration_floor: float = 0.0
    """Share of uniform actions mixed into the exploring policy, so that every arm has a positive propensity."""
    points: int = 100
    """Rows of training metrics."""
    checkpoint_every: int = 10
    """Rows between checkpoints."""

    def __post_init__(self) -> None:
        check_positive(self, "interactions", "batch_size", "epochs", "rank", "points", "checkpoint_every")
        check_not_negative(self, "movies", "drift_period")
        if not 0 <= self.exploration_floor <= 1:
            raise ConfigError(f"TrainConfig.exploration_floor is {self.exploration_floor!r}; it must be in [0, 1]")


@dataclass(frozen=True)
class Features:
    """What every agent on a split starts from; fitted on the fit part only."""

    model: RatingModel
    embeddings: Embeddings
    context: NDArray[np.float32]  # [U, >= D]
    catalogue: NDArray[np.int32]  # [A], movie rows


def train(
    agent: str,
    split: Split,
    out: str | Path,
    *,
    config: TrainConfig | Mapping[str, Any] | None = None,
    agent_config: Any = None,
    model: RatingModel | None = None,
    model_config: Any = None,
    source: Mapping[str, Any] | None = None,
    seed: int = 0,
    show_progress: bool | None = None,
) -> Policy:
    """Train the named agent on the fit part of `split` and write the policy artifact to the folder `out`.

    config and agent_config are dataclasses or mappings of settings (TrainConfig; the agent's own). A rating model
    already fitted on the same fit part may be handed in; `source` (the arguments of load_ratings) is noted in the
    artifact, so that `recpolicy evaluate` can read the ratings again. A training that was killed is taken up where its
    last checkpoint left it by the same call. Raises ConfigError for unknown names and settings out of range,
    ArtifactError when `out` exists or holds an unfinished training with other settings.
    """
    require_extra("train", "training")
    silence_libraries()  # before TF-Agents is imported: gym prints its notice then
    from recpolicy.agents.registry import agent_entry

    settings = _settings(TrainConfig, config, "train")
    entry = agent_entry(agent)
    agent_settings = _settings(entry.config, agent_config, agent)
    out = Path(out)
    if out.exists():
        raise ArtifactError(f"{out}: exists already; choose another folder or remove it first")
    features = prepare(split.fit, settings, model=model, model_config=model_config, seed=seed)
    about = {
        "source": None if source is None else dict(source),
        **_about(split, settings, agent_settings, features.model, seed),
    }
    world = training_world(split.fit, settings, seed)
    environment = make_environment(world, features, settings, seed)
    learner = _make_agent(entry, environment, agent_settings, features, split.fit, seed)
    learner.exploration_floor = settings.exploration_floor
    # Last, so that settings refused above leave no unfinished training behind.
    work = _work_folder(out, {"agent": agent, **about})
    figures = _learn(learner, environment, split.fit, features, settings, work, seed, show_progress)
    if settings.mode == "online":
        figures["baseline_regret"] = baseline_regret(world, split.fit, features)
    artifact = _artifact(agent, learner, split.fit, features, settings, {**about, "training": figures})
    _write(artifact, learner, features.context.shape[1], work, out)
    return load_policy(out)


def prepare(
    fit: Ratings, settings: TrainConfig, *, model: RatingModel | None = None, model_config: Any = None, seed: int = 0
) -> Features:
    """Fit (or take) the rating model and derive embeddings, contexts and the catalogue from the fit part."""
    if model is None:
        model = fit_rating_model(fit, settings.rating_model, model_config, seed=seed)
    if model.fit_digest != fit.digest:
        raise ConfigError(f"the rating model {model.name!r} was fitted on other ratings than {fit.name}")
    rank = min(settings.rank, *fit.shape)
    embeddings = embed(model, rank)
    return Features(
        model, embeddings, contexts(embeddings, fit.users, settings.demographics), _catalogue(fit, settings)
    )


def make_environment(world: World, features: Features, settings: TrainConfig, seed: int) -> "MovieBandit":
    """The environment to train in."""
    from recpolicy.environments.movie_bandit import MovieBandit, MovieBanditConfig

    config = MovieBanditConfig(batch_size=settings.batch_size, drift_period=settings.drift_period)
    return MovieBandit(world, features.context, features.catalogue, config, seed)


def training_world(fit: Ratings, settings: TrainConfig, seed: int) -> World:
    """The world that pays while training: another model class than the features', on the fit part, another seed."""
    if settings.world == settings.rating_model:
        raise ConfigError(f"world and rating_model are both {settings.world!r}; the world must be of another class")
    return world_of(fit_rating_model(fit, settings.world, seed=integer_seed(seed, "world")))


def baseline_regret(world: World, fit: Ratings, features: Features) -> dict[str, float]:
    """Regret per interaction of each baseline in the training world, among the catalogue, without drift; enumerated."""
    expected = world.expected[:, features.catalogue]
    return {
        name: float(regret_by_user(expected, table.score[:, features.catalogue]).mean())
        for name, table in baseline_tables(fit, features.model).items()
    }


def _settings(kind: type[Any], given: Any, where: str) -> Any:
    if given is None:
        return kind()
    return given if isinstance(given, kind) else build(kind, given, where)


def _catalogue(fit: Ratings, settings: TrainConfig) -> NDArray[np.int32]:
    movies = fit.shape[1]
    if settings.movies and not 2 <= settings.movies <= movies:
        raise ConfigError(f"train: movies is {settings.movies}; expected 0 (all) or 2..{movies}")
    if not settings.movies:
        return np.arange(movies, dtype=np.int32)
    count = np.bincount(fit.movie, minlength=movies)
    return np.sort(np.argsort(-count, kind="stable")[: settings.movies]).astype(np.int32)


def _make_agent(
    entry: Any, environment: "MovieBandit", config: Any, features: Features, fit: Ratings, seed: int
) -> "BanditAgent":
    from recpolicy.agents.arms import arms_of

    arms = arms_of(features.catalogue, features.embeddings, fit)
    made: BanditAgent = entry.make(environment.time_step_spec(), environment.action_spec(), config, arms, seed)
    return made


def _learn(
    agent: "BanditAgent", environment: "MovieBandit", fit: Ratings, features: Features, settings: TrainConfig,
    work: Path, seed: int, show_progress: bool | None,
) -> dict[str, Any]:  # fmt: skip
    if settings.mode == "offline":
        from recpolicy.training.offline import learn_offline

        arm = np.full(fit.shape[1], -1, np.int32)
        arm[features.catalogue] = np.arange(len(features.catalogue), dtype=np.int32)
        known = arm[fit.movie] >= 0
        context, action = features.context[fit.user[known]], arm[fit.movie[known]]
        losses = learn_offline(agent, context, action, fit.rating[known], epochs=settings.epochs, seed=seed)
        return {"mode": "offline", "rows": int(known.sum()), "epochs": settings.epochs, "last_loss": float(losses[-1])}
    from recpolicy.training.run import OnlineConfig, train_online

    online = OnlineConfig(
        interactions=settings.interactions, points=settings.points, checkpoint_every=settings.checkpoint_every
    )
    pulls = train_online(environment, agent, online, work, show_progress)
    return {"mode": "online", "interactions": int(pulls.sum()), "pulls": pulls.tolist()}


def _about(split: Split, settings: TrainConfig, agent: Any, model: RatingModel, seed: int) -> dict[str, Any]:
    packages = ("recpolicy", "numpy", "pandas", "tensorflow", "tf-agents", "tf-keras", "myfm", "scikit-learn")
    return {
        "data": split.fit.name,
        "split": {"name": split.name, "seed": split.seed, "fit": split.fit.digest, "test": split.test.digest},
        "config": {"train": as_dict(settings), "agent": as_dict(agent), "rating_model": model.config},
        "rating_model": {"name": model.name, "seed": model.seed},
        "seed": seed,
        "versions": {name: version(name) for name in packages},
    }


def _work_folder(out: Path, about: dict[str, Any]) -> Path:
    """The folder beside `out` that holds an unfinished training; raises ArtifactError if it is of another training."""
    work = out.with_name(f"{out.name}.training")
    note = work / "about.json"
    if note.exists():
        if json.loads(note.read_text(encoding="utf-8")) != json.loads(json.dumps(about)):
            raise ArtifactError(
                f"{work}: an unfinished training with other settings or data; finish it with the same settings, or"
                " remove the folder"
            )
        logger.info("taking up the unfinished training in %s", work)
    else:
        write_json(note, about)
    return work


def _artifact(
    name: str, agent: "BanditAgent", fit: Ratings, features: Features, settings: TrainConfig, about: dict[str, Any]
) -> Artifact:
    exported = agent.learner.export()
    arrays = dict(exported.arrays)
    if "covariance" in arrays and arrays["covariance"].ndim == 3:
        arrays["covariance"] = pack_symmetric(arrays["covariance"])
    return Artifact(
        agent=name, estimator=exported.estimator, head=exported.head, settings=exported.settings,
        exploration_floor=settings.exploration_floor, policy=arrays, context=features.context,
        movie=features.embeddings.movie, offset=features.embeddings.offset, rating_std=features.model.std,
        catalogue=features.catalogue, rated_user=fit.user, rated_movie=fit.movie, users=fit.users, movies=fit.movies,
        scale=fit.scale, noise_std=float(features.model.noise_std),
        about={**about, "content": content_digest(*(arrays[key] for key in sorted(arrays)))},
    )  # fmt: skip


def _write(artifact: Artifact, agent: "BanditAgent", width: int, work: Path, out: Path) -> None:
    from recpolicy.serving.tensorflow_export import write_saved_models
    from recpolicy.training.run import METRICS_FILE, TENSORBOARD_FOLDER

    with atomic_directory(out) as folder:
        write_arrays(artifact, folder)
        write_saved_models(agent, width, folder)
        if (work / METRICS_FILE).exists():
            shutil.copy(work / METRICS_FILE, folder / METRICS_FILE)
            shutil.copytree(work / TENSORBOARD_FOLDER, folder / TENSORBOARD_FOLDER)
        finish(artifact, folder)
    shutil.rmtree(work)
