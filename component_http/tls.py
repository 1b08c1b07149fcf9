"""
TLS to the webhook and to the XMPP server, with a check of the certificate's name.

Twisted's own check of the name has a hole: if service-identity cannot read a certificate it raises
`CertificateError`, and Twisted logs that and accepts the certificate. The check here refuses such a certificate.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from attrs import frozen
from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID, DNSPattern, IPAddress_ID, IPAddressPattern, verify_service_identity
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import (
    HostnameEndpoint,
    SSL4ServerEndpoint,
    clientFromString,
    serverFromString,
    wrapClientTLS,
)
from twisted.internet.error import VerifyError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    KeyPair,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

from component_http.contract.endpoint import Endpoint
from component_http.errors import CertificateInvalid, ConnectionFailed, WebhookError

_PEM = 1
"""OpenSSL's number for a file in PEM."""

_OPTIONS = ("timeout", "bindAddress", "certificate", "privateKey", "trustRoots", "endpoint")
"""The named arguments of a `tls:` endpoint, as in Twisted."""


ENDS_SOON = (14, 3)
"""Days before the end of a certificate from which on it is told, and told once more."""


def days_left(path: str, now: float) -> float | None:
    """Read how many days the first certificate of a file still has; None if it cannot be read."""
    try:
        certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
    except (OSError, ValueError):
        return None
    return (certificate.not_valid_after_utc.timestamp() - now) / 86_400


def client_tls(
    host: str,
    trust_root: Any = None,
    certificate: PrivateCertificate | None = None,
    seen: Callable[[float], object] = lambda ends: None,
    revoked: x509.CertificateRevocationList | None = None,
) -> Any:
    """
    Make TLS connections that check that the other side is `host`; one OpenSSL context serves all of them.

    Args:
        host: A host name, or an IP address without brackets.
        trust_root: The authorities that may sign the certificate: a `twisted.internet.ssl.Certificate`, the result of
            `twisted.internet.ssl.trustRootFromCertificates`, or None for the authorities that the platform trusts.
        certificate: Our own certificate, for a server that asks for one.
        seen: Called with the end of each certificate of the other side that is accepted, in seconds since the epoch.

        revoked: The certificates of the authority that it has revoked; None for a list that nobody has.

    Returns:
        An `IOpenSSLClientConnectionCreator`. A refused connection is lost with an error that `tls_failure` knows.

    Raises:
        ValueError: No certificate can be for this name, because it has an underscore, for instance.

    Source: RFC 9110 section 4.3.4; RFC 9525 sections 6.1 and 6.6; RFC 6066 section 3 (no dot at the end).
    """
    name = host.removesuffix(".")
    try:
        wanted = IPAddress_ID(name) if isIPAddress(name) or isIPv6Address(name) else DNS_ID(name)
        options = optionsForClientTLS(name, trustRoot=trust_root, clientCertificate=certificate)
    except ValueError as error:  # or a UnicodeError, which is one, for a name that IDNA does not allow
        raise ValueError(f"no certificate can be for the host {host!r}") from error
    return _NameCheckedTLS(wanted, options, seen, revoked)


