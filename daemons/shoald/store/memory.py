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


def huge_page_pool(figures: Path = Path("/proc/meminfo")) -> tuple[int, int]:
    """(bytes of a huge page, how many are free and not promised to anybody); 0, 0 where there are none."""
    found = {"Hugepagesize:": 0, "HugePages_Free:": 0, "HugePages_Rsvd:": 0}
    try:
        lines = figures.read_text("ascii").splitlines()
    except OSError:
        return 0, 0  # another system
    for line in lines:
        words = line.split()
        if words and words[0] in found:
            found[words[0]] = int(words[1])
    return found["Hugepagesize:"] * 1024, found["HugePages_Free:"] - found["HugePages_Rsvd:"]


def memory_available(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int:
    """Bytes that can still be taken before the machine or a cgroup runs out."""
    import psutil  # 15 ms that starting need not wait for

    available = int(psutil.virtual_memory().available)
    return max(0, min([available, *(limit - used for limit, used in _limits(root, membership))]))


def memory_in_use(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> tuple[int, int, str]:
    """(used, limit, whose) in bytes, of the machine or of the cgroup at or above ours that is nearest to its limit.

    Pages of files that the kernel can drop at any moment do not count as used.
    """
    import psutil

    machine = psutil.virtual_memory()
    tightest = (int(machine.total - machine.available), int(machine.total), "this machine")
    for directory, names in _groups(root, membership):
        limit, used = (_read_number(directory / name) for name in names)
        if limit is None or used is None or not 0 < limit < _NO_LIMIT:
            continue
        used = max(0, used - _file_cache(directory / "memory.stat"))
        if used * tightest[1] > tightest[0] * limit:
            tightest = (used, limit, f"the cgroup {directory}")
    return tightest


def kernel_kills(
    root: Path = _ROOT, membership: Path = _MEMBERSHIP, machine: Path = Path("/proc/vmstat")
) -> int:
    """How many processes the kernel has ended for lack of memory, here and in the cgroups at or above ours; it only grows."""
    directories = dict.fromkeys(directory for directory, _ in _groups(root, membership))
    # By version 2 and 1 of cgroups. What ends a process in our group counts in several of these.
    files = [
        machine,
        *(each / name for each in directories for name in ("memory.events", "memory.oom_control")),
    ]
    return sum(_figures(each).get("oom_kill", 0) for each in files)


def cpu_busy_s() -> float:
    """Seconds that the machine's processors have worked since it started, all together."""
    import psutil

    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # The time of guests is in that of user and nice already.
    return float(sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0))


def own_bytes(pid: int) -> int:
    """Resident memory of a process that it does not share, in bytes; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES


def _file_cache(stat: Path) -> int:
    """What the kernel keeps of files for a cgroup, shared memory not counted, in bytes."""
    figures = _figures(stat)
    total = "total_" if "total_inactive_file" in figures else ""
    return figures.get(f"{total}inactive_file", 0) + figures.get(f"{total}active_file", 0)


def _figures(path: Path) -> dict[str, int]:
    """The figures of a file with one name and number in each line; empty if it cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()}


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
