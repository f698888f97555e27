"""Requests as bytes: what is one, what is none, and that nothing else can happen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoald.dashboard.http import BadRequest, Request, Response, read_request

GOOD = b"GET /api/state?a=b HTTP/1.1\r\nHost: localhost:8265\r\nX-Any:  words, more \r\nCookie: a=1; shoal-1=x.y\r\n\r\n"


def test_a_request():
    request = read_request(GOOD)
    assert (request.method, request.path, request.query) == ("GET", "/api/state", "a=b")
    assert request.fields["x-any"] == "words, more"
    assert request.host == "localhost"
    assert request.cookie("shoal-1") == "x.y"
    assert request.cookie("shoal") == ""


@pytest.mark.parametrize(
    ("field", "host"),
    [
        ("LOCALHOST", "localhost"),
        ("[::1]:80", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("a.b:1:2", "a.b"),
        ("", ""),
    ],
)
def test_the_name_in_host(field, host):
    assert Request("GET", "/", fields={"host": field}).host == host


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        GOOD[:-1],
        b"get / HTTP/1.1\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\n\r\n",
        b"GET / HTTP/2\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n",
        b"GET /\nHost: a HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHOST: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nb: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nnothing\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: +0\r\n\r\n",
        b"GET / HTTP/1.1\r\nX:" + b" " * 8000 + b"\x01\r\n\r\n",  # in no time
        b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % number for number in range(101)) + b"\r\n",
    ],
)
def test_what_is_none(data):
    with pytest.raises(BadRequest):
        read_request(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data):
    for whole in (data, data + b"\r\n\r\n", b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n"):
        try:
            request = read_request(whole)
        except BadRequest:
            continue
        assert request.path.startswith("/")


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_almost_a_request(place, byte):
    data = GOOD[:place] + bytes([byte]) + GOOD[place + 1 :]
    try:
        request = read_request(data)
    except BadRequest:
        return
    text = "".join([request.path, request.query, *request.fields, *request.fields.values()])
    assert "\r" not in text
    assert "\n" not in text


def test_an_answer_says_its_length_and_lets_no_other_site_read_it():
    head, _, body = Response(200, b"abc").encode().partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    assert {"Content-Length: 3", "Cache-Control: no-store", "X-Content-Type-Options: nosniff"} <= set(lines)
    assert "Access-Control" not in head.decode()
    assert body == b"abc"
    assert Response(200, b"abc").encode(with_body=False) == head + b"\r\n\r\n"