@frozen
class TlsFiles:
    """
    The files for TLS connections to a webhook.

    Attributes:
        authorities: The certificates of the authorities that may sign the webhook's; None for those that the platform
            trusts.
        certificate: Our own certificate, with those that belong to it; None for none.
        key: Its key; None if it stands in the same file.
        revoked: The list of certificates that were revoked (a CRL); None for none.
    """

    authorities: str | None = None
    certificate: str | None = None
    key: str | None = None
    revoked: str | None = None

    def tls(self, host: str, seen: Callable[[float], object]) -> Any:
        """Make `client_tls` of them. Raises `ValueError` if one cannot be used; the sentence names the setting."""
        return client_tls(host, self.trust_root("webhook.ca_file"), self._own(), seen, self._revoked())

    def _revoked(self) -> x509.CertificateRevocationList | None:
        if self.revoked is None:
            return None
        try:
            return x509.load_pem_x509_crl(Path(self.revoked).read_bytes())
        except OSError as error:
            raise ValueError(f"webhook.crl_file {self.revoked} cannot be read: {error.strerror}") from None
        except ValueError:
            raise ValueError(f"webhook.crl_file {self.revoked} holds no list of revoked certificates in PEM") from None

    def trust_root(self, setting: str) -> Any:
        """Read the authorities; None if there are none. Raises `ValueError`, which names the setting."""
        if self.authorities is None:
            return None
        try:
            found = _certificates(Path(self.authorities).read_bytes())
        except OSError as error:
            raise ValueError(f"{setting} {self.authorities} cannot be read: {error.strerror}") from None
        except crypto.Error:
            found = []
        if not found:
            raise ValueError(f"{setting} {self.authorities} holds no certificates in PEM")
        return trustRootFromCertificates(found)

    def _own(self) -> PrivateCertificate | None:
        if self.certificate is None:
            return None
        try:
            pair = _own_certificate(self.certificate, self.key)
            assert pair is not None
            pair.options().getContext()
        except OSError as error:
            raise ValueError(f"webhook.client_certificate {error.filename} cannot be read: {error.strerror}") from None
        except (SSL.Error, VerifyError, ValueError):
            raise ValueError(
                f"webhook.client_certificate {self.certificate} and webhook.client_key {self.key or '(in it)'} are no"
                " certificate with its key"
            ) from None
        return pair

    def stamps(self) -> tuple[object, ...]:
        """Tell them from what they were before, if one was replaced or written to."""
        found = []
        for path in (self.authorities, self.certificate, self.key, self.revoked):
            with suppress(OSError):
                if path is not None:
                    status = os.stat(path)
                    found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)


_END = b"-----END CERTIFICATE-----"


def _certificates(text: bytes) -> list[Certificate]:
    """Read all certificates of a text in PEM. Raises `OpenSSL.crypto.Error` if one is none."""
    return [Certificate.loadPEM(part + _END) for part in text.split(_END)[:-1]]


@implementer(IOpenSSLClientConnectionCreator)
class RenewedTLS:
    """
    The TLS of files that are read again when they have changed, for a certificate lives for weeks.

    Args:
        host: As in `client_tls`.
        warn: Told, in a sentence, when changed files cannot be used; then those from before are.
        seen: As in `client_tls`.

    Raises:
        ValueError: A file cannot be used.
    """

    def __init__(
        self,
        files: TlsFiles,
        host: str,
        warn: Callable[[str], object],
        seen: Callable[[float], object] = lambda ends: None,
    ) -> None:
        self._files = files
        self._host = host
        self._warn = warn
        self._seen = seen
        self._stamps = files.stamps()
        self._tls = files.tls(host, seen)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        stamps = self._files.stamps()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._tls = self._files.tls(self._host, self._seen)
            except ValueError as error:
                self._warn(f"{error}; what it held before is used")
        connection: SSL.Connection = self._tls.clientConnectionForTLS(tlsProtocol)
        return connection


@implementer(IOpenSSLClientConnectionCreator)
@frozen
class _NameCheckedTLS:
    """Twisted's TLS for clients, with our check of the certificate's name in place of its own."""

    wanted: DNS_ID | IPAddress_ID
    options: Any
    seen: Callable[[float], object]
    revoked: x509.CertificateRevocationList | None

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection: SSL.Connection = self.options.clientConnectionForTLS(tlsProtocol)
        store = connection.get_context().get_cert_store()
        if self.revoked is not None and store is not None:
            # All connections of these options have one store; what is there already is not added again.
            store.add_crl(self.revoked)
            store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verify(tlsProtocol))
        return connection

    def _verify(self, tls_protocol: Any) -> Callable[[Any, Any, int, int, int], bool]:
        """Make the function that OpenSSL calls for each certificate of the chain, after its own checks."""

        def verify(_connection: Any, certificate: Any, error: int, depth: int, trusted: int) -> bool:
            if not trusted and error in _REASONS:
                tls_protocol.failVerification(Failure(CertificateInvalid(_REASONS[error])))
            if not trusted or depth > 0:
                return bool(trusted)
            try:
                shown = certificate.to_cryptography()
                problem = _problem(shown, self.wanted)
            except Exception:  # libraries raise many errors at a stranger's certificate
                problem = "the names in the certificate cannot be read"
            if problem is not None:
                tls_protocol.failVerification(Failure(CertificateInvalid(problem)))
            else:
                self.seen(shown.not_valid_after_utc.timestamp())
            return problem is None

        return verify


