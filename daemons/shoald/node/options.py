"""The command line of a node daemon, and the figures of this machine that fill its gaps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shoal.config import Config, load
from shoal.sizes import bytes_text
from shoald.node.leases import CPU, UNITS, Amounts

_RESOURCE_MAX = 2**62 // UNITS


class BadOptions(Exception):
    """The command line makes no sense; the message is one line for the operator."""


@dataclass(frozen=True)
class NodeOptions:
    """What a node daemon was asked to be.

    Attributes:
        head: it hosts the head, listening on ``host``:``port`` (0: any).
        data_dir: where that head's state lies; "": nothing outlives it.
        host: where other nodes reach this one too; "": the address of this machine that leads to the head.
        head_address: of the head to join; "" if it hosts the head or has none.
        dashboard_port: where it serves a dashboard at ``dashboard_host``; 0: any, -1: the usual one, or any; None: it has none.
        resources: in units of 1/10,000, CPUs included.
        object_store_memory: bytes; 0 for the default.
        huge_pages: the store's memory comes from the system's pool of huge pages.
        spilling_directories: where objects go when the store is full; empty: a directory of the session.
        ready_fd: where the ready line goes; -1 for nowhere.
        owner_pid: the driver whose daemon this is, which ends with it; 0 for none.
        worker_main: the module whose `run_worker` a worker runs.
    """

    session_dir: str
    head: bool = False
    data_dir: str = ""
    host: str = ""
    port: int = 0
    head_address: str = ""
    secret_file: str = ""
    dashboard_host: str = "127.0.0.1"
    dashboard_port: int | None = None
    name: str = ""
    resources: Amounts = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    object_store_memory: int = 0
    huge_pages: bool = False
    spilling_directories: tuple[str, ...] = ()
    ready_fd: int = -1
    owner_pid: int = 0
    worker_main: str = "shoald.worker.main"
    config: Config = field(default_factory=Config)

    @property
    def hosts(self) -> list[str]:
        """Where it listens for others, and where its head does, as far as it was told."""
        return [host for host in (self.host, self.head_address.rpartition(":")[0]) if host]


def parse(arguments: list[str]) -> NodeOptions:
    """The options of an argument list; raises BadOptions."""
    given = _read(arguments)
    if given.get("head") and given.get("head_address"):
        raise BadOptions("a daemon hosts a head (--head) or joins one (--head-address), not both")
    num_cpus = given.pop("num_cpus", None)
    try:
        # None: an option that its caller was not given either.
        given["config"] = load({k: v for k, v in given.get("config", {}).items() if v is not None})
    except ValueError as error:
        raise BadOptions(str(error)) from None
    if given.get("huge_pages"):
        given["object_store_memory"] = _huge_capacity(given.get("object_store_memory", 0))
    given["spilling_directories"] = _split(given.pop("object_spilling_directory", ""))
    _check_directories(given["spilling_directories"])
    _check_capacity(given.get("object_store_memory", 0))
    resources = given.get("resources", {})
    given["resources"] = in_units({CPU: cpu_count() if num_cpus is None else num_cpus, **resources})
    given["labels"] = {str(key): str(value) for key, value in given.get("labels", {}).items()}
    given["session_dir"] = os.path.abspath(given["session_dir"])
    return NodeOptions(**given)


def _read(arguments: list[str]) -> dict[str, Any]:
    """What is given, by name. `argparse` would do it, and stay in each daemon's memory with 0.4 MB."""
    given: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        option, equals, text = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        kind = _KINDS.get(name) if option.startswith("--") else None
        if kind is None or (kind is bool and equals):
            raise BadOptions(f"{word!r} is no option of a node daemon")
        if kind is bool:
            given[name] = True
            continue
        value = text if equals else next(words, None)
        if value is None:
            raise BadOptions(f"{option} needs a value")
        try:
            given[name] = kind(value)
        except (TypeError, ValueError) as error:
            raise BadOptions(f"{option}: {error}") from None
    if "session_dir" not in given:
        raise BadOptions("--session-dir is needed")
    return given


def _check_capacity(size: int) -> None:
    """Pages are only taken as they are used: without this, it is a task that would be killed for it, much later."""
    from shoald.store.memory import memory_limit  # 3 ms that a start without this option need not wait for

    if size and size > (limit := memory_limit()):
        raise BadOptions(
            f"an object store of {bytes_text(size, beside=[limit])} does not fit into the "
            f"{bytes_text(limit, beside=[size])} of memory that "
            "this machine, or this container, may use"
        )


def _huge_capacity(wanted: int) -> int:
    """Bytes of a store of ``wanted`` bytes (0: of all there is) in the pool of huge pages. Raises BadOptions."""
    from shoald.store.memory import default_capacity, huge_page_pool

    page, free = huge_page_pool()
    if not page:
        raise BadOptions("--huge-pages: this system has no huge pages")
    if not wanted and free * page >= Config.store_bytes_min:
        return free * page
    needed = -(-(wanted or default_capacity()) // page)
    if needed > free:
        raise BadOptions(
            f"--huge-pages: {free} huge pages of {page // 1024**2} MiB are free, and the store needs {needed}; set more aside "
            f"(as root: sysctl -w vm.nr_hugepages={needed}), or leave --huge-pages out"
        )
    return needed * page


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _check_directories(urls: tuple[str, ...]) -> None:
    """A place that cannot be used is said now, not when the store is full."""
    if urls:
        from shoald.store.spilldirs import check_url  # what a start without this option need not wait for

        try:
            for url in urls:
                check_url(url)
        except ValueError as error:
            raise BadOptions(str(error)) from None


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text or "{}")
    if not isinstance(value, dict):
        raise TypeError("a JSON object is needed")
    return value


# How the text of each option is read; bool: it has none.
_KINDS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(
        (
            *("session_dir", "data_dir", "host", "head_address", "secret_file", "name", "worker_main"),
            "dashboard_host",
        ),
        str,
    ),
    **dict.fromkeys(("port", "object_store_memory", "ready_fd", "owner_pid", "dashboard_port"), int),
    **dict.fromkeys(("resources", "labels", "config"), _json_object),
    **dict.fromkeys(("head", "huge_pages"), bool),
    "num_cpus": float,
    "object_spilling_directory": str,
}


def in_units(amounts: dict[str, Any]) -> Amounts:
    """Resources in units of 1/10,000; raises BadOptions for what is no amount."""
    units = {}
    for name, amount in amounts.items():
        if (
            isinstance(amount, bool)
            or not isinstance(amount, int | float)
            or not 0 <= amount <= _RESOURCE_MAX
        ):
            raise BadOptions(f"resource {name!r} needs a number from 0 to {_RESOURCE_MAX}, not {amount!r}")
        units[str(name)] = round(amount * UNITS)
    return units


def cpu_count() -> int:
    """CPUs that this process may use: by affinity, and by its cgroup's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as limit:
            quota, period = limit.read().split()
    except (OSError, ValueError):
        return count  # no cgroup v2 here, or no limit file in its root
    if quota != "max":
        count = min(count, max(1, round(int(quota) / int(period))))
    return count
