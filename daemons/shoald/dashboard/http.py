"""As much of HTTP/1.1 as the dashboard needs: requests without a body, one for each connection. Pure.

`read_request` takes the bytes up to and with the empty line. It takes nothing that two readers could read differently (folded or
repeated header fields, bare line ends, control characters, bodies), and raises BadRequest for anything else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

END = b"\r\n\r\n"
_LINE = re.compile(r"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]")
_FIELD = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~]*)"
)  # one run, stripped later: several would be tried in every split
_FIELDS_MAX = 100
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    429: "Too Many Requests",
    503: "Service Unavailable",
}
# Of every answer: nothing is kept, guessed, framed, or told to other sites.
_ALWAYS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
NO_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class BadRequest(Exception):
    """Not a request that is answered here; one line that says why."""


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        query: of the target, after its "?".
        fields: by their names in small letters.
    """

    method: str
    path: str
    query: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """The name in Host without a port, in small letters; IPv6 without brackets."""
        text = self.fields.get("host", "").lower()
        if text.startswith("["):
            return text[1:].partition("]")[0]
        return text.partition(":")[0]

    def cookie(self, name: str) -> str:
        """The value of a cookie; "" if it was not sent."""
        for part in self.fields.get("cookie", "").split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                return value
        return ""


@dataclass(frozen=True)
class Response:
    """One answer; ``fields`` beyond those of every answer."""

    status: int
    body: bytes = b""
    kind: str = "text/plain; charset=utf-8"
    fields: Mapping[str, str] = field(default_factory=dict)

    def encode(self, *, with_body: bool = True) -> bytes:
        """Its bytes; without a body for HEAD."""
        fields = {
            **_ALWAYS,
            "Content-Security-Policy": NO_CONTENT_POLICY,
            "Content-Type": self.kind,
            "Content-Length": str(len(self.body)),
            **self.fields,
        }
        lines = [f"HTTP/1.1 {self.status} {_REASONS[self.status]}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return "\r\n".join(lines).encode("ascii") + END + (self.body if with_body else b"")


def read_request(data: bytes) -> Request:
    """The request whose bytes, to the empty line at their end, are ``data``. Raises BadRequest."""
    if not data.endswith(END):
        raise BadRequest("no request")
    try:
        first, *rest = data[: -len(END)].decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        raise BadRequest("a request is ASCII") from None
    line = _LINE.fullmatch(first)
    if line is None:
        raise BadRequest("no request line of HTTP/1.1")
    fields = _read_fields(rest)
    if "transfer-encoding" in fields or fields.get("content-length", "0") != "0":
        raise BadRequest("requests have no body here")
    path, _, query = line[2].partition("?")
    return Request(line[1], path, query, fields)


def _read_fields(lines: list[str]) -> dict[str, str]:
    if len(lines) > _FIELDS_MAX:
        raise BadRequest("too many header fields")
    fields: dict[str, str] = {}
    for text in lines:
        found = _FIELD.fullmatch(text)
        if found is None:
            raise BadRequest("a header field that is none")
        name = found[1].lower()
        if name in fields:
            raise BadRequest(f"{name[:40]} is there twice")
        fields[name] = found[2].strip(" \t")
    return fields
