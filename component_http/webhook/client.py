"""
The webhook as somebody to POST to: treq over our own agent.

treq's client is the way in, and `PooledAgent` keeps the limits. All POSTs have one URL and one set of headers, so their
head is written once. All that treq does for a browser is left out: cookies, redirects, decoding, and encoding the same
URL again for each request.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

from treq.client import HTTPClient
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.web.http_headers import Headers

from component_http._version import __version__
from component_http.certificates import Ends, RenewedTLS, TlsFiles
from component_http.contract.http import BEARER, is_field_value, is_token
from component_http.contract.reply import Response
from component_http.contract.request import RESERVED_HEADERS
from component_http.contract.url import WebhookUrl
from component_http.interfaces.tracer import Tracers, without_secrets
from component_http.log import Logger
from component_http.signing import signatures, signer
from component_http.throttle import LOG_INTERVAL, Throttle
from component_http.tls import client_tls
from component_http.webhook.agent import PooledAgent, with_body
from component_http.webhook.pool import Pool
from component_http.webhook.proxy import ProxyEndpoint

MAX_OTHER_BODY_BYTES = 65_536
"""Bytes read of a body that nobody looks at (any status but 200), so that the connection can be used again."""

NEXT_ADDRESS_SECONDS = 0.1
"""
Seconds until a host's next address is tried beside the one before (RFC 8305 section 8 wants 0.1 at least).

