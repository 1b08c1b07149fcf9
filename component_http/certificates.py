"""
The files with certificates, for each connection with TLS: they are read again when they change.

A certificate lives for weeks, and a gateway for months. So nobody has to restart it for a new one, and the log tells
in time of one that ends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import frozen
from cryptography import x509
from OpenSSL import SSL, crypto
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
    trustRootFromCertificates,
)
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

from component_http.contract.endpoint import Endpoint
from component_http.log import Logger
from component_http.tls import OF_SERVER, OF_WEBHOOK, Remedies, client_tls

_PEM = 1
"""OpenSSL's number for a file in PEM."""

_END = b"-----END CERTIFICATE-----"

_OPTIONS = ("timeout", "bindAddress", "certificate", "privateKey", "trustRoots", "endpoint")
"""The named arguments of a `tls:` endpoint, as in Twisted."""

ENDS_SOON = (14, 3)
"""Days before the end of a certificate from which on it is told, and told once more."""

_MOST_TOLD = 20
"""Certificates that are remembered as told; a webhook on several machines may have one on each."""

_log = Logger()


class FilesUnusable(ValueError):
    """A file with certificates cannot be used; the sentence names it, its setting, and the reason."""


def days_left(path: str, now: float) -> float | None:
    """Read how many days the first certificate of a file still has; None if it cannot be read."""
    ends = end_of(path)
    return None if ends is None else (ends - now) / 86_400


