"""The arguments of `init`: checked, and what they mean together. Pure: nothing is looked up.

Ray's other arguments are accepted; those that have no effect here are listed in `ignored`. What describes a
cluster (`num_cpus`, …) goes with a new one only: with an existing one it is an error, not ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal import option_checks as checks
from shoal.config import Config, load
from shoal.runtime_env import merge
from shoal.sizes import bytes_text
from shoal.suggest import UnknownNameError

ADDRESS_VARIABLE = "SHOAL_ADDRESS"
# The runtime environment of the submitted job whose script this process runs, as JSON: what `init` is given is added to it.
JOB_ENVIRONMENT_VARIABLE = "SHOAL_JOB_RUNTIME_ENV"
AUTO = "auto"
_LOCAL = "local"  # a new cluster, whatever the environment says


@dataclass(frozen=True)
class InitArguments:
    """What `init` was asked for; None where it was not said.

    Attributes:
        address: None: start a cluster for this process; "auto": the one running here; else "host:port".
        memory, object_store_memory: bytes.
        huge_pages: take the store's memory out of the system's pool of huge pages.
        spilling_directories: where objects go when the store is full; empty: a directory of the session.
        logging_level: as in `logging`.
        system_config: overrides of shoal.config, by name.
        ignored: arguments that were given and have no effect here.
    """

    address: str | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    object_store_memory: int | None = None
    huge_pages: bool = False
    spilling_directories: tuple[str, ...] = ()
    namespace: str | None = None
    runtime_env: dict[str, Any] | None = None
    ignore_reinit_error: bool = False
    log_to_driver: bool = True
    logging_level: int = 20
    include_dashboard: bool | None = None
    dashboard_host: str = "127.0.0.1"
    dashboard_port: int | None = None
    job_config: Any = None
    system_config: dict[str, Any] = field(default_factory=dict)
    temp_dir: str | None = None
    ignored: tuple[str, ...] = ()

    @classmethod
    def parse(
        cls, address: str | None = None, /, *, environ: Mapping[str, str] | None = None, **given: Any
    ) -> InitArguments:
        """Check the arguments of `init(address, **given)`.

        Without an address SHOAL_ADDRESS of ``environ`` (the process's, unless given) counts.

        Raises ValueError for an unknown argument (with the nearest known one), one out of range, or one that
        does not go with the others, TypeError for one of the wrong kind.
        """
        environ = os.environ if environ is None else environ
        where, source = _where(given.pop("address", address), environ)
        values: dict[str, Any] = {"address": where}
        ignored = []
        for name, value in given.items():
            if name in _CHECKS:
                if value is not None:
                    values[_FIELDS.get(name, name)] = _CHECKS[name](name, value)
            elif name in _IGNORED:
                ignored.append(name)
            else:
                raise UnknownNameError("argument of init", name, [*_CHECKS, *_IGNORED, "address"])
        _check_goes_with_address(where, source, given)
        _place_spilling(values)
        inherited = environ.get(JOB_ENVIRONMENT_VARIABLE)
        if inherited and where is not None:
            values["runtime_env"] = merge(json.loads(inherited), values.get("runtime_env"))
        return cls(**values, ignored=tuple(ignored))

    @property
    def dashboard_at(self) -> int | None:
        """The port of the dashboard that a new cluster is to have (-1: the usual one, or any); None: it has none.

        There is one if it was asked for, or its port was given: it listens, which nobody does here unasked.
        """
        if self.include_dashboard is False or (
            self.include_dashboard is None and self.dashboard_port is None
        ):
            return None
        return -1 if self.dashboard_port is None else self.dashboard_port

    def resource_units(self) -> dict[str, int]:
        """The resources that were given, in units of 1/10,000; CPUs that were not are left to the node."""
        amounts = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": self.memory, **self.resources}
        return {name: checks.to_units(name, each) for name, each in amounts.items() if each is not None}


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of "host:port" or "[v6 address]:port"; raises ValueError that says what is wrong."""
    host, colon, port_text = text.rpartition(":")
    if "://" in text:
        raise ValueError(f'address {text!r}: give "host:port" without a scheme, or "auto"')
    if not colon or not host:
        raise ValueError(f'address {text!r} needs to be "host:port", "auto" or "local"')
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"address {text!r}: an IPv6 address goes in brackets, [{host}]:{port_text}")
    if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text) < 65536):
        raise ValueError(f"address {text!r}: the port is a number from 1 to 65535, not {port_text!r}")
    return host, int(port_text)


def _where(address: Any, environ: Mapping[str, str]) -> tuple[str | None, str]:
    """(address or None for a new cluster, where it was given)."""
    source = "address"
    if address is None:
        address = environ.get(ADDRESS_VARIABLE, "").strip() or None
        source = ADDRESS_VARIABLE
    if address is None:
        return None, ""
    if not isinstance(address, str):
        raise TypeError(f'address needs a string like "auto" or "host:port", not {type(address).__name__}')
    if address == _LOCAL:
        return None, ""
    if address != AUTO:
        parse_address(address)
    return address, source


_OF_A_NEW_CLUSTER = (
    "num_cpus",
    "num_gpus",
    "memory",
    "_memory",
    "resources",
    "labels",
    "object_store_memory",
    "huge_pages",
    "object_spilling_directory",
    "_system_config",
    "_temp_dir",
)


def _check_goes_with_address(where: str | None, source: str, given: Mapping[str, Any]) -> None:
    wrong = [name for name in _OF_A_NEW_CLUSTER if given.get(name) is not None and given[name] != {}]
    if where is not None and wrong:
        raise ValueError(
            f"{', '.join(wrong)}: this is for a new cluster, but {source}={where!r} "
            f'names an existing one: leave one of them out, or pass address="{_LOCAL}" for a new cluster'
        )


