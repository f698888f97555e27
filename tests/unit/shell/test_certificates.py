"""Who has the secret is believed, and nobody else: certificates, by OpenSSL's own judgement."""

import datetime as dt
import os
import ssl
import stat
import sys

import pytest
from cryptography import x509

from shoal.wire import tls
from shoal.wire.tls import TlsUnavailable
from shoald.shell.certificates import BACKDATED, VALID, make_certificates
from shoald.shell.identity import Identity

SECRET, OTHER = b"s" * 32, b"o" * 32
NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def identity(path, secret=SECRET, mode="on"):
    path.mkdir(exist_ok=True)
    made = Identity(secret, mode, str(path))
    made.certificates()
    return made


def shake_hands(client, server):
    """The TLS handshake in memory, between two folders with certificates; raises what either side finds."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = tls.make_context(os.path.join(client, tls.FILE), server_side=False)
    one = context.wrap_bio(to_client, to_server, server_side=False)
    context = tls.make_context(os.path.join(server, tls.FILE), server_side=True)
    two = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (one, two):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    assert one.version() == two.version() == "TLSv1.3"


def test_two_daemons_of_one_cluster_trust_each_other(tmp_path):
    identity(tmp_path / "a"), identity(tmp_path / "b")
    shake_hands(tmp_path / "a", tmp_path / "b")
    shake_hands(tmp_path / "b", tmp_path / "a")


@pytest.mark.parametrize(("client", "server"), [("a", "x"), ("x", "a")])
def test_a_daemon_of_another_cluster_is_not_trusted(tmp_path, client, server):
    identity(tmp_path / "a"), identity(tmp_path / "x", OTHER)
    with pytest.raises(ssl.SSLError):
        shake_hands(tmp_path / client, tmp_path / server)


def test_a_client_without_a_certificate_is_not_trusted(tmp_path):
    identity(tmp_path / "a")
    path = str(tmp_path / "a" / tls.FILE)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    one = bare.wrap_bio(to_client, to_server)
    two = tls.make_context(path, server_side=True).wrap_bio(to_server, to_client, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        one.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        two.do_handshake()
    one.do_handshake()
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        two.do_handshake()


def test_the_authority_follows_from_the_secret_and_leaves_are_new_each_time():
    one, two, other = (
        make_certificates(SECRET, NOW),
        make_certificates(SECRET, NOW),
        make_certificates(OTHER, NOW),
    )
    roots = [
        x509.load_pem_x509_certificate(each.root).public_key().public_numbers() for each in (one, two, other)
    ]
    assert roots[0] == roots[1] != roots[2]
    assert one.key != two.key
    leaf = x509.load_pem_x509_certificate(one.leaf)
    assert leaf.not_valid_before_utc == NOW - BACKDATED
    assert leaf.not_valid_after_utc == NOW + VALID
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(two.root))


def test_clocks_may_differ_by_hours(tmp_path):
    """A leaf made by a clock that is ahead counts at once."""
    identity(tmp_path / "a")
    ahead = make_certificates(SECRET, dt.datetime.now(dt.UTC) + dt.timedelta(hours=20))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / tls.FILE).write_bytes(ahead.key + ahead.leaf + ahead.root)
    shake_hands(tmp_path / "a", tmp_path / "b")
    late = make_certificates(SECRET, dt.datetime.now(dt.UTC) - VALID - dt.timedelta(hours=1))
    (tmp_path / "b" / tls.FILE).write_bytes(late.key + late.leaf + late.root)
    with pytest.raises(ssl.SSLError, match="expired"):
        shake_hands(tmp_path / "a", tmp_path / "b")


def test_the_file_is_the_users_alone(tmp_path):
    identity(tmp_path / "a")
    assert os.listdir(tmp_path / "a") == [tls.FILE]
    assert stat.S_IMODE(os.stat(tmp_path / "a" / tls.FILE).st_mode) == 0o600


def test_without_the_package_it_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(TlsUnavailable, match=r"pip install cryptography.*--tls off") as caught:
        Identity(SECRET, "on", str(tmp_path)).certificates()
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("host", "automatic"),
    [
        ("127.0.0.1", False), ("127.0.5.1", False), ("localhost", False), ("::1", False), ("[::1]", False),
        ("10.0.0.7", True), ("0.0.0.0", True), ("::", True), ("fe80::1", True), ("192.168.1.1", True),
    ],
)  # fmt: skip
def test_where_tls_is_on(host, automatic):
    assert tls.wanted("auto", host) is automatic
    assert tls.wanted("on", host)
    assert not tls.wanted("off", host)
