"""Hostile policies: a table of small changes to one good artifact, each of which every entrance must refuse.

`hostile_policies()` yields (name, mutate). `mutate(folder)` changes a copy of a good artifact in place: a LinUCB policy
of the current format, such as `write_tiny` or the demo makes. It then corrects the digests that its author could
correct, so that only the validation of the content stands between the policy and the server.

U users, I items, A arms, C context columns of which the first D are the embedding.
"""

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.files import content_digest, file_digest

Mutation = Callable[[Path], None]
Body = dict[str, Any]

MANIFEST, ARRAYS, TABLES = "recpolicy.json", "arrays.npz", "tables.json"
ZEROS = 32 << 20
"""Bytes of zeros in the member that unpacks to far more than its file holds."""
_LONE_SURROGATE = "\ud800"
_DEEP = 100_000


def hostile_policies() -> Iterator[tuple[str, Mutation]]:
    """Yield the name and the change of each policy."""
    for group in (_broken_manifests, _files, _words, _metadata, _shapes, _numbers, _rows, _archives, _tables):
        yield from group()


def seal(folder: Path) -> None:
    """Correct the digests of an artifact after a change: the policy's, and those of its files."""
    body = _read(folder / MANIFEST)
    stored = _load(folder / ARRAYS)
    if stored is not None and isinstance(body.get("metadata"), dict):
        body["metadata"]["policy_digest"] = _policy_digest(body, stored)
    _write(folder / MANIFEST, body)
    _seal_files(folder)


def _policy_digest(body: Body, arrays: dict[str, Any]) -> str:
    settings = body.get("settings")
    learned = [arrays[name] for name in sorted(arrays) if name.startswith("policy/")]
    named = [arrays.get(name) for name in ("context", "item", "offset", "action_items")]
    words = body.get("agent"), body.get("estimator"), body.get("head"), settings, body.get("uniform_mix")
    try:
        return content_digest(*words, *learned, *named)
    except (TypeError, ValueError):
        return "0" * 64


def _seal_files(folder: Path) -> None:
    body = _read(folder / MANIFEST)
    if isinstance(body.get("files"), dict):
        named = {name: folder / name for name in body["files"] if "\0" not in name and len(name) < 200}
        body["files"] |= {name: file_digest(path) for name, path in named.items() if path.is_file()}
        _write(folder / MANIFEST, body)


def _read(path: Path) -> Body:
    body: Body = json.loads(path.read_text(encoding="utf-8"))
    return body


def _write(path: Path, body: Any) -> None:
    path.write_text(json.dumps(body), encoding="utf-8")


def _load(path: Path) -> dict[str, Any] | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except Exception:  # the archive is what is hostile
        return None


# Changes of one file.


def _manifest(change: Callable[[Body], Any]) -> Mutation:
    def mutate(folder: Path) -> None:
        body = _read(folder / MANIFEST)
        change(body)
        _write(folder / MANIFEST, body)
        seal(folder)

    return mutate


def _word(name: str, value: Any) -> Mutation:
    return _manifest(lambda body: body.update({name: value}))


def _setting(name: str, value: Any) -> Mutation:
    return _manifest(lambda body: body["settings"].update({name: value}))


def _lacking(name: str) -> Mutation:
    return _manifest(lambda body: body.pop(name))


def _raw_manifest(content: bytes) -> Mutation:
    return _raw(MANIFEST, content)


def _unsealed(change: Callable[[Body], Any]) -> Mutation:
    """Change the manifest, and correct no digest: it may hold one that is none."""

    def mutate(folder: Path) -> None:
        body = _read(folder / MANIFEST)
        change(body)
        _write(folder / MANIFEST, body)

    return mutate


def _about(change: Callable[[Body], Any]) -> Mutation:
    return _unsealed(lambda body: change(body["metadata"]))


def _set_about(name: str, value: Any) -> Mutation:
    return _about(lambda metadata: metadata.update({name: value}))


