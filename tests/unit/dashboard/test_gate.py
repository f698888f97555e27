"""Who is let in to the dashboard, and who is not."""

import pytest

from shoal.config import load
from shoal.wire import web
from shoald.dashboard.gate import Gate
from shoald.dashboard.http import Request

SECRET, NOW = b"s" * 32, 1_000_000.0
TOKEN = web.make_token(SECRET)
BEARER = {"host": "localhost:1", "authorization": f"Bearer {TOKEN}"}


def make_gate(secure=False, **config):
    return Gate(SECRET, ["Box", "10.0.0.1"], 8265, secure, load(config), NOW - 100)


def status(gate, fields, path="/api/state", method="GET", query="", now=NOW, nonce=bytes(16)):
    """The refusal's status; None for one that is let in."""
    answer = gate.refusal(Request(method, path, query, fields), now, nonce)
    return None if answer is None else answer.status


def a_link(number=0, made=NOW):
    return web.make_pass(SECRET, web.LINK, made, number.to_bytes(16, "big"))


def opened(gate, link, now=NOW):
    return gate.refusal(Request("GET", "/open", link, {"host": "localhost"}), now, b"v" * 16)


def cookie_of(answer):
    return answer.fields["Set-Cookie"].partition(";")[0]


def test_the_token_lets_in_and_nothing_like_it():
    gate = make_gate()
    assert status(gate, BEARER) is None
    assert status(gate, BEARER, method="HEAD", path="/metrics") is None
    for wrong in ("", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN[1:]}", f"Bearer {SECRET.hex()}", TOKEN):
        assert status(gate, {**BEARER, "authorization": wrong}) == 401
    assert status(gate, {"host": "localhost"}) == 401
    assert status(gate, {"host": "localhost"}, path="/no/such/path") == 401  # who is outside learns nothing


def test_a_wrong_token_beside_a_good_cookie_is_wrong():
    gate = make_gate()
    fields = {"host": "localhost", "cookie": cookie_of(opened(gate, a_link()))}
    assert status(gate, fields) is None
    assert status(gate, {**fields, "authorization": "Bearer x"}) == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT"])
def test_it_is_read_only(method):
    assert status(make_gate(), BEARER, method=method) == 405


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:99", "[::1]:8265", "box", "10.0.0.1", "192.168.7.7"]
)
def test_names_of_this_machine(host):
    assert status(make_gate(), {**BEARER, "host": host}) is None


@pytest.mark.parametrize(
    "host", ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "1"]
)
def test_a_name_that_somebody_else_has_given_this_address(host):
    gate = make_gate()
    assert status(gate, {**BEARER, "host": host}) == 403
    assert gate.refusal(Request("GET", "/open", a_link(), {"host": host}), NOW, bytes(16)).status == 403
    assert opened(gate, a_link()).status == 200  # it was not used up


def test_a_link_opens_once_and_its_browser_stays():
    gate = make_gate(dashboard_visit_s=100)
    first = opened(gate, a_link())
    assert first.status == 200
    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=100"} <= set(
        first.fields["Set-Cookie"].split("; ")
    )
    assert "Secure" not in first.fields["Set-Cookie"]
    assert opened(gate, a_link()).status == 401
    fields = {"host": "localhost", "cookie": f"other=1; {cookie_of(first)}"}
    assert status(gate, fields, now=NOW + 99) is None
    assert status(gate, fields, now=NOW + 100) == 401


def test_over_tls_the_cookie_stays_there():
    assert "; Secure" in opened(make_gate(secure=True), a_link()).fields["Set-Cookie"]


def test_links_that_are_none():
    gate = make_gate()
    visit = web.make_pass(SECRET, web.VISIT, NOW, bytes(16))
    for wrong in ("", "x", visit, TOKEN, a_link() + "0"):
        assert opened(gate, wrong).status == 401
    assert status(gate, {"host": "localhost", "cookie": f"shoal-8265={a_link()}"}) == 401
    assert status(gate, {"host": "localhost", "cookie": f"shoal-1={visit}"}) == 401


@pytest.mark.parametrize(
    ("site", "expected"), [("same-origin", None), ("none", None), ("same-site", 401), ("cross-site", 401)]
)
def test_a_page_of_another_origin_gets_nothing_by_the_cookie(site, expected):
    gate = make_gate()
    fields = {"host": "localhost", "cookie": cookie_of(opened(gate, a_link())), "sec-fetch-site": site}
    assert status(gate, fields) == expected


def test_a_link_is_good_for_a_while_and_only_if_it_was_made_since_the_start():
    assert opened(make_gate(dashboard_link_s=60), a_link(made=NOW - 60)).status == 200
    assert opened(make_gate(dashboard_link_s=60), a_link(made=NOW - 60.1)).status == 401
    assert opened(make_gate(), a_link(made=NOW - 100)).status == 200
    assert opened(make_gate(), a_link(made=NOW - 100.1)).status == 401  # it may have been used before


def test_used_links_are_remembered_within_a_bound_until_they_end():
    gate = make_gate(dashboard_links_max=3, dashboard_link_s=60)
    assert [opened(gate, a_link(number)).status for number in range(4)] == [200, 200, 200, 429]
    assert [opened(gate, a_link(number)).status for number in range(3)] == [401] * 3
    later = NOW + 61
    assert opened(gate, a_link(9, later), now=later).status == 200
    assert opened(gate, a_link(0), now=later).status == 401
