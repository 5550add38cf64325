"""One schedule stays active, never two, whichever request fails, and whether it was refused or its answer lost."""

import itertools

import pytest

from recpolicy.pipelines.schedules import Schedule, notes_of, put_in_place


class Lost(Exception):
    """A request that failed."""


class Platform:
    """Keeps schedules as id -> active; request number `fails` is refused, or done while its answer is lost.

    With `prepares` it makes a schedule switched off, as Kubeflow does; without, switched on only, as Vertex AI does.
    """

    def __init__(self, before, prepares=True, fails=None, done=False, dead=False):
        self.schedules, self.prepares, self.fails, self.done, self.dead = dict(before), prepares, fails, done, dead
        self.foreign, self.asked, self.most = {}, 0, 0
        self.ids = (f"new{number}" for number in itertools.count(1))

    def request(self, work):
        number, self.asked = self.asked, self.asked + 1
        failing = number == self.fails or (self.dead and self.fails is not None and number > self.fails)
        result = work() if not failing or (self.done and number == self.fails) else None
        self.most = max(self.most, len(self.active()))
        if failing:
            raise Lost(number)
        return result

    def active(self):
        return [id for id, active in self.schedules.items() if active]

    def make(self, active):
        id = next(self.ids)
        self.schedules[id] = active
        return id

    def there(self):
        ours = [Schedule(id, active) for id, active in self.schedules.items()]
        return self.request(lambda: ours + [Schedule(id, active, ours=False) for id, active in self.foreign.items()])

    def prepare(self):
        return self.request(lambda: self.make(False)) if self.prepares else ""

    def start(self, prepared):
        return self.request(lambda: self.switch(prepared, True) if prepared else self.make(True))

    def stop(self, id):
        self.request(lambda: self.switch(id, False))

    def resume(self, id):
        self.request(lambda: self.switch(id, True))

    def switch(self, id, active):
        assert id in self.schedules
        self.schedules[id] = active
        return id

    def delete(self, id):
        self.request(lambda: self.schedules.pop(id))


@pytest.mark.parametrize("prepares", [True, False])
@pytest.mark.parametrize("before", [{}, {"old": True}, {"old": False}, {"a": True, "b": False}])
def test_the_new_schedule_is_the_only_one(before, prepares):
    platform = Platform(before, prepares)
    made, replaced = put_in_place(platform)
    assert platform.schedules == {made: True}
    assert set(replaced) == set(before)
    assert platform.most == 1


def requests(prepares):
    """How many requests a replacement takes."""
    platform = Platform({"old": True}, prepares)
    put_in_place(platform)
    return platform.asked


ONE_FAILURE = [
    (prepares, fails, done)
    for prepares in (True, False) for fails in range(requests(prepares)) for done in (True, False)
]  # fmt: skip


@pytest.mark.parametrize(("prepares", "fails", "done"), ONE_FAILURE)
def test_one_failed_request_leaves_one_active_schedule_and_says_which(prepares, fails, done, caplog):
    platform = Platform({"old": True}, prepares, fails, done)
    last = fails == requests(prepares) - 1  # deleting the old one, which is off
    if last:
        made, _ = put_in_place(platform)
        assert platform.active() == [made]
        assert "old is switched off, but could not be deleted" in caplog.text
        return
    with pytest.raises(Lost) as error:
        put_in_place(platform)
    (active,) = platform.active()
    assert platform.most == 1
    if fails > 0:  # before it is known what is there, nothing can be said
        assert f" is {active}" in notes_of(error.value)
        assert ("as before" in notes_of(error.value)) == (active == "old")


@pytest.mark.parametrize(("prepares", "fails", "done"), [one for one in ONE_FAILURE if one[1] > 0])
def test_a_platform_that_is_gone_in_the_middle_never_has_two_and_it_is_said(prepares, fails, done):
    platform = Platform({"old": True}, prepares, fails, done, dead=True)
    if fails == requests(prepares) - 1:
        put_in_place(platform)
    else:
        with pytest.raises(Lost) as error:
            put_in_place(platform)
        assert "cannot be told; before it was old" in notes_of(error.value)
    assert platform.most == 1


def test_submitting_again_mends_what_a_failure_left():
    platform = Platform({"old": True}, fails=3, dead=True)  # off, and then nobody answers
    with pytest.raises(Lost):
        put_in_place(platform)
    assert platform.active() == []
    platform.fails = None
    made, replaced = put_in_place(platform)
    assert platform.schedules == {made: True}
    assert set(replaced) == {"old", "new1"}


def test_interrupting_it_takes_it_back():
    platform = Platform({"old": True})

    def interrupted(prepared):
        raise KeyboardInterrupt

    platform.start = interrupted
    with pytest.raises(KeyboardInterrupt):
        put_in_place(platform)
    assert platform.schedules == {"old": True}


def test_what_others_made_stays_and_is_warned_of(caplog):
    platform = Platform({"old": True})
    platform.foreign = {"theirs": True, "asleep": False}
    assert put_in_place(platform)[1] == ("old",)
    assert caplog.messages == ["schedule theirs of the same name was not made by recpolicy: it stays, active"]
