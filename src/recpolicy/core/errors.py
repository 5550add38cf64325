"""Errors that recpolicy raises for faulty input.

    RecpolicyError            the command line prints one line and exits with code 2
    ├── DataError             a file, table or archive is faulty                       (also ValueError)
    │   ├── UnknownIdError    a user or item id is not in the catalog                 (also LookupError)
    │   │   └── UnknownUserError  a user id is not in the policy; ratings can describe the user
    │   └── WrongPolicyKindError  a policy of ratings is needed, not one of features, or the reverse
    ├── FetchError            no source gave the data                                  (also OSError)
    ├── ConfigError           a setting is unknown or out of range                     (also ValueError)
    ├── ArtifactError         a saved artifact, model or checkpoint is damaged or foreign  (also ValueError)
    ├── MemoryLimitError      a computation needs more memory than there is            (also MemoryError)
    ├── DivergedError         a training gave numbers that are not finite, or absurd   (also ArithmeticError)
    ├── SubmitError           a cluster could not be reached, or did not take a pipeline  (also OSError)
    ├── StoreError            the server's database does not answer, or does not take it   (also OSError)
    └── MissingExtraError     a command needs an optional part that is not installed   (also ImportError)

A message gives the place, the value found, the value expected and a remedy.
"""

import difflib
from collections.abc import Iterable, Sequence

_MIN_SIMILARITY = 0.65
"""Least share of equal letters of two names, of which one misspells the other: 'odb' for 'obd' has 0.67, 'item' for
'time' 0.5."""


class RecpolicyError(Exception):
    """An error with a message for the user."""


class DataError(RecpolicyError, ValueError):
    """A file, table or archive is faulty."""


class NoActionError(DataError):
    """Exclusions or guardrails leave no action for a choice."""


class UnknownIdError(DataError, LookupError):
    """A user or item id is not in the catalog."""


class UnknownUserError(UnknownIdError):
    """A user id is not in the policy; some ratings can describe a new user."""


class WrongPolicyKindError(DataError):
    """A request or command needs a policy of ratings and there is one of features, or the reverse."""


class SessionError(DataError):
    """A request that does not continue the session that it names."""


class FetchError(RecpolicyError, OSError):
    """No source gave the data."""


class ConfigError(RecpolicyError, ValueError):
    """A setting is unknown or out of range."""


class ArtifactError(RecpolicyError, ValueError):
    """A saved artifact, model or checkpoint is damaged or foreign."""


class MemoryLimitError(RecpolicyError, MemoryError):
    """A computation needs more memory than there is."""


class DivergedError(RecpolicyError, ArithmeticError):
    """A training produced numbers that are not finite or absurdly large."""


class SubmitError(RecpolicyError, OSError):
    """A cluster could not be reached, or did not take a pipeline."""


class StoreError(RecpolicyError, OSError):
    """The server's database could not be reached, or did not take what it was given."""


class MissingExtraError(RecpolicyError, ImportError):
    """A command needs an optional part of recpolicy that is not installed."""


def unknown_name_error(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the ConfigError for a name that is not among `known`, with the nearest known name as a hint."""
    names = sorted(known)
    return ConfigError(f"no {kind} named {name!r}.{suggest_name(name, names)} Known: {', '.join(names) or 'none'}.")


def suggest_name(name: str, known: Sequence[str], min_similarity: float = _MIN_SIMILARITY) -> str:
    """Return " Did you mean ...?" with the known name that `name` probably misspells; "" if none is similar."""
    near = closest_name(name, known, min_similarity)
    return "" if near is None else f" Did you mean {near!r}?"


def closest_name(name: str, known: Sequence[str], min_similarity: float = _MIN_SIMILARITY) -> str | None:
    """Return the known name that `name` probably misspells, in any case of letters; None if none is similar."""
    by_letters = {each.casefold(): each for each in reversed(known)}
    near = difflib.get_close_matches(name.casefold(), by_letters, n=1, cutoff=min_similarity)
    return by_letters[near[0]] if near else None
