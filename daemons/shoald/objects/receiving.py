"""The reader's threads: each has one connection to one source, and receives chunks straight into the region.

A lane opens its connection when the first request comes, sends requests ahead as they are handed over, also in the middle of a
chunk (else the source would have nothing to send after that one), and checks every chunk's checksum. What became of a request
is told to the loop in any case; after a failure everything that was under way on the connection has failed, and the next
request opens another one. An idle connection is closed.

What is received into a file, for lack of room, is checked in memory and then written there, by a thread that can be left behind.

The room that a chunk is written to stays the pull's until its request has been told of: a lane never writes after that.
"""

from __future__ import annotations

import queue
import socket
import threading
import traceback
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from shoal.wire import auth, pieces
from shoal.wire.tls import TlsUnavailable
from shoald.objects.landing import write_piece
from shoald.objects.processors import Receivers
from shoald.objects.pulls import CORRUPT, GONE, UNREACHED
from shoald.objects.sockets import dial, receive_exactly, receive_into, stays_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config
    from shoald.shell.identity import Identity

    Landed = Callable[[int, list[int], str], None]


class Request(NamedTuple):
    """Chunks to be received: (req, chunk, offset, size) each; see `effects.Receive`."""

    number: int
    pieces: list[tuple[int, int, int, int]]
    file: int = 0
    path: str = ""


