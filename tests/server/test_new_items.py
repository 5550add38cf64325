"""New items in a server: the daily job, the place in lists with exact propensities, and what the log has."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from api_keys import bearing, key_for
from client_helpers import ask
from event_factory import event
from learning_users import Client
from tiny_policies import write_tiny
from unlimited import UNLIMITED

from recpolicy.coldstart.prior import ItemPrior
from recpolicy.coldstart.prior_file import PriorModel, write_prior
from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.data.log_parts import EVENTS, log_parts
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.registry.add_items import change_items
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.backup.create import create_backup
from recpolicy.server.backup.restore import restore_backup
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events, now_ms
from recpolicy.server.db.export import ExportOptions, LogPolicy, export
from recpolicy.server.db.guardrail_record import unpack_list
from recpolicy.server.jobs.new_item_job import allocate_new_items as run_job
from recpolicy.server.jobs.new_item_worker import allocate_new_items
from recpolicy.server.jobs.subprocess_jobs import JobRequest
from recpolicy.server.lifespan import open_state
from recpolicy.server.new_items import allocation as new_items_allocation
from recpolicy.server.new_items.allocation import (
    NewItem,
    NewItemAllocation,
    allocation_path,
    read_allocation,
    write_allocation,
)
from recpolicy.server.recommend import choose
from recpolicy.server.schemas.requests import RecommendRequest
from recpolicy.server.settings import NewItemsConfig, UsersConfig, read_settings

DAY, HORIZON = 86_400_000, 5
TODAY = now_ms() // DAY


@pytest.fixture
def prior(tmp_path):
    """A prior in whose items early days tell of late ones."""
    covariance = 0.05 * np.ones((HORIZON, HORIZON)) + 0.01 * np.eye(HORIZON)
    model = PriorModel(ItemPrior(np.full((1, HORIZON), 0.3), covariance, 0.1 * np.eye(HORIZON) + 0.1))
    write_prior(tmp_path / "prior.json", model)
    return tmp_path / "prior.json"


@pytest.fixture
def registry(tmp_path):
    """A champion to which the items 901 and 902 were added."""
    registry = Registry(tmp_path / "registry")
    registry.register(write_tiny(tmp_path / "tiny"), gate={"verdict": "pass"})
    items = tmp_path / "items.csv"
    items.write_text("item_id,title,year\n901,New,2026\n902,Newer,2026\n", encoding="utf-8")
    change_items(registry, 1, items)
    registry.promote(2, ungated=True)
    return registry


def opened(
    registry, prior, share=0.5, exploration=0.0, guardrails=UNLIMITED.guardrails, users=UNLIMITED.users, **words
):
    config = NewItemsConfig(share=share, prior=str(prior), **words)
    exploring = ExplorationConfig(share=exploration, top=6)
    settings = replace(UNLIMITED, new_items=config, guardrails=guardrails, exploration=exploring)
    settings = replace(settings, users=users or settings.users)
    return open_state(registry.folder, None, settings)


def allocation(shares):
    items = tuple(NewItem(item, 1.0, 0.5, 1.5, 3, 20, share) for item, share in shares.items())
    return NewItemAllocation(day_before(0), 2, "p", HORIZON, "s", items)


def day_before(days):
    """The day of an allocation that was made some days ago."""
    return str(np.datetime64(TODAY - 1 - days, "D"))


def lists(state, count, user=3, **words):
    """Return the items and propensities of lists."""
    served = [choose(state.models.live, RecommendRequest(user=user, k=4, **words), state.settings.exploration).event
              for _ in range(count)]  # fmt: skip
    return [(json.loads(one.item_ids), json.loads(one.propensities), one) for one in served]


def test_a_share_of_lists_shows_a_new_item_with_its_exact_propensity(registry, prior):
    write_allocation(allocation_path(registry.folder), allocation({901: 0.75, 902: 0.25}))
    with opened(registry, prior) as state:
        served = lists(state, 400)
    last = Counter(items[3] for items, _, _ in served)
    assert last[901] + last[902] == pytest.approx(200, abs=50)
    assert last[901] > 1.5 * last[902]
    for items, propensities, row in served:
        assert not {901, 902} & set(items[:3])
        assert row.explored == (items[3] in (901, 902))
        assert propensities == pytest.approx([1, 1, 1, {901: 0.375, 902: 0.125}.get(items[3], 0.5)], abs=1e-12)
    assert len({tuple(items[:3]) for items, _, _ in served}) == 1


def test_the_product_of_logged_propensities_is_the_frequency_of_the_list(registry, prior):
    write_allocation(allocation_path(registry.folder), allocation({901: 0.75, 902: 0.25}))
    with opened(registry, prior, exploration=0.5, place=2) as state:
        served = lists(state, 2_000)
    product = {tuple(items): float(np.prod(propensities)) for items, propensities, _ in served}
    count = Counter(tuple(items) for items, _, _ in served)
    frequent = [items for items, probability in product.items() if probability > 0.02]
    assert len(frequent) >= 3
    for items in frequent:
        assert count[items] / 2_000 == pytest.approx(product[items], abs=5 * np.sqrt(product[items] / 2_000))


def test_items_that_a_request_excludes_or_a_version_lacks_are_never_shown(registry, prior, caplog):
    write_allocation(allocation_path(registry.folder), allocation({901: 0.6, 902: 0.2, 777: 0.2}))
    with opened(registry, prior) as state:
        assert "names 1 items that a serving version lacks, such as 777" in caplog.text
        shown = [(items[3], propensities[3]) for items, propensities, _ in lists(state, 60, exclude=[901])]
        assert {item for item, _ in shown if item > 900} == {902}
        assert {propensity for item, propensity in shown if item == 902} == {0.5}
        both = lists(state, 30, exclude=[901, 902])
        assert all(propensities == [1.0] * 4 for _, propensities, _ in both)


def test_an_operator_who_blocks_a_new_item_never_sees_it(registry, prior):
    write_allocation(allocation_path(registry.folder), allocation({901: 0.75, 902: 0.25}))
    with opened(registry, prior, place=1, guardrails=GuardrailConfig(blocked=(901, 101), novelty=0.1)) as state:
        served = lists(state, 60)
    assert {items[3] for items, _, _ in served if items[3] > 900} == {902}
    for items, propensities, row in served:
        assert not {901, 902, 101} & set(items[:3])
        assert propensities == [1.0, 1.0, 1.0, 0.5]
        assert unpack_list(row.guardrails, 13)[1] == [], "nothing closes after the first place"


def test_the_console_lists_each_new_item_with_belief_and_share(registry, prior):
    with opened(registry, prior) as state:
        app = make_app(state)
        headers = bearing(key_for(app, "reader", "rita"))
        answer = ask(app, "GET", "/v1/admin/new-items", headers=headers).json()
        assert answer == {"share": 0.5, "items": [], "day": None, "version": None, "horizon": None}
        write_allocation(allocation_path(registry.folder), allocation({901: 0.75, 777: 0.25}))
        answer = ask(app, "GET", "/v1/admin/new-items", headers=headers).json()
        assert (answer["day"], answer["version"], answer["horizon"]) == (day_before(0), 2, HORIZON)
        assert answer["items"][0] == {
            "item_id": 901, "title": "New", "mean": 1.0, "lo": 0.5, "hi": 1.5, "days": 3, "traces": 20,
            "probability": 0.75,
        }  # fmt: skip
        assert answer["items"][1]["title"] is None
        assert ask(app, "GET", "/v1/admin/new-items").status_code == 401


def test_lists_follow_a_new_allocation_and_the_pause_of_exploration(registry, prior):
    with opened(registry, prior) as state:
        assert state.models.live.champion.new_items is None
        before = state.models._look()
        write_allocation(allocation_path(registry.folder), allocation({901: 1.0}))
        assert state.models._look() != before
        state.models.refresh()
        assert {items[3] for items, _, _ in lists(state, 40)} > {901}
        registry.pause_exploration()
        state.models.refresh()
        assert state.models.live.champion.new_items is None


def test_a_damaged_allocation_is_said_and_lists_are_the_policys(registry, prior, caplog):
    path = allocation_path(registry.folder)
    write_allocation(path, allocation({901: 1.0}))
    path.write_text(path.read_text().replace("901", "902"))
    with opened(registry, prior) as state:
        assert "lists show no new items" in caplog.text
        assert state.models.live.champion.new_items is None
    write_allocation(path, allocation({901: 0.5}))
    with pytest.raises(ArtifactError, match=r"the shares of new items sum to 0\.5; expected 1"):
        read_allocation(path)


def test_the_job_replaces_a_damaged_allocation(registry, prior):
    path = allocation_path(registry.folder)
    write_allocation(path, allocation({901: 1.0}))
    path.write_text(path.read_text().replace("901", "902"))
    with opened(registry, prior) as state:
        app = make_app(state)
        answer = ask(app, "GET", "/v1/admin/new-items", headers=bearing(key_for(app, "reader", "rita")))
        assert answer.status_code == 409
        assert "run the job allocate_new_items again" in answer.json()["error"]["message"]
        assert str(registry.folder) not in answer.text
        assert work(state).status == "done"
        assert {item.item_id for item in read_allocation(path).items} == {901, 902}


def test_an_old_allocation_is_not_served(registry, prior, caplog, monkeypatch):
    path = allocation_path(registry.folder)
    write_allocation(path, replace(allocation({901: 1.0}), day=day_before(3)))
    with opened(registry, prior) as state:
        assert state.models.live.champion.new_items is not None
        before = state.models._look()
        monkeypatch.setattr(new_items_allocation, "now_ms", lambda: now_ms() + DAY)
        assert state.models._look() != before, "the server looks again by itself"
        state.models.refresh()
        assert state.models.live.champion.new_items is None
        assert "is 4 days old; run the job allocate_new_items again" in caplog.text


def test_a_version_that_was_trained_with_an_item_does_not_treat_it_as_new(registry, prior):
    write_allocation(allocation_path(registry.folder), allocation({901: 0.6, 105: 0.4}))
    with opened(registry, prior) as state:
        slot, scorer = state.models.live.champion.new_items, state.models.live.champion.scorer
        assert np.flatnonzero(slot.probability).tolist() == [scorer.arm(901)]


def test_off_costs_nothing(registry):
    write_allocation(allocation_path(registry.folder), allocation({901: 1.0}))
    with open_state(registry.folder, None, UNLIMITED) as state:
        assert state.models.live.champion.new_items is None
        assert run_job(state, {}).metadata["reason"] == "lists have no place for new items: [new_items] share is 0"


def store_lists(state, rows):
    """Store lists: user, items, days ago."""
    with transaction(state.require_store().engine) as connection:
        insert_events(connection, [
            event(user, items, id=f"e{number}", version=2, time=(TODAY - ago) * DAY + 5)
            for number, (user, items, ago) in enumerate(rows)
        ])  # fmt: skip


def work(state):
    request = JobRequest.from_state(state, {})
    Path(request.folder).mkdir(parents=True, exist_ok=True)
    return allocate_new_items(request)


def test_the_job_believes_what_users_did_and_runs_once_a_day(registry, prior):
    with opened(registry, prior, uniform_mix=0.0) as state:
        result = work(state)
        assert (result.status, result.records, result.metadata["items"]) == ("done", 0, 2)
        start = read_allocation(allocation_path(registry.folder))
        assert [item.probability for item in start.items] == pytest.approx([0.5, 0.5], abs=1e-9)
        again = work(state)
        assert again.status == "skipped"
        assert again.metadata["reason"] == f"the allocation until {start.day} of version 2 exists already"
        allocation_path(registry.folder).unlink()
        # Users of 901 come back on every day, those of 902 never.
        rows = [(user, (101, 901), ago) for user in range(1, 9) for ago in (3, 2, 1)]
        store_lists(state, rows + [(user, (102, 902), 3) for user in range(11, 19)])
        work(state)
        best, other = read_allocation(allocation_path(registry.folder)).items
        assert (best.item_id, other.item_id, best.days, best.traces) == (901, 902, 3, 8)
        assert best.lo < best.mean < best.hi
        assert best.lo > other.hi
        assert best.probability > 0.999
        state.models.refresh()
        assert state.models.live.champion.new_items is not None


def test_an_item_is_new_until_its_days_are_over(registry, prior):
    with opened(registry, prior, days=2) as state:
        store_lists(state, [(1, (901,), 3), (1, (902,), 2)])
        work(state)
        path = allocation_path(registry.folder)
        assert [item.item_id for item in read_allocation(path).items] == [902]
        assert read_allocation(path).first_days == {"901": TODAY - 3, "902": TODAY - 2}


def test_an_item_whose_first_lists_were_deleted_is_not_new_again(registry, prior):
    path, first = allocation_path(registry.folder), {"901": TODAY - 9, "902": TODAY - 1}
    with opened(registry, prior, days=2) as state:
        write_allocation(path, replace(allocation({901: 1.0}), day=day_before(1), first_days=first))
        store_lists(state, [(1, (901,), 1), (1, (902,), 1)])
        result = work(state)
        assert [item.item_id for item in read_allocation(path).items] == [902]
        assert read_allocation(path).first_days == first
        assert "warning" not in result.metadata
        longer = replace(state.settings.new_items, days=9)
        short = replace(state.settings, store=replace(state.settings.store, keep_days=8), new_items=longer)
        warning = work(replace(state, settings=short)).metadata["warning"]
        assert warning == "[store] keep_days = 8 deletes traces of items that are new for 9 days"


def test_wrong_input_is_one_line(registry, prior, tmp_path):
    with opened(registry, tmp_path / "none.json") as state, pytest.raises(ArtifactError, match=r"none.json: no such"):
        work(state)
    registry.promote(1)
    with opened(registry, prior) as state:
        assert "version 1 has no new items; add some with" in work(state).metadata["reason"]
    with pytest.raises(ConfigError, match="share is above 0 and prior is missing; expected the file that"):
        NewItemsConfig(share=0.1)
    settings = tmp_path / "settings.toml"
    settings.write_text("[new_items]\nshare = 0.7\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"settings.toml: \[new_items\].*share"):
        read_settings(settings)


def test_an_export_has_the_logged_propensities(registry, prior, tmp_path):
    write_allocation(allocation_path(registry.folder), allocation({901: 0.75, 902: 0.25}))
    with opened(registry, prior) as state:
        served = lists(state, 40)
        with transaction(state.require_store().engine) as connection:
            insert_events(connection, [row for _, _, row in served])
        export(state.require_store().engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
    table = pq.read_table(log_parts(tmp_path / "log", EVENTS)[0]).to_pydict()
    logged = zip(table["event_id"], table["item_id"], np.exp(table["log_propensity"]), strict=True)
    rounds = {name: (item, pytest.approx(chance, abs=1e-12)) for name, item, chance in logged}
    assert len(rounds) == 160
    for items, propensities, row in served:
        assert [rounds[f"{row.id}:{place}"] for place in range(4)] == list(zip(items, propensities, strict=True))


def test_a_backup_has_the_allocation(registry, prior, tmp_path):
    with opened(registry, prior):
        create_backup(registry.folder, tmp_path / "before")
        write_allocation(allocation_path(registry.folder), allocation({901: 0.75, 902: 0.25}))
        create_backup(registry.folder, tmp_path / "after")
    place = tmp_path / "restored"
    restore_backup(tmp_path / "after", place)
    assert read_allocation(allocation_path(place)) == read_allocation(allocation_path(registry.folder))
    with opened(Registry(place), prior) as state:
        assert {items[3] for items, _, _ in lists(state, 40)} > {901}
    restore_backup(tmp_path / "before", place, force=True)
    assert not allocation_path(place).parent.exists(), "an allocation of another state does not stay"


def new_at_the_end(served):
    """Return the new items of lists, each with the propensities that the lists have logged for it."""
    shown = {}
    for items, propensities in served:
        assert not {901, 902} & set(items[:3])
        if items[3] in (901, 902):
            shown.setdefault(items[3], set()).add(propensities[3])
    return shown


def test_an_item_that_the_user_has_rated_leaves_its_share_to_the_others(registry, prior):
    write_allocation(allocation_path(registry.folder), allocation({901: 0.6, 902: 0.4}))
    with opened(registry, prior, users=UsersConfig(mode="learn")) as state:
        described = lists(state, 40, ratings=[{"item": 901, "rating": 2.0}])
        assert new_at_the_end((items, chances) for items, chances, _ in described) == {902: {0.5}}
        client = Client(make_app(state))

        def asked(user):
            answer = client.recommend(user, k=4)
            rows = answer["items"]
            return [row["item_id"] for row in rows], [row["propensity"] for row in rows], answer["event_id"]

        while (first := asked(3))[0][3] != 901:
            pass
        assert first[1][3] == pytest.approx(0.3)
        assert client.send(first[2], 901, 2.0).is_success
        assert new_at_the_end(asked(3)[:2] for _ in range(40)) == {902: {0.5}}
        assert new_at_the_end(asked(5)[:2] for _ in range(40)).keys() == {901, 902}
        while (last := asked(3))[0][3] != 902:
            pass
        assert client.send(last[2], 902, 2.0).is_success
        for _ in range(20):
            items, propensities, _ = asked(3)
            assert not {901, 902} & set(items)
            assert propensities == [1.0] * 4, "no new item is left: the list is the policy's"


def test_a_retired_item_leaves_its_share_to_the_others(registry, prior, caplog):
    write_allocation(allocation_path(registry.folder), allocation({901: 0.6, 902: 0.4}))
    change_items(registry, 2, retire=[902])
    registry.promote(3, ungated=True)
    with opened(registry, prior) as state:
        assert "names 1 items that a serving version lacks, such as 902" in caplog.text
        served = [(items, propensities) for items, propensities, _ in lists(state, 40)]
        assert new_at_the_end(served) == {901: {0.5}}
        work(state)
        assert [item.item_id for item in read_allocation(allocation_path(registry.folder)).items] == [901]


@pytest.mark.parametrize(("share", "kept", "figure"), [(0.1, True, "10.00%"), (0.5, False, "50.00%")])
def test_lists_with_a_new_item_count_as_exploration_in_the_checklist(registry, prior, share, kept, figure):
    write_allocation(allocation_path(registry.folder), allocation({901: 1.0}))
    with opened(registry, prior, share=share) as state:
        app = make_app(state)
        rows = ask(app, "GET", "/v1/admin/checklist", headers=bearing(key_for(app, "reader", "rita"))).json()["items"]
    row = next(row for row in rows if row["name"] == "share of exploration")
    assert row["kept"] is kept
    assert row["figure"].startswith(figure)
