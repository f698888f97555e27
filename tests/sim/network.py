"""A clock and a network for simulations: everything happens in one process, in an order that the seed decides.

Hosts are names. A channel leads from one host to another and keeps the order of its messages; between channels there is
none: each has a latency of its own, now and then a long one. A *lasting* channel is one whose ends repair it (like the links
between nodes): what a partition or a broken connection delays arrives later. Another one breaks: what is under way is lost, and
both ends hear of it. When a host dies, a part of what it had sent still arrives.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

LATENCIES_S = (0.0001, 0.001, 0.02, 0.3)
JITTER = (0.5, 1, 1, 1, 10)


class Clock:
    """Virtual time: calls that are due, in order of time, and at the same time in the order in which they were made.

    Attributes:
        now: seconds.
        after_each: called after every call.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.after_each: Callable[[], None] = lambda: None
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = count()

    def at(self, delay_s: float, call: Callable[[], None]) -> None:
        """Make ``call`` after ``delay_s``."""
        heappush(self._due, (self.now + delay_s, next(self._sequence), call))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.now, _, call = heappop(self._due)
            call()
            self.after_each()
        self.now = until


class Network:
    """Hosts, the channels between them, and their faults.

    Args:
        source: of all chances.
        latencies_s: each channel has one of these.
        jitter: by which factors single messages are slower or faster than their channel.

    Attributes:
        on_reach: called with two hosts when they can reach each other no longer, or again.
    """

    def __init__(
        self,
        clock: Clock,
        source: random.Random,
        latencies_s: tuple[float, ...] = LATENCIES_S,
        jitter: tuple[float, ...] = JITTER,
    ) -> None:
        self.clock = clock
        self.random = source
        self.latencies_s = latencies_s
        self.jitter = jitter
        self.channels: dict[Channel, None] = {}
        self.dead: set[str] = set()
        self._parted: set[frozenset[str]] = set()
        self.on_reach: Callable[[str, str], None] = lambda one, other: None

    def channel(
        self,
        source: str,
        target: str,
        deliver: Callable[[Any], None],
        *,
        lasting: bool = True,
        on_broken: Callable[[], None] = lambda: None,
    ) -> Channel:
        """A new channel; ``deliver`` is called at the target with each message."""
        channel = Channel(self, source, target, deliver, lasting, on_broken)
        self.channels[channel] = None
        if self.parted(source, target) and not lasting:
            channel.break_soon()
        return channel

    def parted(self, one: str, other: str) -> bool:
        """Whether nothing gets from one host to the other now."""
        return frozenset((one, other)) in self._parted

    def part(self, one: str, other: str) -> None:
        """Nothing passes between two hosts until `heal`."""
        self._parted.add(frozenset((one, other)))
        for channel in [each for each in self.channels if {each.source, each.target} == {one, other}]:
            if not channel.lasting:
                channel.break_soon()
        self.on_reach(one, other)

    def heal(self) -> None:
        """All hosts reach each other again."""
        parted, self._parted = self._parted, set()
        for pair in parted:
            self.on_reach(*sorted(pair))
        for channel in list(self.channels):
            channel.wake()

    def kill(self, host: str) -> None:
        """A host is gone for ever; some of what it had sent arrives."""
        self.dead.add(host)
        for channel in [each for each in self.channels if host in (each.source, each.target)]:
            if channel.target == host:
                channel.close()
            else:
                channel.cut()


class Channel:
    """One direction between two hosts."""

    def __init__(
        self,
        network: Network,
        source: str,
        target: str,
        deliver: Callable[[Any], None],
        lasting: bool,
        on_broken: Callable[[], None],
    ) -> None:
        self.source = source
        self.target = target
        self.lasting = lasting
        self._network = network
        self._deliver = deliver
        self._on_broken = on_broken
        self._latency_s = network.random.choice(network.latencies_s)
        self._queue: deque[tuple[float, Any]] = deque()  # (when it arrives at the earliest, message)
        self._asleep = True
        self._closed = False

    @property
    def empty(self) -> bool:
        """Whether nothing is under way."""
        return not self._queue

    def send(self, message: Any) -> None:
        """Send; nothing happens on a closed channel, or if the source is dead."""
        if self._closed or self.source in self._network.dead:
            return
        network = self._network
        latency_s = self._latency_s * network.random.choice(network.jitter)
        self._queue.append((network.clock.now + latency_s, message))
        self.wake()

    def wake(self) -> None:
        """Something is there to deliver, or can be delivered again."""
        if self._asleep and self._queue and not self._closed:
            self._asleep = False
            network = self._network
            network.clock.at(max(0.0, self._queue[0][0] - network.clock.now), self._arrive)

    def _arrive(self) -> None:
        self._asleep = True
        if self._closed or not self._queue or self._network.parted(self.source, self.target):
            return
        _, message = self._queue.popleft()
        self._deliver(message)
        self.wake()

    def cut(self) -> None:
        """The source is dead: drop the end of what is under way."""
        for _ in range(self._network.random.randint(0, len(self._queue))):
            self._queue.pop()

    def break_soon(self) -> None:
        """The connection breaks, when the ends notice."""
        self._network.clock.at(self._latency_s, self.break_now)

    def break_now(self) -> None:
        """What is under way is lost, and the ends hear of it."""
        if not self._closed:
            self.close()
            self._on_broken()

    def close(self) -> None:
        """End it without a word."""
        self._closed = True
        self._queue.clear()
        self._network.channels.pop(self, None)
