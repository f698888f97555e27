"""The join string: what another machine needs to join a cluster, in one line.

    shoal-join HOST:PORT SECRET        the head's address, and the cluster's secret in hexadecimal digits

Whoever has it belongs to the cluster: it travels in files and on standard input, never in an argument list.
"""

from __future__ import annotations

from shoal.wire.auth import SECRET_SIZE

WORD = "shoal-join"
BYTES_MAX = 1024


class BadJoinString(Exception):
    """A text is no join string; the message does not repeat it."""


def make_join_string(address: str, secret: bytes) -> str:
    """The line for a cluster whose head is at ``address`` (host:port)."""
    return f"{WORD} {address} {secret.hex()}"


def read_join_string(text: str) -> tuple[str, bytes]:
    """(address, secret) of a join string; raises BadJoinString."""
    words = text.split()
    if len(words) != 3 or words[0] != WORD:
        raise BadJoinString(
            f"no join string: it is one line, {WORD} HOST:PORT SECRET (see `shoal join-string`)"
        )
    try:
        secret = bytes.fromhex(words[2])
    except ValueError:
        secret = b""
    if len(secret) != SECRET_SIZE:
        raise BadJoinString("the join string is torn: its secret has another length")
    return words[1], secret
