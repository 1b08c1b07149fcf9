"""Certificates for servers of the tests, and for what is wrong with them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import count
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.ssl import Certificate, PrivateCertificate

__all__ = ["ODD_NAMES", "Authority", "Name", "by_itself"]

Name = str | x509.GeneralName
"""A host name or an IP address as text, or anything else that a certificate may be for."""


_NUMBERS = count(1)


class Authority:
    """Somebody who issues certificates; `by` signs its own, or else itself."""

    def __init__(self, by: Authority | None = None, *, expired: bool = False) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = f"authority {next(_NUMBERS)} of the tests"
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        extension = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = (by or self)._sign(self._name, self._key, extension, expired=expired)

    @property
    def trust_root(self) -> Certificate:
        """For a client that trusts this authority and no other."""
        return Certificate.loadPEM(self.pem)  # type: ignore[no-any-return, unused-ignore]

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def context(self, *names: Name, **how: Any) -> Any:
        """For a server with a certificate of `certified`."""
        return PrivateCertificate.loadPEM(self.certified(*names, **how)).options()

    def certified(
        self, *names: Name, expired: bool = False, early: bool = False, rubbish: bytes | None = None
    ) -> bytes:
        """
        A certificate with its key, for these host names and IP addresses, or with rubbish in their place; an early one
        is valid in ten minutes.

        Its common name is localhost; without names it has no subjectAltName.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        extension: x509.ExtensionType
        if rubbish is not None:
            extension = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, rubbish)
        elif names:
            extension = x509.SubjectAlternativeName([_general_name(name) for name in names])
        else:
            extension = x509.BasicConstraints(ca=False, path_length=None)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        certificate = self._sign(subject, key, extension, expired=expired, early=early)
        return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def revoking(self, *certificates: bytes, old: bool = False) -> bytes:
        """Its list of the certificates that it has revoked, in PEM."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - timedelta(days=3))
            .next_update(now + timedelta(days=-1 if old else 1))
        )
        for certificate in certificates:
            number = x509.load_pem_x509_certificate(certificate).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now).build()
            builder = builder.add_revoked_certificate(revoked)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extension: x509.ExtensionType,
        expired: bool = False,
        early: bool = False,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        begin = timedelta(minutes=10) if early else timedelta(days=-2)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + timedelta(days=-1 if expired else 1))
            .add_extension(extension, critical=True)
            .sign(self._key, hashes.SHA256())
        )


def by_itself(name: str) -> bytes:
    """A certificate for a host name that no authority has signed, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _general_name(name: Name) -> x509.GeneralName:
    if isinstance(name, x509.GeneralName):
        return name
    return x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)


ODD_NAMES: tuple[x509.GeneralName, ...] = (
    x509.DNSName("*.lan"),
    x509.DNSName("*"),
    x509.DNSName("*.*.example.com"),
    x509.DNSName("www.*.example.com"),
    x509.DNSName("127.0.0.1"),
    x509.DNSName("bot example"),
    x509.RFC822Name("bot@localhost"),
    x509.UniformResourceIdentifier("https://localhost/"),
    x509.UniformResourceIdentifier("localhost"),
    x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7"), b"\x16\x08nonsense"),
    x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7"), b"\x04\x00"),
)
"""What may stand in a certificate beside host names and IP addresses, or in their place."""