def _arrays(change: Callable[[dict[str, Any]], Any]) -> Mutation:
    def mutate(folder: Path) -> None:
        stored = _load(folder / ARRAYS)
        assert stored is not None
        change(stored)
        np.savez(folder / ARRAYS, **stored)
        seal(folder)

    return mutate


def _array(name: str, change: Callable[[Any], Any]) -> Mutation:
    return _arrays(lambda stored: stored.update({name: change(stored[name])}))


def _without(name: str) -> Mutation:
    return _arrays(lambda stored: stored.pop(name))


def _with_first(name: str, value: float) -> Mutation:
    """Replace the first number of an array."""

    def change(array: Any) -> Any:
        changed = array.copy()
        changed.flat[0] = value
        return changed

    return _array(name, change)


def _table(change: Callable[[Body], Any]) -> Mutation:
    def mutate(folder: Path) -> None:
        body = _read(folder / TABLES)
        change(body)
        _write(folder / TABLES, body)
        _seal_files(folder)

    return mutate


def _column(name: str, value: Any) -> Mutation:
    return _table(lambda body: body.update({name: value}))


def _cell(name: str, value: Any) -> Mutation:
    """Replace the first cell of a column."""
    return _table(lambda body: body.update({name: [value, *body[name][1:]]}))


def _raw(name: str, content: bytes | Callable[[bytes], bytes]) -> Mutation:
    """Replace the bytes of a file, and correct its digest."""

    def mutate(folder: Path) -> None:
        path = folder / name
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)
        if name != MANIFEST:
            _seal_files(folder)

    return mutate


# The groups.


def _broken_manifests() -> Iterator[tuple[str, Mutation]]:
    yield "manifest is empty", _raw_manifest(b"")
    yield "manifest is not JSON", _raw_manifest(b"{")
    yield "manifest is a list", _raw_manifest(b"[]")
    yield "manifest is null", _raw_manifest(b"null")
    yield "manifest is not UTF-8", _raw_manifest(b'{"format": "\xff\xfe"}')
    yield "manifest is a deep list", _raw_manifest(b"[" * _DEEP + b"]" * _DEEP)
    yield (
        "manifest has a number of 5,000 digits",
        _raw(MANIFEST, lambda content: b'{"n": %b, ' % (b"9" * 5_000) + content[1:]),
    )
    yield "manifest is of another format", _word("format", "recpolicy rating model")
    for version in (0, 99, "3", None, [3], True):
        yield f"manifest says version {version!r}", _word("version", version)
    for name in ("files", "agent", "estimator", "head", "settings", "uniform_mix", "scale", "noise_std", "metadata"):
        yield f"manifest lacks {name}", _lacking(name)


def _files() -> Iterator[tuple[str, Mutation]]:
    def named(name: str) -> Mutation:
        return _manifest(lambda body: body["files"].update({name: "0" * 64}))

    for key in ("paths", "columns", "arrays"):
        yield f"{key} is a list", _word(key, ["items.parquet"])
        yield f"{key} has a list", _word(key, {"items.parquet": [1]})
    yield "files is a list", _word("files", [ARRAYS, TABLES])
    yield "files is null", _word("files", None)
    yield "files is empty", _word("files", {})
    yield "files has a digest that is a list", _unsealed(lambda body: body["files"].update({ARRAYS: [1]}))
    yield "files has a name of 5,000 letters", named("a" * 5_000)
    yield "files has the name ..", named("../evil")
    yield "files has an absolute name", named("/tmp/evil")
    yield "files has an empty name", named("")
    yield "files has a name with NUL", named("a\0b")
    yield "files has a name with a surrogate", named(_LONE_SURROGATE)
    yield "files has a name with a control character", named("a\x1b[2J")
    yield (
        "files has 20,000 names",
        _manifest(lambda body: body["files"].update({f"f{n}": "0" * 64 for n in range(20_000)})),
    )
    yield "files names a folder", named("action")


