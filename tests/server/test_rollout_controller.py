"""Rollouts from their start to their end, over a store and a registry."""

import threading
from dataclasses import replace
from time import perf_counter

import pytest
from rollout_fixtures import QUICK, rate, rolling, tiny_registry
from sqlalchemy.exc import OperationalError

from recpolicy.core.errors import ArtifactError, ConfigError, StoreError
from recpolicy.server.db import admin, rollouts
from recpolicy.server.db.rollouts import ConflictError
from recpolicy.server.jobs.rollout_job import CHECK_ROLLOUT, check_rollout
from recpolicy.server.live_models import CHALLENGER, CHAMPION
from recpolicy.server.rollout import background, controller, reconcile
from recpolicy.server.rollout.stage_metrics import VariantHealth


@pytest.fixture
def state(tmp_path):
    with rolling(tmp_path) as state:
        yield state


def last(state):
    with state.store.engine.connect() as connection:
        return rollouts.latest(connection, 1)[0]


def audited(state):
    with state.store.engine.connect() as connection:
        return [(line["actor"], line["action"]) for line in reversed(admin.latest_audit(connection, 20))]


def routing(state):
    now = state.models.registry.routing()
    return now.champion, now.challenger, now.traffic_fraction


def checked(state):
    return check_rollout(state, {})


def test_a_challenger_that_is_not_worse_goes_through_its_stages_and_is_promoted(state):
    row = controller.start(state, 2, "ann")
    for stage, share in enumerate((0.1, 0.5)):
        assert routing(state) == (1, 2, share)
        live = state.models.live
        assert (live.challenger.number, live.traffic_fraction, live.rollout) == (2, share, row.id)
        assert checked(state).metadata["action"] == "wait"
        rate(state, last(state), 900, seed=stage)
        result = checked(state)
        assert (result.metadata["action"], result.users, result.records) == ("advance", 900, 900)
    assert routing(state) == (1, 2, 1.0)
    assert checked(state).metadata["reason"] == "0 of 30 users of the challenger gave rewards"
    rate(state, last(state), 60, seed=2)
    assert checked(state).metadata["action"] == "promote"
    assert routing(state) == (2, None, 0.0)
    assert (state.models.live.champion.number, state.models.live.challenger) == (2, None)
    row = last(state)
    assert (row.state, row.stage, row.reconciled, row.reason) == (
        "promoted",
        2,
        True,
        "the challenger passed the last stage",
    )
    server = [("server", "rollout_advance")] * 2 + [("server", "rollout_promoted")]
    assert audited(state) == [("ann", "start_rollout"), *server]
    notes = [line["note"]["rollout"] for line in state.models.registry.audit() if "note" in line]
    assert notes == [row.id] * 4
    assert checked(state).status == "skipped"


def test_harm_is_rolled_back_at_once_and_the_audit_says_why(state, caplog):
    controller.start(state, 2, "ann", {"stages": [0.5, 1.0], "min_hours": 4.0})
    rate(state, last(state), 400, difference=-1.5, seed=1)
    assert checked(state).metadata["action"] == "roll_back"
    assert routing(state) == (1, None, 0.0)
    assert last(state).state == "rolled_back"
    with state.store.engine.connect() as connection:
        _, line = admin.latest_audit(connection, 2)  # the alert came after it
    assert line["action"] == "rollout_rolled_back"
    assert line["detail"]["metrics"]["difference"]["hi"] < -0.5
    assert "rewards are lower" in line["detail"]["reason"]
    (alarm,) = [record for record in caplog.records if record.getMessage().startswith("alert")]
    assert alarm.fields["type"] == f"rollout.rolled_back.{last(state).id}"


@pytest.mark.parametrize(
    ("health", "why"),
    [
        (VariantHealth(50, failures=1, seconds=0.1), "answers failed"),
        (VariantHealth(50, slow=3, seconds=0.1), "took longer"),
        (VariantHealth(50, seconds=2.0), "40.0 ms to choose"),
    ],
)
def test_a_broken_budget_is_rolled_back(state, health, why):
    row = controller.start(state, 2, "ann")
    state.rollout_counters.counts.add(row.id, CHAMPION, VariantHealth(50, seconds=0.1))
    assert checked(state).metadata["action"] == "wait"
    state.rollout_counters.counts.add(row.id, CHALLENGER, health)
    assert why in checked(state).metadata["reason"]
    assert (last(state).state, routing(state)) == ("rolled_back", (1, None, 0.0))


