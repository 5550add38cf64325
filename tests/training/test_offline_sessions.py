"""Learning from logged sessions: what is rebuilt is what was seen; fixed points; a chain solved without playing it."""

import shutil
import sys
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from session_blocks import arrays_of, environment, make, small_specs
from synthetic_session_logs import (
    bandit_log,
    bandit_sight,
    eagerly,
    log_of,
    planted_sight,
    random_log,
    sight_of,
    uniform,
)

from recpolicy.agents.experience import flatten
from recpolicy.agents.topk_reinforce import TopKReinforceConfig, make_topk_reinforce
from recpolicy.core.errors import ArtifactError, ConfigError, DataError, DivergedError
from recpolicy.data.candidates import CandidateSets
from recpolicy.ope.engine import estimate_trajectories
from recpolicy.ope.feedback import TrajectoryFeedback
from recpolicy.ope.fqe import table_model
from recpolicy.training import offline_sessions as module
from recpolicy.training.observation_builder import make_block, make_step_block, make_steps, replay
from recpolicy.training.offline_sessions import OfflineRunConfig, check_log, learn_from_sessions
from recpolicy.training.rollout_sessions import SessionRollout, rollout_sessions

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "known_problems"))

from problems import BAIT, BEST_RETURN, OPENER, chain, make_agent, mean_return, opening

STEPS, ITEMS, BATCH = 8, 24, 200
UNCLIPPED = 1e6
TEN = np.arange(1, 11)
FOLLOWING = TEN * (11 - TEN) / np.sum(TEN * (11 - TEN))
"""Where a policy ends that takes the pairs as they were logged: pi = r beta / sum r beta."""


def watched(view: str):
    """200 sessions played step by step: what was seen, what came of it, and the log of it."""
    game, rng = environment(0, BATCH, view=view), np.random.default_rng(0)
    session = game.restart(None, None, game.noise(tf.constant(0, tf.int64)))
    user, going, rows = session.user_state.user.numpy(), np.ones(BATCH, bool), []
    for step in range(STEPS):
        seen, mask = (part.numpy() for part in game.observe(session))
        arm = np.argmax(rng.random(mask.shape) * mask, axis=1).astype(np.int32)
        done = game.transition(session, tf.constant(arm), game.noise(tf.constant(step + 1, tf.int64)))
        after, next_mask = (part.numpy() for part in game.observe(done.session))
        ended, cut = done.terminated.numpy(), done.truncated.numpy()
        rows.append((seen, mask, arm, done.reward.numpy(), ended, cut, after, next_mask, going.copy(), done.response))
        session, going = done.session, going & ~(ended | cut)
    shown = np.array([row[8] for row in rows]).T  # [B, S]
    place, step = np.nonzero(shown)

    def told(part):
        return np.array([row[part] for row in rows])[step, place]

    liked = np.array([row[9].like.numpy() for row in rows])[step, place]
    users = game.world.users[user][place]
    rollout = SessionRollout(users, place, step.astype(np.int32), told(2), -1.0 - 0.1 * step, told(3), liked, told(4))
    return rows, shown, log_of(rollout, ITEMS)


@pytest.mark.parametrize("view", ["interest", "last_item", "last_n", "gru"])
def test_what_is_rebuilt_from_a_log_is_what_was_seen(view):
    rows, shown, log = watched(view)
    columns = [np.array(part) for part in list(zip(*rows, strict=True))[:8]]
    seen, mask, arm, reward, ended, cut, after, next_mask = columns
    replayed, going = replay(log, planted_sight(view)), shown.T  # [S, B]
    block = make_block(replayed, tf.range(BATCH), ITEMS)
    for found, expected in (
        (block.observation, seen), (block.next_observation, after), (block.mask, mask), (block.action, arm),
        (block.reward, reward), (block.terminated, ended), (block.truncated, cut),
    ):  # fmt: skip
        np.testing.assert_allclose(found.numpy()[going], expected[going], atol=1e-5)
    np.testing.assert_allclose(block.log_probability.numpy()[going], (-1.0 - 0.1 * np.nonzero(going)[0]), rtol=1e-6)
    batch = make_steps(replayed, tf.range(len(log)), ITEMS)
    first = shown.nonzero()
    for found, expected in (
        (batch.observation, seen), (batch.action, arm), (batch.reward, reward), (batch.terminated, ended),
        (batch.next_observation, after), (batch.next_mask, next_mask),
    ):  # fmt: skip
        np.testing.assert_allclose(found.numpy(), expected[first[1], first[0]], atol=1e-5)
    steps = make_step_block(replayed, tf.range(len(log)), ITEMS)
    for found, expected in (
        (steps.observation, seen), (steps.mask, mask), (steps.action, arm), (steps.reward, reward),
        (steps.terminated, ended), (steps.truncated, cut), (steps.next_observation, after),
        (steps.next_mask, next_mask),
    ):  # fmt: skip
        np.testing.assert_allclose(found.numpy()[0], expected[first[1], first[0]], atol=1e-5)
    np.testing.assert_allclose(steps.log_probability.numpy()[0], log.log_propensity, rtol=1e-6)
    assert 0 < log.ended.sum() < BATCH  # some were cut