def _words() -> Iterator[tuple[str, Mutation]]:
    agents: dict[str, Any] = {
        "null": None, "a number": 7, "a list": ["linucb"], "empty": "", "65 letters": "a" * 65,
        "a megabyte": "a" * (1 << 20), "a surrogate": f"lin{_LONE_SURROGATE}", "a NUL": "lin\0ucb",
        "terminal codes": "\x1b[2Jlinucb", "a newline": "lin\nucb", "text from right to left": "lin\u202eucb",
    }  # fmt: skip
    for label, agent in agents.items():
        yield f"agent is or has {label}", _word("agent", agent)
    for name in ("estimator", "head"):
        for value in ("unknown", None, ["linear"], 3):
            yield f"{name} is {value!r}", _word(name, value)
    yield "estimator is of another policy", _word("estimator", "hybrid")
    yield "estimator is of a session policy", _word("estimator", "session")
    yield "head lacks its setting", _word("head", "epsilon_greedy")
    for label, settings in {"a list": [0.5], "null": None, "a number": 1, "empty": {}}.items():
        yield f"settings is {label}", _word("settings", settings)
    for value in (float("nan"), float("inf"), 1e300, "0.5", None, [0.5], True):
        yield f"setting alpha is {value!r}", _setting("alpha", value)
    for value in (-0.1, 1.1, float("nan"), "0", None, [0.1]):
        yield f"uniform_mix is {value!r}", _word("uniform_mix", value)
    scales: tuple[Any, ...] = (
        [1, 2, 3], "xy", None, 5, [5, 1], [1, 1], ["1", "5"], [1, float("nan")], [1, float("inf")], [1e300, 2e300],
        {"low": 1, "high": 5}, [[1], [5]], [], [True, 5],
    )  # fmt: skip
    for value in scales:
        yield f"scale is {value!r}", _word("scale", value)
    for value in (-1, 0, float("nan"), float("inf"), "0.5", None, [0.5]):
        yield f"noise_std is {value!r}", _word("noise_std", value)
    levels: dict[str, Any] = {
        "a list": [1, 2], "without cuts": {"values": [1, 5]}, "falling": {"values": [5, 1], "cuts": [0]},
        "of texts": {"values": "15", "cuts": "x"}, "not finite": {"values": [1, float("nan")], "cuts": [0]},
        "100,000": {"values": list(range(100_000)), "cuts": list(range(99_999))},
        "off the scale": {"values": [100, 200], "cuts": [0]}, "a text": "levels",
    }  # fmt: skip
    for label, value in levels.items():
        yield f"levels are {label}", _word("levels", value)


def _metadata() -> Iterator[tuple[str, Mutation]]:
    for value in (None, [], "about", 3):
        yield f"metadata is {value!r}", _word("metadata", value)
    yield "metadata lacks the policy's digest", _about(lambda metadata: metadata.pop("policy_digest"))
    digests: dict[str, Any] = {
        "null": None, "a number": 7, "a mapping": {"a": 1}, "empty": "", "a path to another version":
        "../registry/versions/1/policy", "an absolute path": "/tmp/recpolicy-evil", "63 digits": "a" * 63,
        "capitals": "A" * 64, "of other arrays": "0" * 64, "with a newline": "0" * 63 + "\n", "..": "..",
    }  # fmt: skip
    for label, digest in digests.items():
        yield f"policy digest is {label}", _set_about("policy_digest", digest)
    deep: Any = 0
    for _ in range(300):
        deep = [deep]
    yield "metadata is deep", _set_about("data", deep)
    yield "metadata has a surrogate", _set_about("data", _LONE_SURROGATE)
    yield "metadata has a surrogate as a key", _set_about(_LONE_SURROGATE, 1)
    yield "metadata has 5 megabytes", _set_about("data", "a" * (5 << 20))
    yield "metadata has NaN", _set_about("seed", float("nan"))
    for name, value in (("training", "real"), ("config", [1]), ("parents", "one"), ("parents", [1]), ("split", 5)):
        yield f"metadata says {name} is {value!r}", _set_about(name, value)
    for value in (-1, 0, "1", float("nan"), 2):
        yield (
            f"metadata says forgetting is {value!r}",
            _set_about("config", {"agent": {"forgetting": value, "precision": 1.0}}),
        )
    yield "metadata says precision is 0", _set_about("config", {"agent": {"forgetting": 0.9, "precision": 0}})
    yield "metadata says log_until is a list", _set_about("log_until", [1])


