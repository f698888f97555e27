"""Digests from Python's own modules, instead of from hashlib and hmac: these load OpenSSL, which costs each process 1.5 MB, and a
worker that has only its first task to do 0.1 ms.

They are what hashlib itself takes where there is no OpenSSL, and for BLAKE2b in any case; SHA-256 is as fast for the few hundred
bytes of a handshake. HMAC is RFC 2104 over it; proofs are compared in constant time, by the function that hmac exports too. A
Python that was built without these modules takes hashlib's.
"""

from __future__ import annotations

import importlib
from _operator import _compare_digest as compare_digest
from typing import Any

__all__ = ["blake2b", "compare_digest", "hmac_sha256"]

_SHA256_BLOCK_SIZE = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def _find(name: str, *modules: str) -> Any:
    """The function ``name`` of the first of these modules that there is; hashlib's if there is none."""
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError:
            continue
    return getattr(importlib.import_module("hashlib"), name)


blake2b = _find("blake2b", "_blake2")
_sha256 = _find("sha256", "_sha2", "_sha256")  # of Python 3.12 and newer, of 3.11


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """The HMAC of ``message`` with SHA-256, 32 bytes."""
    if len(key) > _SHA256_BLOCK_SIZE:
        key = _sha256(key).digest()
    key = key.ljust(_SHA256_BLOCK_SIZE, b"\0")
    inner = _sha256(key.translate(_INNER) + message).digest()
    digest: bytes = _sha256(key.translate(_OUTER) + inner).digest()
    return digest
