"""Blocking sockets of the threads that move chunks: exact reads, scattered reads, gathered writes, and timeouts of the kernel.

The timeouts are the kernel's (SO_RCVTIMEO, SO_SNDTIMEO), not Python's, since those would make the sockets non-blocking, and
a whole chunk could not be waited for in one call. A call that brings nothing for that long raises BlockingIOError.

Where TLS is on, the same calls are those of a `TlsSocket`, which moves 16 KiB in one call to the kernel, and waits itself.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from shoal.wire import auth
from shoald.shell.tcp import set_tcp_options, split_address
from shoald.shell.tlssocket import TlsSocket

if TYPE_CHECKING:
    from shoal.config import Config
    from shoald.shell.identity import Identity

_timeval = struct.Struct("ll")
_BUFFERS_MAX = 512  # of one call; the kernel takes 1,024


def set_blocking(sock: socket.socket, receive_s: float, send_s: float) -> None:
    """Block, for these times at most; 0 is for ever."""
    if isinstance(sock, TlsSocket):
        sock.set_patience(receive_s, send_s)
        return
    sock.setblocking(True)
    for option, seconds in ((socket.SO_RCVTIMEO, receive_s), (socket.SO_SNDTIMEO, send_s)):
        whole = int(seconds)
        sock.setsockopt(socket.SOL_SOCKET, option, _timeval.pack(whole, int((seconds - whole) * 1e6)))


def stays_here(sock: socket.socket) -> bool:
    """Whether the connection stays on this machine, and in clear: to encrypt takes so much longer that nothing else counts."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or isinstance(sock, TlsSocket):
        return False
    here: str = sock.getsockname()[0]
    return here == sock.getpeername()[0] or here.startswith("127.")


def keep_close(sock: socket.socket, unsent_bytes: int) -> None:
    """Have the kernel take no more than about ``unsent_bytes`` ahead of the reader, on a connection that stays on this machine.

    There is no latency to cover there, and what lies between the two goes through the memory: with a buffer that grows as the
    kernel likes 200 MB take 35 ms over two connections, with 64 KiB 22. The reader's buffer stays as it is: a small one there
    instead makes it 40.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, unsent_bytes)


def dial(address: str, identity: Identity, target: bytes, config: Config) -> socket.socket:
    """A proven data connection to the node that listens at ``address``. Raises OSError, HandshakeFailed or TlsUnavailable."""
    host, port = split_address(address)
    tls = identity.wants_tls(host)
    timeout_s = config.handshake_ms_max / 1000
    sock = socket.create_connection((host, port), timeout_s)
    try:
        set_tcp_options(sock, config.node_dead_ms)
        preamble = auth.make_preamble(auth.KIND_DATA, target, tls=tls)
        sock.sendall(preamble)
        challenge = receive_exactly(sock, auth.CHALLENGE_SIZE)
        sock.sendall(auth.answer_challenge(identity.secret, preamble, challenge))
        if tls:
            sock.setblocking(False)
            sock = encrypted = identity.wrap(sock, server_side=False)
            encrypted.greet_within(timeout_s)
        set_blocking(sock, config.pull_stall_ms / 1000, config.pull_stall_ms / 1000)
    except BaseException:
        sock.close()
        raise
    return sock


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """``size`` bytes; raises ConnectionError if the peer closes before."""
    parts = []
    while size:
        part = sock.recv(size)
        if not part:
            raise ConnectionError("it closed the connection")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive_into(sock: socket.socket, buffers: list[memoryview]) -> None:
    """Fill the buffers in order; raises ConnectionError if the peer closes before."""
    index = 0
    left = [buffer for buffer in buffers if len(buffer)]
    while index < len(left):
        if index == len(left) - 1:
            count = sock.recv_into(left[index], 0, socket.MSG_WAITALL)
        else:
            count = sock.recvmsg_into(left[index : index + _BUFFERS_MAX], 0, socket.MSG_WAITALL)[0]
        if not count:
            raise ConnectionError("it closed the connection")
        index = _skip(left, index, count)


def send_all(sock: socket.socket, buffers: list[memoryview]) -> None:
    """Send the buffers in order."""
    index = 0
    left = [buffer for buffer in buffers if len(buffer)]
    while index < len(left):
        index = _skip(left, index, sock.sendmsg(left[index : index + _BUFFERS_MAX]))


def _skip(buffers: list[memoryview], index: int, count: int) -> int:
    """``count`` bytes are done, from the buffer at ``index`` on; the index of the first that is not."""
    while index < len(buffers) and count >= len(buffers[index]):
        count -= len(buffers[index])
        index += 1
    if count:
        buffers[index] = buffers[index][count:]
    return index