def test_a_step_shows_only_candidates_and_a_cut_session_ends_with_those_of_its_last_step():
    _, _, log = watched("interest")
    sight, rng = planted_sight("interest"), np.random.default_rng(1)
    catalog = log.action_items
    mask = rng.random((len(log), ITEMS)) < 0.7
    mask[np.arange(len(log)), np.searchsorted(catalog, log.item)] = True
    sets = CandidateSets.without_exclusions(np.packbits(mask, axis=1), np.arange(len(log)), ITEMS)
    with_sets, plain = replay(replace(log, candidates=sets), sight), replay(log, sight)
    session = np.repeat(np.arange(len(log.length)), log.length)
    blocks = [make_block(replayed, tf.range(BATCH), ITEMS).mask.numpy() for replayed in (with_sets, plain)]
    blocks = [block[log.step, session] for block in blocks]
    np.testing.assert_array_equal(blocks[0], blocks[1] & mask)
    following = np.minimum(np.arange(len(log)) + 1, (log.start[1:] - 1)[session])
    steps = [make_steps(replayed, tf.range(len(log)), ITEMS).next_mask.numpy() for replayed in (with_sets, plain)]
    np.testing.assert_array_equal(steps[0], steps[1] & mask[following])
    steps = [make_step_block(replayed, tf.range(len(log)), ITEMS) for replayed in (with_sets, plain)]
    np.testing.assert_array_equal(steps[0].mask.numpy()[0], steps[1].mask.numpy()[0] & mask)
    np.testing.assert_array_equal(steps[0].next_mask.numpy()[0], steps[1].next_mask.numpy()[0] & mask[following])


def bandit(actions: int, **given):
    """A trunk that is 0, so that the heads' biases are all there is: a table of logits."""
    plain = {
        "layers": (1,), "head": "plain", "baseline": False, "ent_coef": 0.0, "n_epochs": 20, "max_weight": UNCLIPPED,
        "learning_rate": 0.05, "max_grad_norm": 0.0,
    }  # fmt: skip
    agent = make_topk_reinforce(*small_specs(2, actions), TopKReinforceConfig(**(plain | given)))
    bias = agent.learner._policy.network.trainable_variables[-1]
    bias.assign(np.zeros(actions, np.float32))
    return agent, bias


def ends_at(log, epochs: int, **given) -> np.ndarray:
    """The policy that the agent ends at, all sessions in one block."""
    agent, bias = bandit(len(log.action_items), **given)
    learn_from_sessions(
        agent, log, bandit_sight(len(log.action_items)), OfflineRunConfig(epochs=epochs, batch_size=len(log))
    )
    return tf.nn.softmax(bias).numpy()


def test_uncorrected_it_ends_where_the_logger_leads_and_corrected_at_the_best_item():
    """With all weights at the same limit nothing is corrected; of ten items the logger shows the worst most."""
    log = bandit_log(11 - TEN, TEN)
    np.testing.assert_allclose(ends_at(log, 30, max_weight=1e-3), FOLLOWING, atol=0.003)
    assert ends_at(log, 20)[-1] > 0.95


def test_without_propensities_the_behaviour_head_finds_them():
    log = bandit_log(11 - TEN, TEN, log_propensity=None)
    assert ends_at(log, 40, behavior="head")[-1] > 0.9


