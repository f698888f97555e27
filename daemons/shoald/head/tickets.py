"""Who may call the head, and how the head proves itself: the metadata of every RPC (R9).

A unary call has no room for a challenge in both directions, so the caller sends a *ticket*, good once
and for a short while, and the head answers with a *proof* over the ticket's nonce in its initial metadata:

    ticket   version 1 · Unix time in ms 8 · nonce 32 · HMAC(secret, "ticket" · method · all before)
    proof    HMAC(secret, "proof" · method · ticket)

The secret is never sent. A ticket for one method is worth nothing for another, and a recorded one is stale
or has been used. A recorded proof is for another nonce. The content of a call is protected by TLS
where the network is not this machine (channel.py); a ticket does not cover it.
"""

from __future__ import annotations

from collections import OrderedDict

from shoal.digests import compare_digest, hmac_sha256

VERSION = b"\x01"
NONCE_SIZE = 32
MAC_SIZE = 32
_BODY_SIZE = 1 + 8 + NONCE_SIZE
TICKET_SIZE = _BODY_SIZE + MAC_SIZE
# gRPC wants lower case, and "-bin" where values are bytes.
TICKET_KEY = "shoal-ticket-bin"
PROOF_KEY = "shoal-proof-bin"


class TicketRefused(Exception):
    """The caller did not prove that it knows the secret, or not now; the message says which."""


class HeadNotProven(Exception):
    """What answers at the head's address does not know the secret of this cluster."""


def make_ticket(secret: bytes, method: str, unix_ms: int, nonce: bytes) -> bytes:
    """A ticket for one call of ``method`` (its full path)."""
    body = VERSION + unix_ms.to_bytes(8, "big") + nonce
    return body + hmac_sha256(secret, b"ticket" + method.encode() + body)


def make_proof(secret: bytes, method: str, ticket: bytes) -> bytes:
    """The head's answer to a good ticket."""
    return hmac_sha256(secret, b"proof" + method.encode() + ticket)


def check_proof(secret: bytes, method: str, ticket: bytes, proof: bytes | None) -> None:
    """Raise HeadNotProven unless the other side knows the secret."""
    if proof is None or not compare_digest(proof, make_proof(secret, method, ticket)):
        raise HeadNotProven("what answers at this address does not know the cluster's secret")


class TicketGate:
    """Checks tickets and remembers the used ones for as long as they are good.

    Args:
        tickets_max: how many used tickets are remembered; beyond, calls are refused until old ones expire.
        life_ms: how long a ticket is good, before and after its time (clocks differ).
    """

    def __init__(self, secret: bytes, life_ms: float, tickets_max: int) -> None:
        self._secret = secret
        self._life_ms = int(life_ms)
        self._tickets_max = tickets_max
        self._used: OrderedDict[bytes, int] = OrderedDict()  # nonce → Unix ms when it may be forgotten

    def admit(self, method: str, ticket: bytes | None, unix_ms: int) -> bytes:
        """The proof to answer with; raises TicketRefused. Only a ticket that was good is remembered."""
        if ticket is None or len(ticket) != TICKET_SIZE or ticket[:1] != VERSION:
            raise TicketRefused("no ticket: the caller is not shoal, or of another version")
        body, mac = ticket[:_BODY_SIZE], ticket[_BODY_SIZE:]
        expected = hmac_sha256(self._secret, b"ticket" + method.encode() + body)
        if not compare_digest(mac, expected):
            raise TicketRefused("wrong secret: the caller belongs to another cluster")
        age_ms = unix_ms - int.from_bytes(body[1:9], "big")
        if abs(age_ms) > self._life_ms:
            raise TicketRefused(
                f"its clock and the head's differ by {abs(age_ms) / 1000:.0f} s, and {self._life_ms / 1000:g} s are allowed "
                "(ticket_ms_max): set the clocks of both machines"
            )
        nonce = body[9:]
        self._forget_expired(unix_ms)
        if nonce in self._used:
            raise TicketRefused("this ticket was used before")
        if len(self._used) >= self._tickets_max:
            raise TicketRefused(f"more than {self._tickets_max} calls in {self._life_ms} ms (tickets_max)")
        self._used[nonce] = unix_ms + 2 * self._life_ms
        return make_proof(self._secret, method, ticket)

    def _forget_expired(self, unix_ms: int) -> None:
        while self._used:
            nonce, expires_ms = next(iter(self._used.items()))
            if expires_ms > unix_ms:
                return
            del self._used[nonce]
