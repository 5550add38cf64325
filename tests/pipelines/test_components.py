"""Every component as a plain function on the tiny dataset, in order, with artifacts of Kubeflow."""

import json
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from kfp.dsl import HTML, ClassificationMetrics, Dataset, Markdown, Metrics, Model, PipelineTaskFinalStatus
from tiny_dataset import miniature_ratings, write_miniature
from tiny_policies import write_tiny

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.inference.predictor import load_policy
from recpolicy.pipelines import components
from recpolicy.registry.model_registry import Registry
from recpolicy.workflows.evaluation_rounds import read_evaluation_rounds, rounds_of_users

QUICK = {"rating_model": "svd", "rank": 5, "seed": 0}
LOG = {"world": "item_knn", "rounds": 3_000, "settings": {"temperature": 0.5, "uniform_mix": 0.1}}


class Chain:
    """Runs each component once and keeps its artifacts."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.data = str(write_miniature(folder / "data"))

    def new(self, kind, name):
        return kind(name=name, uri=str(self.folder / name), metadata={})

    def run(self, component, **inputs):
        return getattr(components, component).python_func(**inputs)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Data, features, log and rounds: the inputs of all later components."""
    chain = Chain(tmp_path_factory.mktemp("chain"))
    chain.ratings = chain.new(Dataset, "ratings")
    chain.run("fetch_data", ratings=chain.ratings, data=chain.data, split="u1", seed=0)
    chain.features, chain.accuracy = chain.new(Model, "features"), chain.new(Metrics, "accuracy")
    chain.run("fit_embeddings", ratings=chain.ratings, features=chain.features, metrics=chain.accuracy, **QUICK)
    chain.log = chain.new(Dataset, "log")
    chain.run("simulate_log", ratings=chain.ratings, features=chain.features, log=chain.log, **LOG)
    chain.rounds, chain.counts = chain.new(Dataset, "rounds"), chain.new(Metrics, "counts")
    chain.run("ingest_log", log=chain.log, rounds=chain.rounds, metrics=chain.counts, ratings=chain.ratings)
    return chain


@pytest.fixture(scope="module")
def trained(chain):
    """A policy trained from the log, and its evaluation."""
    chain.policy, chain.training = chain.new(Model, "policy"), chain.new(Metrics, "training")
    chain.run(
        "train_policy", policy=chain.policy, metrics=chain.training, ratings=chain.ratings, features=chain.features,
        rounds=chain.rounds, agent="linucb", learn_from="auto", world="item_knn",
    )  # fmt: skip
    chain.evaluation, chain.likes = chain.new(Dataset, "evaluation"), chain.new(ClassificationMetrics, "likes")
    chain.figures, chain.page = chain.new(Metrics, "figures"), chain.new(HTML, "page")
    chain.run(
        "evaluate_policy", policy=chain.policy, evaluation=chain.evaluation, metrics=chain.figures, likes=chain.likes,
        page=chain.page, ratings=chain.ratings, rounds=chain.rounds,
    )  # fmt: skip
    return chain


LENIENT = {
    "margin": -1e3, "relative_gain": -1e3, "held_out_margin": -5.0, "group_loss": 5.0, "min_effective_sample_size": 0.0,
    "max_mean_weight_z": 100.0, "max_tail_index": 100.0, "min_diversity": 0.0, "calibration_bias": 5.0,
    "calibration_error": 5.0,
    "latency_ms": 60_000.0,
}  # fmt: skip
"""Limits that a policy of the tiny dataset meets."""


def gated(chain, name, **limits):
    settings = LENIENT | limits
    record, page = chain.new(Dataset, f"record-{name}"), chain.new(HTML, f"gate-{name}")
    verdict = chain.run("gate_policy", evaluation=chain.evaluation, record=record, page=page, settings=settings)
    return verdict, record, page


def test_metadata_of_the_table_has_its_size_and_split(chain):
    metadata = chain.ratings.metadata
    assert metadata["ratings"] == len(miniature_ratings()) == metadata["train"] + metadata["test"]
    assert (metadata["users"], metadata["items"]) == (60, 80)


def test_embeddings_are_written_for_every_user_and_item(chain):
    for name, rows in (("user", 60), ("item", 80)):
        frame = pd.read_parquet(Path(chain.features.path) / f"{name}_embeddings.parquet")
        assert frame.shape == (rows, 6)
        assert frame[f"{name}_id"].is_unique
    assert 0 < chain.accuracy.metadata["rmse"] < 2


def test_every_metrics_artifact_has_a_file_with_the_same_figures(trained):
    for artifact in (trained.accuracy, trained.counts, trained.training, trained.figures):
        assert json.loads(Path(artifact.path).read_text()) == artifact.metadata
        assert artifact.metadata