Twisted also waits this long before it says that the only address refuses, and 0.3 s, its default, is long to hold a
connection's place.
"""


MAX_SKEW_SECONDS = 300.0
"""Seconds by which a timestamp may be off that a webhook accepts (Standard Webhooks 1.0 advises some minutes)."""

_REFUSALS = (400, 401, 403)
"""The statuses by which a webhook refuses a signature."""


class WebhookClient:
    """
    Makes POSTs to one webhook: pooled, capped, within one time limit. Implements `component_http.interfaces.Webhook`.

    Of the responses it reads only what the contract needs: redirects are not followed, cookies neither kept nor sent,
    nothing is decoded. Nothing that a server does ends in another exception than a `WebhookError`, and nothing of
    it in the log as an error.
    """

    _log = Logger()

    def __init__(
        self,
        url: str,
        *,
        reactor: Any,
        timeout: float = 60.0,
        connect_timeout: float = 5.0,
        max_connections: int = 32,
        max_body_bytes: int = 1_048_576,
        headers: Mapping[str, str] | None = None,
        bearer_token: str | None = None,
        signing_secrets: Sequence[str] = (),
        trust_root: Any = None,
        tls: TlsFiles | None = None,
        server_name: str | None = None,
        proxy: str | None = None,
        user_agent: str = f"component-http/{__version__}",
        tracers: Tracers | None = None,
    ) -> None:
        """
        Opens nothing yet.

        Args:
            url: Where to POST; user:password in it becomes Basic auth.
            timeout: Seconds for one POST, from connecting to the last byte of the response's body. Waiting for one
                of the connections does not count.
            connect_timeout: Seconds of these for DNS, TCP and TLS.
            max_connections: Connections, and so requests, at once; more wait in the order they were made.
            max_body_bytes: A larger body of a response with status 200 is not read, see `post`.
            headers: Sent with each POST; values are printable ASCII.
            bearer_token: Sent as `Authorization: Bearer`.
            signing_secrets: Each of them signs each POST (`signing`).
            trust_root: See `component_http.tls.client_tls`.
            tls: Files in its place, which are read again when they change.
            server_name: The name that the certificate has to have, instead of the URL's host.
            proxy: The URL of an HTTP proxy to go through; user:password in it becomes Basic auth.
            tracers: While somebody follows deliveries, the Deferred of each POST has `marks` (`interfaces.Marks`), and
                its `headers` (`interfaces.Tracer.posted`).

        Raises:
            ValueError: The URL is none, a header is reserved, malformed or given twice, or a file cannot be used.
        """
        where = WebhookUrl.parse(url)
        self._signers = tuple(map(signer, signing_secrets))
        self._skew = Throttle(LOG_INTERVAL)
        self._origin = where.origin
        self._own: Ends | None = None
        self._ends = Ends(f"the certificate of {self._origin}", "it has to be renewed there")
        origin = where.origin.encode("ascii")
        fixed = _static_headers(headers or {}, where.authorization, bearer_token, user_agent)
        pool = Pool(
            self._endpoint(where, reactor, connect_timeout, proxy, trust_root, tls, server_name),
            reactor,
            where=self._origin,
            secure=where.secure,
            connect_timeout=connect_timeout,
            max_connections=max_connections,
            body_limit=lambda status: max_body_bytes if status == 200 else MAX_OTHER_BODY_BYTES,
        )
        self._tracers = Tracers() if tracers is None else tracers
        self._fixed = without_secrets(
            (name.decode("ascii"), value.decode("ascii"))
            for name, values in fixed.getAllRawHeaders()
            for value in values
        )
        self._agent = PooledAgent(origin, where.host_header, pool, timeout, self._tracers)
        self._http = _PreparedClient(self._agent, self._agent.head(b"POST", origin + where.target, fixed))

    def __repr__(self) -> str:
        return f"<WebhookClient {self._origin}>"

    def post(self, body: bytes, headers: Mapping[str, str], *, fresh: bool = False) -> Deferred[Response]:
        """
        Make one POST and wait for the whole response; cancelling frees its connection.

        Args:
            body: The JSON object, UTF-8.
            headers: What is particular to this attempt; ASCII.
            fresh: Use a connection that has carried no request before; an idle one is closed where there is no room.

        Returns:
            The response, whatever its status. `body` is None for a 200 with more than `max_body_bytes`, and for any
            other status with more than `MAX_OTHER_BODY_BYTES`.

        Raises:
            ConnectionFailed: No connection in time, or the client is closed.
            CertificateInvalid: We do not accept the webhook's certificate.
            TimedOut: Connected, but no complete response in time.
            ConnectionCut: The connection ended before the response was complete, or it was not HTTP.
        """
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("ascii")
        signed = b""
        if self._signers:
            signed = signatures(self._signers, headers["webhook-id"], headers["webhook-timestamp"], body)
            lines = b"%swebhook-signature: %s\r\n" % (lines, signed)
        post: Any = self._http.post(lines, body, fresh)
        if self._tracers.told is not None:
            signature = {"webhook-signature": signed.decode("ascii")} if signed else {}
            post.headers = [*self._fixed, *without_secrets({**headers, **signature}.items())]
        if self._signers:
            post.addCallback(self._judged)
        sent: Deferred[Response] = post
        return sent

    def _judged(self, response: Response) -> Response:
        """Say so if the clocks may be the reason why a webhook refuses what is signed."""
        if response.status in _REFUSALS and "date" in response.headers:
            with suppress(ValueError, OverflowError):
                theirs = parsedate_to_datetime(response.headers["date"])
                seconds = 0.0 if theirs.tzinfo is None else abs(theirs.timestamp() - time.time())
                if seconds > MAX_SKEW_SECONDS and self._skew.may_tell("", time.time()):
                    self._log.warn(
                        "{webhook} refuses what is signed, and its clock differs from ours by {minutes} minutes: set"
                        " the clocks of both machines",
                        webhook=self._origin,
                        minutes=round(seconds / 60),
                    )
        return response

    def _endpoint(
        self,
        where: WebhookUrl,
        reactor: Any,
        connect_timeout: float,
        proxy: str | None,
        trust_root: Any,
        tls: TlsFiles | None,
        server_name: str | None,
    ) -> Any:
        endpoint = _endpoint(where, reactor, connect_timeout, None if proxy is None else WebhookUrl.parse(proxy))
        if not where.secure:
            return endpoint
        name = server_name or where.host
        if tls is None:
            return wrapClientTLS(client_tls(name, trust_root, seen=self._ends.see), endpoint)
        made = RenewedTLS(tls, name, self._ends.see)
        self._own = made.own
        return wrapClientTLS(made, endpoint)

    @property
    def certificate_ends(self) -> float | None:
        """
        When the first of the certificates ends that are in use: that which the webhook has shown last, and our own for
        it; in seconds since the epoch, None before.
        """
        return min((each.last for each in (self._ends, self._own) if each is not None and each.last), default=None)

    async def close(self) -> None:
        """Drop the idle connections; waiting and later requests fail with `ConnectionFailed`, running ones go on."""
        await self._agent.close()


class _PreparedClient(HTTPClient):
    """treq's client for one POST that is made again and again: its head is written, and no agent is put around ours."""

    def __init__(self, agent: Any, head: bytes) -> None:
        super().__init__(agent)
        self._send: Callable[[bytes, bool], Deferred[Response]] = agent.send
        self._head = head

    def post(self, headers: bytes, data: bytes, fresh: bool) -> Deferred[Response]:  # type: ignore[override]
        """See `treq.post`; the headers are the lines of those that are particular to this request."""
        return self._send(with_body(self._head, headers, data), fresh)