class Lane:
    """One connection to a source, and its thread.

    Args:
        address: of the source's data listener.
        target: this node's id, 16 bytes: who reads.
        memory: gives the region's bytes, writable; called on the thread.
        on_landed: called on the thread with (request number, outcome of each piece, reason), once for each request.
        receivers: all of this node.
        on_ended: called on a thread with a lent file's number when a write to it has ended that counted as hanging.
    """

    def __init__(
        self,
        address: str,
        identity: Identity,
        target: bytes,
        config: Config,
        memory: Callable[[], memoryview],
        on_landed: Landed,
        receivers: Receivers,
        on_ended: Callable[[int], None],
    ) -> None:
        self._address = address
        self._identity = identity
        self._target = target
        self._config = config
        self._memory = memory
        self._on_landed = on_landed
        self._receivers = receivers
        self._on_ended = on_ended
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._sock: socket.socket | None = None
        self._lock = threading.Lock()  # the socket against `close`
        self._closed = False
        self._thread: threading.Thread | None = None

    def receive(self, request: Request) -> None:
        """Hand a request over; from the loop."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="shoal-receive", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads: the pull asks again later
                self._fail(deque([request]), str(error))
                return
            self._thread = thread
        self._queue.put(request)

    def close(self) -> None:
        """Break the connection and end the thread; requests under way are still told of. From the loop; may be repeated."""
        with self._lock:
            self._closed = True
            if self._sock is not None:
                try:
                    self._sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the source was faster
        self._queue.put(None)

    def _run(self) -> None:
        idle_s = self._config.data_idle_ms / 1000
        while True:
            try:
                request = self._queue.get(timeout=idle_s if self._sock is not None else None)
            except queue.Empty:
                self._disconnect()
                continue
            if request is None:
                break
            self._work(request)
            self._receivers.leave()
        self._disconnect()

    def _work(self, first: Request) -> None:
        """Receive ``first`` and whatever is handed over meanwhile."""
        under_way: deque[Request] = deque([first])
        try:
            sock = self._connected()
            near = stays_here(sock)
            if near:
                self._receivers.settle()
            self._ask(sock, first)
            while under_way:
                self._ask_ahead(sock, under_way)
                if under_way[0].file:
                    self._receive_into_file(sock, under_way)
                else:
                    outcomes, reason = self._receive(sock, under_way, self._memory())
                    self._on_landed(under_way.popleft().number, outcomes, reason)
                if near:
                    self._receivers.settle()
        except BlockingIOError:
            self._fail(under_way, f"it sent nothing for {self._config.pull_stall_ms / 1000:g} s")
        except (OSError, auth.HandshakeFailed, TlsUnavailable, pieces.BrokenRequest) as error:
            self._fail(under_way, str(error) or type(error).__name__)
        except Exception as error:  # noqa: BLE001 - a boundary that goes on: who waits must hear of it
            traceback.print_exc()  # standard error is the daemon's log
            self._fail(under_way, f"a fault of this node: {error!r}")

    def _fail(self, under_way: deque[Request], reason: str) -> None:
        self._disconnect()
        for request in under_way:
            self._on_landed(request.number, [UNREACHED] * len(request.pieces), f"{self._address}: {reason}")

    def _connected(self) -> socket.socket:
        if self._sock is None:
            sock = dial(self._address, self._identity, self._target, self._config)
            with self._lock:
                if self._closed:
                    sock.close()
                    raise ConnectionError("the node is gone")
                self._sock = sock
        return self._sock

    def _disconnect(self) -> None:
        with self._lock:
            sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    @staticmethod
    def _ask(sock: socket.socket, request: Request) -> None:
        sock.sendall(pieces.encode_request([piece[:2] for piece in request.pieces]))

    def _ask_ahead(self, sock: socket.socket, under_way: deque[Request]) -> None:
        while not self._queue.empty():
            request = self._queue.get()  # nobody else takes any
            if request is None:
                self._queue.put(None)
                return
            under_way.append(request)
            self._ask(sock, request)

    def _receive_into_file(self, sock: socket.socket, under_way: deque[Request]) -> None:
        """Receive the first request, which is one chunk, check it, and only then write it where it belongs."""
        request = under_way[0]
        (_, _, offset, size) = request.pieces[0]
        chunk = memoryview(bytearray(size))
        outcomes, reason = self._receive(sock, under_way, chunk, offset)
        hanging = None
        if outcomes[0] >= 0:
            patience_s = self._config.pull_stall_ms / 1000
            failed, reason, hanging = write_piece(request.path, offset, chunk, patience_s)
            outcomes = [failed or outcomes[0]]
        self._on_landed(under_way.popleft().number, outcomes, reason)
        if hanging is not None:
            hanging.then(lambda: self._on_ended(request.file))

    def _receive(
        self, sock: socket.socket, under_way: deque[Request], memory: memoryview, base: int = 0
    ) -> tuple[list[int], str]:
        """Receive the first request into ``memory``, whose first byte is at offset ``base``.

        Returns (outcome of each piece, a reason if one is no checksum).
        """
        request = under_way[0]
        heads = pieces.decode_answers(receive_exactly(sock, len(request.pieces) * pieces.ANSWER_SIZE))
        windows: list[memoryview] = []
        for (_, _, offset, size), (status, sent) in zip(request.pieces, heads, strict=True):
            if status == pieces.HERE:
                if sent != size:
                    raise pieces.BrokenRequest(f"a chunk of {sent} bytes instead of {size}")
                windows.append(memory[offset - base : offset - base + size])
        found = iter(self._receive_all(sock, windows, under_way))
        outcomes = [next(found) if status == pieces.HERE else GONE for status, _ in heads]
        reasons = {GONE: "it does not have it any more", CORRUPT: "a chunk does not fit its checksum"}
        return outcomes, reasons.get(min(outcomes), "")

    def _receive_all(
        self, sock: socket.socket, windows: list[memoryview], under_way: deque[Request]
    ) -> list[int]:
        """Fill the windows; the outcome of each. A long one is checked part by part, each while it is in the cache."""
        import xxhash  # here: a node that is alone does without

        part = self._config.pull_part_bytes
        tails = bytearray(len(windows) * pieces.ANSWER_SIZE)
        waiting: list[memoryview] = []
        digests: dict[int, int] = {}
        for index, window in enumerate(windows):
            if len(window) <= part:
                waiting.append(window)
                continue
            receive_into(sock, waiting)
            waiting = []
            digest = xxhash.xxh3_64()
            for start in range(0, len(window), part):
                piece = window[start : start + part]
                receive_into(sock, [piece])
                digest.update(piece)
                self._ask_ahead(sock, under_way)
            digests[index] = digest.intdigest()
        receive_into(sock, [*waiting, memoryview(tails)])
        outcomes = []
        for index, (status, checksum) in enumerate(pieces.decode_answers(tails)):
            made = digests.get(index)
            if made is None:
                made = xxhash.xxh3_64_intdigest(windows[index])
            right = checksum if made == checksum else CORRUPT
            outcomes.append(right if status == pieces.HERE else GONE)
        return outcomes