def test_all_events_of_the_log_become_rounds(chain):
    counts = chain.counts.metadata
    assert counts["events"] == 3_000 == counts["joined"]
    assert counts["training"] == 2_400
    assert counts["evaluation"] == 600


def test_policy_from_the_log_is_a_complete_artifact_that_names_its_log(trained):
    policy = load_policy(trained.policy.path)
    assert policy.metadata["training"]["mode"] == "log"
    assert policy.metadata["training"]["rows"] == 2_400
    assert policy.metadata["log"]


def test_evaluation_has_held_out_and_off_policy_figures_and_a_curve(trained):
    figures = trained.figures.metadata
    assert {"held_out_choice", "off_policy_value", "gain", "gain_lower", "effective_sample_size", "auc"} <= set(figures)
    assert figures["gain_lower"] <= figures["gain"] <= figures["gain_upper"]
    assert 0.5 < figures["auc"] <= 1
    assert trained.likes.metadata["confidenceMetrics"]
    assert "Content-Security-Policy" in Path(trained.page.path).read_text()


def test_gate_passes_within_its_limits_and_fails_outside(trained):
    verdict, record, page = gated(trained, "easy")
    assert verdict == "pass"
    assert json.loads(Path(record.path).read_text())["verdict"] == "pass"
    verdict, record, page = gated(trained, "strict", held_out_margin=4.0)
    assert verdict == "fail"
    assert "held-out gain" in json.loads(Path(record.path).read_text())["reasons"][0]
    assert "FAIL" in Path(page.path).read_text()
    assert gated(trained, "much", min_effective_sample_size=1e6)[0] == "no_verdict"


def test_only_a_policy_that_passed_is_registered(trained, tmp_path):
    registry = str(tmp_path / "registry")
    record = gated(trained, "failed", held_out_margin=4.0)[1]
    registered, registration = trained.new(Model, "registered-not"), trained.new(Dataset, "registration")
    register = partial(trained.run, "register_policy", policy=trained.policy, registration=registration)
    with pytest.raises(ArtifactError, match="the verdict is fail"):
        register(record=record, registered=registered, registry=registry)
    assert not Path(registered.path).exists()
    assert not Path(registry).exists()
    record = gated(trained, "passed")[1]
    registered = trained.new(Model, "registered")
    assert register(record=record, registered=registered, registry=registry) == 1
    assert json.loads(Path(registration.path).read_text())["champion"] == 1
    assert load_policy(registered.path).metadata == load_policy(trained.policy.path).metadata
    assert json.loads((Path(registry) / "aliases.json").read_text())["champion"] == 1


def test_predictions_are_those_of_the_policy(trained):
    predictions, table = trained.new(Dataset, "predictions"), trained.new(Dataset, "table")
    trained.run(
        "predict_batch", policy=trained.policy, predictions=predictions, table=table, user_ids="3, 1",
        item_ids="5,9,2", batch=1,
    )  # fmt: skip
    frame = pd.read_parquet(predictions.path)
    expected = load_policy(trained.policy.path).predict([3, 1], items=[5, 9, 2])
    assert frame["user_id"].tolist() == [3, 3, 3, 1, 1, 1]
    assert frame["item_id"].tolist() == expected["item_id"].tolist()
    assert frame["rating"].to_numpy() == pytest.approx(expected["rating"].to_numpy())
    assert len(pd.read_csv(table.path)) == predictions.metadata["rows"] == 6


def test_report_is_a_page_and_leaves_the_policy_unchanged(trained):
    before = sorted(path.name for path in Path(trained.policy.path).rglob("*"))
    page = trained.new(HTML, "report")
    trained.run("report", policy=trained.policy, ratings=trained.ratings, page=page, user="7")
    assert "user 7" in Path(page.path).read_text()
    assert sorted(path.name for path in Path(trained.policy.path).rglob("*")) == before


