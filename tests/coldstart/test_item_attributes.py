"""Attributes of items as a design matrix."""

from pathlib import Path

import numpy as np
import pytest

from recpolicy.coldstart.attributes import AttributeEncoder, read_items
from recpolicy.core.errors import ArtifactError, DataError

TEXT = "item,genre,year\na,Drama|War,1990\nb,Comedy,2000\nc,Drama,\nd,Horror,1980\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "items.csv"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_numbers_are_standardized_and_labels_are_columns(table: Path) -> None:
    items = read_items(table)
    encoder = AttributeEncoder.fit(items, ["a", "b"])
    assert encoder.width == 5
    design = encoder.design(["b", "a", "a"], items)
    # intercept; Comedy, Drama, War; year: mean 1995, std 5
    np.testing.assert_allclose(design, [[1, 1, 0, 0, 1], [1, 0, 1, 1, -1], [1, 0, 1, 1, -1]])
    missing = encoder.design(["c"], items)
    np.testing.assert_allclose(missing, [[1, 0, 1, 0, 0]])
    assert AttributeEncoder.from_list(encoder.as_list()) == encoder
    assert AttributeEncoder().design(["x", "y"]).tolist() == [[1], [1]]


def test_faults_are_one_line(table: Path) -> None:
    items = read_items(table)
    encoder = AttributeEncoder.fit(items, ["a", "b"])
    with pytest.raises(DataError, match=r"items.csv: genre of item 'd' is 'Horror', which no item of the fit had"):
        encoder.design(["d"], items)
    with pytest.raises(DataError, match="no item 'z'"):
        encoder.design(["z"], items)
    with pytest.raises(DataError, match="the prior reads the attributes genre, year"):
        encoder.design(["a"])
    other = table.with_name("other.csv")
    other.write_text("item,genre,year\na,Drama,old\n", encoding="utf-8")
    with pytest.raises(DataError, match="year holds text"):
        encoder.design(["a"], read_items(other))
    other.write_text("item,genre\na,Drama\na,War\n", encoding="utf-8")
    with pytest.raises(DataError, match="item 'a' occurs twice"):
        read_items(other)
    other.write_text("item,genre\na,Drama\n", encoding="utf-8")
    with pytest.raises(DataError, match="no attribute 'year', which the prior reads; found genre"):
        encoder.design(["a"], read_items(other))
    with pytest.raises(DataError, match="year has one value"):
        AttributeEncoder.fit(items, ["a"])
    with pytest.raises(ArtifactError, match="std above 0"):
        AttributeEncoder.from_list([{"name": "year", "mean": 0, "std": 0}])
