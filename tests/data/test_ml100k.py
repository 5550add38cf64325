"""The real MovieLens 100K: checksums and counts of ALGORITHMS, section 0 and 1."""

import numpy as np
import pytest

from recpolicy.core.files import file_digest
from recpolicy.data.splits import split, write_split
from recpolicy.data.summary import summarise

pytestmark = pytest.mark.band

OFFICIAL = {
    "u1": ("4325f44281c9f8c119a3694662d63fc2", "62d5d837e7c8e36550cc956b09c2ecc8"),
    "u2": ("79541afecccbd5365bb2c09b123a01c7", "1951a71b7e1f4ed254508007fa2f6b70"),
    "u3": ("55c67a63f516fa9e593d68c3be779970", "cb3e4d0a9152041772285232ca002d4f"),
    "u4": ("66f64a75eeeffd20ff09533bcd31adcf", "328acfca94e85d01b1d7e92c7d73df3b"),
    "u5": ("0becb3392339231c08ba316944c79095", "bec898f7091dba3b7bdf793d1998d2d6"),
    "ua": ("346eb46a756be3b382bdef4f7dcf3a01", "52e5d0355092dc1596899855b220508f"),
    "ub": ("e4ce94f6e01e45f65b91a70bb9e8da2f", "5292d1e388d156aa0c19c384cdf35aca"),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_split_files_are_the_official_ones_byte_for_byte(ml100k, tmp_path, name):
    paths = write_split(split(ml100k, name), tmp_path)
    assert tuple(file_digest(path, "md5") for path in paths) == OFFICIAL[name]


def test_counts_are_the_published_ones(ml100k):
    summary = summarise(ml100k)
    assert (summary["ratings"], summary["users"], summary["items"]) == (100_000, 943, 1682)
    assert summary["mean"] == pytest.approx(3.5299, abs=5e-5)
    assert summary["std"] == pytest.approx(1.1257, abs=5e-5)
    assert list(summary["shares"].values()) == pytest.approx([0.0611, 0.1137, 0.2715, 0.3417, 0.2120], abs=6e-5)


def test_items_have_the_known_oddities(ml100k):
    items = ml100k.items
    assert (items["genres"] == "").sum() == 2
    assert items["title"].duplicated().sum() == 18
    assert items.loc[items["year"].isna(), "item_id"].tolist() == [267]
    genres = items["genres"].str.count(r"\|") + (items["genres"] != "")
    assert genres.sum() + 2 == round(1.72 * 1682)  # "unknown" counts as one there


def test_first_fold_is_not_exchangeable_with_a_random_one(ml100k):
    assert len(np.unique(split(ml100k, "u1").test.user)) == 459
    assert len(np.unique(split(ml100k, "u2").test.user)) == 653
