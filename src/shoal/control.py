"""Asking a node daemon from outside: one question, one answer, over its Unix socket (KIND_CONTROL).

Blocking and without threads, for the command line. The daemon is proven before anything is asked.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any, Self

from shoal.config import load
from shoal.ids import PROCESS_ID_SIZE
from shoal.wire import auth
from shoal.wire.frames import BrokenFrame, FrameDecoder, decode_batch, encode_batch
from shoal.wire.messages import HELLO, REQUEST, RESPONSE

_READ_BYTES = 256 * 1024


class ControlError(Exception):
    """The daemon cannot be asked, or refuses to answer; one line for the user."""


class ControlClient:
    """A control connection to the daemon at ``socket_path``.

    Args:
        secret: of the cluster.
        timeout_s: for each of connecting and asking; config.control_ms_max by default.

    Raises:
        ControlError: nobody listens, or not who knows the secret.
    """

    def __init__(self, socket_path: str, secret: bytes, timeout_s: float | None = None) -> None:
        config = load()
        self._timeout_s = config.control_ms_max / 1000 if timeout_s is None else timeout_s
        self._decoder = FrameDecoder(config.frame_bytes_max)
        self._messages: list[list[Any]] = []
        self._asked = 0
        self._path = socket_path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._deadline = time.monotonic() + self._timeout_s
            self._connect(secret)
        except BaseException:
            self._socket.close()
            raise

    def request(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Ask the daemon; returns its answer.

        Raises:
            ControlError: it refuses, with its reason, or does not answer in time.
        """
        self._asked += 1
        self._deadline = time.monotonic() + self._timeout_s
        self._send(encode_batch([[REQUEST, self._asked, method, dict(params or {})]]))
        while True:
            message = self._receive()
            if message[0] == RESPONSE and message[1] == self._asked:
                if not message[2]:
                    raise ControlError(str(message[3]))
                return message[3]

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self, secret: bytes) -> None:
        preamble = auth.make_preamble(auth.KIND_CONTROL)
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.connect(self._path)
        except OSError as error:
            raise ControlError(f"no daemon answers at {self._path}: {error.strerror or error}") from error
        self._send(preamble)
        try:
            proof = auth.answer_challenge(secret, preamble, self._read_exactly(auth.CHALLENGE_SIZE))
        except auth.HandshakeFailed as error:
            raise ControlError(f"{self._path}: {error}") from error
        process = os.urandom(PROCESS_ID_SIZE)
        self._send(proof + encode_batch([[HELLO, process, "cli", os.getpid(), {}]]))

    def _receive(self) -> list[Any]:
        while not self._messages:
            data = self._read(_READ_BYTES)
            try:
                for body in self._decoder.feed(data):
                    self._messages += decode_batch(body)
            except BrokenFrame as error:
                raise ControlError(f"the daemon's answer makes no sense: {error}") from error
        return self._messages.pop(0)

    def _read_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self._read(size - len(data))
        return data

    def _read(self, size: int) -> bytes:
        try:
            self._socket.settimeout(self._left())
            data = self._socket.recv(size)
        except TimeoutError:
            raise ControlError(
                f"the daemon did not answer in {self._timeout_s:g} s; is it overloaded?"
            ) from None
        except OSError as error:
            raise ControlError(f"the connection to the daemon broke: {error.strerror or error}") from error
        if not data:
            raise ControlError("the daemon closed the connection: wrong secret, or it is stopping")
        return data

    def _send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(data)
        except TimeoutError:
            raise ControlError(f"the daemon does not read; waited {self._timeout_s:g} s") from None
        except OSError as error:
            raise ControlError(f"the connection to the daemon broke: {error.strerror or error}") from error

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def request(
    socket_path: str,
    secret: bytes,
    method: str,
    params: Mapping[str, Any] | None = None,
    timeout_s: float | None = None,
) -> Any:
    """Connect, ask one question, close. Raises ControlError."""
    with ControlClient(socket_path, secret, timeout_s) as client:
        return client.request(method, params)
