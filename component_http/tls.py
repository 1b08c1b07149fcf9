"""
TLS to the webhook and to the XMPP server, with a check of the certificate's name, and the sentences about its failures.

Twisted's own check of the name has a hole: if service-identity cannot read a certificate it raises
`CertificateError`, and Twisted logs that and accepts the certificate. The check here refuses such a certificate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from attrs import frozen
from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID, DNSPattern, IPAddress_ID, IPAddressPattern, verify_service_identity
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

from component_http.errors import CertificateInvalid, CertificateRefused, ConnectionFailed, WebhookError


@frozen
class Remedies:
    """
    The settings that sentences about a connection name.

    Attributes:
        authorities: Names the authorities that are trusted.
        certificate: Names our own certificate.
        host: Names the host that the other side's certificate has to be for.
        revoked: Names the list of revoked certificates.
    """

    authorities: str
    certificate: str
    host: str
    revoked: str = ""


OF_WEBHOOK = Remedies("webhook.ca_file", "webhook.client_certificate", "webhook.server_name", "webhook.crl_file")

OF_SERVER = Remedies(
    "trustRoots= in component.server", "certificate= in component.server", "the host in component.server"
)


def client_tls(
    host: str,
    trust_root: Any = None,
    certificate: PrivateCertificate | None = None,
    seen: Callable[[float], object] = lambda ends: None,
    revoked: x509.CertificateRevocationList | None = None,
    remedies: Remedies = OF_WEBHOOK,
    chain: Sequence[Certificate] = (),
) -> Any:
    """
    Make TLS connections that check that the other side is `host`; one OpenSSL context serves all of them.

    Args:
        host: A host name, or an IP address without brackets.
        trust_root: The authorities that may sign the certificate: a `twisted.internet.ssl.Certificate`, the result of
            `twisted.internet.ssl.trustRootFromCertificates`, or None for the authorities that the platform trusts.
        certificate: Our own certificate, for a server that asks for one.
        seen: Called with the end of each certificate of the other side that is accepted, in seconds since the epoch.
        revoked: The certificates that the authority has revoked; None to check no list.
        remedies: The settings that the sentences name.
        chain: The certificates behind our own, up to the authority that the other side knows.

    Returns:
        An `IOpenSSLClientConnectionCreator`. A refused connection is lost with an error that `tls_failure` knows.

    Raises:
        ValueError: No certificate can be for this name, because it has an underscore, for instance.

    Source: RFC 9110 section 4.3.4; RFC 9525 sections 6.1 and 6.6; RFC 6066 section 3 (no dot at the end).
    """
    name = host.removesuffix(".")
    try:
        wanted = IPAddress_ID(name) if isIPAddress(name) or isIPv6Address(name) else DNS_ID(name)
        options = optionsForClientTLS(
            name,
            trustRoot=trust_root,
            clientCertificate=certificate,
            extraCertificateOptions={"extraCertChain": [each.original for each in chain]} if chain else None,
        )
    except ValueError as error:  # or a UnicodeError, which is one, for a name that IDNA does not allow
        raise ValueError(f"no certificate can be for the host {host!r}") from error
    return _NameCheckedTLS(host, wanted, options, seen, revoked, remedies)


@implementer(IOpenSSLClientConnectionCreator)
@frozen
class _NameCheckedTLS:
    """Twisted's TLS for clients, with our check of the certificate's name in place of its own."""

    host: str
    wanted: DNS_ID | IPAddress_ID
    options: Any
    seen: Callable[[float], object]
    revoked: x509.CertificateRevocationList | None
    remedies: Remedies

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection: SSL.Connection = self.options.clientConnectionForTLS(tlsProtocol)
        store = connection.get_context().get_cert_store()
        if self.revoked is not None and store is not None:
            # All connections of these options have one store; a list that it has already is not added again.
            store.add_crl(self.revoked)
            store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verify(tlsProtocol))
        return connection

    def _verify(self, tls_protocol: Any) -> Callable[[Any, Any, int, int, int], bool]:
        """Make the function that OpenSSL calls for each certificate of the chain, after its own checks."""

        def verify(_connection: Any, certificate: Any, error: int, depth: int, trusted: int) -> bool:
            if not trusted:
                tls_protocol.failVerification(Failure(CertificateInvalid(self._sentence(error, depth))))
            if not trusted or depth > 0:
                return bool(trusted)
            try:
                shown = certificate.to_cryptography()
                problem = _problem(shown, self.wanted)
            except Exception:  # libraries raise many errors at a stranger's certificate
                problem = "has names that cannot be read: it has to be renewed there"
            if problem is not None:
                sentence = f"the certificate of {self.host} {problem.format(host=self.remedies.host)}"
                tls_protocol.failVerification(Failure(CertificateInvalid(sentence)))
            else:
                self.seen(shown.not_valid_after_utc.timestamp())
            return problem is None

        return verify

    def _sentence(self, error: int, depth: int) -> str:
        of_another = depth > 0 and error in _OF_ITSELF
        whose = "an authority behind the certificate" if of_another else "the certificate"
        reason = _REASONS.get(error, "is not accepted by OpenSSL, whose verify(1) explains the error {error}")
        return f"{whose} of {self.host} " + reason.format(
            error=error, authorities=self.remedies.authorities, revoked=self.remedies.revoked
        )


_UNKNOWN = "is signed by an authority that is not trusted here: if it is yours, name it in {authorities}"

_REASONS = {
    3: "cannot be looked up in {revoked}, whose list is from another authority: name the list of the right one",
    9: "is not valid yet: check the clocks of both machines",
    10: "has expired: it has to be renewed there",
    12: "cannot be looked up in {revoked}, whose list is too old: fetch a new one from the authority",
    18: "is signed by nobody but itself: if it is yours, name it in {authorities}",
    19: _UNKNOWN,
    20: _UNKNOWN,
    21: _UNKNOWN,
    23: "was revoked: it has to be replaced there",
    26: "is not for a server: it has to be replaced there",
    66: "has a key that is too weak: it has to be replaced there",
    67: "has a key that is too weak: it has to be replaced there",
    68: "is signed with a hash that is too weak: it has to be replaced there",
}
"""The reasons for which a certificate is refused, by OpenSSL's numbers X509_V_ERR_... (verify(1))."""

