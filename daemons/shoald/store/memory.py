"""How much memory this process may use, by the machine and by the cgroups (v1 or v2) it is in.

In a container the machine's figures are not what counts: pages of the region are charged to the cgroup, and
whoever goes over its limit is killed. A limit can be set at any level above us, so all levels are asked.
"""

from __future__ import annotations

import os
from pathlib import Path

_PAGE = 4096
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_DEFAULT_SHARE = 0.3
_NO_LIMIT = 2**62  # cgroup v1 writes a number near 2^63 for "no limit"
_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_V2 = ("memory.max", "memory.current")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def default_capacity() -> int:
    """30 % of the memory that this process may use, in bytes, whole pages."""
    return int(memory_limit() * _DEFAULT_SHARE) // _PAGE * _PAGE


def memory_limit(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int:
    """Bytes of memory that this process may use: the machine's, or less by a limit of a cgroup."""
    total = os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES
    return min([total, *(limit for limit, _ in _limits(root, membership))])


def memory_available(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int:
    """Bytes that can still be taken before the machine or a cgroup runs out."""
    import psutil  # 15 ms that starting need not wait for

    available = int(psutil.virtual_memory().available)
    return max(0, min([available, *(limit - used for limit, used in _limits(root, membership))]))


def _limits(root: Path, membership: Path) -> list[tuple[int, int]]:
    """(limit, used) in bytes, of every cgroup at or above ours that has a memory limit."""
    found = []
    for directory, (limit_name, used_name) in _groups(root, membership):
        limit = _read_number(directory / limit_name)
        if limit is not None and 0 < limit < _NO_LIMIT:
            found.append((limit, _read_number(directory / used_name) or 0))
    return found


def _groups(root: Path, membership: Path) -> list[tuple[Path, tuple[str, str]]]:
    """The directories that may have a limit, and how its files are called there."""
    groups = [(root, _V2), (root / "memory", _V1)]  # in a container the mount's root is our own group
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return groups
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            base, names = root, _V2
        elif "memory" in controllers.split(","):
            base, names = root / "memory", _V1
        else:
            continue
        parts = [part for part in group.split("/") if part not in {"", ".."}]
        groups += [(base.joinpath(*parts[: count + 1]), names) for count in range(len(parts))]
    return groups


def _read_number(path: Path) -> int | None:
    """The number in a file; None if there is none ("max"), or no such file to read for us."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
