"""What a head keeps that nothing outlives: its keys, in memory. Without `--data-dir` a head's state goes with its session, so it
is written nowhere, and SQLite (2 MB of each daemon) is not loaded.

Also what a head needs of any storage (`Storage`), and the bounds of keys, which are the same in all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from shoald.head.core import Durable

if TYPE_CHECKING:
    from shoal.config import Config
    from shoald.head import events as ev


class Storage(Protocol):
    """See HeadStorage for the contracts."""

    cluster_id: str

    def load(self) -> Durable: ...

    def save(self, effects: list[ev.Effect]) -> None: ...

    def put_key(self, key: str, value: bytes, *, only_new: bool) -> bool: ...

    def get_key(self, key: str) -> bytes | None: ...

    def delete_key(self, key: str) -> bool: ...

    def close(self) -> None: ...


class EphemeralStorage:
    """Remembers nothing of an earlier run, and for no later one; the core has the rest for as long as it lives."""

    def __init__(self, config: Config, cluster_id: str) -> None:
        self._config = config
        self._keys: dict[str, bytes] = {}
        self.cluster_id = cluster_id

    def load(self) -> Durable:
        """There was no earlier run."""
        return Durable()

    def save(self, effects: list[ev.Effect]) -> None:
        """There will be no later one."""

    def put_key(self, key: str, value: bytes, *, only_new: bool) -> bool:
        """Store a value; False if ``only_new`` and the key exists. Raises ValueError at a bound."""
        check_key(key, value, self._config)
        if key not in self._keys:
            check_number_of_keys(len(self._keys), self._config)
        elif only_new:
            return False
        self._keys[key] = value
        return True

    def get_key(self, key: str) -> bytes | None:
        return self._keys.get(key)

    def delete_key(self, key: str) -> bool:
        """Whether there was such a key."""
        return self._keys.pop(key, None) is not None

    def close(self) -> None:
        self._keys.clear()


def check_key(key: str, value: bytes, config: Config) -> None:
    """Raise ValueError if one of them is too long."""
    if len(key.encode()) > config.key_bytes_max or len(value) > config.value_bytes_max:
        raise ValueError(f"a key may have {config.key_bytes_max} bytes, its value {config.value_bytes_max}")


def check_number_of_keys(count: int, config: Config) -> None:
    """Raise ValueError if there may be no more than these."""
    if count >= config.keys_max:
        raise ValueError(f"there are {config.keys_max} keys already (keys_max)")
