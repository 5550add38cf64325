"""What a computation may take, before it starts and when it fails."""

import resource
import subprocess
import sys

import numpy as np
import pytest

from recpolicy.core import memory
from recpolicy.core.errors import MemoryLimitError, RecpolicyError
from recpolicy.core.memory import available_bytes, check_memory, human_bytes, out_of_memory

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 GiB left, and no control group; returns its folders."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(f"MemTotal:  16777216 kB\nMemAvailable:   {8 * GIB // 1024} kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/pod/box\n")
    (tmp_path / "proc" / "self" / "status").write_text("VmSize:  1048576 kB\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return tmp_path


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1) if name.startswith("memory_") else folder / name).write_text(str(text))


def test_the_machine_bounds_what_is_available(machine):
    assert available_bytes() == 8 * GIB


def test_a_container_bounds_it_and_pages_that_can_be_dropped_are_free(machine):
    group(machine / "cgroup" / "pod" / "box", memory_max="max", memory_current=5)
    group(machine / "cgroup" / "pod", memory_max=2 * GIB, memory_current=GIB, memory_stat=f"inactive_file {GIB // 2}\n")
    assert available_bytes() == 1.5 * GIB


def test_a_container_of_the_older_kind_bounds_it(machine):
    (machine / "proc" / "self" / "cgroup").write_text("5:cpu:/\n4:memory:/box\n")
    folder = machine / "cgroup" / "memory" / "box"
    folder.mkdir(parents=True)
    for name, text in (("memory.limit_in_bytes", GIB), ("memory.usage_in_bytes", GIB // 4)):
        (folder / name).write_text(str(text))
    assert available_bytes() == 0.75 * GIB


def test_the_limit_of_address_space_bounds_it(machine, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 * GIB, 3 * GIB))
    assert available_bytes() == 2 * GIB  # 1 GiB is taken


def test_a_system_that_says_nothing_refuses_nothing(machine):
    for path in (machine / "proc").rglob("*"):
        if path.is_file():
            path.unlink()
    assert available_bytes() is None
    check_memory(1e30, "anything", "nothing")


def test_work_that_is_too_large_is_one_line_with_both_sizes(machine):
    check_memory(8 * GIB, "a fit", "use less")
    with pytest.raises(MemoryLimitError) as raised:
        check_memory(71.5 * GIB, "svd: 162,541 users x 59,047 items", "keep fewer users")
    assert str(raised.value) == (
        "svd: 162,541 users x 59,047 items need about 71.5 GiB of memory; 8.0 GiB are available: keep fewer users"
    )
    assert isinstance(raised.value, RecpolicyError)
    assert isinstance(raised.value, MemoryError)


def test_an_allocation_that_failed_says_how_much_it_asked_for(machine):
    with pytest.raises(MemoryError) as raised:
        np.empty(1 << 60, np.uint8)
    assert out_of_memory(raised.value).startswith("out of memory: Unable to allocate 1.00 EiB for an array")
    assert "8.0 GiB are available: use less data" in out_of_memory(MemoryError())


FREED = """
from recpolicy.core.memory import release_memory

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024

small = [bytes(1_000) for _ in range(100_000)]
scattered = small[::100]  # they keep the allocator from returning the rest
del small
before = resident()
release_memory()
print(before - resident())
"""


def test_freed_memory_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", FREED], check=True, capture_output=True, text=True)
    assert float(done.stdout) > 50


def test_sizes_have_a_unit():
    assert [human_bytes(size) for size in (12, 2048, 5 << 20, 3 * GIB / 2)] == ["12 bytes", "2 KiB", "5 MiB", "1.5 GiB"]
