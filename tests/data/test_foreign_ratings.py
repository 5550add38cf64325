"""Ratings as other people and systems write them: each file has one right value, or one line that names its fault."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.loaders import load_ratings
from recpolicy.data.ratings_store import save_ratings
from recpolicy.data.summary import summarise

BOM = b"\xef\xbb\xbf"


def written(folder, text, name="mine.csv"):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def users(ratings):
    return ratings.users["user_id"].tolist()


def items(ratings):
    return ratings.items["item_id"].tolist()


def triples(ratings):
    """Rows of (user id, item id, rating)."""
    user, item = ratings.users["user_id"].to_numpy()[ratings.user], ratings.items["item_id"].to_numpy()[ratings.item]
    return list(zip(user.tolist(), item.tolist(), ratings.rating.tolist(), strict=True))


@pytest.mark.parametrize("separator", ["::", "||", "\t\t", "¦", "|"])
def test_a_separator_of_any_length_is_read(tmp_path, separator):
    rows = [["user", "item", "rating"], ["1", "122", "5"], ["2", f'"a{separator}b"', "4"], ["", "", ""]]
    text = "\n".join(separator.join(row) for row in rows[:3]) + "\n"
    path = written(tmp_path, text, "mine.dat")
    ratings = load_ratings(path, separator=separator)
    assert triples(ratings) == [(1, "122", 5.0), (2, f"a{separator}b", 4.0)]
    with pytest.raises(DataError, match=r"mine\.dat:4: 4 fields separated by"):
        load_ratings(written(tmp_path, text + separator.join("wxyz") + "\n", "mine.dat"), separator=separator)


@pytest.mark.parametrize("separator", [r"\s+", '"', "a\n", ""])
def test_a_separator_that_no_line_holds_is_refused(tmp_path, separator):
    with pytest.raises(ConfigError, match=r"separator .*expected the text between two columns"):
        load_ratings(written(tmp_path, "user item rating\n1 2 3\n"), separator=separator)


def test_the_right_separator_is_named(tmp_path):
    for separator in ("::", "||", ";", " "):
        text = separator.join(("user", "item", "rating")) + "\n" + separator.join("123") + "\n"
        with pytest.raises(DataError, match=f"contains '{separator.replace('|', '[|]')}'; pass separator="):
            load_ratings(written(tmp_path, text))


ROWS = {
    "padded": ("007", "7", "0012", "12"),
    "long": ("12345678901234567890", "12345678901234567891", "1", "2"),
    "exponent": ("1e5", "100000", "1E5", "2"),
    "dates": ("2020-01-05", "2020-01-06", "x", "y"),
    "truth": ("true", "false", "TRUE", "no"),
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("first", ["userId", "movieId", "rating", "timestamp"])
def test_a_byte_order_mark_changes_nothing(tmp_path, kind, first):
    names = [first, *(name for name in ("userId", "movieId", "rating", "timestamp") if name != first)]
    rows = [dict(zip(names, [""] * 4, strict=True)) for _ in range(4)]
    for place, (row, identifier) in enumerate(zip(rows, ROWS[kind], strict=True)):
        row |= {"userId": identifier, "movieId": identifier, "rating": "4", "timestamp": f"{1_500_000_000 + place}"}
    lines = [names, *([row[name] for name in names] for row in rows)]
    text = "\r\n".join(",".join(f'"{field}"' for field in line) for line in lines).encode()
    plain, marked = (load_ratings(written(tmp_path, mark + text)) for mark in (b"", BOM))
    assert users(plain) == sorted(ROWS[kind])
    assert marked.digest == plain.digest
    headless = BOM + text.partition(b"\r\n")[2]
    places = {m: str(names.index(n) + 1) for m, n in (("user", "userId"), ("item", "movieId"), ("rating", "rating"))}
    options = {"header": False, "columns": {**places, "timestamp": str(names.index("timestamp") + 1)}}
    assert load_ratings(written(tmp_path, headless), **options).digest == plain.digest


def test_a_byte_order_mark_in_the_table_of_items(tmp_path):
    table = written(tmp_path, BOM + b'"movieId","title"\n"007","Bond"\n"7","Seven"\n', "items.csv")
    ratings = load_ratings(written(tmp_path, "user,item,rating\n1,007,4\n1,7,5\n"), items=table)
    assert ratings.items["title"].to_numpy()[ratings.item].tolist() == ["Bond", "Seven"]


HEADLESS = "A0,B7,3.0,1500000060\nA0,B8,5.0,1500000240\nA1,B7,1.0,1500000300\n"


def test_a_file_without_a_header_has_its_columns_by_place(tmp_path):
    ratings = load_ratings(written(tmp_path, HEADLESS), header=False)
    assert triples(ratings) == [("A0", "B7", 3.0), ("A0", "B8", 5.0), ("A1", "B7", 1.0)]
    assert ratings.timestamp.tolist() == [1500000060, 1500000240, 1500000300]
    three = "\n".join(line.rpartition(",")[0] for line in HEADLESS.splitlines())
    assert load_ratings(written(tmp_path, three), header=False).timestamp is None
    swapped = load_ratings(tmp_path / "mine.csv", header=False, columns={"user": "2", "item": "1"})
    assert users(swapped) == ["B7", "B8"]
    with pytest.raises(DataError, match=r"csv:1: no column '9' for the user. The columns are numbered from 1 to 3"):
        load_ratings(tmp_path / "mine.csv", header=False, columns={"user": "9"})
    with pytest.raises(DataError, match="the file is empty; expected rows"):
        load_ratings(written(tmp_path, ""), header=False)
    bad = written(tmp_path, HEADLESS + "A9,B9,9,1500000060\n")
    with pytest.raises(DataError, match=r"mine\.csv:4: rating 9 is not in 1\.\.5"):
        load_ratings(bad, header=False)


def test_a_first_line_of_values_gets_the_advice(tmp_path):
    with pytest.raises(DataError, match=r"no columns 'user'.*for a file without a header pass header=False"):
        load_ratings(written(tmp_path, HEADLESS))
    with pytest.raises(DataError, match=r"name it with columns=\{\"user\": 'uid'\}"):
        load_ratings(written(tmp_path, "uid,item,rating\n1,2,3\n"))


def test_a_line_for_spreadsheets_names_the_separator(tmp_path):
    path = written(tmp_path, "sep=;\nuser;item;rating\n1;10;3\n2;11;9\n")
    assert triples(load_ratings(path, scale=(1, 9))) == [(1, 10, 3.0), (2, 11, 9.0)]
    with pytest.raises(DataError, match=r"mine\.csv:4: rating 9"):
        load_ratings(path)
    with pytest.raises(DataError, match=r"mine\.csv:2: no column 'user'"):
        load_ratings(written(tmp_path, "sep=;\nuid;item;rating\n1;10;3\n"))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"PK\x03\x04", "a zip archive; unpack it first"),
        ("user,item".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (b"PAR1", "a Parquet file; give it a name"),
        (b"\x1f\x8b", "compressed by gzip; give it a name"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, start, message):
    with pytest.raises(DataError, match=message):
        load_ratings(written(tmp_path, start + b"rest"))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (("196", "196.0", "22"), [22, 196]),
        (("196.0", "186.00", "-22.0"), [-22, 186, 196]),
        (("196.0", "196", "guest"), ["196", "guest"]),
        (("1.5", "2.0", "2"), ["1.5", "2"]),
        (("v1.0.0", "1.0.0", "10.01"), ["1.0.0", "10.01", "v1.0.0"]),
    ],
)
def test_ids_that_went_through_floats_are_whole_numbers(tmp_path, ids, expected):
    rows = "".join(f"{identifier},{place},3\n" for place, identifier in enumerate(ids))
    assert users(load_ratings(written(tmp_path, "user,item,rating\n" + rows))) == expected
    swapped = "".join(f"{place},{identifier},3\n" for place, identifier in enumerate(ids))
    assert items(load_ratings(written(tmp_path, "user,item,rating\n" + swapped))) == expected


def parquet(folder, name="mine.parquet", **columns):
    table = {"user": ["a", "b", "c"], "item": [10, 11, 12], "rating": [1.0, 0.0, 1.0], **columns}
    pq.write_table(pa.table(table), folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([2**64 - 1, 2**63, 12345], pa.uint64()), ["12345", str(2**64 - 1), str(2**63)]),
        (pa.array([2**63 - 1, 1, 2], pa.uint64()), [1, 2, 2**63 - 1]),
        (pa.array(["a", "b", "c"], pa.string_view()), ["a", "b", "c"]),
        (pa.array(["a", "b", "c"], pa.large_string()), ["a", "b", "c"]),
        (pa.array([b"a", b"b", b"7"], pa.binary()), ["7", "a", "b"]),
        (pa.array([b"a", b"b", b"7"], pa.large_binary()), ["7", "a", "b"]),
        (pa.array(["7", "8", "9"]).dictionary_encode(), [7, 8, 9]),
        (pa.array([7, 8, 9]).cast(pa.decimal128(38, 2)), [7, 8, 9]),
    ],
)
def test_types_of_ids_in_parquet(tmp_path, column, expected):
    assert users(load_ratings(parquet(tmp_path, user=column), scale=(0, 1))) == expected
    assert items(load_ratings(parquet(tmp_path, item=column), scale=(0, 1))) == expected
    table = parquet(tmp_path, "items.parquet", item=column)
    assert len(load_ratings(parquet(tmp_path, item=column), scale=(0, 1), items=table)) == 3


def test_truth_values_are_ratings(tmp_path):
    assert load_ratings(parquet(tmp_path, rating=[True, False, True]), scale=(0, 1)).rating.tolist() == [1, 0, 1]
    path = written(tmp_path, "user,item,rating\na,1,True\nb,1,false\n")
    assert load_ratings(path, scale=(0, 1)).rating.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"mine\.csv:2: rating 'True' is not a number"):
        load_ratings(written(tmp_path, "user,item,rating\na,1,True\nb,1,perhaps\n"), scale=(0, 1))
    with pytest.raises(DataError, match="bytes that are not UTF-8"):
        load_ratings(parquet(tmp_path, user=pa.array([b"\xff", b"a", b"b"])), scale=(0, 1))


REPEATED = "user,item,rating,timestamp\n1,10,5,200\n1,11,4,110\n1,10,2,100\n2,10,2,300\n1,10,3,200\n"


@pytest.mark.parametrize(
    ("rule", "rows", "times"),
    [
        ("last", [(1, 11, 4.0), (2, 10, 2.0), (1, 10, 3.0)], [110, 300, 200]),
        ("first", [(1, 11, 4.0), (1, 10, 2.0), (2, 10, 2.0)], [110, 100, 300]),
        ("mean", [(1, 11, 4.0), (2, 10, 2.0), (1, 10, pytest.approx(10 / 3))], [110, 300, 200]),
    ],
)
def test_repeated_pairs_are_merged_by_the_rule(tmp_path, rule, rows, times):
    ratings = load_ratings(written(tmp_path, REPEATED), repeated=rule)
    assert triples(ratings) == rows
    assert ratings.timestamp.tolist() == times
    assert ratings.merged_rows == 2
    frame = pd.read_csv(tmp_path / "mine.csv").drop(columns="timestamp")
    in_order = load_ratings(frame, repeated=rule)
    assert len(in_order) == 3
    assert in_order.rating[in_order.user == 0].tolist() == {
        "last": [4, 3], "first": [5, 4], "mean": [4, pytest.approx(10 / 3)],
    }[rule]  # fmt: skip


def test_repeated_pairs_are_refused_unless_a_rule_is_given(tmp_path):
    with pytest.raises(
        DataError, match=r"csv:4: user 1 rated item 10 before, at .*csv:2 \(2 rows repeat a pair\); keep"
    ):
        load_ratings(written(tmp_path, REPEATED))
    with pytest.raises(ConfigError, match="no rule for repeated ratings named 'newest'"):
        load_ratings(tmp_path / "mine.csv", repeated="newest")


def with_times(folder, *times, **options):
    rows = "".join(f"{place},1,3,{time}\n" for place, time in enumerate(times))
    return load_ratings(written(folder, "user,item,rating,timestamp\n" + rows), **options).timestamp


def test_numbers_that_are_dates_are_dates(tmp_path):
    assert with_times(tmp_path, "20200705", "19991231").tolist() == [1_593_907_200, 946_598_400]
    frame = pd.DataFrame({"user": [1], "item": [2], "rating": [3], "timestamp": [20240229]})
    assert load_ratings(frame).timestamp.tolist() == [1_709_164_800]
    assert with_times(tmp_path, "20200705", "20201301").tolist() == [20200705, 20201301]  # no thirteenth month
    assert with_times(tmp_path, "20230229").tolist() == [20230229]  # no leap year


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2020-01-05 10:00:00 UTC", 1_578_218_400),
        ("2020-01-05T10:00:00Z", 1_578_218_400),
        ("2020-01-05 11:00:00.25+01:00", 1_578_218_400),
        ("1.5e9", 1_500_000_000),
        ("-5000", -5000),
        ("-62135596800", -62_135_596_800),
    ],
)
def test_times_that_are_read(tmp_path, time, expected):
    assert with_times(tmp_path, time).tolist() == [expected]


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ("01/05/2020", "'01/05/2020' is not a number of seconds since 1970 or an ISO 8601 date such as"),
        ("2020-13-05", "'2020-13-05' is not an ISO 8601 date such as 2020-01-05"),
        ("1588291200000", "milliseconds are divided by 1,000 first"),
        ("1588291200000000", "microseconds are divided by 1,000,000 first"),
        ("1588291200000000000", "nanoseconds are divided by 1,000,000,000 first"),
        ("-99999999999", "'-99999999999' is before the year 1"),
        ("", "is missing"),
    ],
)
def test_times_that_are_refused_can_be_left_out(tmp_path, time, message):
    with pytest.raises(DataError, match=f"mine.csv:2: timestamp.*{message}.*pass timestamps=False"):
        with_times(tmp_path, time)
    assert with_times(tmp_path, time, timestamps=False) is None


@pytest.mark.parametrize("scale", [(1.0, float("inf")), (float("-inf"), 5.0), (float("nan"), 5.0), (5.0, 1.0)])
def test_a_scale_without_ends_is_refused(tmp_path, scale):
    with pytest.raises(ConfigError, match="expected two finite numbers"):
        load_ratings(written(tmp_path, "user,item,rating\n1,2,3\n"), scale=scale)


def test_a_number_at_the_boundary_is_shown_with_all_digits(tmp_path):
    with pytest.raises(DataError, match=r"rating 5\.0000001 is not in 1\.\.5;.*scale=\(1, 5\.0000001\)"):
        load_ratings(written(tmp_path, "user,item,rating\n1,2,5.0000001\n"))


RATINGS = "userId,movieId,rating\n1,31,2.5\n1,1029,3.0\n"


@pytest.mark.parametrize(
    "table",
    [
        "movieId,title,genres\n31,Dawn,Drama\n1029,Grey,Animation\n1997-08-20,broken row,\n",  # ids as text
        "movieId,title\n31.0,Dawn\n1029.0,Grey\n",
        "movieId,title\n31.0,Dawn\n1029.0,Grey\nx,X\n",
        "movieId;title\n31;Dawn\n1029;Grey\n",
        "movieId::title\n31::Dawn\n1029::Grey\n",
    ],
)
def test_joined_tables_are_compared_by_spelling(tmp_path, table):
    ratings = load_ratings(written(tmp_path, RATINGS), items=written(tmp_path, table, "items.csv"))
    assert ratings.items["title"].to_numpy()[ratings.item].tolist() == ["Dawn", "Grey"]


def test_the_fault_of_a_join_is_in_the_line_that_is_named(tmp_path):
    people = written(tmp_path, "userId,age\n1,30\nx,40\n", "users.csv")
    assert users(load_ratings(written(tmp_path, RATINGS), users=people)) == ["1", "x"]
    with pytest.raises(DataError, match=r"mine\.csv:4: item id 007 is not in the table of items"):
        load_ratings(
            written(tmp_path, RATINGS + "1,007,4\n"),
            items=written(tmp_path, "item,title\n7,Seven\n31,Dawn\n1029,Grey\n", "items.csv"),
        )


def test_joined_tables_have_columns_of_their_own(tmp_path):
    table = written(tmp_path, "id;name;kinds;made\n31;Dawn;Drama, Crime;1990\n1029;Grey;;\n", "items.csv")
    options = {
        "items": table,
        "item_columns": {"item": "id", "title": "name", "genres": "kinds", "year": "made"},
        "genre_separator": ",",
        "users": written(tmp_path, "id,age\n1,40\n", "users.csv"),
        "user_columns": {"user": "id"},
    }
    found = load_ratings(written(tmp_path, RATINGS), **options).items
    assert found["title"].tolist() == ["Dawn", "Grey"]
    assert found["genres"].tolist() == ["Drama|Crime", ""]
    assert found["year"].tolist() == [1990, pd.NA]
    with pytest.raises(
        DataError, match=r'items\.csv:1: no column \'item\'.*name it with item_columns=\{"item": NAME\}'
    ):
        load_ratings(tmp_path / "mine.csv", items=table, item_columns={"title": "name"})
    with pytest.raises(ConfigError, match=r"no column named 'titel'\. Did you mean 'title'"):
        load_ratings(tmp_path / "mine.csv", items=table, item_columns={"titel": "name"})


@pytest.mark.parametrize(
    ("genres", "expected"),
    [
        ('[{"id": 18, "name": "Drama"}, {"id": 80, "name": "Crime"}]', "Drama|Crime"),
        ("[{'id': 18, 'name': 'Drama'}]", "Drama"),
        ('["Drama", "Crime"]', "Drama|Crime"),
        ("[]", ""),
        ("", ""),
        ("Drama|Crime", "Drama|Crime"),
    ],
)
def test_genres_in_json_are_read(tmp_path, genres, expected):
    table = pd.DataFrame({"item": [31, 1029], "genres": ["Drama", genres]})
    table.to_csv(tmp_path / "items.csv", index=False)
    assert (
        load_ratings(written(tmp_path, RATINGS), items=tmp_path / "items.csv").items["genres"].tolist()[1] == expected
    )


@pytest.mark.parametrize(("separator", "notes"), [(None, 1), (",", 0)])
def test_genres_with_a_separator_that_is_not_set_are_noted(tmp_path, separator, notes):
    table = written(tmp_path, 'item,genres\n31,"Drama, Crime"\n1029,Drama\n', "items.csv")
    options = {"items": table} | ({} if separator is None else {"genre_separator": separator})
    summary = summarise(load_ratings(written(tmp_path, RATINGS), **options))
    assert summary["genres"] == (["Drama", "Drama, Crime"] if separator is None else ["Crime", "Drama"])
    assert len(summary["notes"]) == notes
    assert all("1 of 2 genres hold ',', such as 'Drama, Crime'" in note for note in summary["notes"])


def test_lists_of_genres_in_parquet_and_lists_that_cannot_be_read(tmp_path):
    table = pd.DataFrame({"item": [31, 1029], "genres": [["Drama", "Crime"], None]})
    found = load_ratings(written(tmp_path, RATINGS), items=table).items["genres"].tolist()
    assert found == ["Drama|Crime", ""]
    with pytest.raises(DataError, match=r"items\.csv:3: genres '\[Drama': expected names between"):
        load_ratings(
            tmp_path / "mine.csv", items=written(tmp_path, "item,genres\n31,Drama\n1029,[Drama\n", "items.csv")
        )


def parts(folder):
    folder.mkdir()
    for number, users_ in enumerate(([1, 2], [3])):
        pq.write_table(
            pa.table({"user": users_, "item": [10] * len(users_), "rating": [3.0 + number] * len(users_)}),
            folder / f"part-0000{number}-c000.snappy.parquet",
        )
    (folder / "_SUCCESS").touch()
    (folder / ".part-00000.crc").write_bytes(b"crc")
    return folder


def test_a_folder_of_parquet_parts_is_one_table(tmp_path):
    folder = parts(tmp_path / "ratings.parquet")
    assert triples(load_ratings(folder)) == [(1, 10, 3.0), (2, 10, 3.0), (3, 10, 4.0)]
    with pytest.raises(DataError, match=r"part-00001-c000\.snappy\.parquet: row 1: rating 4 is not in 1\.\.3"):
        load_ratings(folder, scale=(1, 3))
    with pytest.raises(ConfigError, match="separator and header are options of text files"):
        load_ratings(folder, separator=";")


def test_folders_of_text_parts_and_of_partitions(tmp_path):
    for number in (1, 2):
        written(tmp_path / "text", f"user,item,rating\n{number},10,{number + 2}\n", f"part-{number}.csv")
    assert triples(load_ratings(tmp_path / "text")) == [(1, 10, 3.0), (2, 10, 4.0)]
    with pytest.raises(DataError, match=r"part-2\.csv:2: rating 4 is not in 1\.\.3"):
        load_ratings(tmp_path / "text", scale=(1, 3))
    written(tmp_path / "text", "user,film,rating\n1,1,1\n", "part-3.csv")
    with pytest.raises(DataError, match=r"part-3\.csv:1: other columns than those of .*part-1\.csv"):
        load_ratings(tmp_path / "text")
    for user in (5, 6):
        folder = tmp_path / "split" / f"user={user}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"item": [1], "rating": [2.0]}), folder / "part-0.parquet")
    assert triples(load_ratings(tmp_path / "split")) == [(5, 1, 2.0), (6, 1, 2.0)]


def test_folders_of_our_own_and_of_movielens_are_no_parts(tmp_path):
    save_ratings(load_ratings(written(tmp_path, RATINGS)), tmp_path / "saved")
    assert len(load_ratings(tmp_path / "saved")) == 2
    with pytest.raises(ConfigError, match="scale: options of CSV and Parquet files, not of folders"):
        load_ratings(tmp_path / "saved", scale=(1, 10))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="not a MovieLens folder"):
        load_ratings(tmp_path / "empty")


def test_movielens_10m_has_half_stars_and_no_users(tmp_path):
    folder = tmp_path / "ml-10M100K"
    written(folder, "1::122::5::838985046\n1::185::0.5::838983525\n2::185::4.5::838983526\n", "ratings.dat")
    written(folder, "122::Café Blue (1992)::Comedy|Romance\n185::The Net (1995)::(no genres listed)\n", "movies.dat")
    ratings = load_ratings(folder)
    assert triples(ratings) == [(1, 122, 5.0), (1, 185, 0.5), (2, 185, 4.5)]
    assert ratings.scale == (0.5, 5.0)
    assert ratings.items["title"].tolist() == ["Café Blue (1992)", "The Net (1995)"]
    people = "1::F::1::10::48067\n2::M::56::16::70072\n"
    written(folder, people, "users.dat")
    assert load_ratings(folder).scale == (0.5, 5.0)  # half stars
    written(folder, "1::122::5::838985046\n2::185::1::838983525\n", "ratings.dat")
    assert load_ratings(folder).scale == (1.0, 5.0)
    written(folder, "122::Café Blue (1992)::Comedy\n185::The Net (1995)::\n".encode("latin-1"), "movies.dat")
    assert load_ratings(folder).items["title"].tolist()[0] == "Café Blue (1992)"


def test_ratings_of_a_split_are_read_again(tmp_path):
    from recpolicy.data.splits import split, write_split

    ratings = load_ratings(
        pd.DataFrame({"user": np.arange(10) % 5, "item": np.arange(10), "rating": 3.0, "timestamp": np.arange(10)})
    )
    parts_ = split(ratings, "random", 0)
    base, _ = write_split(parts_, tmp_path)
    again = load_ratings(base, separator="\t", header=False)
    assert sorted(triples(again)) == sorted(triples(parts_.train))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1::122::5::838985046\n", r"the first line has values, not names; pass separator=\"::\" and header=False$"),
        ("1\t122\t5\n2\t3\t4\n", r"first line has values, not names; pass separator=\"\\t\" and header=False$"),
        ("user::item::rating\n1::2::3\n", r"contains '::'; pass separator=\"::\"$"),
        ('{"user_id": "a", "stars": 3}\n', r"mine\.csv:1: JSON, not a table; convert it to CSV or Parquet"),
        ('{"user": "a"}\n{"user": "b"}\n', r"mine\.csv:1: JSON, not a table"),
        ('[{"user": "a", "item": 1}]\n', r"mine\.csv:1: JSON, not a table"),
        ("# exported 2020\nuser,item,rating\n1,2,3\n", r"csv:1: a comment, '# exported 2020'; .*remove this line$"),
        ('user,item,rating\n1,2,"3,5"\n', r"csv:2: rating '3,5' is not a number; write it with a decimal point, 3\.5$"),
        ('user,item,rating\n1,2,"-3,25"\n', r"write it with a decimal point, -3\.25$"),
        ('user,item,rating\n1,2,"1,2,3"\n', r"rating '1,2,3' is not a number$"),
        ("user,item,rating\n1,2,0\n2,2,1\n", r"rating 0 is not in 1\.\.5; for another scale pass scale=\(0, 1\)"),
        ("user,item,rating\n1,2,0.5\n2,2,4\n", r"for another scale pass scale=\(0\.5, 5\)"),
        ("user,item,rating\n1,2,-1\n2,2,1\n", r"for another scale pass scale=\(-1, 5\)"),
    ],
)  # fmt: skip
def test_a_file_that_is_nearly_a_table_says_what_it_is_and_what_to_do(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load_ratings(written(tmp_path, text))


def test_a_long_first_line_is_cut(tmp_path):
    with pytest.raises(DataError) as raised:
        load_ratings(written(tmp_path, "7|" * 500 + "\n"))
    assert len(str(raised.value)) < 400
