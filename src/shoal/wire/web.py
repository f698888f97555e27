"""How those who speak HTTP prove that they belong to the cluster. Pure.

Three words, all made from the cluster's secret, which never travels and does not follow from them:

    token   for Prometheus and scripts, in `Authorization: Bearer …`: always the same, good as long as the secret
    link    in a URL for a person, good once and for a short time
    visit   in the cookie of the browser that used a link

A link and a visit are `time.nonce.mac` in hexadecimal, mac = HMAC(secret, kind · time · nonce), with when they were made: whoever
has the secret can make one. How long they are good the dashboard says, which keeps nothing but which links were used.
"""

from __future__ import annotations

import re

from shoal.digests import compare_digest, hmac_sha256

NONCE_SIZE = 16
LINK, VISIT = "link", "visit"
_PURPOSE = b"shoal dashboard v1 "
_PASS = re.compile(r"([0-9a-f]{1,13})\.([0-9a-f]{32})\.([0-9a-f]{64})")


def make_token(secret: bytes) -> str:
    """What Prometheus sends."""
    return hmac_sha256(secret, _PURPOSE + b"token").hex()


def is_token(secret: bytes, text: str) -> bool:
    """Whether ``text`` is the cluster's token; takes as long whatever differs."""
    return compare_digest(text.encode(), make_token(secret).encode())


def make_pass(secret: bytes, kind: str, now_s: float, nonce: bytes) -> str:
    """A link or a visit that is made at ``now_s`` (Unix seconds); ``nonce``: random bytes that tell it from others."""
    start = f"{int(now_s * 1000):x}.{nonce.hex()}"
    return f"{start}.{_mac(secret, kind, start)}"


def check_pass(secret: bytes, kind: str, text: str) -> tuple[str, float] | None:
    """(nonce, when it was made, in Unix seconds) of a pass of this kind; None for anything else."""
    found = _PASS.fullmatch(text)
    if found is None:
        return None
    made_ms, nonce, mac = found.groups()
    if not compare_digest(mac, _mac(secret, kind, f"{made_ms}.{nonce}")):
        return None
    return nonce, int(made_ms, 16) / 1000


def link_url(base: str, secret: bytes, now_s: float, nonce: bytes) -> str:
    """The URL that opens the dashboard at ``base`` once, in one browser."""
    return f"{base}/open?{make_pass(secret, LINK, now_s, nonce)}"


def _mac(secret: bytes, kind: str, start: str) -> str:
    return hmac_sha256(secret, _PURPOSE + f"{kind} {start}".encode()).hex()
