"""Readers of the MovieLens folders."""

import shutil

import numpy as np
import pandas as pd
import pytest
from tiny_dataset import miniature, miniature_ratings

from recpolicy.core.errors import DataError
from recpolicy.data.movielens import read_ml_100k, read_movielens, title_years


@pytest.fixture
def folder(miniature_folder, tmp_path):
    """A copy of the miniature that a test may spoil."""
    return shutil.copytree(miniature_folder, tmp_path / "ml-100k")


def test_classic_folder_gives_what_was_written(miniature_folder):
    world, ratings = miniature(), read_ml_100k(miniature_folder)
    assert ratings.shape == (60, 80)
    columns = [ratings.user + 1, ratings.item + 1, ratings.rating, ratings.timestamp]
    assert np.array_equal(np.column_stack(columns), world.observed)
    assert ratings.users["age"].tolist() == world.age.tolist()
    assert ratings.users["zip_code"][1] == "00613"
    assert ratings.items["title"][3].startswith("Café No. 04, The (")
    assert ratings.items["year"][1:].tolist() == world.year[1:].tolist()


def test_unknown_movie_has_neither_year_nor_genre():
    unknown = miniature_ratings().items.iloc[0]
    assert unknown["title"] == "unknown"
    assert unknown["genres"] == ""
    assert pd.isna(unknown["year"])


def test_genres_follow_the_flags():
    world, ratings = miniature(), miniature_ratings()
    named = [len(genres.split("|")) for genres in ratings.items["genres"][1:]]
    assert named == world.genres[1:].sum(axis=1).tolist()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("u.data", None, b"", r"u\.data: the file is empty"),
        ("u.data", b"\t5\t", b"\t6\t", r"u\.data:\d+: rating 6 is not in 1\.\.5"),
        ("u.data", b"\t5\t", b"\tfive\t", r"u\.data:\d+: rating 'five' is not a number"),
        ("u.data", b"\t5\t", b"\t", r"u\.data:\d+: 3 fields separated by '\\t' .* expected 4"),
        ("u.user", b"2|", b"1|", r"u\.user:2: user id 1 is already at .*u\.user:1"),
        ("u.user", b"\n60|", b"\n61|", r"u\.data:\d+: user id 60 is not in the table of users"),
        ("u.item", b"\n80|", b"\n81|", r"u\.data:\d+: item id 80 is not in the table of items"),
        ("u.user", b"|M|", b"|", r"u\.user:\d+: 4 fields separated by '\|'"),
    ],
)
def test_damage_is_named_by_file_line_and_value(folder, file, old, new, message):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(new if old is None else content.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        read_ml_100k(folder)


def test_line_named_is_the_line_of_the_rating(folder):
    lines = (folder / "u.data").read_text().splitlines()
    lines[122] = lines[122].replace("\t", "\t99", 1)
    (folder / "u.data").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"u\.data:123: item id 99"):
        read_ml_100k(folder)


def test_ml_1m_folder(tmp_path):
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::01234\n")
    (tmp_path / "movies.dat").write_bytes(
        "7::Café: A Tale (1995)::Comedy|Drama\n9::X (1948)::Film-Noir\n".encode("latin-1")
    )
    (tmp_path / "ratings.dat").write_text("1::9::5::978300760\n2::7::3::978302109\n")
    ratings = read_movielens(tmp_path)
    assert ratings.users.to_dict("list") == {
        "user_id": [1, 2],
        "age": [1, 56],
        "gender": ["F", "M"],
        "occupation": ["10", "16"],
        "zip_code": ["48067", "01234"],
    }
    assert ratings.items["title"].tolist() == ["Café: A Tale (1995)", "X (1948)"]
    assert ratings.items["genres"].tolist() == ["Comedy|Drama", "Film-Noir"]
    assert ratings.item.tolist() == [1, 0]
    (tmp_path / "ratings.dat").write_text("1::9::5::978300760\n2::7::3\n")
    with pytest.raises(DataError, match=r"ratings\.dat:2: 3 fields separated by '::'"):
        read_movielens(tmp_path)


def test_csv_folder_has_half_stars_and_quoted_titles(tmp_path):
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n11,"American President, The (1995)",Comedy|Drama\n20,"Say ""No""",(no genres listed)\n'
    )
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n5,20,0.5,1147880044\n5,11,3.5,1147868817\n")
    ratings = read_movielens(tmp_path, "ml-25m")
    assert ratings.name == "ml-25m"
    assert ratings.scale == (0.5, 5.0)
    assert ratings.rating.tolist() == [0.5, 3.5]
    assert ratings.items["title"].tolist() == ["American President, The (1995)", 'Say "No"']
    assert ratings.items["year"].isna().tolist() == [False, True]
    assert ratings.items["genres"].tolist() == ["Comedy|Drama", ""]


def test_other_folder_is_refused_with_what_was_expected(tmp_path):
    with pytest.raises(DataError, match=r"not a MovieLens folder; expected one of the files u\.data"):
        read_movielens(tmp_path)


def test_year_is_the_last_one_in_parentheses():
    titles = [
        "Toy Story (1995)",
        "Nikita (La Femme) (1990)",
        "2001 (1968) (V)",
        "1984",
        "Show (1995-1996)",
        "(1999) (2001)",
    ]
    assert title_years(titles).tolist()[:3] == [1995, 1990, 1968]
    assert title_years(titles).isna().tolist() == [False, False, False, True, False, False]
    assert title_years(titles)[4:].tolist() == [1995, 2001]