_OF_ITSELF = (9, 10, 23, 26, 66, 67, 68)
"""Those of the reasons that are about the certificate at hand, which may be that of an authority."""


def _problem(certificate: x509.Certificate, wanted: DNS_ID | IPAddress_ID) -> str | None:
    """
    Complete "the certificate of ... " with the reason why it is not for a host; None if it is.

    A name that is not valid (`*.lan`, an IP address written as a host name) is ignored.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "has no subjectAltName, so it is for no host: it has to be renewed there, with that name"
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
        return "is for another name: it has to be renewed there, or {host} is not the right one"
    return None


_FAILURES: tuple[tuple[str, type[ConnectionFailed], str], ...] = (
    (
        r"alert certificate required",
        CertificateRefused,
        "{host} wants a certificate of the gateway ({told}): name one in {certificate}",
    ),
    (
        r"alert (.*certificate|unknown ca|access denied)",
        CertificateRefused,
        "{host} refuses the gateway's certificate ({told}): replace the one in {certificate}",
    ),
    (
        r"alert handshake failure",
        CertificateRefused,
        "{host} ends the TLS handshake ({told}): if it wants a certificate of the gateway, name one in {certificate}",
    ),
    (
        r"alert protocol version|unsupported protocol",
        ConnectionFailed,
        "{host} speaks no TLS 1.2 or later ({told}): it has to be updated",
    ),
    (r"unrecognized name", ConnectionFailed, "{host} does not know the name ({told}): correct {name}"),
    (
        r"wrong version number|http request|packet length too long|record layer failure",
        ConnectionFailed,
        "{host} does not speak TLS ({told}): correct the port, or connect without TLS",
    ),
)
"""Failures of a handshake, by OpenSSL's words for them; other words may stand between those of a pattern."""


def tls_failure(
    error: BaseException | None, host: str = "the other side", remedies: Remedies = OF_WEBHOOK
) -> WebhookError | None:
    """
    Judge why a TLS handshake failed.

    Args:
        host: The other side, for the sentence.
        remedies: As in `client_tls`.

    Returns:
        `CertificateInvalid` if *we* refused the certificate (unknown issuer, expired, for another name),
        `CertificateRefused` if the other side refused ours, `ConnectionFailed` for every other failure of TLS, None if
        the error is not about TLS.
    """
    if isinstance(error, CertificateInvalid):
        return error
    if not isinstance(error, SSL.Error):
        return None
    # str() of such an error shows a list: [(library, function, reason), ...].
    reasons = [str(entry[-1]) for entry in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    told = ", ".join(reason for reason in reasons if reason) or "no reason given"
    if "certificate verify failed" in reasons:
        return CertificateInvalid(f"the certificate of {host} is not accepted ({told})")
    for pattern, kind, sentence in _FAILURES:
        if re.search(pattern, told):
            return kind(sentence.format(host=host, told=told, certificate=remedies.certificate, name=remedies.host))
    return ConnectionFailed(f"TLS with {host} fails: {told}")