def _shapes() -> Iterator[tuple[str, Mutation]]:
    changes: dict[str, Callable[[Any], Any]] = {
        "lacks a row": lambda array: array[1:],
        "has a row too many": lambda array: np.concatenate([array, array[:1]]),
        "is empty": lambda array: array[:0],
        "has an axis too many": lambda array: array[..., np.newaxis],
        "is one number": lambda array: array.ravel()[:1].reshape(()),
        "has texts": lambda array: np.full(array.shape, "x"),
        "has complex numbers": lambda array: array.astype(np.complex64),
        "has times": lambda array: array.astype("M8[s]"),
    }
    two = {
        "lacks a column": lambda array: array[:, 1:],
        "has one column": lambda array: np.ascontiguousarray(array[:, :1]),
        "is one row": lambda array: np.ascontiguousarray(array[:1]),
        "is flat": lambda array: array.ravel(),
        "is transposed": lambda array: np.ascontiguousarray(array.T),
    }
    names = (
        "context", "item", "offset", "rating_std", "rated_user", "rated_item", "policy/theta", "policy/covariance",
    )  # fmt: skip
    for name in names:
        yield f"{name} is missing", _without(name)
        for label, change in changes.items():
            yield f"{name} {label}", _array(name, change)
        flat = name in ("offset", "rated_user", "rated_item")
        for label, change in () if flat else two.items():
            if name != "item" or "column" not in label:  # a policy of fewer directions is odd, but sound
                yield f"{name} {label}", _array(name, change)
    yield "rating_mean lacks a row", _arrays(lambda stored: stored.update(rating_mean=stored["rating_std"][1:]))
    yield "rating_mean is flat", _arrays(lambda stored: stored.update(rating_mean=stored["offset"]))
    yield "bias is missing", _without("policy/bias")
    yield "bias is a row", _array("policy/bias", lambda array: np.full(3, array))
    yield "bias says the opposite", _array("policy/bias", np.logical_not)
    yield "prior_precision is a row", _array("policy/prior_precision", lambda array: np.full(3, array))
    yield "a linear policy has a view", _arrays(lambda stored: stored.update({"policy/view": np.array("interest")}))
    yield (
        "a linear policy has a view and a million items",
        _arrays(
            lambda stored: stored.update(
                {"policy/view": np.array("last_n"), "policy/last_n": np.array(1 << 40), "policy/steps": np.array(0)}
            )
        ),
    )
    yield "item is wide", _array("item", lambda array: np.zeros((len(array), 100_000 // len(array) * 50), np.float32))


def _numbers() -> Iterator[tuple[str, Mutation]]:
    for name in ("context", "item", "offset", "rating_std", "policy/theta", "policy/covariance"):
        for value in (np.nan, np.inf, 1e30):
            yield f"{name} holds {value}", _with_first(name, value)
    yield "rating_mean holds NaN", _arrays(lambda stored: stored.update(rating_mean=stored["rating_std"] * np.nan))
    yield "rating_std is negative", _with_first("rating_std", -1.0)
    for value in (0.0, -1.0, np.nan, np.inf):
        yield (
            f"prior_precision is {value}",
            _arrays(lambda stored, value=value: stored.update({"policy/prior_precision": np.float32(value)})),
        )
    yield "prior_precision is a text", _arrays(lambda stored: stored.update({"policy/prior_precision": np.array("1")}))


def _rows() -> Iterator[tuple[str, Mutation]]:
    def size(stored: dict[str, Any]) -> int:
        return len(stored["item"])

    lists: dict[str, Callable[[dict[str, Any]], Any]] = {
        "beyond the items": lambda stored: np.full(len(stored["action_items"]), size(stored)),
        "negative": lambda stored: np.full(len(stored["action_items"]), -1),
        "all the same": lambda stored: np.zeros(len(stored["action_items"])),
        "too few": lambda stored: stored["action_items"][1:],
        "too many": lambda stored: np.append(stored["action_items"], 0),
        "none": lambda stored: stored["action_items"][:0],
        "a table": lambda stored: stored["action_items"][np.newaxis],
    }
    for label, change in lists.items():
        yield (
            f"action_items are {label}",
            _arrays(lambda stored, change=change: stored.update(action_items=change(stored).astype(np.int32))),
        )
    yield "action_items are fractions", _array("action_items", lambda array: array + np.float32(0.5))
    yield "action_items is missing", _without("action_items")
    for name in ("rated_user", "rated_item"):
        for value in (-1, 2**31 - 1, 1_000_000):
            yield f"{name} has the row {value}", _with_first(name, value)
    yield "rated_user has only rows of 2^31 - 1", _array("rated_user", lambda array: np.full_like(array, 2**31 - 1))
    yield "rated_user has fractions", _array("rated_user", lambda array: array.astype(np.float32))


def _archives() -> Iterator[tuple[str, Mutation]]:
    yield "arrays.npz is empty", _raw(ARRAYS, b"")
    yield "arrays.npz is a text", _raw(ARRAYS, b"not a zip archive")
    yield "arrays.npz is an array", _raw(ARRAYS, _npy(np.zeros(3)))
    yield "arrays.npz is cut", _raw(ARRAYS, lambda content: content[: len(content) // 2])
    yield "arrays.npz lacks its end", _raw(ARRAYS, lambda content: content[:-30])
    yield "arrays.npz has a wrong checksum", _raw(ARRAYS, _flip_middle)
    yield "arrays.npz has an empty member", _member("offset.npy", b"")
    yield "arrays.npz has a text as a member", _member("offset.npy", b"not an array")
    yield "arrays.npz has a member that claims 8 TiB", _member("context.npy", _header("(1099511627776, 2)", "<f4"))
    yield "arrays.npz has a member that claims 2^70 numbers", _member("context.npy", _header(f"({2**70},)", "<f4"))
    yield "arrays.npz has a member with a negative shape", _member("context.npy", _header("(-1, 3)", "<f4"))
    yield "arrays.npz has a member of no numbers and 2^40 rows", _member("context.npy", _header(f"({2**40}, 0)", "<f4"))
    yield "arrays.npz has a member with 30 axes", _member("context.npy", _header(str((1,) * 30), "<f4"))
    yield (
        "arrays.npz has a member with an expression",
        _member("context.npy", _header("(1,)", "<f4").replace(b"False", b"exit()")),
    )
    yield "arrays.npz has a member with a deep header", _member("context.npy", _header("(" * 500 + ")" * 500, "<f4"))
    yield "arrays.npz has a member with a wrong letter", _member("context.npy", _header("(1,)", "<q9"))
    yield "arrays.npz has a pickled member", _member("offset.npy", _npy(np.array([{"a": 1}], object)))
    yield "arrays.npz has a member of records", _member("offset.npy", _npy(np.zeros(3, [("a", "<f4")])))
    yield "arrays.npz has a member twice", _member("offset.npy", _npy(np.zeros(3, np.float32)), keep=True)
    yield "arrays.npz has 5,000 members", _members({f"x{n}.npy": _npy(np.zeros(1)) for n in range(5_000)})
    yield "arrays.npz has a member of zeros, deflated", _deflated()
    yield "arrays.npz has a member that says it is larger", _lying_size()


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def _header(shape: str, dtype: str) -> bytes:
    """Return a .npy file without its numbers."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _flip_middle(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


def _members(added: dict[str, bytes], keep: bool = False, method: int = zipfile.ZIP_STORED) -> Mutation:
    """Write members to arrays.npz, in place of those of the same name, or besides with `keep`."""

    def mutate(folder: Path) -> None:
        with zipfile.ZipFile(folder / ARRAYS) as old:
            members = [(info.filename, old.read(info)) for info in old.infolist()]
        members = [(name, content) for name, content in members if keep or name not in added]
        with warnings.catch_warnings(), zipfile.ZipFile(folder / ARRAYS, "w") as new:
            warnings.simplefilter("ignore")  # of a name that is there twice
            for name, content in members:
                new.writestr(name, content)
            for name, content in added.items():
                new.writestr(name, content, method)
        _seal_files(folder)

    return mutate


def _member(name: str, content: bytes, keep: bool = False) -> Mutation:
    return _members({name: content}, keep)


def _deflated() -> Mutation:
    def mutate(folder: Path) -> None:
        zeros = _npy(np.zeros(ZEROS // 4, np.float32))
        _members({"policy/zeros.npy": zeros}, method=zipfile.ZIP_DEFLATED)(folder)

    return mutate


def _lying_size() -> Mutation:
    """Let the directory of the archive claim 2 GiB for each member."""

    def lie(content: bytes) -> bytes:
        changed, place = bytearray(content), content.find(b"PK\x01\x02")
        while place >= 0:
            changed[place + 24 : place + 28] = struct.pack("<I", 2 << 30)  # size without compression
            place = content.find(b"PK\x01\x02", place + 4)
        return bytes(changed)

    return _raw(ARRAYS, lie)


def _tables() -> Iterator[tuple[str, Mutation]]:
    yield "tables.json is not JSON", _raw(TABLES, b"{")
    yield "tables.json is a list", _raw(TABLES, b"[]")
    yield "tables.json is deep", _raw(TABLES, b"[" * _DEEP + b"]" * _DEEP)
    yield "tables.json has 8 megabytes", _column("padding", "a" * (8 << 20))
    for name in ("user_id", "item_id", "title", "year", "genres", "genre_names"):
        yield f"tables.json lacks {name}", _table(lambda body, name=name: body.pop(name))
        for label, value in (("null", None), ("a text", "abc"), ("a number", 3), ("a mapping", {"a": 1})):
            yield f"{name} is {label}", _column(name, value)
        if name != "genre_names":
            yield f"{name} lacks a row", _table(lambda body, name=name: body.update({name: body[name][1:]}))
    for name in ("user_id", "item_id"):
        ids: dict[str, Any] = {
            "a list": [1], "a mapping": {}, "null": None, "a fraction": 1.5, "NaN": float("nan"), "true": True,
            "a surrogate": _LONE_SURROGATE, "10,000 letters": "a" * 10_000, "too large": 10**30, "empty": "",
        }  # fmt: skip
        for label, value in ids.items():
            yield f"{name} has an id that is {label}", _cell(name, value)
        yield (
            f"{name} has an id twice",
            _table(lambda body, name=name: body.update({name: [body[name][1], *body[name][1:]]})),
        )
    for label, value in {
        "a number": 5, "a list": ["a"], "a mapping": {}, "a surrogate": _LONE_SURROGATE,
        "100,000 letters": "a" * 100_000,
    }.items():  # fmt: skip
        yield f"title has a cell that is {label}", _cell("title", value)
    for label, value in {
        "a text": "1995", "a list": [1995], "1e300": 1e300, "true": True, "infinite": float("inf"),
    }.items():  # fmt: skip
        yield f"year has a cell that is {label}", _cell("year", value)
    for label, value in {
        "null": None, "a number": 0, "a text": "0", "beyond the names": [1_000], "negative": [-1], "a fraction": [0.5],
        "nested": [[0]], "of texts": ["0"],
    }.items():  # fmt: skip
        yield f"genres has a row that is {label}", _cell("genres", value)
    names: dict[str, Any] = {
        "numbers": [1, 2], "null": [None], "lists": [["a"]], "a surrogate": [_LONE_SURROGATE], "one twice": ["a", "a"],
        "20,000": [f"g{n}" for n in range(20_000)], "10,000 letters": ["a" * 10_000],
    }  # fmt: skip
    for label, value in names.items():
        yield f"genre_names has {label}", _column("genre_names", value)