def _endpoint(url: WebhookUrl, reactor: Any, connect_timeout: float, proxy: WebhookUrl | None = None) -> Any:
    if url.socket is not None:
        return UNIXClientEndpoint(reactor, url.socket, timeout=connect_timeout)
    if proxy is not None:
        host = f"[{url.host}]" if ":" in url.host else url.host
        to_proxy = _endpoint(proxy, reactor, connect_timeout)
        return ProxyEndpoint(to_proxy, proxy.origin, f"{host}:{url.port}".encode("ascii"), proxy.authorization)
    endpoint: Any
    if isIPv6Address(url.host):
        endpoint = TCP6ClientEndpoint(reactor, url.host, url.port, timeout=connect_timeout)
    elif isIPAddress(url.host) or "_" in url.host:
        # An underscore is in no host name, says IDNA and so HostnameEndpoint; but containers are named so, and
        # resolvers do not mind.
        endpoint = TCP4ClientEndpoint(reactor, url.host, url.port, timeout=connect_timeout)
    else:
        endpoint = HostnameEndpoint(
            reactor, url.host, url.port, timeout=connect_timeout, attemptDelay=NEXT_ADDRESS_SECONDS
        )
    return endpoint


def _static_headers(
    given: Mapping[str, str], url_authorization: bytes | None, bearer_token: str | None, user_agent: str
) -> Headers:
    """Make the headers of every POST; a name that is given twice is a ValueError that does not show the value."""
    headers = Headers(
        {
            b"User-Agent": [user_agent.encode("ascii")],
            b"Content-Type": [b"application/json"],
            b"Accept": [b"application/json"],
            b"Accept-Encoding": [b"identity"],
        }
    )
    seen: set[str] = set()
    for name, value in given.items():
        if not is_token(name) or name.lower() in RESERVED_HEADERS:
            raise ValueError(f"the header {name!r} cannot be set")
        if not is_field_value(value) or name.lower() in seen:
            raise ValueError(f"the header {name!r} is there twice, or its value is not printable ASCII")
        seen.add(name.lower())
        headers.setRawHeaders(name.encode("ascii"), [value.encode("ascii")])
    if bearer_token is not None and not re.fullmatch(BEARER, bearer_token):
        raise ValueError("the bearer token is not printable ASCII without blanks")
    bearer = None if bearer_token is None else b"Bearer " + bearer_token.encode("ascii")
    authorizations = [each for each in (url_authorization, bearer) if each is not None]
    if len(authorizations) + ("authorization" in seen) > 1:
        raise ValueError("the URL, the bearer token and the headers set the Authorization header more than once")
    if authorizations:
        headers.setRawHeaders(b"Authorization", authorizations)
    return headers
