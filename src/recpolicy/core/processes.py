"""Run a function in a process of its own, so that all its memory is free afterwards."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from recpolicy.core.errors import MemoryLimitError

_P = ParamSpec("_P")
_T = TypeVar("_T")


def run_in_process(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Return the result of a function of a module, called in a new process; raises what it raises.

    A memory allocator keeps much of what was freed. A process that goes on with other work would pay for it. The new
    process ends with this one. Raises MemoryLimitError if the system ended it.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool:
            raise MemoryLimitError(
                f"the process of {function.__name__} was ended by the system, probably for its memory; give it more, or"
                " less data"
            ) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait, args=(parent,), daemon=True).start()


def _wait(parent: "multiprocessing.process.BaseProcess") -> None:
    parent.join()
    os._exit(1)
