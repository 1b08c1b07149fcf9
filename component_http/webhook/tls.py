"""TLS towards a webhook: who may vouch for it, and how a refused certificate is told from other failures."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.ssl import optionsForClientTLS

from component_http.errors import CertificateInvalid, ConnectionFailed, WebhookError

__all__ = ["client_tls", "tls_failure"]


def client_tls(host: str, trust_root: Any = None) -> Any:
    """
    Make what checks that the other side is `host`; its one OpenSSL context serves every connection.

    Args:
        host: The name in ASCII (IDNA where needed), or an IP address without brackets.
        trust_root: Who may vouch for the certificate: a `twisted.internet.ssl.Certificate`, the result of
            `twisted.internet.ssl.trustRootFromCertificates`, or None for the authorities that the platform trusts.

    Returns:
        An `IOpenSSLClientConnectionCreator`.

    Raises:
        ValueError: No certificate can be for this name (one with an underscore, for instance).

    Source: RFC 9110 section 4.3.4; RFC 9525, which service-identity carries out.
    """
    try:
        return optionsForClientTLS(host, trustRoot=trust_root)
    except UnicodeError as error:
        raise ValueError(f"no certificate can be for the host {host!r} of the URL") from error


def tls_failure(error: BaseException) -> WebhookError | None:
    """
    Judge why a TLS handshake failed.

    Returns:
        `CertificateInvalid` if *we* refused the certificate (unknown issuer, expired, for another name),
        `ConnectionFailed` for every other failure of TLS, None if the error is not about TLS.
    """
    if isinstance(error, VerificationError):
        return CertificateInvalid("the certificate is for another name")
    if not isinstance(error, SSL.Error):
        return None
    # str() of these shows the insides of a list: [(library, function, reason), ...].
    reasons = [str(entry[-1]) for entry in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    told = ", ".join(reason for reason in reasons if reason) or "no reason given"
    if "certificate verify failed" in reasons:
        return CertificateInvalid(told)
    return ConnectionFailed(f"TLS: {told}")
