"""docs/explanation/off_policy.md says what the code does."""

from pathlib import Path

import pytest

from recpolicy.ope.estimators import ESTIMATORS

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "off_policy.md").read_text()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_has_its_row(name):
    assert PAGE.count(f"\n| `{name}` | ") >= 1


@pytest.mark.parametrize("kind", ["bootstrap", "t", "sequence", "bernstein"])
def test_every_interval_has_its_row(kind):
    assert f"\n| `{kind}` | " in PAGE
