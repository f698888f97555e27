"""The source's threads: each serves one reader's connection, from the region to the socket.

A checksum is made while a chunk is first sent, part by part ahead of the bytes, and counts only if the reader's ticket has pinned
the object until then; or it came with the chunk, if this node has it from another. A ticket may go while a thread sends: its
reader does not listen any more, or hears that the chunk is not here, or finds that the bytes do not fit their checksum.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, NamedTuple

from shoal.store.filecopies import FileCopy, is_own_limit
from shoal.wire import pieces
from shoald.objects.processors import follow
from shoald.objects.sockets import keep_close, receive_exactly, send_all, set_blocking, stays_here

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shoal.config import Config
    from shoald.objects.copies import Copy
    from shoald.objects.serving import Ticket


class _Found(NamedTuple):
    """A chunk that a reader may have."""

    ticket: Ticket
    copy: Copy
    chunk: int
    windows: list[memoryview]
    size: int


class DataServer:
    """Serves all data connections of a node.

    Args:
        tickets: what may be read: (node id, the reader's number) → ticket; changed by the loop alone.
        memory: gives the region's bytes; called on threads.
        log: gets a line for each connection that is refused, or broke the protocol; called in the loop and on threads.
        damaged: told of a copy whose spill file is not what was written, and why; called on threads, before the reader is told.

    Attributes:
        sent_bytes: of chunks, since the start.
    """

    def __init__(
        self,
        tickets: Mapping[tuple[str, int], Ticket],
        memory: Callable[[], memoryview],
        config: Config,
        log: Callable[[str], None],
        damaged: Callable[[Copy, str], None],
    ) -> None:
        self._tickets = tickets
        self._memory = memory
        self._config = config
        self._log = log
        self._damaged = damaged
        self._lock = threading.Lock()  # guards what follows
        self._socks: set[socket.socket] = set()
        self.sent_bytes = 0
        self._answering = 0

    @property
    def busy(self) -> bool:
        """Whether a reader is being served; from any thread."""
        return self._answering > 0

    def take(self, target: bytes, sock: socket.socket) -> None:
        """A reader's connection, which has proven itself: ``target`` is its node's id."""
        with self._lock:
            full = len(self._socks) >= self._config.data_connections_max
            if not full:
                self._socks.add(sock)
        if full:
            self._log(f"a data connection was refused: there are {len(self._socks)} (data_connections_max)")
            sock.close()
            return
        # An idle reader closes by itself, and TCP notices one that is gone.
        set_blocking(sock, 0.0, self._config.pull_stall_ms / 1000)
        thread = threading.Thread(
            target=self._serve, args=(target.hex(), sock), name="shoal-serve", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # no more threads: the reader asks again, or somebody else
            self._log(f"a data connection was closed: {error}")
            with self._lock:
                self._socks.discard(sock)
            sock.close()

    def _serve(self, reader: str, sock: socket.socket) -> None:
        try:
            near = stays_here(sock)
            if near:
                keep_close(sock, self._config.data_ahead_bytes)
            while True:
                self._answer(reader, sock, near)
        except pieces.BrokenRequest as error:
            self._log(f"data connection of node {reader[:8]} closed: {error}")
        except OSError:
            pass  # the reader is gone, or does not read: it asks again, or somebody else
        finally:
            with self._lock:
                self._socks.discard(sock)
            sock.close()

    def _answer(self, reader: str, sock: socket.socket, near: bool) -> None:
        """Serve one request. Raises OSError when the connection ends."""
        count = pieces.decode_count(receive_exactly(sock, pieces.COUNT_SIZE))
        wanted = pieces.decode_pieces(receive_exactly(sock, count * pieces.PIECE_SIZE))
        if near:
            follow(sock)
        with self._lock:
            self._answering += 1
        size = 0
        try:
            size = self._send(reader, sock, wanted)
        finally:
            with self._lock:
                self._answering -= 1
                self.sent_bytes += size

    def _send(self, reader: str, sock: socket.socket, wanted: list[tuple[int, int]]) -> int:
        """The answer to a request; how many bytes of chunks went out."""
        memory = self._memory()
        found = [self._find(memory, reader, req, chunk) for req, chunk in wanted]
        heads = [(pieces.NOT_HERE, 0) if each is None else (pieces.HERE, each.size) for each in found]
        buffers = [memoryview(pieces.encode_answers(heads))]
        sums = []
        for each in found:
            if each is not None:
                checksum = each.copy.sums.get(each.chunk)
                if checksum is not None:
                    buffers += each.windows
                    sums.append((pieces.HERE, checksum))
                else:
                    sums.append(self._keep(each, self._digest(sock, each.windows, buffers)))
        buffers.append(memoryview(pieces.encode_answers(sums)))
        send_all(sock, buffers)
        return sum(size for _, size in heads)

    def _find(self, memory: memoryview, reader: str, req: int, chunk: int) -> _Found | None:
        ticket = self._tickets.get((reader, req))
        copy = ticket.copy if ticket is not None else None
        if ticket is None or copy is None or not copy.have >> chunk & 1:
            return None
        if copy.file is not None:
            mapped = self._map(copy)
            if mapped is None:
                return None
            memory = mapped
        windows = [memory[offset : offset + size] for offset, size in _joined(copy.places(chunk))]
        return _Found(ticket, copy, chunk, windows, sum(map(len, windows)))

    def _digest(self, sock: socket.socket, windows: list[memoryview], buffers: list[memoryview]) -> int:
        """The checksum of ``windows``, which go into ``buffers``; many bytes are sent in parts, each while it is in the cache."""
        import xxhash  # here: a node that is alone does without

        part = self._config.pull_part_bytes
        digest = xxhash.xxh3_64()
        ahead = 0
        for window in windows:
            for start in range(0, len(window), part):
                piece = window[start : start + part]
                digest.update(piece)
                buffers.append(piece)
                ahead += len(piece)
                if ahead >= part:
                    send_all(sock, buffers)
                    buffers.clear()
                    ahead = 0
        return digest.intdigest()

    def _keep(self, found: _Found, checksum: int) -> tuple[int, int]:
        """Only while its ticket is there an object is pinned; later the bytes may be those of another one."""
        ticket = found.ticket
        if self._tickets.get((ticket.node, ticket.req)) is not ticket:
            return pieces.NOT_HERE, 0
        return pieces.HERE, found.copy.sums.setdefault(found.chunk, checksum)

    def _map(self, copy: Copy) -> memoryview | None:
        """The bytes of a copy that lies in a spill file, whose proof is looked at once; None if they are not to be had: the
        reader asks again.
        """
        assert copy.file is not None
        found = copy.mapped
        if found is None:
            path, start, proof = copy.file
            found = FileCopy(path, start, copy.size, 0, proof)
            try:
                found.open(None)  # if it hangs, readers turn to other nodes
            except (OSError, ValueError) as error:
                if not is_own_limit(error):
                    why = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
                    self._damaged(copy, why)  # what was rewritten lies elsewhere by now: the store sees that
                return None
            copy.mapped = found
        assert found.mapping is not None
        return memoryview(found.mapping)[found.offset : found.offset + found.size]

    def close(self) -> None:
        """Break all connections; their threads end."""
        with self._lock:
            for sock in self._socks:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the reader was faster


def _joined(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(offset, size) of places in order; what lies side by side is one."""
    begin, size = places[0]
    joined = []
    for offset, more in places[1:]:
        if offset == begin + size:
            size += more
        else:
            joined.append((begin, size))
            begin, size = offset, more
    return [*joined, (begin, size)]
