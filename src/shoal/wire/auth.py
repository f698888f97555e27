"""The handshake that opens every connection: mutual HMAC proof of the cluster secret, fixed sizes.

    client → PREAMBLE   magic 8 · kind 1 · TLS 1 · zero 6 · target 16 · nonce 32
    server → CHALLENGE  magic 8 · nonce 32 · mac 32      mac = HMAC(secret, "server" · preamble · nonce)
    client → PROOF      mac 32                           mac = HMAC(secret, "client" · preamble · nonce)

The secret itself is never sent, and the server proves itself first, so whoever binds the address of a
dead daemon learns nothing. `target` names the worker that a data connection wants (zero: the daemon).
`TLS` is 1 where TLS follows the proof (`tls`), else 0; both proofs cover it.
No I/O here: the shells read exactly these sizes and call these functions.
"""

from __future__ import annotations

import os

from shoal.digests import compare_digest, hmac_sha256

MAGIC = b"SHOAL\x00\x00\x01"
NONCE_SIZE = 32
MAC_SIZE = 32
TARGET_SIZE = 16
PREAMBLE_SIZE = 8 + 1 + 7 + TARGET_SIZE + NONCE_SIZE
CHALLENGE_SIZE = 8 + NONCE_SIZE + MAC_SIZE
PROOF_SIZE = MAC_SIZE
SECRET_SIZE = 32

KIND_CLIENT = 1  # driver or worker: messages of wire.messages follow
KIND_CONTROL = 2  # command line: requests only
KIND_TASKS = 3  # submitter to worker: the descriptor is handed over
KIND_DATA = 4  # object transfer between nodes
KIND_PEER = 5  # node daemon to node daemon: one direction of their stream of messages
_KINDS = (KIND_CLIENT, KIND_CONTROL, KIND_TASKS, KIND_DATA, KIND_PEER)


class HandshakeFailed(Exception):
    """The peer is not shoal, speaks another version, or does not know the secret."""


def new_secret() -> bytes:
    """A fresh cluster secret."""
    return os.urandom(SECRET_SIZE)


def make_preamble(
    kind: int, target: bytes = bytes(TARGET_SIZE), nonce: bytes | None = None, *, tls: bool = False
) -> bytes:
    """The first bytes of a connection, from the side that opens it."""
    return MAGIC + bytes([kind, tls]) + bytes(6) + target + (nonce or os.urandom(NONCE_SIZE))


def read_preamble(preamble: bytes) -> tuple[int, bytes]:
    """(kind, target) of a received preamble; raises HandshakeFailed for anything else."""
    if len(preamble) != PREAMBLE_SIZE or preamble[:8] != MAGIC or preamble[9] > 1 or any(preamble[10:16]):
        raise HandshakeFailed("not a shoal connection, or another protocol version")
    if preamble[8] not in _KINDS:
        raise HandshakeFailed(f"unknown kind of connection {preamble[8]}")
    return preamble[8], preamble[16 : 16 + TARGET_SIZE]


def wants_tls(preamble: bytes) -> bool:
    """Whether TLS is to follow the handshake; of a preamble that `read_preamble` has taken."""
    return preamble[9] == 1


def _mac(secret: bytes, side: bytes, preamble: bytes, nonce: bytes) -> bytes:
    return hmac_sha256(secret, side + preamble + nonce)


def make_challenge(secret: bytes, preamble: bytes, nonce: bytes | None = None) -> bytes:
    """The server's answer to a preamble: its nonce, and the proof that it knows the secret."""
    nonce = nonce or os.urandom(NONCE_SIZE)
    return MAGIC + nonce + _mac(secret, b"server", preamble, nonce)


def answer_challenge(secret: bytes, preamble: bytes, challenge: bytes) -> bytes:
    """Check the server's proof and return the client's; raises HandshakeFailed if it does not hold."""
    if len(challenge) != CHALLENGE_SIZE or challenge[:8] != MAGIC:
        raise HandshakeFailed("the other side is not a shoal daemon of this version")
    nonce, mac = challenge[8 : 8 + NONCE_SIZE], challenge[8 + NONCE_SIZE :]
    if not compare_digest(mac, _mac(secret, b"server", preamble, nonce)):
        raise HandshakeFailed("wrong secret: the daemon belongs to another cluster")
    return _mac(secret, b"client", preamble, nonce)


def check_proof(secret: bytes, preamble: bytes, challenge: bytes, proof: bytes) -> None:
    """Server side: raise HandshakeFailed unless the client proved that it knows the secret."""
    nonce = challenge[8 : 8 + NONCE_SIZE]
    if not compare_digest(proof, _mac(secret, b"client", preamble, nonce)):
        raise HandshakeFailed("wrong secret")