def end_of(path: str) -> float | None:
    """Read when the first certificate of a file ends, in seconds since the epoch; None if it cannot be read."""
    try:
        return x509.load_pem_x509_certificate(Path(path).read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return None


class Ends:
    """
    Tells in the log of a certificate that ends soon: once when 14 days are left, and once more when 3 are.

    Args:
        what: The certificate, for the sentence.
        remedy: What has to be done.
        wall: The time, in seconds since the epoch.

    Attributes:
        last: The end of the one that was seen last, in seconds since the epoch; None before.
    """

    def __init__(self, what: str, remedy: str, wall: Callable[[], float] = time.time) -> None:
        self.last: float | None = None
        self._what = what
        self._remedy = remedy
        self._wall = wall
        self._told: set[tuple[float, int]] = set()

    def see(self, ends: float) -> None:
        """Note the end of a certificate that is in use."""
        self.last = ends
        days = (ends - self._wall()) / 86_400
        soon = next((limit for limit in reversed(ENDS_SOON) if days < limit), None)
        if soon is None or (ends, soon) in self._told:
            return
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told.add((ends, soon))
        when = "has ended" if days < 0 else f"ends in {days:.0f} days"
        _log.warn("{what} {when}: {remedy}", what=self._what, when=when, remedy=self._remedy)


@frozen
class TlsFiles:
    """
    The files for TLS connections of one kind.

    Attributes:
        authorities: The certificates of the authorities that may sign that of the other side: a file, or a folder with
            .pem files; None for those that the platform trusts.
        certificate: Our own certificate, with those that belong to it; None for none.
        key: Its key; None if it stands in the same file.
        revoked: The list of certificates that were revoked (a CRL); None for none.
        remedies: The settings that name them.
    """

    authorities: str | None = None
    certificate: str | None = None
    key: str | None = None
    revoked: str | None = None
    remedies: Remedies = OF_WEBHOOK

    def tls(self, host: str, seen: Callable[[float], object] = lambda ends: None) -> Any:
        """Make `client_tls` of them. Raises `FilesUnusable`; `ValueError` for the host, as there."""
        own, chain = self._own()
        return client_tls(host, self.trust_root(), own, seen, self._revoked(), self.remedies, chain)

    def trust_root(self) -> Any:
        """Read the authorities; None if there are none. Raises `FilesUnusable`."""
        if self.authorities is None:
            return None
        found = []
        with _reading(self.remedies.authorities, self.authorities):
            if not os.path.isdir(self.authorities):
                with suppress(crypto.Error):
                    found = _certificates(Path(self.authorities).read_bytes())
            for path in self._in_folder():
                # A damaged file, or a link to nowhere, is skipped.
                with suppress(OSError, crypto.Error):
                    found += _certificates(path.read_bytes())
        if not found:
            raise FilesUnusable(f'{self.remedies.authorities} "{self.authorities}" holds no certificates in PEM')
        return trustRootFromCertificates(found)

    def _in_folder(self) -> list[Path]:
        if self.authorities is None or not os.path.isdir(self.authorities):
            return []
        return sorted(path for path in Path(self.authorities).iterdir() if path.name.lower().endswith(".pem"))

    def _own(self) -> tuple[PrivateCertificate | None, list[Certificate]]:
        if self.certificate is None:
            return None, []
        with _reading(self.remedies.certificate, self.certificate):
            own = Path(self.certificate).read_bytes()
        with _reading(self.remedies.certificate, self.key or self.certificate):
            secret = Path(self.key or self.certificate).read_bytes()
        try:
            first, *chain = _certificates(own)
            key = _key(secret, self.key or self.certificate, self.remedies.certificate)
            pair = PrivateCertificate.fromCertificateAndKeyPair(first, key)
            pair.options().getContext()
        except FilesUnusable:
            raise
        except (SSL.Error, crypto.Error, VerifyError, ValueError):
            its_key = f'the key in "{self.key}"' if self.key else "the key in the same file"
            raise FilesUnusable(
                f'{self.remedies.certificate} "{self.certificate}" and {its_key} do not fit each other, or one of them'
                " is not in PEM"
            ) from None
        return pair, chain

    def _revoked(self) -> x509.CertificateRevocationList | None:
        if self.revoked is None:
            return None
        with _reading(self.remedies.revoked, self.revoked):
            content = Path(self.revoked).read_bytes()
        try:
            return x509.load_pem_x509_crl(content)
        except ValueError:
            raise FilesUnusable(
                f'{self.remedies.revoked} "{self.revoked}" holds no list of revoked certificates in PEM'
            ) from None

    def own_end(self) -> float | None:
        """Read when our own certificate ends, in seconds since the epoch; None if there is none."""
        return None if self.certificate is None else end_of(self.certificate)

    def stamps(self) -> tuple[object, ...]:
        """Return a value that differs from the one before if a file was replaced or written to."""
        paths = [path for path in (self.authorities, self.certificate, self.key, self.revoked) if path is not None]
        found: list[object] = []
        with suppress(OSError):
            paths += map(str, self._in_folder())
        for path in paths:
            with suppress(OSError):
                status = os.stat(path)
                found.append((path, status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)


@contextmanager
def _reading(setting: str, path: str) -> Iterator[None]:
    """Turn the error of a file that cannot be read into a sentence that names it."""
    try:
        yield
    except OSError as error:
        raise FilesUnusable(f'{setting} "{path}" cannot be read: {error.strerror}') from None


def _certificates(text: bytes) -> list[Certificate]:
    """Read all certificates of a text in PEM. Raises `OpenSSL.crypto.Error` if one is none."""
    return [Certificate.loadPEM(part + _END) for part in text.split(_END)[:-1]]


def _key(content: bytes, path: str, setting: str) -> KeyPair:
    """
    Read a key in PEM. Raises `OpenSSL.crypto.Error` if it is none, and `FilesUnusable` if it has a passphrase.

    Without our answer OpenSSL would ask for the passphrase at the terminal, and everything would wait for that.
    """

    def refuse(_writing: int) -> bytes:
        raise FilesUnusable(
            f'the key in "{path}", for {setting}, has a passphrase, which nobody can enter: write the key without one,'
            " by openssl pkey, into a file that only the gateway can read"
        )

    return KeyPair(crypto.load_privatekey(_PEM, content, refuse))


class _Renewed:
    """Files that are read again when they have changed; while changed ones cannot be used, those from before are."""

    def __init__(self, stamps: Callable[[], tuple[object, ...]], read: Callable[[], Any]) -> None:
        self._stamps = stamps
        self._read = read
        self._last = stamps()
        self._found = read()

    def __call__(self) -> Any:
        stamps = self._stamps()
        if stamps != self._last:
            self._last = stamps
            try:
                self._found = self._read()
            except ValueError as error:
                _log.warn("{error}; the content from before is used", error=str(error))
        return self._found


@implementer(IOpenSSLClientConnectionCreator)
class RenewedTLS:
    """
    The TLS of files that are read again when they have changed.

    Args:
        host: As in `client_tls`, and so is `seen`.

    Attributes:
        own: Told of the end of our own certificate, if there is one.

    Raises:
        ValueError: A file cannot be used, or no certificate can be for the host.
    """

    def __init__(self, files: TlsFiles, host: str, seen: Callable[[float], object] = lambda ends: None) -> None:
        self.own = Ends(f"the certificate in {files.remedies.certificate}", "renew it")
        self._renewed = _Renewed(files.stamps, lambda: (files.tls(host, seen), files.own_end()))

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        tls, ends = self._renewed()
        if ends is not None:
            self.own.see(ends)
        connection: SSL.Connection = tls.clientConnectionForTLS(tlsProtocol)
        return connection


def client_endpoint(reactor: Any, description: str) -> Any:
    """
    Make an endpoint as `twisted.internet.endpoints.clientFromString` does, but with our check of names for `tls:`.

    Raises:
        FilesUnusable: A file that it names cannot be used.
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
    files = TlsFiles(trustRoots, certificate, privateKey, remedies=OF_SERVER)
    ends = Ends(f"the certificate of {host}", "it has to be renewed there")
    return wrapClientTLS(RenewedTLS(files, host, ends.see), inner)


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """
    TLS for a port of ours, whose certificate is read again when its files have changed.

    Args:
        key: The file of the key, `certificate` that of the certificate, `chain` that of further certificates or None.
        clients: The file of the authorities that sign the certificates of clients, which then have to show one; None
            asks for none.
        table: The table of the settings that names the files.

    Raises:
        FilesUnusable: The files cannot be used.
    """

    def __init__(self, key: str, certificate: str, chain: str | None, clients: str | None, table: str) -> None:
        self._listen = f"{table}.listen"
        self._key = key
        self._certificate = certificate
        self._chain = chain
        self._clients = TlsFiles(clients, remedies=Remedies(f"{table}.client_ca_file", self._listen, self._listen))
        self._ends = Ends(f"the certificate in {self._listen}", "renew it")
        self._renewed = _Renewed(self._look, lambda: (self._made(), end_of(certificate)))

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        options, ends = self._renewed()
        if ends is not None:
            self._ends.see(ends)
        return SSL.Connection(options.getContext(), None)

    def _look(self) -> tuple[object, ...]:
        return TlsFiles(self._key, self._certificate, self._chain).stamps() + self._clients.stamps()

    def _made(self) -> CertificateOptions:
        clients = self._clients.trust_root()
        try:
            own = _certificates(Path(self._certificate).read_bytes())
            chain = [] if self._chain is None else _certificates(Path(self._chain).read_bytes())
            key = _key(Path(self._key).read_bytes(), self._key, self._listen)
            options = CertificateOptions(
                privateKey=key.original,
                certificate=own[0].original,
                extraCertChain=[each.original for each in (*own[1:], *chain)],
                trustRoot=clients,
            )
            options.getContext()
        except OSError as error:
            raise FilesUnusable(f'"{error.filename}" in {self._listen} cannot be read: {error.strerror}') from None
        except (IndexError, crypto.Error, SSL.Error):
            raise FilesUnusable(
                f'the certificate in "{self._certificate}" and the key in "{self._key}", which {self._listen} names, do'
                " not fit each other, or one of them is not in PEM"
            ) from None
        return options


def is_renewed(description: str) -> bool:
    """Tell whether the certificates of an endpoint are read by `ServerTLS`; else Twisted reads them, once."""
    endpoint = Endpoint.parse(description)
    unnamed = len(endpoint.positional) + ("port" in endpoint.named)
    return endpoint.kind == "ssl" and not endpoint.named.keys() & {"sslmethod", "dhParameters"} and unnamed <= 3


def server_endpoint(reactor: Any, description: str, clients: str | None, table: str) -> Any:
    """
    Make an endpoint as `twisted.internet.endpoints.serverFromString` does, but for `ssl:` with `ServerTLS`.

    Args:
        clients: As in `ServerTLS`, and so is `table`.

    Raises:
        FilesUnusable: A file cannot be used, or nobody would look at the certificates of clients.
    """
    endpoint = Endpoint.parse(description)
    named = endpoint.named
    interface, port = endpoint.interface_and_port
    if not is_renewed(description):
        if clients is not None:  # the settings refuse it before
            raise FilesUnusable(f"{table}.client_ca_file asks no client for a certificate at this {table}.listen")
        return serverFromString(reactor, description)
    key, certificate = ssl_files(endpoint)
    tls = ServerTLS(key, certificate, named.get("extraCertChain"), clients, table)
    return SSL4ServerEndpoint(reactor, int(port), tls, int(named.get("backlog", "50")), interface)


def ssl_files(endpoint: Endpoint) -> tuple[str, str]:
    """Return the paths of the key and of the certificate of an `ssl:` endpoint."""
    unnamed = dict(enumerate(endpoint.positional[0 if "port" in endpoint.named else 1 :]))
    key = endpoint.named.get("privateKey") or unnamed.get(0) or "server.pem"
    return key, endpoint.named.get("certKey") or unnamed.get(1) or key
