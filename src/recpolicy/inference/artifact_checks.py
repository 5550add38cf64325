"""Check that the content of a policy artifact is what a training writes: one place for import, load and promotion.

U users, I items, A arms, N training ratings, C context columns of which the first D are the embedding, G genres. An
artifact may come from anybody. Each function raises ArtifactError without a path, "part: found; expected"; the reader
adds the folder. `self_test.py` then asks the policy for answers, which covers how its arrays fit each other.
"""

import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.arrays import LARGEST, find_implausible
from recpolicy.core.errors import ArtifactError, unknown_name_error
from recpolicy.core.files import content_digest
from recpolicy.core.text import is_utf8, is_word
from recpolicy.inference.session_checks import check_session

MAX_AGENT = 64
"""Letters of the name of an agent; the server's database has room for as many."""
MAX_FILES, MAX_FILE_NAME = 2_000, 200
MAX_MANIFEST_BYTES = 4 << 20
MAX_DEPTH, MAX_PARTS = 32, 100_000
"""Nesting and number of values in the metadata."""
MAX_ID, MAX_TITLE, MAX_GENRE, MAX_GENRES = 1_000, 10_000, 1_000, 10_000
"""Letters of an id, a title and a genre; number of genres."""
MAX_WIDTH = 1_024
"""Columns of a context and of an embedding; answers take memory with their square."""
MAX_LEVELS, MAX_YEAR = 100, 10**6
MAX_SLATE = 10_000
"""Items of a slate."""
_TABLES_BYTES, _ROW_BYTES = 1 << 20, 2 << 10
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAPPINGS = ("source", "split", "config", "rating_model", "training", "versions")
"""Parts of the metadata that are mappings where they are there."""
_TRAINED = "train it again"


def is_digest(value: Any) -> bool:
    """Return True for a SHA-256 as 64 hexadecimal digits, the only form that becomes the name of a folder."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def policy_digest(words: Mapping[str, Any], policy: Mapping[str, Any], arrays: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything that determines the policy's actions; equal policies have equal digests.

    Args:
        words: agent, estimator, head, settings and uniform_mix.
        policy: The learner's arrays.
        arrays: context, item, offset and action_items.
    """
    return content_digest(
        words["agent"], words["estimator"], words["head"], dict(words["settings"]), words["uniform_mix"],
        *(policy[key] for key in sorted(policy)), *(arrays[name] for name in _HASHED),
    )  # fmt: skip


_HASHED = ("context", "item", "offset", "action_items")


def check_files(files: Any) -> None:
    """Check the names and digests of the files of an artifact: all inside its folder."""
    if not isinstance(files, dict) or not files or len(files) > MAX_FILES:
        raise ArtifactError(f"files: expected a digest for each of 1 to {MAX_FILES:,} names")
    for name, digest in files.items():
        parts = PurePosixPath(name).parts
        inside = parts and ".." not in parts and not PurePosixPath(name).is_absolute() and "\\" not in name
        if not is_word(name, MAX_FILE_NAME) or not inside:
            raise ArtifactError(f"names the file {name[:MAX_FILE_NAME]!r}, which is not inside the artifact")
        if not is_digest(digest):
            raise ArtifactError(f"files: the digest of {name} is not a SHA-256")


def check_names(mappings: Iterable[Any]) -> None:
    """Check mappings from names of this version to those in the files."""
    for mapping in mappings:
        names = mapping.items() if isinstance(mapping, dict) else [(mapping, "")]
        if not all(is_word(name, MAX_FILE_NAME) for pair in names for name in pair):
            raise ArtifactError(f"names of files, columns or arrays: {_short(mapping)}; expected pairs of texts")


def check_policy_words(words: Mapping[str, Any], known: Mapping[str, Iterable[str]]) -> None:
    """Check the words that all kinds of policies have: agent, settings, uniform_mix, and names of `known` parts.

    Args:
        words: The entries of the manifest.
        known: Known names by part, such as "head".
    """
    agent, settings = words["agent"], words["settings"]
    if not is_word(agent, MAX_AGENT):
        raise ArtifactError(f"agent: {_short(agent)}; expected a name of 1 to {MAX_AGENT} printable characters")
    for kind, names in known.items():
        if not isinstance(words[kind], str) or words[kind] not in names:
            raise ArtifactError(
                f"{unknown_name_error(kind, str(words[kind])[:MAX_AGENT], names)} Read it with a newer recpolicy"
            )
    if not isinstance(settings, dict) or not all(is_word(name, MAX_AGENT) for name in settings):
        raise ArtifactError(f"settings: {_short(settings)}; expected names and numbers")
    for name, value in settings.items():
        if not is_number(value):
            raise ArtifactError(f"{name} is {_short(value)}; expected a finite number: {_TRAINED}")
    if not is_number(words["uniform_mix"]) or not 0 <= words["uniform_mix"] <= 1:
        raise ArtifactError(f"uniform_mix is {_short(words['uniform_mix'])}; expected 0 to 1")


