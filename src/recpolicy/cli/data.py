"""`recpolicy data`: fetch MovieLens, summarize, split and check ratings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recpolicy.data.ratings import Ratings

app = typer.Typer(help="Fetch MovieLens; summarize, split and check ratings.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
User = Annotated[
    str | None, typer.Option("--user", help="Of a file: column of user ids (default: user, user_id, userId).")
]
Item = Annotated[
    str | None,
    typer.Option("--item", help="Of a file: column of item ids (default: item, item_id, itemId, movie, ...)."),
]
Rating = Annotated[str | None, typer.Option("--rating", help="Of a file: column of ratings (default: rating).")]
Timestamp = Annotated[
    str | None, typer.Option("--timestamp", help="Of a file: column of times (default: timestamp, if any).")
]
Scale = Annotated[
    tuple[float, float] | None,
    typer.Option("--scale", help="Of a file: lowest and highest possible rating (default: 1 5)."),
]
Separator = Annotated[
    str | None, typer.Option("--separator", help="Of a file: separator (default: a tab for .tsv, else a comma).")
]
NameOrPath = Annotated[str, typer.Argument(help="ml-100k, a MovieLens folder, or a CSV or Parquet file.")]


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
        _print_json(report)
        return
    typer.echo(f"{result.folder}: {'fetched from ' + result.source if result.fetched else 'already there'}, verified")
    for name, kind in result.files.items():
        typer.echo(f"  {name:<8} {_KINDS[kind]}{_LOST if (name, kind) == ('u.item', 'rebuilt') else ''}")


_KINDS = {
    "official": "identical to the official file",
    "rebuilt": "rebuilt from the package",
    "unchecked": "not verified",
}
_LOST = ", without release dates and links"


@app.command(epilog="Example: recpolicy data split u1 --out splits/")
def split(
    name: Annotated[str, typer.Argument(help="u1..u5, ua, ub, temporal, leave-last-N or random.")],
    out: Annotated[Path, typer.Option(help="Folder to write NAME.base and NAME.test to.")],
    data: Annotated[str, typer.Option(help="ml-100k, a MovieLens folder, or a CSV or Parquet file.")] = "ml-100k",
    seed: Annotated[int, typer.Option(help="Seed of random.")] = 0,
    user: User = None,
    item: Item = None,
    rating: Rating = None,
    timestamp: Timestamp = None,
    scale: Scale = None,
    separator: Separator = None,
    as_json: AsJson = False,
) -> None:
    """Write the train and test parts of a split in the official format: tab-separated, by user, then item."""
    from recpolicy.data.splits import split as split_ratings
    from recpolicy.data.splits import write_split

    parts = split_ratings(_read(data, user, item, rating, timestamp, scale, separator), name, seed)
    base, test = write_split(parts, out)
    counts = {"base": len(parts.train), "test": len(parts.test)}
    if as_json:
        _print_json({"name": name, "seed": seed, "digest": parts.digest, "paths": [str(base), str(test)], **counts})
        return
    typer.echo(f"{base}: {counts['base']:,} ratings\n{test}: {counts['test']:,} ratings")


@app.command(epilog="Example: recpolicy data info ml-100k")
def info(
    path: NameOrPath = "ml-100k",
    user: User = None,
    item: Item = None,
    rating: Rating = None,
    timestamp: Timestamp = None,
    scale: Scale = None,
    separator: Separator = None,
    as_json: AsJson = False,
) -> None:
    """Print the numbers of users, items and ratings, and the distribution of the ratings."""
    _print_summary(_read(path, user, item, rating, timestamp, scale, separator), as_json)


@app.command(epilog="Example: recpolicy data check ratings.csv --user uid --item film --rating stars")
def check(
    path: Annotated[Path, typer.Argument(help="CSV, TSV or Parquet file with one rating per row.")],
    user: User = None,
    item: Item = None,
    rating: Rating = None,
    timestamp: Timestamp = None,
    scale: Scale = None,
    separator: Separator = None,
    as_json: AsJson = False,
) -> None:
    """Check your ratings row by row; the message names file, line and value of the first error."""
    _print_summary(_read(str(path), user, item, rating, timestamp, scale, separator), as_json)


def _read(
    data: str,
    user: str | None,
    item: str | None,
    rating: str | None,
    timestamp: str | None,
    scale: tuple[float, float] | None,
    separator: str | None,
) -> "Ratings":
    from recpolicy.data.loaders import load_ratings
    from recpolicy.data.read_options import reading_for

    columns = {"user": user, "item": item, "rating": rating, "timestamp": timestamp}
    named = {meaning: name for meaning, name in columns.items() if name is not None}
    separator = None if separator is None else separator.replace("\\t", "\t")
    with reading_for("option"):
        return load_ratings(data, columns=named or None, scale=scale, separator=separator)


def _print_summary(ratings: "Ratings", as_json: bool) -> None:
    from recpolicy.data.summary import summarise

    summary = summarise(ratings)
    if as_json:
        _print_json(summary)
        return
    typer.echo(f"{summary['name']}: {summary['ratings']:,} ratings of {summary['users']:,} users on ", nl=False)
    typer.echo(f"{summary['items']:,} items (density {summary['density']:.1%})")
    typer.echo(f"mean {summary['mean']:.4f}, standard deviation {summary['std']:.4f}")
    for value, share in summary["shares"].items():
        typer.echo(f"  {value:>4}  {share:6.1%}  {'#' * round(60 * share)}")
    if summary["first"]:
        typer.echo(f"rated from {summary['first']} to {summary['last']} (UTC)")
    typer.echo(f"digest {summary['digest']}")


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2))
