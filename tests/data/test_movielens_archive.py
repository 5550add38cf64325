"""The classic files out of the package's."""

import pytest
from fake_sources import wheel_files

from recpolicy.core.errors import DataError
from recpolicy.data.movielens_archive import rebuild


def test_ratings_and_users_come_out_byte_for_byte(miniature_folder):
    rebuilt = rebuild(wheel_files())
    assert rebuilt["u.data"] == (miniature_folder / "u.data").read_bytes()
    assert rebuilt["u.user"] == (miniature_folder / "u.user").read_bytes()


def test_movie_lines_have_24_fields_with_title_year_and_flags_in_latin_1():
    item = b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    item += "5\tCafé, The\t1987\tSci-Fi Children's\n".encode() + b"267\tunkonwn\tunkonwn\tunknown\n"
    lines = rebuild({**wheel_files(), "ml-100k.item": item})["u.item"].decode("latin-1").split("\n")
    assert lines[0] == "5|Café, The (1987)||||0|0|0|0|1|0|0|0|0|0|0|0|0|0|0|1|0|0|0"
    assert lines[1] == "267|unknown||||1" + "|0" * 18
    assert lines[2] == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"release_year", b"year", "ml-100k.item:1: columns item_id, movie_title, year, class; expected"),
        (b"Picture No. 02, The\t", b"Picture No. 02, The", "ml-100k.item:3: 3 fields, expected 4"),
        (b"\tunknown\n", b"\tSlapstick\n", "movie 1: genre 'Slapstick' is none of"),
    ],
)
def test_another_version_of_the_package_is_refused(old, new, message):
    files = wheel_files()
    files["ml-100k.item"] = files["ml-100k.item"].replace(old, new, 1)
    with pytest.raises(DataError, match=message):
        rebuild(files)
