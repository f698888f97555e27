"""TLS between machines: when it is on, and the contexts of both sides. Daemons make the certificates; this reads their file.

Where it is on (`wanted`), the handshake of `auth` travels in clear first, and says so (`auth.make_preamble`, which its proofs
cover): nobody between the two can talk them out of it. Then the one who opened the connection is TLS's client. Both show a
certificate of the cluster's authority, in TLS 1.3; names are not compared, since there is one for all.

The file has key, certificate and root in PEM, is this user's alone, and lies in the session's directory, where the workers and
drivers of a node find it: they do TLS themselves on connections that the daemon hands them, as a descriptor can be handed
over before, and not after.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

NAME = "shoal"  # of everybody, in certificates
FILE = "tls.pem"
_BEGIN = "-----BEGIN CERTIFICATE-----"


class TlsUnavailable(Exception):
    """TLS is on, and cannot be: the message is one line for the operator."""


def wanted(mode: str, host: str) -> bool:
    """By config.tls, whether connections to ``host`` (a number) are encrypted: "auto" leaves out loopback."""
    if mode == "auto":
        host = host.strip("[]")
        return not (host in ("localhost", "::1") or host.startswith("127."))
    return mode == "on"


def make_context(path: str, server_side: bool) -> ssl.SSLContext:
    """The context of one side, from the file at ``path``. Raises OSError (ssl.SSLError too)."""
    import ssl  # 10 ms that processes of one machine do without

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(path)
    with open(path, encoding="ascii") as file:
        root = _BEGIN + file.read().rpartition(_BEGIN)[2]
    context.load_verify_locations(cadata=root)
    if server_side:
        context.num_tickets = 0  # connections last, and are not resumed
    return context


class Contexts:
    """The contexts of a process that a daemon hands connections to, made when the first one comes.

    Args:
        directory: of the session.
    """

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, FILE)
        self._made: dict[bool, ssl.SSLContext] = {}

    def get(self, server_side: bool) -> ssl.SSLContext:
        """Raises OSError if the daemon's file is gone."""
        context = self._made.get(server_side)
        if context is None:
            context = self._made[server_side] = make_context(self._path, server_side)
        return context
