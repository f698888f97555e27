"""Digests without OpenSSL are the ones that hashlib and hmac compute with it."""

import hashlib
import hmac
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import digests


@given(st.binary(max_size=200), st.binary(max_size=500))
def test_hmac_is_that_of_the_standard_library(key, message):
    assert digests.hmac_sha256(key, message) == hmac.digest(key, message, "sha256")


@pytest.mark.parametrize("size", [0, 1, 32, 63, 64, 65, 131])
def test_keys_around_the_size_of_a_block(size):
    assert digests.hmac_sha256(b"\xaa" * size, b"m") == hmac.digest(b"\xaa" * size, b"m", "sha256")


def test_hmac_of_rfc_4231():
    digest = digests.hmac_sha256(b"Jefe", b"what do ya want for nothing?")
    assert digest.hex() == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


def test_blake2b_is_that_of_the_standard_library():
    for size in (8, 16, 64):
        ours, theirs = (
            digests.blake2b(b"content", digest_size=size),
            hashlib.blake2b(b"content", digest_size=size),
        )
        assert ours.digest() == theirs.digest()


def test_proofs_are_compared_in_constant_time_by_the_function_of_hmac():
    assert digests.compare_digest is hmac.compare_digest or hmac.compare_digest.__module__ == "_hashlib"
    assert digests.compare_digest(b"a" * 32, b"a" * 32)
    assert not digests.compare_digest(b"a" * 32, b"a" * 31 + b"b")
    assert not digests.compare_digest(b"a" * 32, b"a" * 31)


def test_a_python_without_these_modules_takes_hashlib():
    script = (
        "import sys\n"
        "for name in ('_sha2', '_sha256'): sys.modules[name] = None\n"
        "from shoal.digests import hmac_sha256\n"
        "print(hmac_sha256(b'key', b'message').hex(), '_hashlib' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert output.split() == [hmac.digest(b"key", b"message", "sha256").hex(), "True"]
