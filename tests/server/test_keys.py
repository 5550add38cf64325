"""API keys: which are too weak, who has which, and how long what was known of them holds."""

import asyncio
import hashlib
import string
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError
from waiting import PATIENCE

from recpolicy.core.errors import StoreError
from recpolicy.server.auth.keys import ROLES, Caller, KeyCache, key_digest, key_problem, new_key
from recpolicy.server.middleware import request_key

SOUND = "kT9vR2xQ7mZ4wB8nC3jL6hF1sD5gA0pY"


class World:
    """A store of keys whose clock and health are the test's."""

    def __init__(self, **keys):
        self.now, self.loads, self.down = 1000.0, 0, False
        self.callers = {key_digest(key): Caller(name, "reader") for name, key in keys.items()}
        self.keys = KeyCache(self.load, lambda: self.now)

    def load(self):
        self.loads += 1
        if self.down:
            raise OperationalError("SELECT", {}, Exception("no connection"))
        return dict(self.callers)

    def who(self, key):
        caller = asyncio.run(self.keys.caller(key))
        return None if caller is None else caller.name


def test_a_key_is_256_random_bits_and_no_two_are_the_same():
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(key.startswith("rp_") and len(key) == 3 + 43 for key in keys)
    assert set("".join(key[3:] for key in keys)) == set(string.ascii_letters + string.digits + "-_")


def test_a_digest_is_sha256():
    assert key_digest("rp_abc") == hashlib.sha256(b"rp_abc").hexdigest()


def test_roles_are_ordered():
    may = {role: [other for other in ROLES if Caller("x", role).has_role(other)] for role in ROLES}
    assert may == {"client": ["client"], "reader": ["client", "reader"], "operator": ["client", "reader", "operator"]}


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (SOUND[:31], "31 characters"),
        (SOUND * 7, "224 characters"),
        ("", "0 characters"),
        ("abcabdabeabfabgabhabcabdabeabfab", "8 different characters"),
        ("0f" * 20, "2 different"),
        (SOUND[:16] * 2, "repeats"),
        ((SOUND[:13] * 4)[:40], "repeats"),
        (SOUND[:20] + "abcdef" + SOUND[20:], "run"),
        (SOUND[:20] + "987654" + SOUND[20:], "run"),
        (SOUND[:20] + "zzzzzz" + SOUND[20:], "run"),
        ("My-PassWord-is-kT9vR2xQ7mZ4wB8nC3j", "word"),
        ("changeme" + SOUND, "word"),
        ("admin-dev-key-change-in-production", "words"),
        ("Admin-Dev-Key-Change-In-Production", "words"),
        ("ADMIN_DEV_KEY_CHANGE_IN_PRODUCTION", "words"),
        ("admin-dev-key-change-in-production-" + SOUND[:8], "word"),
        ("correcthorsebatterystaplepurplelamp", "words"),
        ("correct-horse-battery-staple-purple-lamp", "words"),
        ("my-test-key-" + SOUND, "word"),
        ("your-api-key-" + SOUND, "word"),
        ("secret" + SOUND, "word"),
        ("placeholder_" + SOUND, "word"),
        ("Example." + SOUND, "word"),
        (SOUND[:16] + " " + SOUND[16:], "header"),
        (SOUND + "\n", "header"),
        (SOUND + "ü", "header"),
    ],
)
def test_a_weak_key_is_told_why_without_being_repeated(key, why):
    said = key_problem(key)
    assert why in said
    assert not key or key not in said


def test_sound_keys_are_taken():
    assert key_problem(SOUND) is None
    assert key_problem(SOUND[:20] + "abcde" + SOUND[20:]) is None
    assert [key for key in (new_key() for _ in range(2000)) if key_problem(key)] == []


@given(st.text(max_size=300))
def test_any_text_can_be_judged(text):
    assert key_problem(text) is None or isinstance(key_problem(text), str)


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([(b"authorization", b"Bearer one")], "one"),
        ([(b"authorization", b"bearer  one ")], "one"),
        ([(b"authorization", b"Basic one")], None),
        ([(b"authorization", b"Bearer")], None),
        ([(b"x-api-key", b"two")], "two"),
        ([(b"x-api-key", b"two"), (b"authorization", b"Bearer one")], "one"),
        ([(b"authorization", b"Basic one"), (b"x-api-key", b"two")], "two"),
        ([(b"authorization", b"Bearer \xff")], "\xff"),
    ],
)
def test_where_a_key_is_looked_for(headers, key):
    assert request_key(headers) == key


