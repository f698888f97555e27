"""The certificates of a cluster, which follow from its secret: nothing but the secret has to travel, or to be kept.

The private key of the cluster's authority is derived from the secret (HKDF-SHA256, then P-256), so every daemon can make the
authority's certificate, and a key and certificate of its own that the authority has signed. A leaf is made by each daemon when
it starts, lives as long as it does, and is never copied. The two roots that two daemons make differ in their signatures only;
what is checked is the key and the name.

A leaf says that its holder knows the secret, not which machine it is: there are no host names in it, but one name for all
(`NAME`). So whoever has the secret can be any node, as with the HMACs, and whoever has it not cannot be one.

Leaves are backdated by a day, for clocks that differ, and valid for longer than a daemon runs; a restart renews them.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

from shoal.wire.tls import NAME, TlsUnavailable

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

BACKDATED = dt.timedelta(days=1)
VALID = dt.timedelta(days=3650)
_AUTHORITY = "shoal cluster"
_ROLE = b"shoal TLS authority 1"
# A number that is uniform below 2^384 is, modulo the order of P-256, uniform but for one part in 2^128.
_DERIVED_SIZE = 48
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# The root is checked by those who have made it themselves, whose clocks need not agree.
_ROOT_FROM = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_ROOT_UNTIL = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)


class Certificates(NamedTuple):
    """In PEM: a daemon's own key and certificate, and the cluster's root."""

    key: bytes
    leaf: bytes
    root: bytes


def make_certificates(secret: bytes, now: dt.datetime) -> Certificates:
    """A new key and certificate for a daemon of the cluster with ``secret``. Raises TlsUnavailable."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise TlsUnavailable(
            f"TLS needs the package cryptography ({error}): pip install cryptography, or turn TLS off (--tls off), and "
            "others on the network can read along"
        ) from None
    authority, key = _authority_key(secret), ec.generate_private_key(ec.SECP256R1())
    root = _root(authority)
    leaf = _leaf(key, authority, now)
    pem = serialization.Encoding.PEM
    return Certificates(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        leaf.public_bytes(pem),
        root.public_bytes(pem),
    )


def _authority_key(secret: bytes) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived = HKDF(hashes.SHA256(), _DERIVED_SIZE, salt=None, info=_ROLE).derive(secret)
    number = int.from_bytes(derived, "big") % (_P256_ORDER - 1) + 1
    return ec.derive_private_key(number, ec.SECP256R1())


def _root(authority: EllipticCurvePrivateKey) -> x509.Certificate:
    builder = _builder(_AUTHORITY, authority, authority, _ROOT_FROM, _ROOT_UNTIL, signs=True)
    from cryptography.hazmat.primitives import hashes

    return builder.sign(authority, hashes.SHA256())


def _leaf(
    key: EllipticCurvePrivateKey, authority: EllipticCurvePrivateKey, now: dt.datetime
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = _builder(NAME, key, authority, now - BACKDATED, now + VALID, signs=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
    return builder.add_extension(x509.ExtendedKeyUsage(both), critical=False).sign(authority, hashes.SHA256())


def _builder(
    name: str,
    key: EllipticCurvePrivateKey,
    authority: EllipticCurvePrivateKey,
    begins: dt.datetime,
    ends: dt.datetime,
    signs: bool,
) -> x509.CertificateBuilder:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    usage = x509.KeyUsage(not signs, False, False, False, False, signs, signs, False, False)
    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(_AUTHORITY))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=signs, path_length=0 if signs else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
        )
    )