_UNKNOWN = (
    "its certificate is signed by an authority that is not trusted here: if it is yours, name it in webhook.ca_file, or"
    " in trustRoots= of a tls: endpoint"
)

_REASONS = {
    9: "its certificate is not valid yet: see that the clocks of both machines are right",
    10: "its certificate has expired: it has to be renewed there",
    18: _UNKNOWN,
    19: _UNKNOWN,
    20: _UNKNOWN,
    21: _UNKNOWN,
    3: "webhook.crl_file is not from the authority that has signed its certificate: name the list of that one",
    12: "the list of webhook.crl_file is too old: fetch a new one from the authority",
    23: "its certificate was revoked",
}
"""What is wrong with a certificate, by the numbers X509_V_ERR_... of OpenSSL (verify(1))."""


def _problem(certificate: x509.Certificate, wanted: DNS_ID | IPAddress_ID) -> str | None:
    """
    Say why a certificate is not for a host; None if it is.

    A name that is not valid (`*.lan`, an IP address written as a host name) is ignored.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "the certificate has no subjectAltName, so it is for no host"
    patterns: list[DNSPattern | IPAddressPattern] = [
        IPAddressPattern(address)
        for address in names.get_values_for_type(x509.IPAddress)
        if isinstance(address, (IPv4Address, IPv6Address))
    ]
    for name in names.get_values_for_type(x509.DNSName):
        try:
            patterns.append(DNSPattern.from_bytes(name.encode()))
        except CertificateError:
            continue
    try:
        verify_service_identity(patterns, [wanted], [])
    except (VerificationError, CertificateError):
        return "the certificate is for another name"
    return None


def tls_failure(error: BaseException | None) -> WebhookError | None:
    """
    Judge why a TLS handshake failed.

    Returns:
        `CertificateInvalid` if *we* refused the certificate (unknown issuer, expired, for another name),
        `ConnectionFailed` for every other failure of TLS, None if the error is not about TLS.
    """
    if isinstance(error, CertificateInvalid):
        return error
    if not isinstance(error, SSL.Error):
        return None
    # str() of such an error shows a list: [(library, function, reason), ...].
    reasons = [str(entry[-1]) for entry in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    told = ", ".join(reason for reason in reasons if reason) or "no reason given"
    if "certificate verify failed" in reasons:
        return CertificateInvalid(told)
    return ConnectionFailed(f"TLS: {told}")


def client_endpoint(reactor: Any, description: str) -> Any:
    """
    Make an endpoint as `twisted.internet.endpoints.clientFromString` does, but with our check of names for `tls:`.

    Raises:
        OSError: A file that it names cannot be read.
        Exception: The endpoint cannot be made. Each kind of endpoint has a parser of its own, which may raise anything;
            for `tls:` it is a ValueError.
    """
    endpoint = Endpoint.parse(description)
    if endpoint.kind != "tls":
        return clientFromString(reactor, description)
    try:
        return _tls_endpoint(reactor, *endpoint.positional, **endpoint.named)
    except TypeError as error:
        raise ValueError(f"tls: takes a host, a port and {', '.join(_OPTIONS)}") from error


def _tls_endpoint(
    reactor: Any,
    host: str,
    port: str,
    *,
    timeout: str = "30",
    bindAddress: str | None = None,
    certificate: str | None = None,
    privateKey: str | None = None,
    trustRoots: str | None = None,
    endpoint: str | None = None,
) -> Any:
    """Make the endpoint; the arguments are those of Twisted's `tls:` endpoint, as text."""
    inner: Any
    if endpoint is not None:
        inner = clientFromString(reactor, endpoint)
    else:
        bind = None if bindAddress is None else (bindAddress, 0)
        inner = HostnameEndpoint(reactor, host, int(port), int(timeout), bind)
    return wrapClientTLS(client_tls(host, _authorities(trustRoots), _own_certificate(certificate, privateKey)), inner)


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """
    TLS for a port of ours, whose certificate is read again when its files have changed.

    Args:
        key: The file of the key, `certificate` that of the certificate, `chain` that of further certificates or None.
        clients: The file of the authorities that sign the certificates of clients, which then have to show one; None
            asks for none.
        warn: Told, in a sentence, when changed files cannot be used; then those from before are.
        table: The table of the settings that names the files.

    Raises:
        ValueError: The files cannot be used.
    """

    def __init__(
        self,
        key: str,
        certificate: str,
        chain: str | None,
        clients: str | None,
        warn: Callable[[str], object],
        table: str = "api",
    ) -> None:
        self._table = table
        self._key = key
        self._certificate = certificate
        self._chain = chain
        self._clients = TlsFiles(clients)
        self._warn = warn
        self._stamps = self._look()
        self._options = self._made()

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        stamps = self._look()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._options = self._made()
            except ValueError as error:
                self._warn(f"{error}; what they held before is used")
        return SSL.Connection(self._options.getContext(), None)

    def _look(self) -> tuple[object, ...]:
        return TlsFiles(self._key, self._certificate, self._chain).stamps() + self._clients.stamps()

    def _made(self) -> CertificateOptions:
        try:
            own = _certificates(Path(self._certificate).read_bytes())
            chain = [] if self._chain is None else _certificates(Path(self._chain).read_bytes())
            key = KeyPair.load(Path(self._key).read_bytes(), _PEM)
            options = CertificateOptions(
                privateKey=key.original,
                certificate=own[0].original,
                extraCertChain=[each.original for each in (*own[1:], *chain)],
                trustRoot=self._clients.trust_root(f"{self._table}.client_ca_file"),
            )
            options.getContext()
        except (OSError, IndexError, crypto.Error, SSL.Error) as error:
            raise ValueError(
                f"the files {self._certificate} and {self._key} of {self._table}.listen are no certificate with its key"
                f" ({error})"
            ) from None
        return options


