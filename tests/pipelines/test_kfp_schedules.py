"""A schedule that is submitted twice is one recurring run, whatever the cluster refuses in between."""

import json
import logging

import pytest
import yaml
from kfp_server import kfp_server

from recpolicy.core.errors import SubmitError
from recpolicy.pipelines.kfp_schedules import MARK
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
    """Submit the schedule; with other words for other settings."""
    file = tmp_path / "retrain.yaml"
    file.write_text(yaml.safe_dump(SPEC))

    def made(epochs=1, **more):
        settings = {"host": cluster.url, "name": "recpolicy-retrain", "cron": "0 1 * * 1", **more}
        return submit_to_kubeflow(file, {"epochs": epochs}, **settings)

    return made


def active(cluster):
    return [one["recurring_run_id"] for one in cluster.recurring_runs if one["mode"] == "ENABLE"]


def test_the_second_time_it_takes_the_place_of_the_first(submit, cluster):
    first, second = submit(), submit(epochs=2, cron="0 2 * * 2")
    (one,) = cluster.recurring_runs
    assert (first.replaced, second.replaced) == ((), (first.id,))
    assert (one["recurring_run_id"], one["mode"]) == (second.id, "ENABLE")
    assert one["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * 2"
    assert one["runtime_config"]["parameters"] == {"epochs": 2}
    assert one["description"] == MARK


def test_the_old_one_is_switched_off_before_the_new_one_is_switched_on(submit, cluster):
    first = submit()
    cluster.requests.clear()
    second = submit()
    changing = [line for line in cluster.requests if "/recurringruns" in line and not line.startswith("GET")]
    assert changing == [
        "POST /recurringruns", f"POST /recurringruns/{first.id}:disable", f"POST /recurringruns/{second.id}:enable",
        f"DELETE /recurringruns/{first.id}",
    ]  # fmt: skip


@pytest.mark.parametrize("other", [{"name": "recpolicy-retrain-shop"}, {"experiment": "other"}])
def test_another_name_or_experiment_is_another_schedule(submit, cluster, other):
    first, second = submit(), submit(**other)
    assert active(cluster) == [first.id, second.id]
    assert second.replaced == ()


def test_runs_without_a_schedule_replace_nothing(submit, cluster):
    first = submit()
    submit(cron=None)
    assert active(cluster) == [first.id]


def test_what_somebody_else_made_stays_and_is_warned_of(submit, cluster, caplog):
    theirs = submit().id
    cluster.recurring_runs[0].pop("description")
    ours = submit()
    assert ours.replaced == ()
    assert active(cluster) == [theirs, ours.id]
    assert f"{theirs} of the same name was not made by recpolicy" in caplog.text


def test_all_pages_of_the_list_are_read(submit, cluster):
    submit()
    one = cluster.recurring_runs[0]
    theirs = [{**one, "recurring_run_id": f"theirs-{number}", "description": ""} for number in range(105)]
    cluster.recurring_runs[:0] = theirs
    assert submit().replaced == (one["recurring_run_id"],)


@pytest.mark.parametrize("refused", ["POST /recurringruns", "POST .*:disable", "POST .*:enable"])
def test_a_refused_request_leaves_the_first_active_and_says_so(submit, cluster, refused):
    first = submit()
    cluster.refused = {refused: 403}
    if refused.endswith(":enable"):  # the second time it is asked for the old one
        cluster.refused = {rf"POST /recurringruns/(?!{first.id}).*:enable": 403}
    with pytest.raises(SubmitError) as error:
        submit(epochs=2)
    assert "answered 403" in str(error.value)
    assert str(error.value).endswith(f"nothing is replaced: active is {first.id}, as before")
    assert "\n" not in str(error.value)
    (one,) = cluster.recurring_runs
    assert (one["recurring_run_id"], one["mode"], one["runtime_config"]["parameters"]["epochs"]) == (
        first.id, "ENABLE", 1,
    )  # fmt: skip


def test_a_new_one_that_cannot_even_be_deleted_is_off(submit, cluster):
    first = submit()
    cluster.refused = {"POST .*:disable": 403, "DELETE .*": 403}
    with pytest.raises(SubmitError, match=f"active is {first.id}, as before"):
        submit()
    assert active(cluster) == [first.id]
    assert len(cluster.recurring_runs) == 2


def test_when_neither_can_be_switched_on_it_says_that_none_is_active(submit, cluster):
    first = submit()
    cluster.refused = {"POST .*:enable": 500}
    with pytest.raises(SubmitError, match=rf"active now is none, before it was {first.id}: submit it again"):
        submit()
    cluster.refused = {}
    assert active(cluster) == []
    assert submit().replaced == (first.id,)
    assert len(active(cluster)) == 1


def test_an_answer_that_a_proxy_lost_leaves_the_first_active(submit, cluster):
    first = submit()
    cluster.broken = {f"/recurringruns/{first.id}:disable": (502, b"<html>")}
    with pytest.raises(SubmitError, match=f"active is {first.id}, as before"):
        submit()
    assert active(cluster) == [first.id]


def test_an_old_one_that_cannot_be_deleted_is_off_and_warned_of(submit, cluster, caplog):
    first = submit()
    cluster.refused = {"DELETE .*": 403}
    second = submit()
    assert active(cluster) == [second.id]
    assert f"schedule {first.id} is switched off, but could not be deleted" in caplog.text


def test_the_token_is_in_no_message_of_a_half_done_replacement(submit, cluster, caplog):
    caplog.set_level(logging.DEBUG)
    token = "s3cret-abcdef"
    submit(token=token)
    cluster.broken = {"/recurringruns": (500, json.dumps({"error": f"Bearer {token}"}).encode())}
    with pytest.raises(SubmitError) as error:
        submit(token=token)
    assert token not in str(error.value) + caplog.text