# --- single arguments ---


def check_argument(argument: str, called: str, value: Any) -> Any:
    """``value`` as `init` takes it for ``argument``, which the user knows as ``called``.

    Raises ValueError or TypeError that says what is wrong with it.
    """
    return _CHECKS[argument](called, value)


def _object_store_memory(name: str, value: Any) -> int:
    size = int(checks.whole(0)(name, value))
    least = Config.store_bytes_min
    if size < least:
        raise ValueError(
            f"{name}={size} bytes is too small: at least {least} ({bytes_text(least)}) are needed"
        )
    return size


def _path(name: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} needs a path, not {type(value).__name__}")
    return str(checks.text(name, os.fsdecode(value)))


def _logging_level(name: str, value: Any) -> int:
    if isinstance(value, str):
        import logging

        levels = logging.getLevelNamesMapping()
        if value.upper() not in levels:
            raise UnknownNameError(f"value of {name}", value, [each.lower() for each in levels])
        return levels[value.upper()]
    return int(checks.whole(0)(name, value))


def _port(name: str, value: Any) -> int:
    port = int(checks.whole(0)(name, value))
    if port > 65535:
        raise ValueError(f"{name} is a port, 0 (any free one) to 65535, not {port}")
    return port


# Settings of Ray's that say how to do what is done another way here, and so say nothing.
_IGNORED_SETTINGS = frozenset(
    {
        "max_io_workers",
        "object_store_full_delay_ms",
        "verbose_spill_logs",
    }
)
_SETTING_ALIASES = {
    "automatic_object_spilling_enabled": "spilling",
    "local_fs_capacity_threshold": "spill_disk_used_max",
    "max_direct_call_object_size": "inline_bytes_max",
    "min_spilling_size": "spill_batch_bytes_min",
    "object_spilling_threshold": "spill_threshold",
}
SPILLING = "object_spilling_config"


def _system_config(name: str, value: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    known = Config.__dataclass_fields__
    for key, each in checks.mapping(name, value).items():
        own_key = _SETTING_ALIASES.get(key, key)
        if own_key == SPILLING:
            settings[SPILLING] = _spilling_directories(f"{name}[{key!r}]", each)
        elif own_key in known:
            settings[own_key] = each
        elif own_key not in _IGNORED_SETTINGS:
            raise UnknownNameError(f"setting in {name}", key, [*known, *_IGNORED_SETTINGS, SPILLING])
    load({key: each for key, each in settings.items() if key != SPILLING})  # raises for a wrong value
    return settings


def split_directories(text: str) -> tuple[str, ...]:
    """The directories (or URLs) of a comma-separated list, without empty ones."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _spilling_directories(name: str, value: Any) -> tuple[str, ...]:
    """The directories of Ray's spilling configuration: a JSON text (or dict) of type "filesystem", or "smart_open"."""
    example = '{"type": "filesystem", "params": {"directory_path": "/path"}}'
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"{name} is not JSON ({error}); it looks like {example}") from None
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} needs a JSON object like {example}, not {type(value).__name__}")
    keys = {"filesystem": "directory_path", "smart_open": "uri"}
    kind = value.get("type")
    if kind not in keys:
        raise ValueError(f"{name}: type {kind!r} is not known; use {example}")
    params = value.get("params")
    paths = params.get(keys[kind]) if isinstance(params, Mapping) else None
    if isinstance(paths, str):
        paths = [paths]
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"{name} names no directory; it looks like {example}")
    return tuple(paths)


def _place_spilling(values: dict[str, Any]) -> None:
    """Bring together the two ways to say where objects are spilled."""
    configured = values.get("system_config", {}).pop(SPILLING, ())
    given = values.pop("object_spilling_directory", None)
    directories = split_directories(given or "")
    if configured and directories and configured != directories:
        raise ValueError(
            f"object_spilling_directory={given!r} and {SPILLING} {configured!r} name different places"
        )
    values["spilling_directories"] = configured or directories


def _anything(_: str, value: Any) -> Any:
    return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "num_cpus": checks.amount,
    "num_gpus": checks.whole_gpus,
    "memory": checks.amount,
    "_memory": checks.amount,
    "resources": checks.resources,
    "labels": checks.texts,
    "object_store_memory": _object_store_memory,
    "huge_pages": checks.flag,
    "object_spilling_directory": _path,
    "namespace": checks.text,
    "runtime_env": checks.environment,
    "ignore_reinit_error": checks.flag,
    "log_to_driver": checks.flag,
    "logging_level": _logging_level,
    "include_dashboard": checks.flag,
    "dashboard_host": checks.text,
    "dashboard_port": _port,
    "job_config": _anything,
    "_system_config": _system_config,
    "_temp_dir": _path,
}
_FIELDS = {"_memory": "memory", "_system_config": "system_config", "_temp_dir": "temp_dir"}
_IGNORED = frozenset(
    {
        "allow_multiple",
        "cgroup_path",
        "configure_logging",
        "enable_resource_isolation",
        "local_mode",
        "logging_config",
        "logging_format",
        "proxy_server_url",
        "system_reserved_cpu",
        "system_reserved_memory",
        "_driver_object_store_memory",
        "_enable_object_reconstruction",
        "_metrics_export_port",
        "_node_ip_address",
        "_node_name",
        "_plasma_directory",
        "_redis_max_memory",
        "_redis_password",
        "_redis_username",
        "_tracing_startup_hook",
    }
)