@pytest.mark.parametrize(("k", "expected"), [(1, [1, 0]), (2, [10 / 19, 9 / 19])])
def test_a_slate_of_two_shares_its_places(k, expected):
    """Rewards 10, 9 and eight times 1 from a uniform log."""
    log = bandit_log(np.full(10, 2), np.array([10, 9, *[1] * 8]))
    np.testing.assert_allclose(ends_at(log, 60, k=k)[:2], expected, atol=0.02)


def test_how_often_the_cap_binds_is_told():
    """Own policy 1/3 each; logged with (.5, .3, .2): weights .67, 1.11, 1.67, of which the last exceeds 1.5."""
    agent, _ = bandit(3, max_weight=1.5, learning_rate=1e-9, n_epochs=1)
    log = bandit_log(np.array([5, 3, 2]), np.ones(3))
    told = learn_from_sessions(agent, log, bandit_sight(3), OfflineRunConfig(batch_size=10))
    assert told["clipped_share"] == pytest.approx(0.2, rel=1e-5)
    weight = np.repeat(1 / 3 / np.array([0.5, 0.3, 0.2]), [5, 3, 2])
    assert told["effective_share"] == pytest.approx(weight.sum() ** 2 / 10 / (weight**2).sum(), rel=1e-4)
    assert (told["mode"], told["rows"], told["sessions"], told["epochs"]) == ("log", 10, 10, 1)


@pytest.fixture(scope="module")
def random_chain():
    """The chain, played by the uniform choice: what it logged, and how an agent sees it."""
    problem = chain()
    game = problem.environment(0, 250)
    log = log_of(rollout_sessions(game, uniform(game), 2_000, 0), 4)
    return problem, log, sight_of(game, np.zeros((1, 4), np.float32), np.eye(4, dtype=np.float32))


@pytest.mark.parametrize(("gamma", "first"), [(0.9, OPENER), (0.0, BAIT)])
@pytest.mark.parametrize("name", ["dqn", "offpolicy_actor_critic"])
def test_critics_look_ahead_in_a_random_log_as_far_as_gamma_says(random_chain, name, gamma, first):
    problem, log, sight = random_chain
    agent = make_agent(name, problem, gamma, 0)
    learn_from_sessions(agent, log, sight, OfflineRunConfig(epochs=30))
    assert opening(agent, problem)[first] > 0.95
    assert (mean_return(agent, problem) > 0.95 * BEST_RETURN) == (gamma > 0)


def test_the_critics_value_is_that_of_the_judge_on_a_held_out_log(random_chain):
    """Q averaged over the first states, against the doubly robust interval and fitted Q evaluation."""
    problem, log, sight = random_chain
    agent = make_agent("offpolicy_actor_critic", problem, 0.9, 0)
    learn_from_sessions(agent, log, sight, OfflineRunConfig(epochs=30))
    game, learner = problem.environment(7, 250), agent.learner
    held_out = log_of(rollout_sessions(game, uniform(game), 4_000, 7), 4)
    block = make_block(replay(held_out, sight), tf.range(len(held_out.length)), 4)  # [2, M]
    seen, mask = flatten(block.observation), flatten(block.mask)
    probability = tf.nn.softmax(learner.logits(seen, mask)).numpy()
    values = tf.reduce_mean(learner.action_values(seen), axis=0).numpy()
    critic = (probability * values).sum(axis=1).reshape(2, -1)[0].mean()

    arm, liked = block.action.numpy().T, held_out.liked[held_out.start[:-1]]
    state = np.stack([np.zeros(len(arm), int), 1 + 2 * arm[:, 0] + liked], axis=1)
    policy = np.full((9, 4), 0.25)
    policy[state.T.ravel()] = probability
    target = np.take_along_axis(probability.reshape(2, -1, 4), block.action.numpy()[..., np.newaxis], axis=2)[..., 0].T
    feedback = TrajectoryFeedback(
        block.reward.numpy().T.astype(np.float64), np.exp(block.log_probability.numpy().T.astype(np.float64)),
        target.astype(np.float64), held_out.length, np.arange(len(arm)), gamma=0.9,
    )  # fmt: skip
    model = table_model(feedback, state, arm, policy.astype(np.float64))
    judge = estimate_trajectories(feedback, ["per_decision_dr"], model=model)["per_decision_dr"]
    interval = judge.intervals["bootstrap"]
    assert interval.lo <= critic <= interval.hi
    assert interval.hi - interval.lo < 0.3  # the judge can refuse
    assert critic == pytest.approx(model.expected_q[:, 0].mean(), abs=0.1)


