"""`recpolicy data`: fetch MovieLens, summarize, split and check ratings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recpolicy.cli.output import print_json, print_text
from recpolicy.cli.reading_options import with_reading_options
from recpolicy.core.text import escape_controls

if TYPE_CHECKING:
    from recpolicy.data.ratings import Ratings

app = typer.Typer(help="Fetch MovieLens; summarize, split and check ratings.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
_SHOWN_GENRES = 10
NameOrPath = Annotated[
    str, typer.Argument(help="ml-100k, a MovieLens folder, or a CSV or Parquet file (or a folder of its parts).")
]


@app.command(epilog="Example: recpolicy data fetch --source auto")
def fetch(
    dataset: Annotated[str, typer.Option(help="Data set to fetch.")] = "ml-100k",
    source: Annotated[str, typer.Option(help="auto, grouplens, pypi, or the path of a zip, folder or wheel.")] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the data (default: the folder that recpolicy reads).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch MovieLens 100K into ml-100k/ and verify it; return at once if it is there already.

    auto tries GroupLens, then the recbole package on the Python index.
    """
    from recpolicy.data.movielens_download import fetch as fetch_data

    result = fetch_data(dataset, source, out)
    report = {
        "folder": str(result.folder),
        "source": result.source,
        "fetched": result.fetched,
        "files": dict(result.files),
    }
    if as_json:
        print_json(report)
        return
    print_text(f"{result.folder}: {'fetched from ' + result.source if result.fetched else 'already there'}, verified")
    for name, kind in result.files.items():
        print_text(f"  {name:<8} {_KINDS[kind]}{_LOST if (name, kind) == ('u.item', 'rebuilt') else ''}")


_KINDS = {
    "official": "identical to the official file",
    "rebuilt": "rebuilt from the package",
    "unchecked": "not verified",
}
_LOST = ", without release dates and links"


@app.command(epilog="Example: recpolicy data split u1 --out splits/")
@with_reading_options
def split(
    name: Annotated[str, typer.Argument(help="u1..u5, ua, ub, temporal, leave-last-N or random.")],
    out: Annotated[Path, typer.Option(help="Folder to write NAME.base and NAME.test to.")],
    data: Annotated[str, typer.Option(help="ml-100k, a MovieLens folder, or a CSV or Parquet file.")] = "ml-100k",
    seed: Annotated[int, typer.Option(help="Seed of random.")] = 0,
    options: Any = None,
    as_json: AsJson = False,
) -> None:
    """Write the train and test parts of a split in the official format: tab-separated, by user, then item."""
    from recpolicy.data.splits import split as split_ratings
    from recpolicy.data.splits import write_split

    parts = split_ratings(_read(data, options), name, seed)
    base, test = write_split(parts, out)
    counts = {"base": len(parts.train), "test": len(parts.test)}
    if as_json:
        print_json({"name": name, "seed": seed, "digest": parts.digest, "paths": [str(base), str(test)], **counts})
        return
    print_text(f"{base}: {counts['base']:,} ratings\n{test}: {counts['test']:,} ratings")
    print_text(f"next: recpolicy data check {base} --separator '\\t' --no-header{_scale_option(parts.train)}")


@app.command(epilog="Example: recpolicy data info ml-100k")
@with_reading_options
def info(
    path: NameOrPath = "ml-100k",
    options: Any = None,
    as_json: AsJson = False,
) -> None:
    """Print the numbers of users, items and ratings, and the distribution of the ratings."""
    _print_summary(_read(path, options), as_json)


@app.command(epilog="Example: recpolicy data check ratings.csv --user uid --item film --rating stars")
@with_reading_options
def check(
    path: Annotated[
        Path, typer.Argument(help="CSV, TSV or Parquet file, or a folder of its parts, with one rating per row.")
    ],
    options: Any = None,
    as_json: AsJson = False,
) -> None:
    """Check your ratings row by row; the message names file, line and value of the first error.

    The options used are printed as the table [data] that the --config of other commands takes.
    """
    _print_summary(_read(str(path), options), as_json)
    if options and not as_json:
        print_text(f"for --config FILE of other commands:\n\n{_data_table(options)}")


def _read(data: str, options: dict[str, Any]) -> "Ratings":
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.read_options import reading_for

    with reading_for("option"):
        return load_ratings(data, **options)


def _scale_option(ratings: "Ratings") -> str:
    low, high = ratings.scale
    return "" if (low, high) == (1.0, 5.0) else f" --scale {low:g} {high:g}"


def _print_summary(ratings: "Ratings", as_json: bool) -> None:
    from recpolicy.data.summary import summarise

    summary = summarise(ratings)
    if as_json:
        print_json(summary)
        return
    counts = f"{summary['ratings']:,} ratings of {summary['users']:,} users on {summary['items']:,} items"
    print_text(f"{escape_controls(summary['name'])}: {counts} (density {summary['density']:.1%})")
    print_text(f"mean {summary['mean']:.4f}, standard deviation {summary['std']:.4f}")
    for value, share in summary["shares"].items():
        print_text(f"  {value:>4}  {share:6.1%}  {'#' * round(60 * share)}")
    if summary["merged_rows"]:
        print_text(f"merged {summary['merged_rows']:,} rows that repeat a user and item")
    if summary["genres"]:
        print_text(f"{len(summary['genres'])} genres: {_first_names(summary['genres'])}")
    if summary["first"]:
        print_text(f"rated from {summary['first']} to {summary['last']} (UTC)")
    for note in summary["notes"]:
        print_text(f"note: {note}")
    print_text(f"digest {summary['digest']}")


def _data_table(options: Mapping[str, Any]) -> str:
    """Return options of `load_ratings` as the table [data] of a TOML file."""
    return "\n".join(["[data]", *(f"{name} = {_toml(value)}" for name, value in options.items())])


def _toml(value: Any) -> str:
    """Return text, numbers, truth, sequences and mappings of text as TOML; strings of JSON are strings of TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def _first_names(names: list[str]) -> str:
    shown = ", ".join(map(escape_controls, names[:_SHOWN_GENRES]))
    return shown if len(names) <= _SHOWN_GENRES else f"{shown}, ..."