def test_incumbent_is_retrained_and_compared_with(trained):
    policy, metrics = trained.new(Model, "retrained"), trained.new(Metrics, "retraining")
    log, rounds, counts = (trained.new(Dataset, name) for name in ("log-2", "rounds-2", "counts-2"))
    trained.run("simulate_log", ratings=trained.ratings, features=trained.features, log=log, **(LOG | {"seed": 1}))
    trained.run("ingest_log", log=log, rounds=rounds, metrics=counts, policy=trained.policy)
    trained.run("train_policy", policy=policy, metrics=metrics, rounds=rounds, incumbent=trained.policy)
    old, new = load_policy(trained.policy.path), load_policy(policy.path)
    assert new.metadata["parents"][0]["policy_digest"] == old.metadata["policy_digest"] != new.metadata["policy_digest"]
    outputs = [trained.new(kind, f"{kind.__name__}-2") for kind in (Dataset, Metrics, ClassificationMetrics, HTML)]
    names = ("evaluation", "metrics", "likes", "page")
    trained.run(
        "evaluate_policy",
        policy=policy,
        rounds=rounds,
        incumbent=trained.policy,
        **dict(zip(names, outputs, strict=True)),
    )
    judged = json.loads(Path(outputs[0].path).read_text())
    assert judged["off_policy"]["baseline"] == f"incumbent {old.metadata['policy_digest'][:8]}"
    assert "held_out" not in judged


class ClusterArtifact(Dataset):
    """An artifact as a step on a cluster gets it: an address, and a path that is uploaded to it after the step."""

    path = property(lambda self: self.metadata["path"])


