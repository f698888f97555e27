"""What lets browsers and Prometheus in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.wire import web

SECRET, OTHER, NONCE = b"s" * 32, b"o" * 32, bytes(range(16))


def test_a_token_is_of_one_secret_and_does_not_show_it():
    token = web.make_token(SECRET)
    assert web.is_token(SECRET, token)
    assert not web.is_token(OTHER, token)
    assert SECRET.hex() not in token
    for wrong in ("", token[:-1], token + "0", token.upper(), "é"):
        assert not web.is_token(SECRET, wrong)


def test_a_pass_is_of_one_kind_and_secret_and_says_when_it_was_made():
    link = web.make_pass(SECRET, web.LINK, 1000.5, NONCE)
    assert web.check_pass(SECRET, web.LINK, link) == (NONCE.hex(), 1000.5)
    assert web.check_pass(SECRET, web.VISIT, link) is None
    assert web.check_pass(OTHER, web.LINK, link) is None
    assert not web.is_token(SECRET, link)


@given(st.text())
def test_no_other_text_is_one(text):
    assert web.check_pass(SECRET, web.LINK, text) is None
    assert not web.is_token(SECRET, text)


@pytest.mark.parametrize("place", [0, 5, 20, 60])
def test_every_digit_counts(place):
    link = web.make_pass(SECRET, web.LINK, 1e9, NONCE)
    digit = "1" if link[place] != "1" else "2"
    assert web.check_pass(SECRET, web.LINK, link[:place] + digit + link[place + 1 :]) is None


def test_a_link_is_a_url():
    url = web.link_url("http://h:1", SECRET, 1000, NONCE)
    assert web.check_pass(SECRET, web.LINK, url.removeprefix("http://h:1/open?")) is not None