def test_a_key_is_known_by_its_whole_digest():
    world = World(anna="a")
    world.callers[key_digest("b")[:16] + "0" * 48] = Caller("forged", "operator")
    assert (world.who("a"), world.who("b"), world.who("")) == ("anna", None, None)


def test_known_keys_are_looked_up_once_a_second():
    world = World(anna="a", ben="b")
    for _ in range(20):
        assert (world.who("a"), world.who("b")) == ("anna", "ben")
    assert world.loads == 1
    world.now += 1.01
    assert world.who("a") == "anna"
    assert world.loads == 2


def test_a_revoked_key_stops_within_two_seconds_in_every_process():
    world = World(anna="a")
    assert world.who("a") == "anna"
    world.callers.clear()
    world.now += 1.5
    assert world.who("a") is None


def test_a_key_that_was_just_made_works_at_once():
    world = World()
    assert world.who("a") is None
    world.callers[key_digest("a")] = Caller("anna", "client")
    world.now += 0.001
    assert world.who("a") == "anna"


def test_a_process_that_revoked_a_key_refuses_it_from_then_on():
    world = World(anna="a")
    assert world.who("a") == "anna"
    world.callers.clear()
    world.now += 0.001
    world.keys.forget()
    assert world.who("a") is None


def test_while_the_database_is_down_known_keys_work_for_a_minute():
    world = World(anna="a")
    assert world.who("a") == "anna"
    world.down = True
    for _ in range(59):
        world.now += 1
        assert world.who("a") == "anna"
    world.now += 2
    with pytest.raises(StoreError, match="database does not answer"):
        world.who("a")
    world.down = False
    world.now += 1.1
    assert world.who("a") == "anna"


def test_while_the_database_is_down_an_unknown_key_is_neither_refused_nor_taken():
    world = World(anna="a")
    world.down = True
    with pytest.raises(StoreError):
        world.who("b")


def test_a_database_that_is_down_is_asked_once_a_second():
    world = World(anna="a")
    world.down = True
    for _ in range(50):
        world.now += 0.02
        with pytest.raises(StoreError):
            world.who("b")
    assert world.loads == 1


def test_many_who_wait_are_answered_by_one_lookup():
    world, go_on = World(anna="a"), threading.Event()
    load = world.load

    def slow():
        assert go_on.wait(PATIENCE)
        return load()

    keys = KeyCache(slow, lambda: world.now)

    async def all_at_once():
        asking = [asyncio.create_task(keys.caller("a")) for _ in range(30)]
        await asyncio.sleep(0)  # each has begun
        go_on.set()
        return [caller.name for caller in await asyncio.gather(*asking)]

    assert asyncio.run(all_at_once()) == ["anna"] * 30
    assert world.loads == 1


def test_a_lookup_that_hangs_is_waited_for_once_and_counts_when_it_ends(monkeypatch):
    monkeypatch.setattr("recpolicy.server.auth.keys._WAIT_SECONDS", 0.05)
    world, go_on, begun = World(anna="a"), threading.Event(), []

    def hang():
        begun.append(None)
        assert go_on.wait(PATIENCE)
        return dict(world.callers)

    async def ask():
        keys = KeyCache(hang, lambda: world.now)
        for _ in range(20):
            with pytest.raises(StoreError):
                await keys.caller("a")
            world.now += 2.0
        assert len(begun) == 1
        go_on.set()
        while True:
            try:
                return (await keys.caller("a")).name
            except StoreError:
                await asyncio.sleep(0.01)

    assert asyncio.run(asyncio.wait_for(ask(), PATIENCE)) == "anna"


def test_while_a_lookup_hangs_known_keys_work_for_a_minute(monkeypatch):
    monkeypatch.setattr("recpolicy.server.auth.keys._WAIT_SECONDS", 0.05)
    world, go_on = World(anna="a"), threading.Event()
    go_on.set()

    def load():
        assert go_on.wait(PATIENCE)
        return dict(world.callers)

    async def ask():
        keys = KeyCache(load, lambda: world.now)
        assert (await keys.caller("a")).name == "anna"
        go_on.clear()
        for _ in range(58):
            world.now += 1.0
            assert (await keys.caller("a")).name == "anna"
        world.now += 3.0
        with pytest.raises(StoreError):
            await keys.caller("a")
        go_on.set()

    asyncio.run(asyncio.wait_for(ask(), PATIENCE))