def is_renewed(description: str) -> bool:
    """Tell whether the certificates of an endpoint are read by `ServerTLS`; else Twisted reads them, once."""
    endpoint = Endpoint.parse(description)
    return (
        endpoint.kind == "ssl"
        and not endpoint.named.keys() & {"sslmethod", "dhParameters"}
        and (not endpoint.positional[1:])
    )


def server_endpoint(
    reactor: Any, description: str, clients: str | None, warn: Callable[[str], object], table: str = "api"
) -> Any:
    """
    Make an endpoint as `twisted.internet.endpoints.serverFromString` does, but for `ssl:` with `ServerTLS`.

    The table of the settings is that which names the files.

    Raises:
        ValueError: A file cannot be used.
    """
    endpoint = Endpoint.parse(description)
    named = endpoint.named
    interface, port = endpoint.interface_and_port
    if not is_renewed(description):
        if clients is not None:
            raise ValueError(f"no client is asked for a certificate at {description}")  # the settings refuse it before
        return serverFromString(reactor, description)
    key = named.get("privateKey", "server.pem")
    tls = ServerTLS(key, named.get("certKey", key), named.get("extraCertChain"), clients, warn, table)
    return SSL4ServerEndpoint(reactor, int(port), tls, int(named.get("backlog", "50")), interface)


def _authorities(folder: str | None) -> Any:
    """Read the certificates of authorities from the .pem files of a folder; None for the platform's authorities."""
    if folder is None:
        return None
    found = []
    for name in os.listdir(folder):
        if name.lower().endswith(".pem"):
            # A damaged file, or a link to nowhere, is skipped.
            with suppress(OSError, crypto.Error):
                found.append(Certificate.loadPEM(Path(folder, name).read_bytes()))
    if not found:
        raise ValueError(f"there is no certificate in the .pem files of {folder}")
    return trustRootFromCertificates(found)


def _own_certificate(certificate: str | None, key: str | None) -> PrivateCertificate | None:
    if certificate is None:
        return None
    own, secret = Path(certificate).read_bytes(), Path(key or certificate).read_bytes()
    try:
        pair: PrivateCertificate = PrivateCertificate.fromCertificateAndKeyPair(
            Certificate.loadPEM(own), KeyPair.load(secret, _PEM)
        )
    except crypto.Error as error:
        raise ValueError(f"{certificate} and {key or 'the key in it'} are no certificate with its key") from error
    return pair
