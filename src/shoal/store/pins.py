"""Which stored objects this process has pinned, and how many views it has into each. Pure.

A pin stays cached after its last view is gone, so that the next ``get`` needs no round trip; the daemon
recalls it when the object is freed or the room is needed. Each PINNED, DEDUP_FOUND and SEAL_PINNED counts as
one pin at the daemon, and an UNPIN gives back one; so the lists this table returns name an id as often as it
was pinned, and go into UNPIN as they are.

Invariants: an object with a view is never given back; a recalled one is given back with its last view.
Callers serialize calls (one lock, which no ``__del__`` takes).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class Pin:
    """One pinned object.

    Attributes:
        offset, size: where it lies in the region, bytes.
        flags: SEAL_* bits.
        views: live views, of this process.
        count: pins that the daemon counts.
        recalled: to be given back with the last view.
    """

    __slots__ = ("count", "flags", "offset", "recalled", "size", "views")

    def __init__(self, offset: int, size: int, flags: int, views: int) -> None:
        self.offset = offset
        self.size = size
        self.flags = flags
        self.views = views
        self.count = 1
        self.recalled = False


class PinTable:
    """The pins of one process, by object id.

    Args:
        cached_max: pins kept without a view; beyond, the ones that are longest without are given back.
    """

    __slots__ = ("_cached_max", "_idle", "_pins")

    def __init__(self, cached_max: int) -> None:
        self._pins: dict[bytes, Pin] = {}
        self._idle: OrderedDict[bytes, None] = OrderedDict()
        self._cached_max = cached_max

    def pinned(self, object_id: bytes, offset: int, size: int, flags: int, views: int = 0) -> list[bytes]:
        """The daemon counts one more pin of this object; ``views`` of it are opened in the same step.

        Give ``views=1`` when a get is about to open one: a recall may be next in the same batch. If there is
        an older pin of it, that one's place is kept. Returns ids to UNPIN now, because of the bound.
        """
        pin = self._pins.get(object_id)
        if pin is None:
            self._pins[object_id] = Pin(offset, size, flags, views)
            if not views:
                self._idle[object_id] = None
                return self._surplus()
            return []
        pin.count += 1
        if views:
            pin.views += views
            self._idle.pop(object_id, None)
        return []

    def lookup(self, object_id: bytes) -> Pin | None:
        """The pin of an object, or None: then ask the daemon for one."""
        return self._pins.get(object_id)

    def view_opened(self, object_id: bytes) -> None:
        """One more view; raises KeyError if the object is not pinned."""
        pin = self._pins[object_id]
        if not pin.views:
            del self._idle[object_id]
        pin.views += 1

    def views_closed(self, ids: Iterable[bytes]) -> list[bytes]:
        """One view less for each id (an id may be repeated). Returns ids to UNPIN now."""
        unpin: list[bytes] = []
        for object_id in ids:
            pin = self._pins.get(object_id)
            if pin is None or not pin.views:
                continue  # forgotten meanwhile: the connection under it is gone
            pin.views -= 1
            if not pin.views:
                if pin.recalled:
                    del self._pins[object_id]
                    unpin.extend([object_id] * pin.count)
                else:
                    self._idle[object_id] = None
        if len(self._idle) > self._cached_max:
            unpin += self._surplus()
        return unpin

    def recall(self, ids: Iterable[bytes]) -> list[bytes]:
        """The daemon wants these back. Returns those to UNPIN now; the others follow with their last view."""
        unpin: list[bytes] = []
        for object_id in ids:
            pin = self._pins.get(object_id)
            if pin is None:
                continue
            if pin.views:
                pin.recalled = True
            else:
                self._give_back(object_id, unpin)
        return unpin

    def forget(self, object_id: bytes) -> None:
        """The pin is no more at the daemon (the connection ended); nothing is to be sent for it."""
        self._pins.pop(object_id, None)
        self._idle.pop(object_id, None)

    def live(self) -> list[bytes]:
        """The ids of the objects with at least one view."""
        return [object_id for object_id, pin in self._pins.items() if pin.views]

    def views(self) -> int:
        """How many views there are, of all objects. Safe in `__del__`."""
        return sum([pin.views for pin in list(self._pins.values())])

    def unread(self) -> list[bytes]:
        """Forget the pins of all objects without a view. Returns ids to UNPIN now."""
        unpin: list[bytes] = []
        while self._idle:
            self._give_back(next(iter(self._idle)), unpin)
        return unpin

    def keep_live(self) -> int:
        """Give each of these a view that is never closed: they stay as long as this process. Returns how many they are."""
        kept = self.live()
        for object_id in kept:
            self._pins[object_id].views += 1
        return len(kept)

    def __len__(self) -> int:
        return len(self._pins)

    def _surplus(self) -> list[bytes]:
        unpin: list[bytes] = []
        while len(self._idle) > self._cached_max:
            self._give_back(next(iter(self._idle)), unpin)
        return unpin

    def _give_back(self, object_id: bytes, unpin: list[bytes]) -> None:
        del self._idle[object_id]
        unpin.extend([object_id] * self._pins.pop(object_id).count)

    def validate(self) -> None:
        """Raises AssertionError unless exactly the pins without a view are idle, within the bound."""
        assert set(self._idle) == {i for i, pin in self._pins.items() if not pin.views}
        assert len(self._idle) <= self._cached_max
        for object_id, pin in self._pins.items():
            assert pin.count > 0, object_id.hex()
            assert pin.views or not pin.recalled, f"{object_id.hex()} was recalled and is kept"