def test_a_stage_whose_time_is_over_is_rolled_back(state):
    controller.start(state, 2, "ann")
    rate(state, last(state), 40, hours=5.1)
    assert checked(state).metadata["action"] == "roll_back"
    assert "did not pass within" in last(state).reason


def test_what_was_shown_in_an_earlier_stage_does_not_count(state):
    """A user who was the champion's in the first stage may be the challenger's in the second."""
    controller.start(state, 2, "ann")
    rate(state, last(state), 900)
    checked(state)
    assert last(state).stage == 1
    assert controller.status(state).metrics.champion.users == 0


def test_two_checks_at_once_take_one_step(tmp_path):
    tiny_registry(tmp_path)
    with rolling(tmp_path) as one, rolling(tmp_path) as other:
        controller.start(one, 2, "ann")
        rate(one, last(one), 900)
        threads = [threading.Thread(target=checked, args=[state]) for state in (one, other) * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (last(one).stage, routing(one)) == (1, (1, 2, 0.5))
        assert audited(one).count(("server", "rollout_advance")) == 1


def test_whoever_saw_an_older_row_changes_nothing(state):
    """As where the lock beside the registry does not work, on some network file systems."""
    seen = controller.start(state, 2, "ann")
    rate(state, seen, 900)
    seen = last(state)
    figures = controller.current_metrics(state, seen, QUICK)
    assert controller.advance(state, seen, "server", "first", figures).stage == 1
    assert controller.advance(state, seen, "server", "second", figures) is None
    assert controller.end(state, seen, "rolled_back", "server", "late") is None
    assert (last(state).stage, last(state).state) == (1, "running")


class KilledError(BaseException):
    """Stands for kill -9."""


def killed(*_, **__):
    raise KilledError


@pytest.mark.parametrize("where", ["set_challenger", "move"])
def test_a_start_that_was_cut_short_is_finished_by_the_next_check(state, monkeypatch, where):
    with monkeypatch.context() as patch:
        patch.setattr(*((type(state.models.registry), where) if where != "move" else (rollouts, where)), killed)
        with pytest.raises(KilledError):
            controller.start(state, 2, "ann")
    assert not last(state).reconciled
    with pytest.raises(ConflictError):
        controller.start(state, 2, "bob")
    checked(state)
    assert (last(state).reconciled, routing(state)) == (True, (1, 2, 0.1))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("users", "difference", "stages", "expected"),
    [
        (900, 0.0, [0.1, 0.5], (1, 2, 0.5)),
        (900, 0.0, [0.5], (2, None, 0.0)),
        (400, -1.5, [0.5], (1, None, 0.0)),
    ],
)
def test_a_step_that_was_cut_short_is_finished_by_the_next_check(
    state, monkeypatch, users, difference, stages, expected, after
):
    """Killed between the row and the registry, or between the registry and the second write to the row."""
    controller.start(state, 2, "ann", {"stages": stages})
    rate(state, last(state), users, difference)
    if after:
        monkeypatch.setattr(reconcile, "now_ms", killed)
    else:
        for name in ("set_challenger", "promote", "clear_challenger"):
            monkeypatch.setattr(type(state.models.registry), name, killed)
    with pytest.raises(KilledError):
        checked(state)
    assert not last(state).reconciled
    monkeypatch.undo()
    checked(state)
    assert (last(state).reconciled, routing(state)) == (True, expected)
    assert len(audited(state)) == 2
    assert len([line for line in state.models.registry.audit() if "note" in line]) == 2


def test_an_end_that_was_cut_short_does_not_hinder_the_next_start(state, monkeypatch):
    controller.start(state, 2, "ann", {"stages": [0.5]})
    rate(state, last(state), 400, -1.5)
    with monkeypatch.context() as patch:
        patch.setattr(type(state.models.registry), "clear_challenger", killed)
        with pytest.raises(KilledError):
            checked(state)
    row = controller.start(state, 2, "ann")
    assert (row.id, row.reconciled, routing(state)) == (2, True, (1, 2, 0.1))


