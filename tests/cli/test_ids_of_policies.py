"""Every command on a policy takes ids with the type that they have in its ratings."""

import json

import pytest
from command_line import recpolicy, refused

MIXED = [*(str(number) for number in range(1001, 1020)), "guest"]
NEGATIVE = [str(number) for number in range(-510, -490)]
LONG = [f"1234567890123456780{number:03d}" for number in range(20)]
ITEMS = {"mixed": ["B0001", "6303182140", "7", "8", "9", "10"], "negative": ["-1", "2", "3", "4", "5", "6"]}
USERS = {"mixed": MIXED, "negative": NEGATIVE, "long": LONG}


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """A policy for each kind of ids."""
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.splits import split
    from recpolicy.workflows.policy_training import train

    folder = tmp_path_factory.mktemp("ids")
    for kind, users in USERS.items():
        items = ITEMS.get(kind, ITEMS["mixed"])
        rows = "".join(
            f"{u},{m},{1 + (i * j) % 5}\n" for i, u in enumerate(users) for j, m in enumerate(items) if (i + j) % 6
        )
        (folder / f"{kind}.csv").write_text("user,item,rating\n" + rows)
        parts = split(load_ratings(folder / f"{kind}.csv"), "random")
        config = {"rating_model": "bias", "world": "svd", "rank": 2}
        train("random", parts, folder / kind, config=config)
    return folder


@pytest.mark.parametrize(
    ("kind", "user"), [("mixed", "1001"), ("mixed", "guest"), ("negative", "-501"), ("long", LONG[1])]
)
def test_ids_on_the_command_line_have_the_type_of_the_policy(capsys, policies, kind, user):
    item = ITEMS.get(kind, ITEMS["mixed"])[1]
    number = kind == "negative"
    rows = json.loads(recpolicy(capsys, "predict", policies / kind, "--user", user, "--item", item, "--json").out)
    assert [(row["user_id"], row["item_id"]) for row in rows] == [(int(user), int(item)) if number else (user, item)]
    rated = ("--user", "somebody", "--rating", f"{item}=5", "--json")
    ids = [row["item_id"] for row in json.loads(recpolicy(capsys, "recommend", policies / kind, *rated, "-k", 9).out)]
    assert len(ids) == 5
    assert (int(item) if number else item) not in ids
    assert recpolicy(capsys, "recommend", policies / kind, "--user", user, "-k", 1, "--include-rated").code == 0
    page = policies / f"{kind}.html"
    assert recpolicy(capsys, "report", policies / kind, "--user", user, "--out", page).code == 0
    table = policies / f"{kind}.parquet"
    assert "20 rows" in recpolicy(capsys, "predict", policies / kind, "--all", "--item", item, "--out", table).out


def test_an_unknown_id_is_refused_as_it_was_typed(capsys, policies):
    message = refused(recpolicy(capsys, "predict", policies / "mixed", "--user", "1999"))
    assert "no user with id 1999 in this policy; describe a new user" in message
    assert "no item with id 77" in refused(recpolicy(capsys, "predict", policies / "mixed", "--user", "1001", "-m", 77))
