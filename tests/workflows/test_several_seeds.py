"""`train_seeds`: each policy is that of its seed alone; what it continues, and what it refuses."""

import shutil

import pytest
from trained_policies import miniature_split

from recpolicy.core.errors import ArtifactError, ConfigError, DivergedError
from recpolicy.inference.predictor import load_policy
from recpolicy.training import session_trainer, tensorflow_export
from recpolicy.training.divergence import diverged
from recpolicy.training.session_loop import SessionLoops
from recpolicy.workflows.session_training import train_sessions
from recpolicy.workflows.several_seeds import train_seeds

TINY = {
    "total_timesteps": 64, "batch_size": 8, "log_rows": 2, "checkpoint_every_steps": 32, "rating_model": "svd",
    "rank": 5, "max_episode_steps": 8,
}  # fmt: skip
"""Tabular Q-learning, which compiles quickly, takes two blocks of 32 items in two calls of one compiled loop."""
PPO = {"layers": (8,), "n_steps": 4, "n_epochs": 2, "minibatch_size": 16}
SEEDS = (3, 4)
FILES = ("arrays.npz", "metrics.csv")


@pytest.fixture(autouse=True)
def without_saved_models(monkeypatch):
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of a finished training of two seeds."""
    out = tmp_path_factory.mktemp("trained") / "policies"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
        train(out)
    return out


def train(out, agent="q_learning", agent_config=None, **changed):
    return train_seeds(agent, miniature_split(), out, SEEDS, config=TINY | changed, agent_config=agent_config)


def assert_same(one, other):
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize(("agent", "settings"), [("q_learning", {}), ("ppo", PPO)])
def test_each_policy_is_that_of_its_seed_alone(out, tmp_path, agent, settings):
    together = out if agent == "q_learning" else tmp_path / "together"
    if agent == "ppo":
        train(together, agent, settings)
    folder = tmp_path / "alone"
    alone = train_sessions(agent, miniature_split(), folder, config=TINY, agent_config=settings, seed=4)
    assert_same(together / "seed-4", folder)
    assert load_policy(together / "seed-4").metadata == alone.metadata
    assert (together / "seed-3" / "arrays.npz").read_bytes() != (together / "seed-4" / "arrays.npz").read_bytes()
    assert sorted(path.name for path in together.iterdir()) == ["seed-3", "seed-4"]


def test_an_interrupted_training_is_continued_whatever_was_saved(out, tmp_path, monkeypatch):
    """Cut after a checkpoint of the first seed only; later a finished policy is lost."""
    run, take = SessionLoops.run, session_trainer._Training.take
    calls, taken = [], []

    def counted(self, members, blocks):
        calls.append((tuple(members), blocks))
        return run(self, members, blocks)

    def cut(self, metrics):
        taken.append(self)
        if len(taken) == 2:
            raise KeyboardInterrupt
        take(self, metrics)

    monkeypatch.setattr(SessionLoops, "run", counted)
    monkeypatch.setattr(session_trainer._Training, "take", cut)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "out")
    monkeypatch.setattr(session_trainer._Training, "take", take)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["seed-3.incomplete", "seed-4.incomplete"]
    policies = train(tmp_path / "out")
    assert calls == [((0, 1), 1), ((1,), 1), ((0, 1), 1)]  # the one behind catches up alone
    assert [policy.metadata["seed"] for policy in policies] == [3, 4]
    for seed in SEEDS:
        assert_same(tmp_path / "out" / f"seed-{seed}", out / f"seed-{seed}")
    before = (tmp_path / "out" / "seed-3" / "arrays.npz").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "out" / "seed-4")
    train(tmp_path / "out")
    assert (tmp_path / "out" / "seed-3" / "arrays.npz").stat().st_mtime_ns == before
    assert_same(tmp_path / "out" / "seed-4", out / "seed-4")


def test_one_that_diverges_lets_the_others_finish(out, tmp_path, monkeypatch):
    def diverge(figures, step, saved, folder):
        if folder.name == "seed-3.incomplete" and step == 64:
            raise diverged("planted", step, saved, folder)

    monkeypatch.setattr(session_trainer, "check_metrics", diverge)
    with pytest.raises(DivergedError, match=r"planted; the checkpoint of step 32 in .*seed-3\.incomplete is kept"):
        train(tmp_path / "out")
    assert_same(tmp_path / "out" / "seed-4", out / "seed-4")
    assert not (tmp_path / "out" / "seed-3").exists()


def test_folders_of_something_else_are_refused(out, tmp_path):
    with pytest.raises(ArtifactError, match="already has the policies of all seeds"):
        train(out)
    (tmp_path / "out").mkdir()
    shutil.copytree(out / "seed-3", tmp_path / "out" / "seed-3")
    with pytest.raises(ArtifactError, match="seed-3: a policy of other settings or data"):
        train(tmp_path / "out", reward_decay=0.5)
    (tmp_path / "out" / "recpolicy.json").touch()
    with pytest.raises(ArtifactError, match=r"out: holds recpolicy\.json, which is no policy of these seeds"):
        train(tmp_path / "out")
    with pytest.raises(ArtifactError, match="is a file; expected a folder for the policies of several seeds"):
        train(tmp_path / "out" / "recpolicy.json")


def test_agents_that_do_not_learn_in_simulated_sessions_are_refused(tmp_path):
    for agent, reason in (("linucb", "learns in single rounds"), ("behavior_cloning", "a log of sessions")):
        with pytest.raises(ConfigError, match=reason):
            train_seeds(agent, miniature_split(), tmp_path / "out", SEEDS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seeds", [[], [1], [1, 1], [0, 1, 0]])
def test_seeds_that_are_missing_or_repeat_are_refused(tmp_path, seeds):
    with pytest.raises(ConfigError, match="expected at least two, all different"):
        train_seeds("ppo", miniature_split(), tmp_path / "out", seeds)
