"""A function in a process of its own: its result, its errors, and its end."""

import os

import numpy as np
import pytest

from recpolicy.core.config import read_toml
from recpolicy.core.errors import ConfigError, MemoryLimitError
from recpolicy.core.processes import run_in_process


def test_the_result_comes_back_from_another_process():
    assert run_in_process(os.getpid) != os.getpid()
    assert run_in_process(np.cumsum, np.arange(4), dtype=float).tolist() == [0.0, 1.0, 3.0, 6.0]


def test_an_error_comes_back_as_it_is(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.toml"):
        run_in_process(read_toml, tmp_path / "nothing.toml")


def test_a_process_that_the_system_ended_is_one_line():
    with pytest.raises(MemoryLimitError, match="the process of _exit was ended by the system"):
        run_in_process(os._exit, 9)
