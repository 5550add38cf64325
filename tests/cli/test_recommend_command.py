"""`recpolicy recommend` and `policy.recommend`: the number of items that nobody named."""

import json

import pytest
from command_line import recpolicy, refused
from tiny_session_policies import write_tiny_sessions

from recpolicy.core.errors import ArtifactError
from recpolicy.inference.predictor import load_policy


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    def policy(**train):
        folder = tmp_path_factory.mktemp("policies") / "policy"
        return write_tiny_sessions(folder, items=30, metadata={"config": {"train": train, "agent": {}}})

    return policy


def test_a_policy_of_slates_lists_as_many_items_as_its_slates_have(capsys, write):
    folder = write(slate_size=4)
    rows = json.loads(recpolicy(capsys, "recommend", folder, "-u", 3, "--json").out)
    assert [row["item_id"] for row in rows] == load_policy(folder).recommend(3)["item_id"].tolist()
    assert len(rows) == 4
    assert len(json.loads(recpolicy(capsys, "recommend", folder, "-u", 3, "-k", 2, "--json").out)) == 2
    assert len(load_policy(folder).recommend(3, sample=True)) == 4


@pytest.mark.parametrize("train", [{}, {"slate_size": 1}])
def test_other_policies_list_ten_items(write, train):
    assert len(load_policy(write(**train)).recommend(3)) == 10


@pytest.mark.parametrize("size", [0, "3", 2.0, True, 10**6])
def test_an_artifact_with_an_impossible_slate_size_is_refused(write, size):
    with pytest.raises(ArtifactError, match="slate_size"):
        load_policy(write(slate_size=size))


def test_candidates_restrict_the_list(capsys, write):
    folder = write()
    policy = load_policy(folder)
    user = policy.scorer.user_ids[3]
    rows = json.loads(recpolicy(capsys, "recommend", folder, "-u", user, "-k", 3, "--candidates", 5, "--json").out)
    expected = policy.recommend(user, k=3, candidates=5)
    assert (
        [row["item_id"] for row in rows]
        == expected["item_id"].tolist()
        != policy.recommend(user, k=3)["item_id"].tolist()
    )
    refusal = refused(recpolicy(capsys, "recommend", folder, "-u", user, "-k", 3, "--candidates", 2))
    assert "candidates is 2; expected at least k, 3" in refusal
