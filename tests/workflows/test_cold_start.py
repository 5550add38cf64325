"""Cold start from files: fit, beliefs, allocation, forecast, page; and synthetic items."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recpolicy.coldstart.prior_file import read_prior
from recpolicy.coldstart.synthetic import make_items
from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.core.seeds import generator
from recpolicy.workflows.cold_start import (
    allocate_users,
    fit_item_prior,
    new_item_beliefs,
    simulate_items,
    user_choices,
    write_allocation,
)
from recpolicy.workflows.cold_start_report import write_cold_start_page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cold") / "start"
    simulate_items(out, past_items=40, new_items=6, traces=30, horizon=8, seed=0)
    fit_item_prior(out / "past_traces.parquet", out / "prior.json", horizon=8)
    fit_item_prior(out / "past_traces.parquet", out / "by_genre.json", horizon=8, items=out / "items.csv")
    return out


def test_a_prior_is_read_as_it_was_written(folder: Path) -> None:
    model = read_prior(folder / "prior.json")
    assert model.metadata["items"] == 40
    assert model.metadata["horizon"] == 8
    again = fit_item_prior(folder / "past_traces.parquet", folder / "again.json", horizon=8)
    assert again.model.digest == model.digest
    np.testing.assert_array_equal(again.model.prior.trace_covariance, model.prior.trace_covariance)
    with pytest.raises(ArtifactError, match="already exists"):
        fit_item_prior(folder / "past_traces.parquet", folder / "prior.json", horizon=8)


def test_beliefs_move_from_the_prior_to_the_traces(folder: Path) -> None:
    before = new_item_beliefs(folder / "prior.json", items=folder / "new_items.csv")
    after = new_item_beliefs(folder / "prior.json", folder / "new_traces.csv", items=folder / "new_items.csv")
    assert len(before.items) == 6
    assert len(set(before.forecast.belief.mean)) == 1
    assert (after.forecast.belief.variance < before.forecast.belief.variance).all()
    later = new_item_beliefs(folder / "prior.json", folder / "new_traces.csv", until="2024-10-09")
    assert later.forecast.observed_days.mean() > after.forecast.observed_days.mean()
    table = after.table()
    assert table["stickiness"].is_monotonic_decreasing
    assert (table["lo"] >= 0).all()
    assert (table["hi"] <= 8).all()


def test_attributes_move_the_prior_of_items_without_traces(folder: Path) -> None:
    beliefs = new_item_beliefs(folder / "by_genre.json", items=folder / "new_items.csv")
    genres = pd.read_csv(folder / "new_items.csv")["genre"]
    means = pd.Series(beliefs.forecast.belief.mean).groupby(genres).agg(["nunique", "mean"])
    assert (means["nunique"] == 1).all()
    assert means["mean"].nunique() == len(means)
    with pytest.raises(DataError, match="the prior reads the attributes genre; give a table of the items"):
        new_item_beliefs(folder / "by_genre.json", folder / "new_traces.csv")


def test_users_get_items_with_true_propensities(folder: Path, tmp_path: Path) -> None:
    beliefs = new_item_beliefs(folder / "prior.json", folder / "new_traces.csv")
    chosen, frame = allocate_users(beliefs, 50, seed=3, uniform_mix=0.1)
    assert frame["users"].sum() == 50
    assert frame["probability"].sum() == pytest.approx(1)
    assert (frame["probability"] >= 0.1 / 6 - 1e-12).all()
    rows = user_choices(beliefs, chosen, range(50))
    share = dict(zip(frame["item"], frame["probability"], strict=True))
    assert [share[item] for item in rows["item"]] == rows["propensity"].tolist()
    assert allocate_users(beliefs, 50, seed=3, uniform_mix=0.1)[1].equals(frame)
    write_allocation(tmp_path / "users.csv", rows)
    assert len(pd.read_csv(tmp_path / "users.csv")) == 50


def test_unfinished_items_stop_a_fit_unless_they_are_left_out(folder: Path, tmp_path: Path) -> None:
    files = [folder / "past_traces.parquet", folder / "new_traces.csv"]
    with pytest.raises(DataError, match="is not finished"):
        fit_item_prior(files, tmp_path / "prior.json", horizon=8)
    fitted = fit_item_prior(files, tmp_path / "prior.json", horizon=8, finished_only=True)
    assert fitted.left_out == 6
    assert fitted.model.digest == read_prior(folder / "prior.json").digest
    with pytest.raises(ConfigError, match="ridge is -1"):
        fit_item_prior(files, tmp_path / "other.json", horizon=8, ridge=-1)
    assert not (tmp_path / "other.json").exists()


def test_a_damaged_prior_is_one_line(folder: Path, tmp_path: Path) -> None:
    text = (folder / "prior.json").read_text(encoding="utf-8")
    path = tmp_path / "prior.json"
    path.write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(ArtifactError, match="not readable as JSON"):
        read_prior(path)
    body = json.loads(text)
    body["item_covariance"][0][0] = 5.0
    path.write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(ArtifactError, match="changed since it was written; fit the prior again"):
        read_prior(path)
    with pytest.raises(DataError, match="no new item"):
        new_item_beliefs(folder / "prior.json")


def test_the_page_shows_beliefs_and_shares(folder: Path, tmp_path: Path) -> None:
    beliefs = new_item_beliefs(folder / "by_genre.json", folder / "new_traces.csv", items=folder / "new_items.csv")
    write_cold_start_page(beliefs, tmp_path / "page.html", items=folder / "new_items.csv")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 3
    assert "new/0001" in html
    assert "has the largest share" in html


def test_synthetic_items_have_the_expected_outcomes_that_are_drawn() -> None:
    items = make_items(5, 0)
    drawn = items.draw(np.repeat(np.arange(5), 40_000), 10, generator(0, "draws")).reshape(5, 40_000, 10)
    np.testing.assert_allclose(drawn.mean(axis=1), items.expected(10), atol=0.011)  # 4 standard errors of at most .0025
