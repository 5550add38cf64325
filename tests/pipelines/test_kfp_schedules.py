"""A schedule that is submitted again replaces the older one; errors say which schedules are active."""

import json
import logging

import pytest
import yaml
from kfp_server import kfp_server

from recpolicy.core.errors import SubmitError
from recpolicy.pipelines.kfp_errors import format_notes
from recpolicy.pipelines.kfp_schedules import MARK, replace_schedules
from recpolicy.pipelines.submit import submit_to_kubeflow

SPEC = {
    "pipelineInfo": {"name": "recpolicy-retrain"}, "schemaVersion": "2.1.0", "sdkVersion": "kfp-2.17.0",
    "root": {"inputDefinitions": {"parameters": {"epochs": {"parameterType": "NUMBER_INTEGER"}}}},
}  # fmt: skip


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    import kfp

    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    with kfp_server() as running:
        yield running


@pytest.fixture
def submit(cluster, tmp_path):
    """A function that submits the schedule, with other settings if given."""
    file = tmp_path / "retrain.yaml"
    file.write_text(yaml.safe_dump(SPEC))

    def submit_schedule(epochs=1, **settings):
        defaults = {"host": cluster.url, "name": "recpolicy-retrain", "cron": "0 1 * * 1"}
        return submit_to_kubeflow(file, {"epochs": epochs}, **defaults | settings)

    return submit_schedule


def active(cluster):
    return [run["recurring_run_id"] for run in cluster.recurring_runs if run["mode"] == "ENABLE"]


def test_second_submission_replaces_the_first(submit, cluster):
    first, second = submit(), submit(epochs=2, cron="0 2 * * 2")
    (run,) = cluster.recurring_runs
    assert (first.replaced, second.replaced) == ((), (first.id,))
    assert (run["recurring_run_id"], run["mode"]) == (second.id, "ENABLE")
    assert run["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * 2"
    assert run["runtime_config"]["parameters"] == {"epochs": 2}
    assert run["description"] == MARK


def test_new_schedule_is_created_before_the_old_one_is_deleted(submit, cluster):
    first = submit()
    cluster.requests.clear()
    submit()
    changing = [line for line in cluster.requests if "/recurringruns" in line and not line.startswith("GET")]
    assert changing == ["POST /recurringruns", f"DELETE /recurringruns/{first.id}"]


@pytest.mark.parametrize("other", [{"name": "recpolicy-retrain-shop"}, {"experiment": "other"}])
def test_another_name_or_experiment_is_another_schedule(submit, cluster, other):
    first, second = submit(), submit(**other)
    assert active(cluster) == [first.id, second.id]
    assert second.replaced == ()


def test_runs_without_a_schedule_replace_nothing(submit, cluster):
    first = submit()
    submit(cron=None)
    assert active(cluster) == [first.id]


def test_schedules_of_other_people_stay_with_a_warning(submit, cluster, caplog):
    theirs = submit().id
    cluster.recurring_runs[0].pop("description")
    ours = submit()
    assert ours.replaced == ()
    assert active(cluster) == [theirs, ours.id]
    assert f"schedule {theirs} has the same name, but recpolicy did not create it" in caplog.text


def test_all_pages_of_the_list_are_read(submit, cluster):
    submit()
    ours = cluster.recurring_runs[0]
    theirs = [{**ours, "recurring_run_id": f"theirs-{number}", "description": ""} for number in range(105)]
    cluster.recurring_runs[:0] = theirs
    assert submit().replaced == (ours["recurring_run_id"],)


def test_rejected_schedule_leaves_the_old_one(submit, cluster):
    first = submit()
    cluster.refused = {"POST /recurringruns": 403}
    with pytest.raises(SubmitError) as error:
        submit(epochs=2)
    assert "answered 403" in str(error.value)
    assert str(error.value).endswith(f"no schedule was deleted; still there: {first.id}")
    assert "\n" not in str(error.value)
    assert active(cluster) == [first.id]


def test_old_schedule_that_cannot_be_deleted_is_named(submit, cluster):
    first = submit()
    cluster.refused = {"DELETE .*": 403}
    with pytest.raises(SubmitError) as error:
        submit()
    new = active(cluster)[1]
    assert f"the new schedule {new} is active, and {first.id} could not be deleted: submit again" in str(error.value)
    cluster.refused = {}
    third = submit()
    assert active(cluster) == [third.id]
    assert third.replaced == (first.id, new)


def test_interruption_between_two_deletions_names_the_remaining_schedule():
    deleted = []

    def delete(id):
        if deleted:
            raise KeyboardInterrupt
        deleted.append(id)

    with pytest.raises(KeyboardInterrupt) as error:
        replace_schedules(["a", "b"], lambda: "new", delete)
    assert deleted == ["a"]
    assert "the new schedule new is active, and b could not be deleted" in format_notes(error.value)


def test_token_is_in_no_message_of_a_failed_replacement(submit, cluster, caplog):
    caplog.set_level(logging.DEBUG)
    token = "s3cret-abcdef"
    submit(token=token)
    cluster.broken = {"/recurringruns": (500, json.dumps({"error": f"Bearer {token}"}).encode())}
    with pytest.raises(SubmitError) as error:
        submit(token=token)
    assert token not in str(error.value) + caplog.text