@pytest.mark.parametrize(
    ("by_hand", "ended", "expected"),
    [
        (lambda registry: registry.promote(2), "promoted", (2, None, 0.0)),
        (lambda registry: registry.roll_back(), "stopped", (1, None, 0.0)),
        (lambda registry: registry.promote(3), "stopped", (3, None, 0.0)),
    ],
)
def test_what_was_changed_by_hand_ends_the_rollout_and_stays(state, tmp_path, by_hand, ended, expected):
    from tiny_policies import write_tiny

    state.models.registry.register(write_tiny(tmp_path / "third", 3), gate={"verdict": "pass"})
    controller.start(state, 2, "ann")
    by_hand(state.models.registry)
    checked(state)
    assert (last(state).state, last(state).reconciled, routing(state)) == (ended, True, expected)
    assert last(state).reason.endswith("in the registry, by a command or a program")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda registry, note: registry.promote(3, note=note), "version 3 was made champion by bob"),
        (lambda registry, note: registry.promote(2, note=note), "promoted by bob"),
        (lambda registry, note: registry.clear_challenger(note=note), "the challenger was withdrawn by bob"),
    ],
)
def test_the_reason_of_an_end_names_who_made_the_change(state, tmp_path, change, reason):
    from tiny_policies import write_tiny

    state.models.registry.register(write_tiny(tmp_path / "third", 3), gate={"verdict": "pass"})
    controller.start(state, 2, "ann")
    change(state.models.registry, {"by": "bob"})
    checked(state)
    assert last(state).reason == reason


def test_a_share_that_was_set_by_hand_is_waited_for_but_harm_still_ends_it(state):
    controller.start(state, 2, "ann")
    rate(state, last(state), 900)
    state.models.registry.set_traffic_fraction(0.0)
    assert "set the challenger's traffic fraction to 0" in checked(state).metadata["reason"]
    assert "set the challenger's traffic fraction to 0" in controller.status(state).decision.reason
    state.rollout_counters.counts.add(last(state).id, CHALLENGER, VariantHealth(50, failures=20))
    assert checked(state).metadata["action"] == "roll_back"


def test_stopping_takes_less_than_a_second_and_the_champion_answers(state):
    controller.start(state, 2, "ann", {"stages": [1.0]})
    assert state.models.live.variant_for('"x"')[0].number == 2
    begun = perf_counter()
    row = controller.stop(state, "bob")
    assert state.models.live.variant_for('"x"')[0].number == 1
    assert perf_counter() - begun < 5.0  # a tenth of a second where nothing else runs
    assert (row.state, row.reason, routing(state)) == ("stopped", "stopped by an operator", (1, None, 0.0))
    assert audited(state)[-1] == ("bob", "stop_rollout")
    with pytest.raises(ConflictError, match="no rollout is running"):
        controller.stop(state, "bob")


def test_stopping_needs_no_database_and_is_noted_later(state, monkeypatch):
    controller.start(state, 2, "ann")

    def down(*_):
        raise OperationalError("select", {}, Exception("down"))

    with monkeypatch.context() as patch:
        patch.setattr(rollouts, "unfinished", down)
        with pytest.raises(StoreError, match="the champion serves all users"):
            controller.stop(state, "bob")
    assert (routing(state), state.models.live.challenger) == ((1, None, 0.0), None)
    checked(state)
    assert last(state).state == "stopped"


def test_who_may_not_be_rolled_out(tmp_path):
    tiny_registry(tmp_path, gate={"verdict": "fail"})
    with rolling(tmp_path) as state:
        with pytest.raises(ConflictError, match="is the champion"):
            controller.start(state, 1, "ann")
        with pytest.raises(ConfigError, match="no version 7"):
            controller.start(state, 7, "ann")
        with pytest.raises(ConflictError, match="has a gate record that says fail"):
            controller.start(state, 2, "ann")
        assert controller.start(state, 2, "ann", {"shadow": True}).state == "running"  # it serves nobody
        controller.stop(state, "ann")
        with pytest.raises(ConfigError, match="rising"):
            controller.start(state, 2, "ann", {"stages": [0.5, 0.1]}, ungated=True)
        state.models.registry.set_challenger(2, 0.1, ungated=True)
        assert controller.start(state, 2, "ann", ungated=True).state == "running"
        with pytest.raises(ConflictError, match="is running"):
            controller.start(state, 2, "ann", ungated=True)