def remote(chain, name):
    path = {"path": str(chain.folder / "remote" / name)}
    return ClusterArtifact(name=name, uri=f"minio://mlpipeline/v2/artifacts/{name}", metadata=path)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_incumbent_is_the_given_policy_or_the_champion_and_is_copied_for_a_cluster(trained, tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.promote(registry.register(trained.policy.path, gate={"verdict": "pass"}).number)
    champion = str(registry.resolve("champion"))
    here = trained.new(Model, "no-copy")
    find = partial(trained.run, "find_incumbent")
    assert find(copy=here, registry=str(registry.folder)) == champion
    assert find(copy=here, incumbent=trained.policy.path, registry=str(registry.folder)) == trained.policy.path
    assert find(copy=here, incumbent="s3://bucket/policy", registry="") == "s3://bucket/policy"
    assert not Path(here.path).exists()
    there = remote(trained, "policy")
    assert find(copy=there, incumbent="s3://bucket/policy") == "s3://bucket/policy"
    assert not Path(there.path).exists()
    assert find(copy=there, registry=str(registry.folder)) == there.uri
    assert contents(there.path) == contents(champion)


def test_missing_incumbent_is_one_clear_line(trained, tmp_path):
    policy = remote(trained, "none")
    registry = Registry(tmp_path / "registry")
    find = partial(trained.run, "find_incumbent", copy=policy)
    with pytest.raises(ConfigError, match="incumbent and registry are both empty"):
        find()
    with pytest.raises(ArtifactError, match=r"^no incumbent in the registry: .*registry: not a registry"):
        find(registry=str(registry.folder))
    registry.register(trained.policy.path, gate={"verdict": "pass"})
    with pytest.raises(ConfigError, match=r"^no incumbent in the registry: .*no version has the alias champion"):
        find(registry=str(registry.folder))
    registry.promote(1)
    damaged = next(path for path in registry.resolve(1).rglob("*.parquet"))
    damaged.chmod(0o644)
    damaged.write_bytes(b"")
    with pytest.raises(ArtifactError, match="missing or changed"):
        find(registry=str(registry.folder))
    assert not Path(policy.path).exists()


def test_log_is_used_in_place_and_copied_for_a_cluster(chain):
    here, there = chain.new(Dataset, "no-log"), remote(chain, "log")
    assert chain.run("find_log", copy=here, log=chain.log.path) == chain.log.path
    for copy in (here, there):
        assert chain.run("find_log", copy=copy, log="gs://bucket/log") == "gs://bucket/log"
        with pytest.raises(DataError, match=r"^log .*nothing: no such folder"):
            chain.run("find_log", copy=copy, log=str(chain.folder / "nothing"))
        assert not Path(copy.path).exists()
    before = contents(chain.log.path)
    half_written = Path(chain.log.path) / ".events.parquet.part"
    half_written.touch()
    assert chain.run("find_log", copy=there, log=chain.log.path) == there.uri
    half_written.unlink()
    assert contents(there.path) == before


def test_training_without_its_inputs_is_one_clear_line(trained):
    outputs = {"policy": trained.new(Model, "none"), "metrics": trained.new(Metrics, "none-metrics")}
    with pytest.raises(ConfigError, match="without an incumbent, ratings and features are needed"):
        trained.run("train_policy", **outputs)
    with pytest.raises(ConfigError, match="learning from a log needs rounds"):
        trained.run("train_policy", ratings=trained.ratings, features=trained.features, learn_from="log", **outputs)
    assert not Path(outputs["policy"].path).exists()


def test_simulator_is_validated_on_the_same_ratings(chain):
    card, metrics = chain.new(HTML, "card"), chain.new(Metrics, "gates")
    passed = chain.run("validate_simulator", ratings=chain.ratings, card=card, metrics=metrics)
    assert passed is metrics.metadata["passed"]
    assert {"like AUC", "session length KS"} <= set(metrics.metadata)
    assert "Session simulator" in Path(card.path).read_text()


def test_sweep_plans_trials_and_passes_the_best_on(trained):
    assert len(trained.run("plan_sweep", agents=["linucb"], seeds=[0.0], grid={"alpha": [0.5, 1.0]})) == 2
    best, choice, page = trained.new(Model, "best"), trained.new(Dataset, "choice"), trained.new(HTML, "c")
    trained.run(
        "compare_policies", evaluations=[trained.evaluation], policies=[trained.policy], best=best, choice=choice,
        page=page,
    )  # fmt: skip
    assert load_policy(best.path).metadata == load_policy(trained.policy.path).metadata
    winner = json.loads(Path(choice.path).read_text())
    assert (winner["agent"], winner["seed"], winner["trials"]) == ("linucb", "0", 1)
    assert winner["policy"] == trained.policy.path


def test_champion_is_found_and_compared_with(trained, tmp_path):
    find = partial(trained.run, "find_champion", policy=trained.policy)
    assert find(registry="") == find(registry=str(tmp_path / "nothing")) == ""
    registry = Registry(tmp_path / "registry")
    registry.register(trained.policy.path, gate={"verdict": "pass"})
    assert find(registry=str(registry.folder)) == ""
    registry.promote(1)
    assert find(registry=str(registry.folder)) == ""  # the policy is the champion itself
    other, metrics = trained.new(Model, "other"), trained.new(Metrics, "other-metrics")
    trained.run(
        "train_policy", policy=other, metrics=metrics, ratings=trained.ratings, features=trained.features,
        rounds=trained.rounds, agent="ucb1", world="item_knn",
    )  # fmt: skip
    version = registry.register(other.path, gate={"verdict": "pass"})
    registry.promote(2)
    champion = find(registry=str(registry.folder))
    assert champion == f"2 {version.digest[:12]}"
    outputs = [trained.new(kind, f"{kind.__name__}-3") for kind in (Dataset, Metrics, ClassificationMetrics, HTML)]
    trained.run(
        "evaluate_policy", policy=trained.policy, rounds=trained.rounds, registry=str(registry.folder),
        champion=champion, **dict(zip(("evaluation", "metrics", "likes", "page"), outputs, strict=True)),
    )  # fmt: skip
    logged = json.loads(Path(outputs[0].path).read_text())["off_policy"]
    assert logged["baseline"].startswith("incumbent")
    assert logged["baseline"].endswith(load_policy(other.path).metadata["policy_digest"][:8])
    assert logged["relative_gain"]  # the logging policy is compared with, too


def test_champion_of_other_data_is_one_clear_line(trained, tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.register(write_tiny(tmp_path / "tiny"), gate={"verdict": "pass"})
    registry.promote(1)
    with pytest.raises(DataError, match=r"knows other users than .* Give these data a registry of their own"):
        trained.run("find_champion", policy=trained.policy, registry=str(registry.folder))


def test_halves_of_the_users_are_disjoint_and_all(trained):
    log = read_evaluation_rounds(Path(trained.rounds.path), load_policy(trained.policy.path))
    selection, gate = (rounds_of_users(log, half) for half in ("selection", "gate"))
    assert not set(selection.user) & set(gate.user)
    assert len(selection) + len(gate) == len(log)
    assert min(len(selection), len(gate)) > len(log) / 4
    assert sorted([*selection.event_id, *gate.event_id]) == sorted(log.event_id)
    with pytest.raises(ConfigError, match="Known: all, gate, selection"):
        rounds_of_users(log, "other")


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED"])
def test_summary_has_the_state_and_the_error(chain, state):
    summary = chain.new(Markdown, f"summary-{state}")
    error = {"error_code": 1, "error_message": "disk full"} if state == "FAILED" else {}
    status = PipelineTaskFinalStatus(
        state=state, pipeline_job_resource_name="job", pipeline_task_name="exit-handler-1",
        error_code=error.get("error_code"), error_message=error.get("error_message"),
    )  # fmt: skip
    chain.run("summarize_run", status=status, summary=summary)
    text = Path(summary.path).read_text()
    assert text.startswith(f"# Run: {state}\n")
    assert ("disk full" in text) == (state == "FAILED")


def test_every_component_is_run_by_a_test_of_this_page():
    text = Path(__file__).read_text(encoding="utf-8")
    assert len(components.COMPONENTS) == 17
    for component in components.COMPONENTS:
        assert f'"{component.name.replace("-", "_")}"' in text, component.name
