"""The connection to this machine's node daemon: handshake, greeting, questions and answers.

Not responsible for what the messages mean to objects and tasks: `Runtime` has a handler for each tag.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from shoal.client.connection import Connection
from shoal.exceptions import AuthenticationError, ClusterNotFoundError
from shoal.store.region import Region
from shoal.wire import auth, frames
from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.client.reactor import Reactor
    from shoal.config import Config


def open_authenticated(socket_path: str, secret: bytes, kind: int, timeout_s: float) -> socket.socket:
    """A Unix-socket connection to a daemon after the mutual handshake.

    Raises ClusterNotFoundError if nobody listens, AuthenticationError if the secret is another one.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(socket_path)
        preamble = auth.make_preamble(kind)
        sock.sendall(preamble)
        challenge = _read_exactly(sock, auth.CHALLENGE_SIZE)
        sock.sendall(auth.answer_challenge(secret, preamble, challenge))
    except auth.HandshakeFailed as error:
        sock.close()
        raise AuthenticationError(str(error)) from None
    except OSError as error:
        sock.close()
        raise ClusterNotFoundError(f"no shoal daemon answers at {socket_path}: {error}") from None
    return sock


def _read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise ConnectionError("the daemon closed the connection during the handshake")
        data += piece
    return data


class Drained:
    """Ready when no more than ``limit`` bytes wait for the peer of a connection, or it is gone (an `Awaited`)."""

    __slots__ = ("_connection", "_limit", "wake")

    def __init__(self, connection: Connection, limit: int) -> None:
        self._connection = connection
        self._limit = limit
        self.wake: object = None

    @property
    def ready(self) -> bool:
        return self._connection.out_bytes <= self._limit or self._connection.closed


class Answer:
    """What a thread waits for after a question to the daemon (an `Awaited` of the reactor)."""

    __slots__ = ("message", "ready", "wake")

    def __init__(self) -> None:
        self.ready = False
        self.message: list[Any] = []
        self.wake: object = None

    def set(self, message: list[Any]) -> None:
        """The answer is there."""
        self.message = message
        self.ready = True


class NodeLink:
    """The daemon as this process sees it.

    Args:
        handlers: by tag, what to do with a message; called with the runtime's lock held.
        on_lost: the daemon is gone.
    """

    def __init__(
        self,
        socket_path: str,
        secret: bytes,
        reactor: Reactor,
        config: Config,
        handlers: dict[int, Callable[[list[Any]], None]],
        on_lost: Callable[[], None],
    ) -> None:
        self._handlers = handlers
        self._frame_bytes_max = config.frame_bytes_max
        self._on_lost = on_lost
        self.answers: dict[int, Answer] = {}
        self._next_request = 2  # lower ones are the store's, for requests that nobody waits for
        sock = open_authenticated(socket_path, secret, auth.KIND_CLIENT, config.handshake_ms_max / 1000)
        self.connection = Connection(
            sock, reactor, config.frame_bytes_max, self._on_frames, self._on_closed, descriptors=True
        )

    def hello(self, proc: bytes, kind: str, info: dict[str, Any]) -> list[Any]:
        """The first message of the stream."""
        return [m.HELLO, proc, kind, os.getpid(), info]

    def ask(self) -> tuple[int, Answer]:
        """A number for a question, and what to wait on (lock held)."""
        number = self._next_request
        self._next_request += 1
        answer = Answer()
        if self.connection.closed:
            answer.set([])
        else:
            self.answers[number] = answer
        return number, answer

    def answered(self, number: int, message: list[Any]) -> bool:
        """Deliver an answer; False if nobody waits for it (any more)."""
        answer = self.answers.pop(number, None)
        if answer is None:
            return False
        answer.set(message)
        return True

    def forget(self, number: int) -> bool:
        """Nobody waits for this answer any more; False if it has come (lock held)."""
        return self.answers.pop(number, None) is not None

    def send(self, batch: list[list[Any]]) -> None:
        """Send a batch (lock held); what the kernel does not take is sent later."""
        data = frames.encode_batch(batch)
        if len(data) <= self._frame_bytes_max or len(batch) == 1:
            self.connection.send(data)
        else:
            for data in self._encoded(
                batch
            ):  # all of it, before any is sent: a MemoryError means that nothing was
                self.connection.send(data)

    def _encoded(self, batch: list[list[Any]]) -> list[bytes]:
        data = frames.encode_batch(batch)
        if len(data) <= self._frame_bytes_max or len(batch) == 1:
            return [data]
        half = len(batch) // 2
        return self._encoded(batch[:half]) + self._encoded(batch[half:])

    def send_with_descriptor(self, batch: list[list[Any]], descriptor: int) -> None:
        """Send a batch now, with a file descriptor that belongs to it (lock held)."""
        self.connection.send_with_descriptor(frames.encode_batch(batch), descriptor)

    def take_descriptor(self) -> int:
        """The next file descriptor that came with the stream."""
        descriptors = self.connection.descriptors
        if not descriptors:
            raise frames.BrokenFrame("a message without the descriptor that belongs to it")
        return descriptors.popleft()

    def map_store(self, capacity: int, inherited: Region | None) -> Region:
        """The store, mapped with the descriptors that came with WELCOME; ``inherited``: it is mapped for reading already.

        Raises OSError if there is no address space for it.
        """
        readable, writable = self.take_descriptor(), self.take_descriptor()
        try:
            if inherited is None:
                return Region(readable, writable, capacity)
            inherited.open_writer(writable, rewrites=True)
            return inherited
        finally:
            os.close(readable)
            os.close(writable)

    def _on_frames(self, connection: Connection, bodies: list[bytes]) -> None:
        handlers = self._handlers
        for body in bodies:
            for message in frames.decode_batch(body):
                handler = handlers.get(message[0])
                if handler is None:
                    raise frames.BrokenFrame(f"unknown message {message[0]} from the daemon")
                handler(message)

    def _on_closed(self, connection: Connection) -> None:
        answers, self.answers = self.answers, {}
        for answer in answers.values():
            answer.set([])
        self._on_lost()