def damage(state):
    path = state.models.registry.resolve(2) / "action" / "saved_model.pb"
    path.chmod(0o644)
    path.write_bytes(b"else")


def test_a_damaged_version_is_neither_rolled_out_nor_promoted(state):
    controller.start(state, 2, "ann", {"stages": [0.5]})
    rate(state, last(state), 900)
    damage(state)
    checked(state)
    assert (last(state).state, routing(state)) == ("rolled_back", (1, None, 0.0))
    assert "damaged" in last(state).reason
    with pytest.raises(ArtifactError):
        controller.start(state, 2, "ann")


def test_a_version_that_does_not_load_ends_its_rollout(state, monkeypatch):
    def foreign(*_):
        raise ArtifactError("made by another recpolicy")

    with monkeypatch.context() as patch:
        patch.setattr(state.models, "refresh", foreign)
        with pytest.raises(ArtifactError):
            controller.start(state, 2, "ann")
    assert last(state).state == "rolled_back"
    checked(state)
    assert (last(state).reconciled, routing(state)) == (True, (1, None, 0.0))


def test_counts_outlive_a_database_that_is_down(state, monkeypatch):
    row = controller.start(state, 2, "ann")
    state.rollout_counters.counts.add(row.id, CHALLENGER, VariantHealth(3, seconds=0.5))

    def down(*_):
        raise OperationalError("insert", {}, Exception("down"))

    with monkeypatch.context() as patch:
        patch.setattr(rollouts, "add_health", down)
        background.flush(state)
    state.rollout_counters.counts.add(row.id, CHALLENGER, VariantHealth(2, failures=1, seconds=0.25))
    background.flush(state)
    background.flush(state)
    with state.store.engine.connect() as connection:
        assert rollouts.health(connection, row.id) == {CHALLENGER: VariantHealth(5, 1, 0, 0.75)}


def test_counts_of_processes_and_minutes_are_added_up(state, monkeypatch):
    from recpolicy.server.db import rollouts as store
    from recpolicy.server.db.engine import transaction

    row = controller.start(state, 2, "ann")
    for worker, minute in (("a", 100), ("a", 100), ("b", 100), ("b", 90)):
        monkeypatch.setattr(store, "now_ms", lambda minute=minute: minute * 60_000)
        with transaction(state.store.engine) as connection:
            store.add_health(
                connection, worker, {(row.id, CHALLENGER): VariantHealth(1), (row.id + 1, CHALLENGER): VariantHealth(7)}
            )
    monkeypatch.setattr(store, "now_ms", lambda: 100 * 60_000)
    with state.store.engine.connect() as connection:
        assert store.health(connection, row.id)[CHALLENGER].requests == 4
        assert store.health(connection, row.id, minutes=10)[CHALLENGER].requests == 3


def test_the_job_runs_every_ten_seconds_and_needs_no_rollout(state):
    assert (CHECK_ROLLOUT.name, CHECK_ROLLOUT.cron) == ("check_rollout", "@every 10s")
    assert CHECK_ROLLOUT.run(state, {}).status == "skipped"
    assert CHECK_ROLLOUT.run(replace(state, models=type(state.models)(state.models.live)), {}).status == "skipped"


def test_a_challenger_that_was_withdrawn_after_a_step_was_cut_short_stays_withdrawn(state, monkeypatch):
    controller.start(state, 2, "ann", {"stages": [0.1, 0.5]})
    rate(state, last(state), 900)
    with monkeypatch.context() as patch:
        patch.setattr(type(state.models.registry), "set_challenger", killed)
        with pytest.raises(KilledError):
            checked(state)
    state.models.registry.roll_back()
    checked(state)
    assert (last(state).state, routing(state)) == ("stopped", (1, None, 0.0))
