"""Every agent by name goes through the steps of the pipeline `train`: trained, evaluated, gated and registered."""

import json
from pathlib import Path

import pytest
from tiny_dataset import write_miniature

from recpolicy.agents import AGENTS, SESSION_AGENTS
from recpolicy.inference.predictor import load_policy
from recpolicy.pipelines import steps
from recpolicy.registry.model_registry import Registry

LENIENT = {
    "margin": -1e3, "relative_gain": -1e3, "held_out_margin": -5.0, "group_loss": 5.0, "min_effective_sample_size": 0.0,
    "max_mean_weight_z": 1e6, "max_tail_index": 1e6, "min_diversity": "off", "min_coverage": 0.0,
    "calibration_bias": 5.0, "calibration_error": 5.0, "latency_ms": 60_000.0, "session_margin": -100.0,
    "session_group_loss": 100.0,
}  # fmt: skip
"""Limits that hardly trained policies of the tiny dataset meet."""
SESSIONS = {"total_timesteps": 256, "settings": {"batch_size": 8, "max_episode_steps": 8, "log_rows": 2}}
ROUNDS = {"total_timesteps": 640, "settings": {"batch_size": 64, "log_rows": 2}}


class Inputs:
    """What the earlier steps of the pipeline leave for the agents."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.ratings, self.features, self.rounds = (str(folder / name) for name in ("ratings", "features", "rounds"))
        data, log = str(write_miniature(folder / "data")), str(folder / "log")
        steps.fetch_data_step(self.ratings, data=data, settings={}, split="u1", seed=0)
        features = {"rating_model": "svd", "rank": 5, "items": 0, "settings": {}, "seed": 0}
        steps.fit_embeddings_step(self.ratings, self.features, **features)
        shown = {"temperature": 0.5, "uniform_mix": 0.1}
        steps.simulate_log_step(
            self.ratings, self.features, log, world="item_knn", logging_policy="rating_model", rounds=3_000,
            settings=shown, seed=0,
        )  # fmt: skip
        steps.ingest_log_step(log, self.rounds, ratings=self.ratings, policy=None, settings={})

    def train(self, agent: str, name: str) -> str:
        sizes = SESSIONS if agent in SESSION_AGENTS else ROUNDS
        policy = str(self.folder / f"policy-{name}")
        steps.train_policy_step(
            policy, ratings=self.ratings, features=self.features, rounds=self.rounds, incumbent=None, epochs=1, seed=0,
            agent=agent, learn_from="auto", world="item_knn", agent_settings={}, **sizes,
        )  # fmt: skip
        return policy

    def evaluate(self, policy: str, name: str, **arguments) -> str:
        evaluation = str(self.folder / f"evaluation-{name}.json")
        steps.evaluate_policy_step(
            policy, evaluation, str(self.folder / f"{name}.html"), ratings=self.ratings, rounds=self.rounds,
            incumbent=None, seed=0, **arguments,
        )  # fmt: skip
        return evaluation


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return Inputs(tmp_path_factory.mktemp("inputs"))


SIMULATED = [name for name, entry in SESSION_AGENTS.items() if entry.learns_from_simulation]


@pytest.mark.parametrize("agent", [*AGENTS, *SIMULATED])
def test_agent_is_trained_evaluated_gated_and_registered(inputs, agent, tmp_path):
    policy = inputs.train(agent, agent)
    body = json.loads(Path(evaluation := inputs.evaluate(policy, agent)).read_text())
    kinds = {"off_policy", "sessions"} & set(body)
    assert kinds == ({"sessions"} if agent in SESSION_AGENTS else {"off_policy"})
    record = str(tmp_path / "gate.json")
    assert steps.gate_policy_step(evaluation, record, str(tmp_path / "gate.html"), settings=LENIENT) == "pass", record
    registry, registration = str(tmp_path / "registry"), str(tmp_path / "registration.json")
    steps.register_policy_step(
        policy, record, str(tmp_path / "registered"), registration, registry=registry, promote=False
    )
    assert load_policy(Registry(registry).resolve("champion")).artifact.agent == agent


def test_session_agent_meets_the_champion_whatever_its_kind(inputs, tmp_path):
    linucb, ppo = inputs.train("linucb", "first"), inputs.train("ppo", "second")
    registry = Registry(tmp_path / "registry")
    version = registry.register(linucb)
    registry.promote(version.number, ungated=True)
    champion = steps.find_champion_step(ppo, str(tmp_path / "registry"))
    evaluation = inputs.evaluate(ppo, "met", registry=str(tmp_path / "registry"), champion=champion)
    assert json.loads(Path(evaluation).read_text())["sessions"]["baseline"].startswith("incumbent ")


def test_sweep_of_both_kinds_compares_them_in_sessions(inputs, tmp_path):
    trials = steps.plan_sweep_step(["linucb", "a2c"], [0.0], {})
    assert [trial["sessions"] for trial in trials] == [True, True]
    policies = [inputs.train(trial["agent"], f"trial-{trial['agent']}") for trial in trials]
    evaluations = [
        inputs.evaluate(policy, f"trial-{number}", users="selection", sessions=True)
        for number, policy in enumerate(policies)
    ]
    rewards = [json.loads(Path(path).read_text())["sessions"]["reward"]["value"] for path in evaluations]
    assert all("held_out" not in json.loads(Path(path).read_text()) for path in evaluations)  # they are the gate's
    choice = tmp_path / "choice.json"
    steps.compare_policies_step(evaluations, policies, str(tmp_path / "best"), str(choice), str(tmp_path / "page.html"))
    winner = json.loads(choice.read_text())
    assert winner["policy"] == policies[rewards.index(max(rewards))]
    assert winner["evidence"] == "in simulated sessions"
    gated = inputs.evaluate(winner["policy"], "gate", users="gate")
    assert json.loads(Path(gated).read_text())["held_out"]["held_out_choice"]["value"] > 0


def test_sweep_of_single_round_agents_stays_on_the_log():
    assert [trial["sessions"] for trial in steps.plan_sweep_step(["linucb", "lints"], [0.0], {})] == [False, False]