def test_topk_reinforce_values_what_the_logger_went_on_to_do(random_chain):
    """Its correction is of one step: after the opener a random logger earns .3, so the bait looks better."""
    problem, log, sight = random_chain
    agent = make_agent("topk_reinforce", problem, 0.9, 0)
    learn_from_sessions(agent, log, sight, OfflineRunConfig(epochs=60, batch_size=200))
    assert opening(agent, problem)[BAIT] > 0.9


_STEPS = {"batch_size": 32}
AGENTS = {"topk_reinforce": {}, "offpolicy_actor_critic": _STEPS, "dqn": _STEPS, "behavior_cloning": _STEPS}


@pytest.mark.parametrize("name", AGENTS)
def test_every_session_or_step_counts_once_an_epoch(name):
    """40 sessions in blocks of 16: two and a rest; the steps likewise."""
    agent, log = make(name, **AGENTS[name]), random_log()
    with eagerly():
        learn_from_sessions(agent, log, planted_sight(), OfflineRunConfig(epochs=3, batch_size=16))
    units, size = (40, 16) if name == "topk_reinforce" else (len(log), 32)
    assert units % size
    assert int(agent.train_step_counter.numpy()) == 3 * (-(-units // size))


@pytest.mark.parametrize("name", AGENTS)
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(name):
    def learnt(seed: int):
        agent = make(name, **AGENTS[name])
        learn_from_sessions(agent, log, planted_sight(), OfflineRunConfig(batch_size=16), seed=seed)
        return arrays_of(agent)

    log = random_log()
    with eagerly():
        one, again, other = learnt(0), learnt(0), learnt(1)
    assert all(np.array_equal(one[key], again[key]) for key in one)
    assert any(not np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", AGENTS)
def test_a_compiled_program_learns_among_candidates(name):
    """All items as candidates teach what a log without candidates teaches, fewer ones something else."""
    log, rng, learned = random_log(), np.random.default_rng(0), []
    arm = np.searchsorted(log.action_items, log.item)
    for share in (None, 1.0, 0.3):
        mask = rng.random((len(log), ITEMS)) < (share or 0)
        mask[np.arange(len(log)), arm] = True
        sets = CandidateSets.without_exclusions(np.packbits(mask, axis=1), np.arange(len(log)), ITEMS)
        agent = make(name, **AGENTS[name])
        with_sets = log if share is None else replace(log, candidates=sets)
        learn_from_sessions(agent, with_sets, planted_sight(), OfflineRunConfig(batch_size=40))
        learned.append(arrays_of(agent))
    plain, everything, few = learned
    for key, values in plain.items():
        np.testing.assert_allclose(values, everything[key], atol=1e-4, err_msg=key)
    assert any(np.abs(plain[key] - few[key]).max() > 1e-3 for key in plain)


@pytest.mark.parametrize("name", AGENTS)
def test_room_for_longer_sessions_changes_nothing(name):
    """What is padded counts for nothing; the view last_item does not know how long sessions can be."""
    log, found = random_log(view="last_item"), []
    for steps in (STEPS, STEPS + 5):
        agent = make(name, view="last_item", tables=False, **AGENTS[name])
        with eagerly():
            learn_from_sessions(agent, log, planted_sight("last_item", steps=steps), OfflineRunConfig(batch_size=16))
        found.append(arrays_of(agent))
    for key, array in found[0].items():
        np.testing.assert_allclose(found[1][key], array, atol=2e-5, err_msg=key)


def test_dqn_asks_for_no_propensities_and_stops_exploring_what_it_has_learnt():
    log = random_log()
    one, other = (make("dqn", batch_size=32, exploration_decay=0.5) for _ in range(2))
    with eagerly():
        told = learn_from_sessions(one, log, planted_sight())
        learn_from_sessions(other, replace(log, log_propensity=None), planted_sight())
    for key, array in arrays_of(one).items():
        np.testing.assert_array_equal(arrays_of(other)[key], array)
    assert told["epsilon"] < 0.2
    assert one.learner.export().settings["epsilon"] == pytest.approx(one.learner.config.exploration_final_eps)


EPOCHS = 2
FEW = OfflineRunConfig(epochs=EPOCHS, batch_size=16, checkpoint_every_steps=65)
"""Three batches an epoch for topk_reinforce, with a checkpoint every second; dqn's are of 32 steps: five and three."""


class Bar:
    """In place of the progress bar: counts, and has someone press Ctrl-C at the given look at it."""

    def __init__(self, total: float, done: float, cut: int | None):
        self.total, self.done, self.looks, self._cut = total, done, 0, cut

    def advance(self, amount: float, note: str = "") -> None:
        """Count."""
        assert note.startswith("loss ")
        self.done += amount
        self.looks += 1
        if self.looks == self._cut:
            raise KeyboardInterrupt


def with_a_bar(monkeypatch, agent, log, sight, config, *, folder=None, cut=None, items=1):
    """The figures and the bar of a training in pieces of about so many items (1: of a batch)."""
    bars = []

    @contextmanager
    def bar(_title, total, *, unit, done=0, show=None, every=0):
        assert (unit, show) == ("sessions" if agent.learner.whole_sessions else "items", None)
        bars.append(Bar(total, done, cut))
        yield bars[-1]

    monkeypatch.setattr(module, "progress", bar)
    monkeypatch.setattr(module, "PIECE", items)
    told = None
    with suppress(KeyboardInterrupt):
        told = learn_from_sessions(agent, log, sight, config, folder=folder)
    return told, bars[0]


def learnt_in_few(monkeypatch, name, folder, cut=None):
    """An agent, its figures and its bar, after the planted sessions."""
    agent = make(name, **AGENTS[name])
    return agent, *with_a_bar(monkeypatch, agent, random_log(), planted_sight(), FEW, folder=folder, cut=cut)


def everything(agent) -> list[np.ndarray]:
    """All that a learner knows, optimizer and target network included."""
    return [variable.numpy() for variable in agent.learner.variables]


def steps_to_learn():
    log = random_log()
    return make("dqn", **AGENTS["dqn"]), log, planted_sight(), len(log), 32


def sessions_to_learn():
    """Of one item each, which compiles sooner."""
    log = bandit_log(np.array([20, 12, 8]), TEN[:3])
    return bandit(3, n_epochs=2)[0], log, bandit_sight(3), 40, 16


@pytest.mark.parametrize("given", [steps_to_learn, sessions_to_learn])
def test_many_pieces_teach_what_one_does(monkeypatch, given):
    """Compiled; the numbers are the same to the last bit."""
    config, found = OfflineRunConfig(epochs=EPOCHS, batch_size=16), []
    for items in (10**9, 1):
        agent, log, sight, units, size = given()
        told, bar = with_a_bar(monkeypatch, agent, log, sight, config, items=items)
        assert units % size
        assert bar.looks == EPOCHS * (2 if items > 1 else -(-units // size))  # whole batches, and what is left
        assert bar.done == bar.total == EPOCHS * units
        found.append((everything(agent), told))
    assert found[0][1] == found[1][1]
    for mine, theirs in zip(*(weights for weights, _ in found), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Finished trainings by the agent's name: all that the agent knows, its figures, the bar, the folder."""

    @cache
    def run(name):
        folder = tmp_path_factory.mktemp(name)
        with eagerly(), pytest.MonkeyPatch.context() as patch:
            agent, told, bar = learnt_in_few(patch, name, folder)
        return everything(agent), told, bar, folder

    return run


@pytest.mark.parametrize(("name", "cut", "kept"), [("topk_reinforce", 4, 3), ("dqn", 4, 3), ("dqn", 9, 8)])
def test_a_training_cut_anywhere_and_taken_up_again_ends_as_an_unbroken_one(
    unbroken, tmp_path, monkeypatch, name, cut, kept
):
    """Of so many batches when it was cut, so many were in its last checkpoint: within an epoch or at its end."""
    whole, told, bar, _ = unbroken(name)
    with eagerly():
        _, nothing, first = learnt_in_few(monkeypatch, name, tmp_path, cut=cut)
        again, also, second = learnt_in_few(monkeypatch, name, tmp_path)
    assert nothing is None
    assert (first.looks, second.looks) == (cut, bar.looks - kept)
    assert second.done == second.total == bar.done
    assert also == told
    assert int(again.train_step_counter.numpy()) == bar.looks
    for mine, theirs in zip(everything(again), whole, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_finished_training_is_not_learnt_again(unbroken, monkeypatch):
    whole, told, _, folder = unbroken("dqn")
    agent, also, bar = learnt_in_few(monkeypatch, "dqn", folder)
    assert (bar.looks, bar.done, also) == (0, bar.total, told)
    for mine, theirs in zip(everything(agent), whole, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_checkpoint_of_another_agent_or_a_damaged_one_is_refused(unbroken, tmp_path, monkeypatch):
    folder = shutil.copytree(unbroken("dqn")[-1], tmp_path / "run")
    with pytest.raises(ArtifactError, match=r"its checkpoint ckpt-\d+ is damaged or belongs to another agent"):
        learnt_in_few(monkeypatch, "topk_reinforce", folder)
    for index in (folder / "checkpoints").glob("*.index"):
        index.write_bytes(b"not a checkpoint")
    with pytest.raises(ArtifactError, match=r"its checkpoint ckpt-\d+ is damaged or belongs to another agent"):
        learnt_in_few(monkeypatch, "dqn", folder)


def test_numbers_that_are_not_finite_are_never_kept(tmp_path, monkeypatch):
    """Where they appear in the second epoch, the checkpoint of the first stays."""
    learn = module.Passes.learn_piece

    def spoilt(passes):
        done = learn(passes)
        if done == batches + 1:
            weights = agent.learner.trainable_variables[0]
            weights.assign(tf.fill(weights.shape, np.nan))
        return done

    agent, log = make("dqn", **AGENTS["dqn"]), random_log()
    batches = -(-len(log) // 32)
    monkeypatch.setattr(module.Passes, "learn_piece", spoilt)
    monkeypatch.setattr(module, "PIECE", 1)
    config = OfflineRunConfig(epochs=EPOCHS, checkpoint_every_steps=10**9)
    said = rf"diverged before step {2 * len(log)}: .* not finite; the checkpoint of step {len(log)} in .* is kept"
    with eagerly(), pytest.raises(DivergedError, match=said):
        learn_from_sessions(agent, log, planted_sight(), config, folder=tmp_path)
    assert {path.stem for path in (tmp_path / "checkpoints").glob("*.index")} == {f"ckpt-{len(log)}"}


def refused(name: str, log, settings=None, **sight) -> str:
    with pytest.raises((ConfigError, DataError)) as raised:
        check_log(make(name, **settings or {}).learner, log, planted_sight(**sight))
    return str(raised.value)


def test_what_cannot_be_learnt_from_is_one_line():
    log = random_log()
    for name in ("ppo", "a2c", "reinforce", "q_learning"):
        assert f"{name} learns from its own sessions" in refused(name, log)
    assert "no propensities, which topk_reinforce needs as weights" in refused(
        "topk_reinforce", replace(log, log_propensity=None)
    )
    assert "no propensities, which offpolicy_actor_critic needs as weights" in refused(
        "offpolicy_actor_critic", replace(log, log_propensity=None)
    )
    assert "no propensities, which behavior_cloning has as its target" in refused(
        "behavior_cloning", replace(log, log_propensity=None), {"target": "propensities"}
    )
    for settings in ({"behavior": "head"}, {"actor": "all_actions"}):
        learner = make("offpolicy_actor_critic", **settings).learner
        check_log(learner, replace(log, log_propensity=None), planted_sight())
    seven = int((log.item == 7).sum())
    fewer = np.delete(np.arange(ITEMS, dtype=np.int32), 7)
    assert f"planted sessions: {seven} of {len(log)} steps show items" in refused("dqn", log, action_items=fewer)
    assert "a session of 8 steps, but the policy's sessions have at most 7" in refused("dqn", log, steps=7)
    columns = ("event_id", "time", "user", "session", "step", "item", "log_propensity", "reward", "liked", "ended")
    nothing = {column: getattr(log, column)[:0] for column in (*columns, "policy", "version")}
    assert "no sessions to learn from" in refused("dqn", replace(log, **nothing))