def check_words(words: Mapping[str, Any], estimators: Iterable[str], heads: Iterable[str]) -> None:
    """Check names, settings and scale of a policy.

    Args:
        words: The entries of the manifest.
        estimators: Known names of estimators.
        heads: Known names of heads.
    """
    check_policy_words(words, {"estimator": estimators, "head": heads})
    if not is_number(words["noise_std"]) or words["noise_std"] <= 0:
        raise ArtifactError(f"noise_std is {_short(words['noise_std'])}; expected a number above 0: {_TRAINED}")
    check_range("scale", words["scale"])
    _check_levels(words.get("levels"), *words["scale"])


def check_range(name: str, scale: Any) -> None:
    """Check that a value is two rising numbers."""
    if not isinstance(scale, list | tuple) or len(scale) != 2 or not all(map(is_number, scale)):
        raise ArtifactError(f"{name} is {_short(scale)}; expected two rising numbers")
    if not scale[0] < scale[1]:
        raise ArtifactError(f"{name} is {scale[0]!r} to {scale[1]!r}; expected two rising numbers")


def _check_levels(levels: Any, low: float, high: float) -> None:
    if levels is None:
        return
    parts = [levels.get(name) for name in ("values", "cuts")] if isinstance(levels, dict) else [None]
    if not all(isinstance(part, list) and len(part) <= MAX_LEVELS and all(map(is_number, part)) for part in parts):
        raise ArtifactError(f"levels: expected two lists of at most {MAX_LEVELS} finite numbers")
    if not all(low <= value <= high for value in parts[0] or ()):
        raise ArtifactError(f"levels: expected values on the scale of {low:g} to {high:g}")


def check_metadata(metadata: Any) -> None:
    """Check the origin of a policy: plain values, and the types that readers rely on."""
    check_plain("metadata", metadata)
    for name in _MAPPINGS:
        if not isinstance(metadata.get(name), dict | None):
            raise ArtifactError(f"metadata: {name} is {_short(metadata[name])}; expected an object")
    change = metadata.get("catalog_change", {"added": [], "retired": []})
    if not isinstance(change, dict) or not all(
        isinstance(change.get(name, default), list)
        for name, default in (("added", None), ("retired", None), ("restored", []))
    ):
        raise ArtifactError(
            f"metadata: catalog_change is {_short(change)}; expected lists of added, retired and restored items"
        )
    parents = metadata.get("parents", [])
    if not isinstance(parents, list) or not all(isinstance(parent, dict) for parent in parents):
        raise ArtifactError(f"metadata: parents is {_short(parents)}; expected a list of objects")
    if not isinstance(metadata.get("log_until", 0), int):
        raise ArtifactError(f"metadata: log_until is {_short(metadata['log_until'])}; expected milliseconds")
    config = (metadata.get("config") or {}).get("agent")
    if not isinstance(config, dict | None):
        raise ArtifactError(f"metadata: the agent's config is {_short(config)}; expected an object")
    train = (metadata.get("config") or {}).get("train")
    if not isinstance(train, dict | None):
        raise ArtifactError(f"metadata: the config of the training is {_short(train)}; expected an object")
    size = (train or {}).get("slate_size", 1)
    if type(size) is not int or not 1 <= size <= MAX_SLATE:
        raise ArtifactError(f"metadata: slate_size is {_short(size)}; expected a whole number of 1 to {MAX_SLATE:,}")
    forgetting: Any = (config or {}).get("forgetting", 1)
    precision: Any = (config or {}).get("precision", 1 if forgetting == 1 else None)
    for name, value in (("forgetting", forgetting), ("precision", precision)):
        if not is_number(value) or value <= 0 or (name == "forgetting" and value > 1):
            raise ArtifactError(f"metadata: {name} is {_short(value)}; expected a number above 0")


