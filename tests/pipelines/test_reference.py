"""The reference pages are what components and pipelines say of themselves, and those say something of everything."""

from pathlib import Path

import pytest

from recpolicy.core.errors import ConfigError
from recpolicy.pipelines.compile import pipeline_names, pipeline_parameters
from recpolicy.pipelines.components import COMPONENTS
from recpolicy.pipelines.reference import (
    COMPONENTS_PAGE,
    PIPELINES_PAGE,
    components_page,
    main,
    parameters_table,
    ports_of,
    steps_table,
    with_tables,
)

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference"
PIPELINES = ("train", "predict", "retrain", "sweep")
MAKE = "make the pages anew: python -m recpolicy.pipelines.reference docs"


def test_committed_page_of_components_is_the_generated_one():
    assert (DOCS / COMPONENTS_PAGE).read_text(encoding="utf-8") == components_page(), MAKE


def test_committed_tables_of_pipelines_are_the_generated_ones():
    text = (DOCS / PIPELINES_PAGE).read_text(encoding="utf-8")
    assert text == with_tables(text), MAKE


@pytest.mark.parametrize("kind", ["steps", "parameters"])
@pytest.mark.parametrize("name", PIPELINES)
def test_page_of_pipelines_has_a_place_for_every_table(name, kind):
    assert f"<!-- {kind} of {name} -->\n|" in (DOCS / PIPELINES_PAGE).read_text(encoding="utf-8")


def test_every_pipeline_is_on_the_page():
    assert set(pipeline_names()) == set(PIPELINES)


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda one: one.python_func.__name__)
def test_component_describes_itself_and_all_that_goes_in_and_out(component):
    assert component.component_spec.description
    ports = ports_of(component)
    assert any(port.kind == "output" for port in ports)
    assert [port.name for port in ports if not port.description] == []


@pytest.mark.parametrize("name", PIPELINES)
def test_every_parameter_of_a_pipeline_is_described(name):
    assert [one.name for one in pipeline_parameters(name) if not one.description] == []


def test_ports_have_kind_type_and_default():
    ports = {port.name: port for port in ports_of(next(one for one in COMPONENTS if one.name == "train-policy"))}
    assert (ports["incumbent"].kind, ports["incumbent"].type, ports["incumbent"].default) == (
        "input",
        "Model",
        "optional",
    )
    assert (ports["epochs"].kind, ports["epochs"].type, ports["epochs"].default) == ("parameter", "whole number", "1")
    assert (ports["policy"].kind, ports["policy"].type, ports["policy"].default) == ("output", "Model", "")


@pytest.mark.parametrize("name", PIPELINES)
def test_steps_come_after_those_they_wait_for(name):
    steps = steps_table(name)
    place = {step: number for number, step in enumerate(steps.index)}
    waits = [(step, other) for step, after in steps["after"].items() for other in after.split(", ") if other in place]
    assert waits
    assert all(place[other] < place[step] for step, other in waits)


def test_registering_waits_for_the_verdict_and_is_never_cached():
    step = steps_table("train").loc["register-policy"]
    assert step["when"] == "gate-policy-Output == 'pass'"
    assert step["cached"] == "no"
    assert "gate-policy" in step["after"]


def test_summary_is_written_at_the_end_whatever_happens():
    assert [steps_table(name).loc["summarise-run", "when"] for name in PIPELINES] == ["always, at the end"] * 4


def test_trials_of_a_sweep_are_marked_as_such():
    steps = steps_table("sweep")
    assert steps.index[steps["when"] == "for each trial"].tolist() == ["train-policy", "evaluate-policy"]


def test_needed_and_defaulted_parameters_are_told_apart():
    rows = {line.split("`")[1]: line for line in parameters_table("retrain").splitlines()[2:]}
    assert "| needed |" in rows["log"]
    assert '| `""` |' in rows["incumbent"]
    assert "| `1` |" in rows["epochs"]  # a whole number, though the compiled pipeline has 1.0
    assert "| `[0]` |" in next(line for line in parameters_table("sweep").splitlines() if "`seeds`" in line)


def test_unknown_pipeline_is_named():
    with pytest.raises(ConfigError, match="no pipeline named 'trian'"):
        steps_table("trian")


def test_only_what_stands_between_marks_is_made_anew(tmp_path):
    page = tmp_path / PIPELINES_PAGE
    page.write_text("before\n<!-- steps of predict -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    main(tmp_path)
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["before", "<!-- steps of predict -->"]
    assert lines[-2:] == ["<!-- end -->", "after"]
    assert "old" not in lines
    assert sum(line.startswith("| predict-batch |") for line in lines) == 1
    assert (tmp_path / COMPONENTS_PAGE).read_text(encoding="utf-8") == components_page()
