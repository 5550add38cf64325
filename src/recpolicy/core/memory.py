"""Check that a computation fits into memory before it starts.

Available is the smallest of: the memory that the machine has left, what the control group (container) may still take,
and what the process's own limit of address space leaves. The check compares an estimate with it. Work that is far too
large therefore ends at once with one line; work near the limit may still fail later.
"""

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from pathlib import Path

from recpolicy.core.errors import MemoryLimitError

FEWER_CELLS = "keep fewer users or items (the most active and the most rated), or use a larger machine"
"""Advice for tables of users by items."""
_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def check_memory(needed: float, what: str, advice: str) -> None:
    """Raise MemoryLimitError if fewer than `needed` bytes are available.

    Args:
        needed: Estimate of the bytes that the work takes at its peak, in addition to what the process has.
        what: The work and its size, such as "svd: 943 users x 1,682 items".
        advice: What the user can do.
    """
    available = available_bytes()
    if available is not None and needed > available:
        raise MemoryLimitError(
            f"{what} need about {human_bytes(needed)} of memory; {human_bytes(available)} are available: {advice}"
        )


def release_memory() -> None:
    """Return freed memory to the system; allocators keep it otherwise, and what comes next takes more on top."""
    gc.collect()
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def out_of_memory(error: MemoryError) -> str:
    """Return one line for an allocation that failed, with the size that was requested if it is known."""
    available = available_bytes()
    left = "" if available is None else f"; {human_bytes(available)} are available"
    return f"out of memory: {str(error) or 'an allocation failed'}{left}: use less data, or a larger machine"


def available_bytes() -> int | None:
    """Return the bytes that this process can still take; None if the system does not say."""
    bounds = [_machine_bytes(), *_cgroup_bytes(), _address_space_bytes()]
    return min((max(bound, 0) for bound in bounds if bound is not None), default=None)


def human_bytes(count: float) -> str:
    """Return a number of bytes with a unit, such as "71.5 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def _machine_bytes() -> int | None:
    fields = _fields(_PROC / "meminfo")
    return None if "MemAvailable" not in fields else fields["MemAvailable"] * 1024


def _address_space_bytes() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    return limit - _fields(_PROC / "self" / "status").get("VmSize", 0) * 1024


def _cgroup_bytes() -> list[int | None]:
    """Return what the control groups of this process leave: version 2 and its ancestors, or version 1.

    Pages of files that the kernel can drop at once do not count as used.
    """
    bounds: list[int | None] = []
    try:
        lines = (_PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return bounds
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            folder = _CGROUP / name.lstrip("/")
            for group in (folder, *folder.parents):
                if group in (_CGROUP.parent, *_CGROUP.parent.parents):
                    break
                bounds.append(_left(group, "memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            for group in (_CGROUP / "memory" / name.lstrip("/"), _CGROUP / "memory"):
                bounds.append(_left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))
    return bounds


def _left(group: Path, limit: str, used: str, droppable: str) -> int | None:
    """Return the bytes that a control group leaves; None without a limit."""
    try:
        most = (group / limit).read_text(encoding="utf-8").strip()
        if not most.isdecimal():  # "max"
            return None
        return (
            int(most)
            - int((group / used).read_text(encoding="utf-8"))
            + _fields(group / "memory.stat").get(droppable, 0)
        )
    except (OSError, ValueError):
        return None


def _fields(path: Path) -> dict[str, int]:
    """Return the whole numbers of a file with a name and a number per line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    words = (line.replace(":", " ").split() for line in lines)
    return {parts[0]: int(parts[1]) for parts in words if len(parts) > 1 and parts[1].isdecimal()}