def check_plain(name: str, value: Any) -> None:
    """Check that a value is an object of JSON, of bounded depth and size, in finite numbers and UTF-8."""
    if not isinstance(value, dict):
        raise ArtifactError(f"{name}: {_short(value)}; expected an object")
    level: list[Any] = [value]
    texts: list[str] = []
    depth = count = 0
    while level:
        depth, below = depth + 1, list[Any]()
        for part in level:
            if isinstance(part, dict):
                texts += part
                below += part.values()
            elif isinstance(part, list):
                below += part
            elif isinstance(part, str):
                texts.append(part)
            elif isinstance(part, float) and not math.isfinite(part):
                raise ArtifactError(f"{name}: holds a number that is not finite")
        level, count = below, count + len(below)
        if depth > MAX_DEPTH or count > MAX_PARTS:
            raise ArtifactError(f"{name}: more than {MAX_PARTS:,} values, or nested deeper than {MAX_DEPTH}")
    if not is_utf8(texts):
        raise ArtifactError(f"{name}: holds text that is not UTF-8 (a lone surrogate)")


def check_arrays(arrays: Mapping[str, Any], policy: Mapping[str, NDArray[Any]]) -> None:
    """Check shapes, types, ranges and numbers of the arrays of an artifact, and of its learner.

    Args:
        arrays: The arrays of all policies by name; rating_mean may be None.
        policy: The learner's arrays by name.
    """
    given = {name: array for name, array in arrays.items() if array is not None}
    users, items, n = len(_rows(given, "context")), len(_rows(given, "item")), len(_rows(given, "rated_user"))
    width, rank = (given[name].shape[-1] if given[name].ndim == 2 else 0 for name in ("context", "item"))
    shapes: dict[str, tuple[int, ...]] = {
        "context": (users, width), "item": (items, rank), "offset": (items,), "rating_std": (users, items),
        "rating_mean": (users, items), "action_items": (len(_rows(given, "action_items")),),
        "rated_user": (n,), "rated_item": (n,),
    }  # fmt: skip
    for name, array in given.items():
        kind = "i" if name.startswith(("rated_", "action_")) else "f"
        if array.shape != shapes[name] or array.dtype.kind != kind or array.itemsize not in (4, 8):
            raise ArtifactError(
                f"{name}: {array.dtype} {list(array.shape)}; expected {'whole numbers' if kind == 'i' else 'floats'}"
                f" {list(shapes[name])}: {_TRAINED}"
            )
    if not 1 <= rank <= width <= MAX_WIDTH or not users:
        raise ArtifactError(
            f"context: {users} users and {width} columns for embeddings of {rank}; expected at least one user, and"
            f" from {max(rank, 1)} to {MAX_WIDTH} columns"
        )
    check_numbers({**given, **{f"policy/{name}": array for name, array in policy.items()}})
    if given["rating_std"].min(initial=0) < 0:
        raise ArtifactError(f"rating_std: holds numbers below 0: {_TRAINED}")
    chosen = given["action_items"]
    for name, rows, size in (("rated_user", given["rated_user"], users), ("rated_item", given["rated_item"], items),
                             ("action_items", chosen, items)):  # fmt: skip
        if len(rows) and not 0 <= rows.min() <= rows.max() < size:
            raise ArtifactError(f"{name}: rows {rows.min()} to {rows.max()}; expected 0 to {size - 1}")
    if not len(chosen) or len(np.unique(chosen)) != len(chosen):
        raise ArtifactError("action_items: expected at least one item, each once")
    check_session(policy, items, rank)
    _check_catalog(policy, items, len(chosen))


def _check_catalog(policy: Mapping[str, NDArray[Any]], items: int, arms: int) -> None:
    """Check the record of a changed catalog (catalog_changes.py)."""
    trained = policy.get("trained_items")
    if trained is not None and (trained.shape or trained.dtype.kind != "i" or not 1 <= int(trained) <= items):
        raise ArtifactError(f"policy/trained_items: expected one number of 1 to {items}: {_TRAINED}")
    for name, size in (("retired_items", items), ("added_arm", arms)):
        rows = policy.get(name)
        if rows is None:
            continue
        if rows.ndim != 1 or rows.dtype.kind != "i" or not ((rows >= 0) & (rows < size)).all():
            raise ArtifactError(f"policy/{name}: expected numbers of 0 to {size - 1}: {_TRAINED}")
        if len(np.unique(rows)) != len(rows):
            raise ArtifactError(f"policy/{name}: expected each number once: {_TRAINED}")


