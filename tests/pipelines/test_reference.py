"""The reference pages are generated from components and pipelines, which describe all inputs and outputs."""

from pathlib import Path

import pytest

from recpolicy.core.errors import ConfigError
from recpolicy.pipelines.compile import pipeline_descriptions, pipeline_parameters
from recpolicy.pipelines.components import COMPONENTS
from recpolicy.pipelines.reference import (
    COMPONENTS_PAGE,
    PIPELINES_PAGE,
    components_page,
    get_ports,
    main,
    parameters_table,
    steps_table,
    update_tables,
)

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference"
PIPELINES = ("train", "train_features", "predict", "retrain", "sweep")
REGENERATE = "regenerate the pages: python -m recpolicy.pipelines.reference docs"


def test_committed_page_of_components_is_the_generated_one():
    assert (DOCS / COMPONENTS_PAGE).read_text(encoding="utf-8") == components_page(), REGENERATE


def test_committed_tables_of_pipelines_are_the_generated_ones():
    text = (DOCS / PIPELINES_PAGE).read_text(encoding="utf-8")
    assert text == update_tables(text), REGENERATE


@pytest.mark.parametrize("kind", ["steps", "parameters"])
@pytest.mark.parametrize("name", PIPELINES)
def test_page_of_pipelines_has_every_table(name, kind):
    assert f"<!-- {kind} of {name} -->\n|" in (DOCS / PIPELINES_PAGE).read_text(encoding="utf-8")


def test_every_pipeline_is_on_the_page():
    assert set(pipeline_descriptions()) == set(PIPELINES)


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.python_func.__name__)
def test_component_describes_itself_and_its_inputs_and_outputs(component):
    assert component.component_spec.description
    ports = get_ports(component)
    assert any(port.kind == "output" for port in ports)
    assert [port.name for port in ports if not port.description] == []


@pytest.mark.parametrize("name", PIPELINES)
def test_every_parameter_of_a_pipeline_is_described(name):
    assert [parameter.name for parameter in pipeline_parameters(name) if not parameter.description] == []


def test_ports_have_kind_type_and_default():
    ports = {port.name: port for port in get_ports(next(item for item in COMPONENTS if item.name == "train-policy"))}
    assert (ports["incumbent"].kind, ports["incumbent"].type, ports["incumbent"].default) == (
        "input",
        "Model",
        "optional",
    )
    assert (ports["epochs"].kind, ports["epochs"].type, ports["epochs"].default) == ("parameter", "whole number", "1")
    assert (ports["policy"].kind, ports["policy"].type, ports["policy"].default) == ("output", "Model", "")


@pytest.mark.parametrize("name", PIPELINES)
def test_steps_come_after_their_dependencies(name):
    steps = steps_table(name)
    rank = {step: number for number, step in enumerate(steps.index)}
    pairs = [(step, other) for step, after in steps["after"].items() for other in after.split(", ") if other in rank]
    assert pairs
    assert all(rank[other] < rank[step] for step, other in pairs)


def test_registration_waits_for_the_verdict_and_is_never_cached():
    step = steps_table("train").loc["register-policy"]
    assert step["when"] == "gate-policy-Output == 'pass'"
    assert step["cached"] == "no"
    assert "gate-policy" in step["after"]


def test_summary_always_runs_at_the_end():
    assert [steps_table(name).loc["summarize-run", "when"] for name in PIPELINES] == ["always, at the end"] * 5


def test_steps_of_a_sweep_run_for_each_trial():
    steps = steps_table("sweep")
    assert steps.index[steps["when"] == "for each trial"].tolist() == ["train-policy", "evaluate-policy"]


def test_required_parameters_differ_from_defaults():
    rows = {line.split("`")[1]: line for line in parameters_table("retrain").splitlines()[2:]}
    assert "| required |" in rows["log"]
    assert '| `""` |' in rows["incumbent"]
    assert "| `1` |" in rows["epochs"]  # the compiled pipeline has 1.0
    assert "| `[0]` |" in next(line for line in parameters_table("sweep").splitlines() if "`seeds`" in line)


def test_unknown_pipeline_is_an_error():
    with pytest.raises(ConfigError, match="no pipeline named 'trian'"):
        steps_table("trian")


def test_only_text_between_marks_is_replaced(tmp_path):
    page = tmp_path / PIPELINES_PAGE
    page.write_text("before\n<!-- steps of predict -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    main(tmp_path)
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["before", "<!-- steps of predict -->"]
    assert lines[-2:] == ["<!-- end -->", "after"]
    assert "old" not in lines
    assert sum(line.startswith("| predict-batch |") for line in lines) == 1
    assert (tmp_path / COMPONENTS_PAGE).read_text(encoding="utf-8") == components_page()
