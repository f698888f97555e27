"""Who gets in (R9): decides about a request before anything else is made of it. Pure.

In this order: a name that a foreign site could have given this address (DNS rebinding) is refused; so is what is not a read; a
link is taken once, and gives its browser a cookie; everything else needs the cluster's token or such a cookie, and what a page of
another origin asks for is refused also with one (the cookie goes to other ports of this host too). No answer says which part
was wrong, and none allows another origin to read it.

Invariants: a link lets in once, also while many try: what is remembered of used links is bounded, and none is forgotten while it
is good; of links from before it started a gate knows nothing, and takes none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from shoal.config import Config
from shoal.wire import web
from shoald.dashboard.http import Request, Response

OPEN = "/open"
_REALM = 'Bearer realm="shoal"'
_HOW = (
    b"This dashboard lets in who belongs to its cluster. `shoal dashboard`, on the head's machine, prints a link, good once.\n"
    b"Prometheus: `shoal dashboard --token` prints the bearer token.\n"
)
# The cookie is for requests of the site itself. A redirection would still be part of a visit from elsewhere, and go without it.
_OPENED = (
    b'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=/"><title>shoal</title>'
    b'<a href="/">shoal</a>\n'
)


class Gate:
    """Decides for one dashboard.

    Args:
        names: of this machine, beside "localhost"; numeric addresses are nobody's to give away.
        port: which it listens at: cookies of one host are not told apart by their ports.
        secure: it speaks TLS.
        now_s: Unix seconds.
    """

    def __init__(
        self, secret: bytes, names: Iterable[str], port: int, secure: bool, config: Config, now_s: float
    ) -> None:
        self._secret = secret
        self._names = {"localhost", *(name.lower() for name in names)}
        self._cookie = f"shoal-{port}"
        self._secure = secure
        self._config = config
        self._started_s = now_s
        self._used: dict[str, float] = {}  # nonces of used links, and when they were made

    def refusal(self, request: Request, now_s: float, nonce: bytes) -> Response | None:
        """The answer to a request that is not let in, or that opens a link; None for one that is to be answered.

        Args:
            now_s: Unix seconds.
            nonce: random bytes, which no other call gets.
        """
        if not self._is_ours(request.host):
            return Response(403, b"not a name of this machine\n")
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"only GET and HEAD\n", fields={"Allow": "GET, HEAD"})
        if request.path == OPEN and request.method == "GET":
            return self._opens(request, now_s, nonce)
        if not self._may_read(request, now_s):
            return Response(401, _HOW, fields={"WWW-Authenticate": _REALM})
        return None

    def _is_ours(self, host: str) -> bool:
        if host in self._names:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def _may_read(self, request: Request, now_s: float) -> bool:
        given = request.fields.get("authorization")
        if given is not None:
            scheme, _, token = given.partition(" ")
            return scheme.lower() == "bearer" and web.is_token(self._secret, token.strip())
        if request.fields.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return False
        visit = web.check_pass(self._secret, web.VISIT, request.cookie(self._cookie))
        return visit is not None and now_s < visit[1] + self._config.dashboard_visit_s

    def _opens(self, request: Request, now_s: float, nonce: bytes) -> Response:
        link = web.check_pass(self._secret, web.LINK, request.query)
        oldest_s = max(self._started_s, now_s - self._config.dashboard_link_s)
        if link is None or link[1] < oldest_s or link[0] in self._used:
            return Response(401, _HOW, fields={"WWW-Authenticate": _REALM})
        self._used = {nonce: made_s for nonce, made_s in self._used.items() if made_s >= oldest_s}
        if len(self._used) >= self._config.dashboard_links_max:
            return Response(429, b"too many links were used; try again in some minutes\n")
        self._used[link[0]] = link[1]
        seconds = int(self._config.dashboard_visit_s)
        visit = web.make_pass(self._secret, web.VISIT, now_s, nonce)
        cookie = f"{self._cookie}={visit}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict"
        cookie += "; Secure" if self._secure else ""
        return Response(200, _OPENED, "text/html; charset=utf-8", {"Set-Cookie": cookie})
