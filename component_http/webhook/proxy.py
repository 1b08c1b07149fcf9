"""
A connection to the webhook through an HTTP proxy, by CONNECT.

Source: RFC 9110 section 9.3.6 (CONNECT), RFC 7617 (Basic).
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

from component_http.errors import ConnectionFailed

MAX_HEAD_BYTES = 16_384
"""Bytes of the proxy's answer before its empty line; proxies send some hundred."""


class _Tunnel(Protocol):
    """
    Asks the proxy for a connection, and hands that over to the protocol it is for.

    Attributes:
        opened: Fires with that protocol; fails with `ConnectionFailed`, and never with anything the proxy wrote.
    """

    transport: Any

    def __init__(self, request: bytes, proxy: str, target: str, factory: Any) -> None:
        self.opened: Deferred[Any] = Deferred(lambda _: self.transport.abortConnection())
        self._request = request
        self._target = target
        self._proxy = proxy
        self._factory = factory
        self._head = b""
        self._inner: Any = None

    def connectionMade(self) -> None:
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(self._head) > MAX_HEAD_BYTES:
                self._fail("does not answer as an HTTP proxy does: correct webhook.proxy")
            return
        status = head.split(b" ", 2)[1:2] if head.startswith(b"HTTP/1.") else []
        if status == [b"407"]:
            self._fail("wants other credentials (407): correct the user and the password in webhook.proxy")
        elif not status or not (status[0].isdigit() and len(status[0]) == 3):
            self._fail("does not answer as an HTTP proxy does: correct webhook.proxy")
        elif not status[0].startswith(b"2"):
            self._fail(f"refuses a connection to {self._target} ({status[0].decode('ascii')}): allow it there")
        else:
            self._open(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self.opened.called:
            self._fail("closed without an answer: its log may say why")

    def _open(self, rest: bytes) -> None:
        self._inner = self._factory.buildProtocol(self.transport.getPeer())
        # From here on the transport knows only the other one; a TLS layer may be among its own.
        self.transport.protocol = self._inner
        self._inner.makeConnection(self.transport)
        self.opened.callback(self._inner)
        if rest:
            self._inner.dataReceived(rest)

    def _fail(self, what: str) -> None:
        if not self.opened.called:
            self.opened.errback(Failure(ConnectionFailed(f"the proxy {self._proxy} {what}")))
        self.transport.abortConnection()


@implementer(IStreamClientEndpoint)
class ProxyEndpoint:
    """
    Connects through a proxy.

    Args:
        endpoint: Connects to the proxy.
        proxy: The proxy for sentences: its scheme, host and port.
        host: The host and the port to connect to, as in a Host header but always with the port.
        authorization: The credentials for the proxy, or None.
    """

    def __init__(self, endpoint: Any, proxy: str, host: bytes, authorization: bytes | None) -> None:
        self._endpoint = endpoint
        self._proxy = proxy
        self._target = host.decode("ascii")
        lines = b"" if authorization is None else b"Proxy-Authorization: %s\r\n" % authorization
        self._request = b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (host, host, lines)

    def connect(self, factory: Any) -> Deferred[Any]:
        """See `twisted.internet.interfaces.IStreamClientEndpoint`."""
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: Any) -> Any:
        outer = Factory.forProtocol(lambda: _Tunnel(self._request, self._proxy, self._target, factory))
        outer.noisy = False
        try:
            tunnel = await self._endpoint.connect(outer)
        except Exception as error:
            reason = str(error).rstrip(".")
            raise ConnectionFailed(
                f"no connection to the proxy {self._proxy} ({reason}): start it, or correct webhook.proxy"
            ) from error
        return await tunnel.opened
