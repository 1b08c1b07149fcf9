"""The webhook's URL: how it is checked, taken apart, and shown without its secrets."""

from __future__ import annotations

import re
from base64 import b64encode
from ipaddress import IPv6Address, ip_address
from urllib.parse import quote, unquote

import idna
from attrs import field, frozen

_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)", re.IGNORECASE)
_UNIX = re.compile(r"http\+unix://(/[^:?#]+)(?::(/[^#]*))?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?:([^@]*)@)?(\[[0-9A-Fa-f:.]+\]|[^\[\]:@]+)(?::([0-9]{0,5}))?")
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


@frozen
class WebhookUrl:
    """
    A URL that can be POSTed to, taken apart.

    Attributes:
        socket: The path of the Unix socket of an `http+unix:` URL; None for a host and a port.
        host: The host in lower-case ASCII (IDNA where it was not); an IPv6 address has no brackets here.
        port: The port, or the scheme's own where the URL names none.
        target: The path and the query as they are sent: byte for byte as written, but characters that are not ASCII are
            percent-encoded as UTF-8. A fragment is dropped.
        authorization: The Basic credentials made of user:password; None if the URL has none.
    """

    secure: bool
    host: str
    port: int
    target: bytes = field(repr=False)
    authorization: bytes | None = field(default=None, repr=False)
    socket: str | None = None

    @classmethod
    def parse(cls, text: str) -> WebhookUrl:
        """
        Take an absolute http or https URL apart, or one of a Unix socket such as `http+unix:///run/bot.sock:/path`;
        user and password are percent-encoded.

        Raises:
            ValueError: The text is no such URL. The sentence shows nothing of it that may be secret.

        Source: RFC 3986; RFC 7617 (user and password, as UTF-8); UTS 46 for the host.
        """
        unix = _UNIX.fullmatch(text)
        if unix is not None and text.isprintable() and " " not in text:
            path, target = unix.groups()
            return cls(False, "localhost", 80, _target(target or "/"), socket=path)
        url = _URL.match(text)
        if url is None or not text.isprintable() or re.search(r"[\s\\]", text):
            raise ValueError("not an absolute http:// or https:// URL")
        scheme, authority, target = url.groups()
        parts = _AUTHORITY.fullmatch(authority)
        if parts is None:
            raise ValueError("the URL's host or port is malformed")
        userinfo, host, port = parts.groups()
        secure = scheme.lower() == "https"
        number = int(port) if port else 443 if secure else 80
        if not 0 < number < 65536:
            raise ValueError(f"the URL's port {number} is not in 1..65535")
        if secure and "_" in host:
            raise ValueError("no certificate can be for a host with an underscore, so https cannot work there")
        return cls(
            secure,
            _ascii_host(host),
            number,
            _target(target if target.startswith("/") else f"/{target}"),
            _basic(userinfo) if userinfo else None,
        )

    @property
    def host_header(self) -> bytes:
        """The Host header; it has the port unless it is the scheme's own (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.secure else 80
        return (host if self.port == usual else f"{host}:{self.port}").encode("ascii")

    @property
    def origin(self) -> str:
        """Scheme, host and port, or the socket: the part of the URL that the log may show."""
        if self.socket is not None:
            return f"http+unix://{self.socket}"
        return f"http{'s' if self.secure else ''}://{self.host_header.decode('ascii')}"


def _target(text: str) -> bytes:
    return quote(text, safe=_VISIBLE).encode("ascii")


def without_secrets(text: str) -> str:
    """
    Shorten a text that may be meant as a URL to scheme, host and port, because the rest may be secret.

    A usable URL is better shown by `WebhookUrl.origin`.
    """
    start, slashes, rest = text.partition("//") if "//" in text else ("", "", text)
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    path = rest[len(host) :]
    if "@" in start or "@" in path:
        return "..."  # there is no telling where a password ends
    return f"{start}{slashes}{host.rpartition('@')[2]}{path if path in ('', '/') else '/...'}"


def _ascii_host(host: str) -> str:
    if host.startswith("["):
        host = host[1:-1].lower()
        if not is_ipv6(host):
            raise ValueError("the URL's host is not an IPv6 address, though it stands in brackets")
        return host
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError("the URL's host is not a name that DNS can hold") from error
    if len(host) > 253 or not re.fullmatch(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?", host):
        raise ValueError("the URL's host is not a name that DNS can hold")
    host = host.lower()
    # Containers have names with underscores, which IDNA knows nothing of; they are only looked up.
    if "_" not in host:
        try:
            idna.encode(host)
        except idna.IDNAError as error:
            raise ValueError(f"the URL's host is no host name, for IDNA says: {error}") from error
    return host


def is_ipv6(text: str) -> bool:
    """Say whether a text is an IPv6 address without brackets (RFC 4291 section 2.2)."""
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine itself (RFC 6761 section 6.3: so is each name that ends in localhost)."""
    try:
        address = ip_address(host)
    except ValueError:
        return bool(re.fullmatch(r"(?:.*\.)?localhost\.?", host, re.IGNORECASE))
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _basic(userinfo: str) -> bytes:
    user, _, password = userinfo.partition(":")
    user, password = unquote(user, errors="surrogateescape"), unquote(password, errors="surrogateescape")
    if ":" in user:
        raise ValueError("a user with a colon cannot be sent as Basic auth")
    return b"Basic " + b64encode(f"{user}:{password}".encode("utf-8", "surrogateescape"))