def _rows(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """Return an array that has rows."""
    if arrays[name].ndim == 0:
        raise ArtifactError(f"{name}: one number; expected rows")
    return arrays[name]


def check_numbers(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Check that arrays hold plausible numbers."""
    fault = find_implausible(arrays)
    if fault:
        raise ArtifactError(f"{fault}: the training diverged; {_TRAINED}")
    for name, array in arrays.items():
        if name in ("policy/prior_precision", "policy/temperature") and not (
            array.dtype.kind == "f" and (array > 0).all()
        ):
            raise ArtifactError(f"{name}: expected numbers above 0: {_TRAINED}")


def max_tables_bytes(users: int, items: int) -> int:
    """Return the largest plausible size of the tables of U users and I items."""
    return _TABLES_BYTES + _ROW_BYTES * (users + items)


def check_tables(
    user_ids: Sequence[Hashable], item_ids: Sequence[Hashable], titles: Sequence[Any], years: Sequence[Any],
    genre_names: Sequence[Any], genres: Sequence[Any],
) -> None:  # fmt: skip
    """Check ids [U] and [I], titles [I], years [I] (None or NaN where unknown), genre names [G], and places in
    `genre_names` for each item [I]."""
    lists = {
        "user_id": user_ids, "item_id": item_ids, "title": titles, "year": years, "genre_names": genre_names,
        "genres": genres,
    }  # fmt: skip
    for name, column in lists.items():
        if not isinstance(column, list) or len(column) != len(item_ids if name in _PER_ITEM else column):
            raise ArtifactError(f"{name}: expected a list, with one entry for each of {len(item_ids)} items")
    for name, ids in (("user_id", user_ids), ("item_id", item_ids)):
        check_ids(name, ids)
    _check_texts("title", [title for title in titles if title is not None], MAX_TITLE)
    if not all(year is None or (is_number(year, nan=True) and not abs(year) > MAX_YEAR) for year in years):
        raise ArtifactError(f"year: expected a number within {MAX_YEAR:,} of 0, or none")
    _check_texts("genre_names", genre_names, MAX_GENRE)
    if len(genre_names) > MAX_GENRES or len(set(genre_names)) != len(genre_names):
        raise ArtifactError(f"genre_names: {len(genre_names)} names; expected at most {MAX_GENRES:,}, each once")
    if set(map(type, genres)) - {list}:
        raise ArtifactError("genres: expected a list for each item")
    places = [place for row in genres for place in row]
    if set(map(type, places)) - {int} or (places and not 0 <= min(places) <= max(places) < len(genre_names)):
        raise ArtifactError(f"genres: expected places of 0 to {len(genre_names) - 1}")


_PER_ITEM = ("title", "year", "genres")


def check_ids(name: str, ids: Sequence[Any]) -> None:
    """Check ids: whole numbers of 64 bits or texts, each once."""
    texts = [identifier for identifier in ids if type(identifier) is str]
    numbers = [identifier for identifier in ids if type(identifier) is int]
    if len(texts) + len(numbers) != len(ids) or len(set(ids)) != len(ids):
        raise ArtifactError(f"{name}: expected whole numbers or texts, each once")
    _check_texts(name, texts, MAX_ID)
    if "" in texts or (numbers and not -(2**63) <= min(numbers) <= max(numbers) < 2**63):
        raise ArtifactError(f"{name}: expected numbers of 64 bits or texts of 1 to {MAX_ID:,} characters")


def _check_texts(name: str, texts: Sequence[Any], longest: int) -> None:
    if set(map(type, texts)) - {str}:
        raise ArtifactError(f"{name}: expected texts")
    if max(map(len, texts), default=0) > longest or not is_utf8(texts):
        raise ArtifactError(f"{name}: expected texts of at most {longest:,} characters that are UTF-8")


def is_number(value: Any, nan: bool = False) -> bool:
    """Return True for a plausible number of JSON; true and false are none."""
    return type(value) in (int, float) and (abs(value) <= LARGEST or (nan and value != value))


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
