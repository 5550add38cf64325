"""Without a terminal, a run prints one line for each step that ends."""

from recpolicy.pipelines.live_table import LiveTable
from recpolicy.pipelines.runs import Step


def test_a_line_for_each_step_that_ends(capsys):
    fetch, train = Step("fetch-data", started=0.0, state="running"), Step("train-policy", started=0.0, state="running")
    with LiveTable("train", None) as table:
        table.update([fetch])
        fetch.state, fetch.seconds = "done", 1.25
        table.update([fetch, train])
        table.update([fetch, train])
        train.state, train.seconds = "failed", 3.0
        table.update([fetch, train])
    assert capsys.readouterr() == ("", "fetch-data: done in 1.2 s\ntrain-policy: failed in 3.0 s\n")


def test_nothing_where_it_is_not_wanted(capsys):
    with LiveTable("train", False) as table:
        table.update([Step("fetch-data", started=0.0, state="done")])
    assert capsys.readouterr() == ("", "")
