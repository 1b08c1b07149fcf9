"""The webhook client against real sockets on loopback: polite servers, rude ones, and TLS."""

from __future__ import annotations

import contextlib
import gc
import gzip
import os
import time
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, gatherResults
from twisted.internet.ssl import Certificate, PrivateCertificate
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from component_http.certificates import TlsFiles
from component_http.contract.reply import Response
from component_http.errors import CertificateInvalid, ConnectionCut, ConnectionFailed, TimedOut, WebhookError
from component_http.signing import new_secret
from component_http.webhook.client import WebhookClient
from tests.certificates import ODD_NAMES, Authority, Name, by_itself
from tests.integration.rude_webhooks import RawConnection, RawWebhook, answer, chunked, endless, trickle
from tests.integration.servers import free_port

reactor: Any = _reactor

STRIKES = 0.3
"""Seconds after which a time limit strikes where a test is about it; elsewhere it never does."""

SOCKET_BUFFERS = 16 * 1024 * 1024
"""Bytes that the kernel takes from a server before anybody reads them, at most."""


def say(data: bytes) -> Callable[[RawConnection], object]:
    """Answer every request with these bytes."""
    return lambda connection: connection.say(data)


def say_and_close(data: bytes) -> Callable[[RawConnection], object]:
    """Answer with these bytes and close."""

    def behave(connection: RawConnection) -> None:
        connection.say(data)
        connection.close()

    return behave


def be_silent(_connection: RawConnection) -> None:
    """Never answer."""


def through_to_the_target(connection: RawConnection) -> None:
    """Do what a proxy does with CONNECT: carry everything to the target and back."""
    host, port = connection.requests[-1].split(b" ")[1].rsplit(b":", 1)
    connection.carry(host.decode(), int(port))


class WebhookCase(TestCase):
    """What the tests share: servers and clients that are gone afterwards, or the test fails."""

    timeout = 120

    def setUp(self) -> None:
        self.webhooks: list[RawWebhook] = []
        self.clients: list[WebhookClient] = []
        self.running: list[Deferred[Response]] = []

    def tearDown(self) -> Any:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for answered in self.running:
            answered.addErrback(lambda _: None)
            answered.cancel()
        for client in self.clients:
            await client.close()
        for webhook in self.webhooks:
            await webhook.stop()

    def serve(self, behave: Callable[[RawConnection], object], **how: Any) -> RawWebhook:
        """A webhook that does this with each request."""
        webhook = RawWebhook(behave, greet=how.pop("greet", None)).listen(**how)
        self.webhooks.append(webhook)
        return webhook

    def client(self, where: RawWebhook | str, **settings: Any) -> WebhookClient:
        """A client for it."""
        url = where if isinstance(where, str) else where.url
        client = WebhookClient(url, reactor=reactor, **settings)
        self.clients.append(client)
        return client

    def post(
        self, client: WebhookClient, name: str = "a", body: bytes = b"{}", *, fresh: bool = False
    ) -> Deferred[Response]:
        """A POST on its way, with this webhook-id."""
        answered = ensureDeferred(client.post(body, {"webhook-id": name}, fresh=fresh))
        self.running.append(answered)
        return answered

    async def failure_of(self, answered: Deferred[Response], kind: type[Exception]) -> Any:
        """The error of this kind that a POST ends with; any other end fails the test."""
        return await self.assertFailure(answered, kind)

    async def answer_of(self, behave: Callable[[RawConnection], object], **settings: Any) -> Response:
        """What a client makes of a webhook that does this."""
        return await self.post(self.client(self.serve(behave), **settings))

    async def error_of(
        self, behave: Callable[[RawConnection], object], kind: type[WebhookError], **settings: Any
    ) -> Any:
        """The error that a client makes of a webhook that does this; the connection is gone then, on both sides."""
        webhook = self.serve(behave)
        error = await self.failure_of(self.post(self.client(webhook, **settings)), kind)
        await webhook.when_all_closed()
        self.assertEqual(1, len(webhook.connections))
        # An error that nobody saw is logged, and fails the test, when its Deferred is collected.
        gc.collect()
        return error


class ConnectionTests(WebhookCase):
    """How many connections there are, and who gets them."""

    async def test_fifty_requests_over_four_connections(self) -> None:
        """
        Fifty requests at once use four sockets at the server, and start in the order they were made.
        """
        held: list[RawConnection] = []
        webhook = self.serve(held.append)
        client = self.client(webhook, max_connections=4)
        answers = [self.post(client, f"<{number}>") for number in range(50)]
        for arrived in [*range(4, 50), 50, 50, 50, 50]:
            await webhook.when_requested(arrived)
            held.pop(0).say(answer())
        await gatherResults(answers)
        self.assertEqual((4, 4), (webhook.most_open, len(webhook.connections)))
        order = [request.split(b"<")[1].split(b">")[0] for request in webhook.requests]
        self.assertEqual([b"0", b"1", b"2", b"3"], sorted(order[:4]))
        self.assertEqual([b"%d" % number for number in range(4, 50)], order[4:])

    async def test_never_more_sockets_than_allowed_when_none_is_kept(self) -> None:
        """
        A server that closes after each response sees no more sockets at once than it was promised.
        """
        webhook = self.serve(say_and_close(answer(Connection="Close")))
        client = self.client(webhook, max_connections=3)
        await gatherResults([self.post(client) for _ in range(30)])
        self.assertEqual(30, len(webhook.connections))
        # The server hears of a new socket before it hears that the one before it was closed, if both happen at once.
        self.assertLessEqual(webhook.most_open, 6)

    async def test_one_after_the_other(self) -> None:
        """
        Requests one after the other share one connection.
        """
        webhook = self.serve(say(answer(b"{}")))
        client = self.client(webhook)
        for _ in range(5):
            await self.post(client)
        self.assertEqual(1, len(webhook.connections))

    async def test_server_closes_a_kept_connection(self) -> None:
        """
        When the server closes a kept connection, the next request goes over a new one.
        """
        webhook = self.serve(say(answer()))
        client = self.client(webhook)
        await self.post(client)
        webhook.connections[0].close()
        await webhook.when_all_closed()
        self.assertEqual(200, (await self.post(client)).status)
        self.assertEqual(2, len(webhook.connections))

    async def test_server_closes_without_a_word(self) -> None:
        """
        A server that answers and closes without having said so loses no request that was waiting.
        """
        webhook = self.serve(say_and_close(answer(b"{}")))
        client = self.client(webhook, max_connections=1)
        answers = await gatherResults([self.post(client) for _ in range(10)])
        self.assertEqual([b"{}"] * 10, [response.body for response in answers])
        self.assertEqual(10, len(webhook.connections))

    async def test_close_is_obeyed(self) -> None:
        """
        After `Connection: close` we close, even if the server does not.
        """
        webhook = self.serve(say(answer(Connection="close")))
        await self.post(self.client(webhook))
        await webhook.when_all_closed()

    async def test_fresh_connection(self) -> None:
        """
        A fresh request goes over a new connection, for which an idle one makes room, and never over a kept one.
        """
        webhook = self.serve(say(answer()))
        client = self.client(webhook, max_connections=1)
        for fresh in (False, True, False, True):
            await self.post(client, fresh=fresh)
        self.assertEqual([1, 2, 1], [len(connection.requests) for connection in webhook.connections])
        self.assertEqual([False, False, True], [connection.open for connection in webhook.connections])

    async def test_closing_the_client(self) -> None:
        """
        close() drops the idle connections and fails what waits; what runs is answered.
        """

        def behave(connection: RawConnection) -> None:
            if b"<held>" not in connection.requests[-1]:
                connection.say(answer())

        webhook = self.serve(behave)
        client = self.client(webhook, max_connections=2)
        first, held = self.post(client), self.post(client, "<held>")
        await first
        await webhook.when_requested(2)
        await client.close()
        await webhook.when(lambda: webhook.open == 1)
        await self.failure_of(self.post(client), ConnectionFailed)
        next(connection for connection in webhook.connections if connection.open).say(answer())
        self.assertEqual(200, (await held).status)
        await webhook.when_all_closed()

    async def test_cancelled_at_every_stage(self) -> None:
        """
        A request that is cancelled while it waits, before its headers or in its body frees its place at once.
        """

        def behave(connection: RawConnection) -> None:
            if b"<body>" in connection.requests[-1]:
                connection.say(answer(b"{", length=2))
            elif b"<last>" in connection.requests[-1]:
                connection.say(answer())

        webhook = self.serve(behave)
        client = self.client(webhook, max_connections=1)
        running = {name: self.post(client, f"<{name}>") for name in ("headers", "body", "waiting", "last")}
        await webhook.when_requested(1)
        for name in ("waiting", "headers"):
            running[name].cancel()
            await self.failure_of(running[name], CancelledError)
        await webhook.when(lambda: webhook.said)
        running["body"].cancel()
        await self.failure_of(running["body"], CancelledError)
        self.assertEqual(200, (await running["last"]).status)
        self.assertEqual([False, False, True], [connection.open for connection in webhook.connections])

    async def test_cancelled_while_connecting(self) -> None:
        """
        A request that is cancelled before its connection is there, at the first step or in the TLS handshake, ends
        and leaves no socket.
        """
        webhook = self.serve(be_silent)
        client = self.client(f"https://127.0.0.1:{webhook.port}/", max_connections=1)
        early = self.post(client)
        early.cancel()
        await self.failure_of(early, CancelledError)
        shaking_hands = self.post(client)
        await webhook.when(lambda: webhook.open)
        shaking_hands.cancel()
        await self.failure_of(shaking_hands, CancelledError)
        await webhook.when_all_closed()

    async def test_nobody_listens(self) -> None:
        """
        A port that nobody listens on is a failed connection.
        """
        webhook = self.serve(be_silent)
        url = webhook.url
        await webhook.stop()
        self.webhooks.clear()
        error = await self.failure_of(self.post(self.client(url)), ConnectionFailed)
        self.assertIn("refused", str(error))

    async def test_unknown_host(self) -> None:
        """
        A name that DNS does not know is a failed connection, also one with an underscore.
        """
        for host in ("no-such-bot.invalid", "no_such_bot.invalid"):
            error = await self.failure_of(self.post(self.client(f"http://{host}/")), ConnectionFailed)
            self.assertNotIsInstance(error, TimedOut)

    async def test_ipv6(self) -> None:
        """
        A webhook on an IPv6 address is reached, with the address in brackets in the Host header.
        """
        webhook = self.serve(say(answer()), interface="::1")
        self.assertEqual(200, (await self.post(self.client(f"http://[::1]:{webhook.port}/"))).status)
        self.assertIn(f"\r\nHost: [::1]:{webhook.port}\r\n".encode(), webhook.requests[0])


class RequestTests(WebhookCase):
    """What a webhook sees."""

    async def request_of(self, path: str = "", body: bytes = b"{}", user: str = "", **settings: Any) -> bytes:
        webhook = self.serve(say(answer()))
        url = webhook.url.replace("//", f"//{user}") + path
        await self.post(self.client(url, **settings), body=body)
        return webhook.requests[0]

    async def test_a_request(self) -> None:
        """
        A request is a POST of the body as JSON, with its length, our name and what the attempt adds.
        """
        head, _, body = (await self.request_of("bot%2Fa/?b=c%20d&&#e", body=b'{"body": "\xc3\xa4"}')).partition(
            b"\r\n\r\n"
        )
        lines = head.split(b"\r\n")
        self.assertEqual(b"POST /bot%2Fa/?b=c%20d&& HTTP/1.1", lines[0])
        self.assertEqual(b'{"body": "\xc3\xa4"}', body)
        names = {line.partition(b":")[0].lower(): line.partition(b": ")[2] for line in lines[1:]}
        self.assertEqual(len(lines) - 1, len(names))
        self.assertEqual(b"application/json", names[b"content-type"])
        self.assertEqual(b"14", names[b"content-length"])
        self.assertEqual(b"identity", names[b"accept-encoding"])
        self.assertEqual(b"a", names[b"webhook-id"])
        self.assertTrue(names[b"user-agent"].startswith(b"component-http/"))
        self.assertEqual(
            {b"host", b"user-agent", b"content-type", b"content-length", b"accept", b"accept-encoding", b"webhook-id"},
            set(names),
        )

    async def test_configured_headers(self) -> None:
        """
        Static headers and a bearer token are sent with each request.
        """
        request = await self.request_of(headers={"X-Key": "k"}, bearer_token="t0ken")
        self.assertIn(b"\r\nX-Key: k\r\n", request)
        self.assertIn(b"\r\nAuthorization: Bearer t0ken\r\n", request)

    async def test_clocks_that_differ(self) -> None:
        """
        A webhook that refuses what is signed, and whose clock is ten minutes off, is told once; not so one with the
        right clock, and none where nothing is signed.
        """
        secret, headers = new_secret(), {"webhook-id": "1", "webhook-timestamp": "1"}
        for date, secrets, lines in (
            (formatdate(time.time() + 600, usegmt=True), [secret], 1),
            (formatdate(time.time() - 600, usegmt=True), [secret], 1),
            (formatdate(time.time() + 60, usegmt=True), [secret], 0),
            (formatdate(time.time() + 600, usegmt=True), [], 0),
            ("yesterday", [secret], 0),
        ):
            client = self.client(
                self.serve(say(answer(status="401 Unauthorized", Date=date))).url, signing_secrets=secrets
            )
            with capturedLogs() as captured:
                for _ in range(2):
                    self.assertEqual(401, (await client.post(b"{}", headers)).status)
            told = [text for event in captured if "clock" in (text := formatEvent(event) or "")]
            self.assertEqual(lines, len(told), told)
            if told:
                self.assertIn("its clock differs from ours by 10 minutes: set the clocks of both machines", told[0])

    async def test_credentials_in_the_url(self) -> None:
        """
        User and password of the URL arrive as Basic auth and nowhere else.
        """
        request = await self.request_of(user="Aladdin:open%20sesame@")
        self.assertIn(b"\r\nAuthorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n", request)
        self.assertNotIn(b"Aladdin", request)

    async def test_errors_show_no_secret(self) -> None:
        """
        No error and no repr shows the password, the token or the path.
        """
        client = self.client("http://user:hunter2@no-such-bot.invalid/T0KEN?T0KEN")
        error = await self.failure_of(self.post(client), ConnectionFailed)
        for shown in (str(error), repr(error), repr(client), repr(error.__cause__)):
            self.assertNotIn("hunter2", shown)
            self.assertNotIn("T0KEN", shown)

    async def test_large_body(self) -> None:
        """
        A body larger than the socket's buffers arrives whole.
        """
        body = b"x" * 5_000_000
        self.assertTrue((await self.request_of(body=body)).endswith(b"\r\n\r\n" + body))


class PoliteServerTests(WebhookCase):
    """Servers as people run them."""

    async def test_twisted_web(self) -> None:
        """
        A server that keeps connections and answers in chunks is read, over one connection.
        """
        seen = []

        class Bot(Resource):
            isLeaf = True

            def render_POST(self, request: Any) -> bytes:
                seen.append(request.transport.getPeer().port)
                request.setHeader(b"content-type", b"application/json")
                request.write(b"[")
                request.write(request.content.read())
                return b"]"

        port = reactor.listenTCP(0, Site(Bot()), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        client = self.client(f"http://127.0.0.1:{port.getHost().port}/")
        for _ in range(3):
            response = await self.post(client, body=b'{"a":1}')
            self.assertEqual(b'[{"a":1}]', response.body)
        self.assertEqual("application/json", response.headers["content-type"])
        self.assertEqual(1, len(set(seen)))

    async def test_http_server_of_python(self) -> None:
        """
        A server of HTTP/1.0 that tells no length and closes is read, each time over a new connection.
        """

        class Bot(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Bot)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            client = self.client(f"http://127.0.0.1:{server.server_port}/", max_connections=2)
            answers = await gatherResults([self.post(client, body=b'{"n":%d}' % number) for number in range(10)])
        finally:
            await deferToThread(server.shutdown)
            server.server_close()
            thread.join()
        self.assertEqual([b'{"n":%d}' % number for number in range(10)], [response.body for response in answers])


class ResponseTests(WebhookCase):
    """Responses that are allowed, if unusual."""

    async def test_chunked(self) -> None:
        """
        A chunked body is put together.
        """
        self.assertEqual(b"{}\r\n", (await self.answer_of(say(chunked(b"{", b"}", b"\r\n")))).body)

    async def test_body_that_ends_by_close(self) -> None:
        """
        A body without a length ends when the server closes.
        """
        response = await self.answer_of(say_and_close(b"HTTP/1.1 200 OK\r\n\r\n{}"))
        self.assertEqual(b"{}", response.body)

    async def test_continue(self) -> None:
        """
        A server that says 100 Continue, which nobody asked for, and then answers, is understood.
        """
        response = await self.answer_of(say(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"{}")))
        self.assertEqual((200, b"{}"), (response.status, response.body))

    async def test_compressed_body(self) -> None:
        """
        A compressed body is handed on as it came, with the header that says so.
        """
        packed = gzip.compress(b"x" * 10_000_000)
        response = await self.answer_of(say(answer(packed, Content_Encoding="gzip")))
        self.assertEqual((packed, "gzip"), (response.body, response.headers["content-encoding"]))

    async def test_redirect_to_another_host(self) -> None:
        """
        A redirect is an answer like any other: nobody goes there.
        """
        other = self.serve(say(answer()))
        for status in ("301 Moved", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"):
            response = await self.answer_of(say(answer(status=status, Location=other.url)))
            self.assertEqual((int(status[:3]), other.url), (response.status, response.headers["location"]))
        self.assertEqual([], other.connections)

    async def test_cookies_are_not_kept(self) -> None:
        """
        A cookie that the server sets does not come back.
        """
        webhook = self.serve(say(answer(Set_Cookie="session=1; Path=/")))
        client = self.client(webhook)
        for _ in range(2):
            self.assertEqual("session=1; Path=/", (await self.post(client)).headers["set-cookie"])
        self.assertNotIn(b"cookie", webhook.requests[1].lower())

    async def test_repeated_headers(self) -> None:
        """
        A header that comes several times is one, joined by commas.
        """
        head = b"HTTP/1.1 204 No Content\r\nX-A: 1\r\nx-a: 2\r\n\r\n"
        self.assertEqual("1, 2", (await self.answer_of(say(head))).headers["x-a"])

    async def test_answer_before_the_request_is_read(self) -> None:
        """
        A server that answers before it has read a large request is understood.
        """

        def answer_at_once(connection: RawConnection) -> None:
            connection.say(answer(status="413 Too Large"))

        webhook = self.serve(be_silent, greet=answer_at_once)
        outcome = self.post(self.client(webhook), body=b"x" * 5_000_000)
        self.assertEqual(413, (await outcome).status)

    async def test_body_longer_than_its_length(self) -> None:
        """
        What follows the announced body is not read, and the connection is not used again.
        """
        webhook = self.serve(say(answer(b"{}" + answer(b"wrong"), length=2)))
        client = self.client(webhook)
        for _ in range(2):
            self.assertEqual(b"{}", (await self.post(client)).body)
        self.assertEqual(2, len(webhook.connections))

    async def test_large_body_of_an_error(self) -> None:
        """
        A large body of an error page does not matter: the status counts.
        """
        response = await self.answer_of(endless(b"HTTP/1.1 502 Bad Gateway\r\n\r\n", b"<html>" * 1000))
        self.assertEqual((502, None), (response.status, response.body))


class BrokenServerTests(WebhookCase):
    """Servers that break off, or do not speak HTTP."""

    async def test_accepts_and_closes(self) -> None:
        """
        A server that accepts and closes cuts the request.
        """
        webhook = self.serve(be_silent, greet=lambda connection: connection.close())
        error = await self.failure_of(self.post(self.client(webhook)), ConnectionCut)
        self.assertEqual((False, False), (error.reused, error.started))

    async def test_reads_and_closes(self) -> None:
        """
        A server that reads the request and closes cuts it, politely or not.
        """
        for behave in (RawConnection.close, RawConnection.reset):
            error = await self.error_of(behave, ConnectionCut)
            self.assertEqual((False, False), (error.reused, error.started))

    async def test_closes_a_used_connection(self) -> None:
        """
        A request that is cut on a connection that had served before says so.
        """

        def behave(connection: RawConnection) -> None:
            if len(connection.requests) > 1:
                connection.close()
            else:
                connection.say(answer())

        webhook = self.serve(behave)
        client = self.client(webhook)
        await self.post(client)
        error = await self.failure_of(self.post(client), ConnectionCut)
        self.assertEqual((True, False), (error.reused, error.started))

    async def test_body_shorter_than_its_length(self) -> None:
        """
        A body that ends before its announced length is a cut, not an answer.
        """
        error = await self.error_of(say_and_close(answer(b"{}", length=3)), ConnectionCut)
        self.assertTrue(error.started)

    async def test_body_without_length_that_breaks(self) -> None:
        """
        A body without a length that ends in a reset is a cut.
        """

        def behave(connection: RawConnection) -> None:
            connection.say(b"HTTP/1.1 200 OK\r\n\r\n{}")
            reactor.callLater(0.05, connection.reset)

        await self.error_of(behave, ConnectionCut)

    async def test_not_http(self) -> None:
        """
        A server that does not speak HTTP/1 cuts the request.
        """
        for greeting in (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 two-hundred OK\r\n\r\n",
            b"\r\n\r\n",
        ):
            error = await self.error_of(say(greeting), ConnectionCut)
            self.assertTrue(error.started)


class SlowServerTests(WebhookCase):
    """Servers that take their time."""

    async def struck(self, behave: Callable[[RawConnection], object]) -> None:
        """Check that the time limit strikes, and that the next request then has the connection's place."""
        webhook = self.serve(behave)
        client = self.client(webhook, timeout=STRIKES, max_connections=1)
        await self.failure_of(self.post(client), TimedOut)
        await webhook.when_all_closed()
        await self.failure_of(self.post(client), TimedOut)
        self.assertEqual((2, 1), (len(webhook.connections), webhook.most_open))

    async def test_silence(self) -> None:
        """
        A server that never answers is given up in time.
        """
        await self.struck(be_silent)

    async def test_headers_byte_by_byte(self) -> None:
        """
        A server that sends its headers a byte at a time is given up, however regularly they come.
        """
        await self.struck(trickle(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 9, seconds=0.01))

    async def test_body_byte_by_byte(self) -> None:
        """
        A server that sends its body a byte at a time is given up too.
        """

        def behave(connection: RawConnection) -> None:
            connection.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            trickle(b"x", seconds=0.01)(connection)

        await self.struck(behave)

    async def test_never_reads(self) -> None:
        """
        A server that does not read a large request is given up.
        """
        webhook = self.serve(be_silent, greet=lambda connection: connection.transport.pauseProducing())
        client = self.client(webhook, timeout=STRIKES)
        await self.failure_of(self.post(client, body=b"x" * 20_000_000), TimedOut)
        webhook.connections[0].transport.resumeProducing()
        await webhook.when_all_closed()

    async def test_no_handshake(self) -> None:
        """
        A server that accepts and never says anything in the TLS handshake counts as not connected.
        """
        webhook = self.serve(be_silent)
        client = self.client(f"https://127.0.0.1:{webhook.port}/", connect_timeout=STRIKES)
        await self.failure_of(self.post(client), ConnectionFailed)
        await webhook.when_all_closed()


class EndlessServerTests(WebhookCase):
    """Servers that never stop; what they get rid of is bounded, and so is what we hold."""

    async def cut_short(self, behave: Callable[[RawConnection], object]) -> None:
        await self.error_of(behave, ConnectionCut)
        self.assertLess(self.webhooks[-1].said, SOCKET_BUFFERS)

    async def test_headers(self) -> None:
        """
        Headers without end are cut.
        """
        await self.cut_short(endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 1000))

    async def test_one_header(self) -> None:
        """
        One header without end is cut.
        """
        await self.cut_short(endless(b"HTTP/1.1 200 OK\r\nX-A: ", b"b" * 10_000))

    async def test_interim_responses(self) -> None:
        """
        A server that says 100 Continue for ever is cut.
        """
        await self.cut_short(endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100))

    async def test_trailers(self) -> None:
        """
        Trailers without end after a chunked body are cut.
        """
        await self.cut_short(endless(chunked(b"{}")[:-2], b"X-A: b\r\n" * 1000))

    async def test_body(self) -> None:
        """
        A body without end is not read beyond the limit, and no body is given; status and headers are.
        """
        for start, again in (
            (b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n", b"x" * 10_000),
            (b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 99999999999\r\n\r\n", b"x" * 10_000),
            (b"HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 2_000),
        ):
            response = await self.answer_of(endless(start, again), max_body_bytes=100_000)
            self.assertEqual((200, None, "b"), (response.status, response.body, response.headers["x-a"]))
            webhook = self.webhooks[-1]
            await webhook.when_all_closed()
            self.assertLess(webhook.said, SOCKET_BUFFERS)


class TlsTests(WebhookCase):
    """https: who is believed."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()

    def secure(self, *names: Name, behave: Callable[[RawConnection], object] | None = None, **how: Any) -> RawWebhook:
        """A webhook with a certificate for these names."""
        return self.serve(behave or say(answer(b"{}")), tls=self.authority.context(*names, **how))

    async def refused(self, webhook: RawWebhook, host: str = "localhost", **settings: Any) -> CertificateInvalid:
        """Check that the certificate is refused, and that nothing was sent; gives the reason."""
        client = self.client(f"https://{host}:{webhook.port}/", **settings)
        error: CertificateInvalid = await self.failure_of(self.post(client), CertificateInvalid)
        await webhook.when_all_closed()
        self.assertEqual([], webhook.requests)
        return error

    async def test_name_and_address(self) -> None:
        """
        A certificate for the host's name or IP address is accepted, and the connection kept.
        """
        webhook = self.secure("localhost", "127.0.0.1")
        for host in ("localhost", "127.0.0.1"):
            client = self.client(f"https://{host}:{webhook.port}/", trust_root=self.authority.trust_root)
            for _ in range(2):
                self.assertEqual(b"{}", (await self.post(client)).body)
        self.assertEqual(2, len(webhook.connections))

    async def test_another_name(self) -> None:
        """
        A certificate for another name is refused.
        """
        await self.refused(self.secure("bot.example"), trust_root=self.authority.trust_root)

    async def test_no_name(self) -> None:
        """
        A certificate without a subjectAltName is refused for every host, whatever its common name is.
        """
        for host in ("localhost", "127.0.0.1"):
            error = await self.refused(self.secure(), host, trust_root=self.authority.trust_root)
            self.assertIn("no subjectAltName", str(error))

    async def test_odd_names(self) -> None:
        """
        A certificate with a name that can be for nobody is refused, also beside a right one for another host.
        """
        for odd in ODD_NAMES:
            for names in ([odd], ["bot.example", odd], [odd, "192.0.2.1"]):
                for host in ("localhost", "127.0.0.1"):
                    await self.refused(self.secure(*names), host, trust_root=self.authority.trust_root)

    async def test_right_name_beside_an_odd_one(self) -> None:
        """
        A certificate for the host is accepted, whatever other names stand in it.
        """
        webhook = self.secure(*ODD_NAMES, "localhost", "127.0.0.1")
        for host in ("localhost", "127.0.0.1"):
            client = self.client(f"https://{host}:{webhook.port}/", trust_root=self.authority.trust_root)
            self.assertEqual(200, (await self.post(client)).status)

    async def test_unknown_authority(self) -> None:
        """
        A certificate of somebody we do not trust is refused.
        """
        await self.refused(self.secure("localhost"))
        await self.refused(self.secure("localhost"), trust_root=Authority().trust_root)

    async def test_expired(self) -> None:
        """
        A certificate that has expired is refused.
        """
        await self.refused(self.secure("localhost", expired=True), trust_root=self.authority.trust_root)

    async def test_sentences(self) -> None:
        """
        Each certificate that is refused is told with the reason and what to do.
        """
        trusting = {"trust_root": self.authority.trust_root}
        for webhook, settings, words in (
            (self.secure("localhost", expired=True), trusting, "has expired: it has to be renewed there"),
            (
                self.secure("localhost"),
                {},
                "signed by an authority that is not trusted here: if it is yours, name it in webhook.ca_file",
            ),
            (self.secure("localhost", early=True), trusting, "is not valid yet: check the clocks of both machines"),
            (self.secure("bot.example"), trusting, "the certificate of localhost is for another name"),
        ):
            self.assertIn(words, str(await self.refused(webhook, **settings)))

    async def test_authorities_that_do_not_count(self) -> None:
        """
        A certificate that signs itself, or one behind which an authority has expired, is refused and told.
        """
        alone = self.serve(say(answer()), tls=PrivateCertificate.loadPEM(by_itself("localhost")).options())
        self.assertIn("is signed by nobody but itself", str(await self.refused(alone)))
        expired = Authority(expired=True)
        old = self.serve(say(answer()), tls=expired.context("localhost"))
        self.assertIn(
            "an authority behind the certificate of localhost has expired",
            str(await self.refused(old, trust_root=expired.trust_root)),
        )

    async def test_our_certificate_is_refused(self) -> None:
        """
        A webhook that wants a certificate of ours, or does not take the one it gets, is told, whatever the version of
        TLS; the request was not read then, so it is one that never arrived.
        """
        folder = Path(self.mktemp())
        folder.mkdir()
        ca, strange, old = folder / "ca.pem", folder / "strange.pem", folder / "old.pem"
        ca.write_bytes(self.authority.pem)
        strange.write_bytes(Authority().certified("gateway.example"))
        old.write_bytes(self.authority.certified("gateway.example", expired=True))
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            asks = PrivateCertificate.loadPEM(self.authority.certified("localhost")).options(self.authority.trust_root)
            asks.getContext().set_min_proto_version(version)
            asks.getContext().set_max_proto_version(version)
            webhook = self.serve(say(answer()), tls=asks)
            for own, words in (
                (None, "wants a certificate of the gateway.* name one in webhook.client_certificate"),
                (strange, "refuses the gateway's certificate .*unknown ca.: replace the one in webhook.client_cert"),
                (old, "refuses the gateway's certificate .*expired.: replace the one in webhook.client_certificate"),
            ):
                client = self.client(
                    f"https://localhost:{webhook.port}/", tls=TlsFiles(str(ca), None if own is None else str(own))
                )
                error = await self.failure_of(self.post(client), ConnectionFailed)
                self.assertRegex(str(error), f"https://localhost:{webhook.port} .*{words}")
            self.assertEqual([], webhook.requests)

    async def test_our_certificate_with_those_behind_it(self) -> None:
        """
        The certificates that follow our own in its file are shown as well, so that the webhook need not know them.
        """
        between = Authority(self.authority)
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "ca.pem").write_bytes(self.authority.pem)
        (folder / "own.pem").write_bytes(between.certified("gateway.example") + between.pem)
        asks = PrivateCertificate.loadPEM(self.authority.certified("localhost")).options(self.authority.trust_root)
        webhook = self.serve(say(answer(b"{}")), tls=asks)
        tls = TlsFiles(str(folder / "ca.pem"), str(folder / "own.pem"))
        client = self.client(f"https://localhost:{webhook.port}/", tls=tls)
        self.assertEqual(200, (await self.post(client)).status)

    async def test_old_protocol(self) -> None:
        """
        A webhook that only speaks TLS 1.1 gets nothing.
        """
        old = self.authority.context("localhost")
        old.getContext().set_cipher_list(b"ALL:@SECLEVEL=0")
        old.getContext().set_min_proto_version(SSL.TLS1_1_VERSION)
        old.getContext().set_max_proto_version(SSL.TLS1_1_VERSION)
        webhook = self.serve(say(answer()), tls=old)
        client = self.client(f"https://localhost:{webhook.port}/", trust_root=self.authority.trust_root)
        error = await self.failure_of(self.post(client), ConnectionFailed)
        self.assertIn("speaks no TLS 1.2 or later", str(error))
        self.assertEqual([], webhook.requests)

    async def test_renegotiation(self) -> None:
        """
        A webhook may negotiate TLS anew; where it shows a certificate for another name then, the connection ends.
        """
        for name, kept in (("localhost", True), ("bot.example", False)):
            tls = self.authority.context("localhost")
            tls.getContext().set_max_proto_version(SSL.TLS1_2_VERSION)
            again = self.authority.context(name).getContext()

            def renegotiate(connection: RawConnection, again: Any = again) -> None:
                connection.say(answer(b"{}"))
                if len(connection.requests) == 1:
                    handle = connection.transport.getHandle()
                    handle.set_context(again)
                    handle.renegotiate()
                    with contextlib.suppress(SSL.WantReadError):
                        handle.do_handshake()
                    connection.transport.write(b"")

            webhook = self.serve(renegotiate, tls=tls)
            client = self.client(f"https://localhost:{webhook.port}/", trust_root=self.authority.trust_root)
            self.assertEqual(200, (await self.post(client)).status)
            if not kept:
                await webhook.when_all_closed()
            self.assertEqual(200, (await self.post(client)).status)
            self.assertEqual(1 if kept else 2, len(webhook.connections))
            self.assertEqual(1, webhook.connections[-1].transport.getHandle().total_renegotiations())

    async def test_files(self) -> None:
        """
        The authorities, and our own certificate for a webhook that asks for one, come from files, which are read again
        when they change; changed files that cannot be used are not.
        """
        folder = Path(self.mktemp())
        folder.mkdir()
        authorities, own, key = folder / "ca.pem", folder / "own.pem", folder / "own.key"
        authorities.write_bytes(Authority().pem + self.authority.pem)
        certificate, _, secret = self.authority.certified("gateway.example").partition(b"-----BEGIN PRIVATE")
        own.write_bytes(certificate)
        key.write_bytes(b"-----BEGIN PRIVATE" + secret)
        asks = PrivateCertificate.loadPEM(self.authority.certified("localhost")).options(
            Certificate.loadPEM(self.authority.pem)
        )
        webhook = self.serve(say_and_close(answer(b"{}")), tls=asks)
        url = f"https://localhost:{webhook.port}/"
        client = self.client(url, tls=TlsFiles(str(authorities), str(own), str(key)))
        self.assertEqual(200, (await self.post(client)).status)
        authorities.write_bytes(b"no certificates")
        with capturedLogs() as captured:
            self.assertEqual(200, (await self.post(client)).status)
        self.assertIn("holds no certificates in PEM; the content from before is used", formatEvent(captured[0]))
        authorities.write_bytes(Authority().pem)
        await self.failure_of(self.post(client), CertificateInvalid)
        authorities.write_bytes(self.authority.pem)
        self.assertEqual(200, (await self.post(client)).status)
        without = self.client(url, tls=TlsFiles(str(authorities)))
        await self.failure_of(self.post(without), WebhookError)

    async def test_files_that_cannot_be_used(self) -> None:
        """
        A file that is missing, is none, or does not fit the other is told with its setting.
        """
        folder = Path(self.mktemp())
        folder.mkdir()
        pair, other, rubbish = folder / "pair.pem", folder / "other.pem", folder / "rubbish"
        pair.write_bytes(self.authority.certified("a.example"))
        other.write_bytes(self.authority.certified("b.example"))
        rubbish.write_bytes(b"rubbish")
        for files, words in (
            (TlsFiles(str(folder / "none")), 'webhook.ca_file .*none" cannot be read: No such file'),
            (TlsFiles(str(rubbish)), 'webhook.ca_file .*rubbish" holds no certificates'),
            (TlsFiles(None, str(rubbish)), "webhook.client_certificate .*do not fit each other"),
            (
                TlsFiles(None, str(pair), str(other)),
                "webhook.client_certificate .* and the key in .*do not fit",
            ),
            (TlsFiles(None, str(folder / "none")), "webhook.client_certificate .*cannot be read"),
        ):
            with self.assertRaisesRegex(ValueError, words):
                WebhookClient("https://localhost/", reactor=reactor, tls=files)

    async def test_another_server_name(self) -> None:
        """
        With a name of its own the certificate has to be for that name, and no other.
        """
        for name in ("bot.example", "localhost"):
            webhook = self.secure(name)
            client = self.client(
                f"https://127.0.0.1:{webhook.port}/", trust_root=self.authority.trust_root, server_name="bot.example"
            )
            if name == "bot.example":
                self.assertEqual(200, (await self.post(client)).status)
            else:
                await self.failure_of(self.post(client), CertificateInvalid)

    async def test_through_a_proxy(self) -> None:
        """
        A proxy carries https and http; what it refuses, and each way in which it is none, is told in a sentence.
        """
        secure, plain = self.secure("localhost"), self.serve(say(answer(b"{}")))
        proxy = self.serve(through_to_the_target)
        for url in (f"https://localhost:{secure.port}/", plain.url):
            client = self.client(
                url, trust_root=self.authority.trust_root, proxy=f"http://user:pass@127.0.0.1:{proxy.port}"
            )
            for _ in range(2):
                self.assertEqual(b"{}", (await self.post(client)).body)
        self.assertIn(b"CONNECT localhost:%d HTTP/1.1" % secure.port, proxy.requests[0])
        self.assertIn(b"Proxy-Authorization: Basic dXNlcjpwYXNz", proxy.requests[0])
        self.assertEqual(2, len(proxy.requests))
        for behave, words in (
            (say(b"HTTP/1.1 407 x\r\n\r\n"), "wants other credentials"),
            (say(b"HTTP/1.1 403 x\r\n\r\n"), "refuses a connection to 127.0.0.1:[0-9]+ \\(403\\): allow it there"),
            (say(b"SSH-2.0-x\r\n\r\n"), "does not answer as an HTTP proxy does"),
            (say(b"x" * 20_000), "does not answer as an HTTP proxy does"),
            (say_and_close(b""), "closed without an answer"),
        ):
            broken = self.serve(behave)
            client = self.client(plain.url, proxy=f"http://127.0.0.1:{broken.port}")
            error = await self.failure_of(self.post(client), ConnectionFailed)
            self.assertRegex(str(error), f"the proxy http://127.0.0.1:{broken.port} {words}")
        client = self.client(plain.url, proxy=f"http://127.0.0.1:{free_port()}")
        self.assertIn("no connection to the proxy", str(await self.failure_of(self.post(client), ConnectionFailed)))

    async def test_silent_proxy(self) -> None:
        """
        A proxy that never answers is a failed connection, when the time for connecting is over.
        """
        silent = self.serve(be_silent)
        client = self.client("http://localhost:1/", proxy=silent.url, connect_timeout=STRIKES)
        await self.failure_of(self.post(client), ConnectionFailed)
        await silent.when_all_closed()

    async def test_unix_socket(self) -> None:
        """
        A webhook can listen on a Unix socket, with a path of its own.
        """
        path = f"/tmp/component-http-{os.getpid()}.sock"
        webhook = RawWebhook(say(answer(b"{}")))
        webhook._port = reactor.listenUNIX(path, webhook)
        self.webhooks.append(webhook)
        client = self.client(f"http+unix://{path}:/bot?x=1")
        self.assertEqual(200, (await self.post(client)).status)
        self.assertTrue(webhook.requests[0].startswith(b"POST /bot?x=1 HTTP/1.1\r\nHost: localhost\r\n"))

    async def test_end_of_a_certificate(self) -> None:
        """
        It is known when the webhook's certificate ends, and logged, once a day, if that is soon.
        """
        webhook = self.secure("localhost", behave=say_and_close(answer(b"{}")))
        client = self.client(f"https://localhost:{webhook.port}/", trust_root=self.authority.trust_root)
        self.assertIsNone(client.certificate_ends)
        with capturedLogs() as captured:
            for _ in range(3):
                await self.post(client)
        [line] = [text for event in captured if "certificate" in (text := formatEvent(event) or "")]
        self.assertIn(f"the certificate of https://localhost:{webhook.port} ends in 1 days", line)
        assert client.certificate_ends is not None
        self.assertLess(abs(time.time() + 86_400 - client.certificate_ends), 60)
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "ca.pem").write_bytes(self.authority.pem)
        (folder / "own.pem").write_bytes(self.authority.certified("gateway.example", expired=True))
        client = self.client(
            f"https://localhost:{webhook.port}/", tls=TlsFiles(str(folder / "ca.pem"), str(folder / "own.pem"))
        )
        with capturedLogs() as captured:
            await self.post(client)
        told = [formatEvent(event) for event in captured]
        self.assertIn("the certificate in webhook.client_certificate has ended: renew it", told)
        assert client.certificate_ends is not None
        self.assertLess(client.certificate_ends, time.time())

    async def test_revoked(self) -> None:
        """
        A certificate that its authority has revoked is refused; a list that is too old, or from somebody else, is told.
        """
        folder = Path(self.mktemp())
        folder.mkdir()
        authorities, revoked = folder / "ca.pem", folder / "revoked.pem"
        authorities.write_bytes(self.authority.pem)
        certificate = self.authority.certified("localhost")
        webhook = self.serve(say(answer(b"{}")), tls=PrivateCertificate.loadPEM(certificate).options())
        for content, words in (
            (
                self.authority.revoking(certificate),
                "the certificate of localhost was revoked",
            ),
            (self.authority.revoking(old=True), "cannot be looked up in webhook.crl_file, whose list is too old"),
            (Authority().revoking(), "cannot be looked up in webhook.crl_file, whose list is from another authority"),
        ):
            revoked.write_bytes(content)
            tls = TlsFiles(str(authorities), revoked=str(revoked))
            self.assertIn(words, str(await self.refused(webhook, tls=tls)))
        revoked.write_bytes(self.authority.revoking(self.authority.certified("localhost")))
        self.assertEqual(200, (await self.post(self.client(f"https://localhost:{webhook.port}/", tls=tls))).status)
        revoked.write_bytes(b"rubbish")
        with self.assertRaisesRegex(ValueError, "webhook.crl_file .* holds no list"):
            WebhookClient("https://localhost/", reactor=reactor, tls=tls)

    async def test_no_tls_at_all(self) -> None:
        """
        A server that does not speak TLS on the port is a failed connection, not a matter of certificates.
        """
        webhook = self.serve(be_silent, greet=say(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        client = self.client(f"https://localhost:{webhook.port}/")
        error = await self.failure_of(self.post(client), ConnectionFailed)
        self.assertIn("TLS", str(error))
        await webhook.when_all_closed()

    async def test_closed_in_the_handshake(self) -> None:
        """
        A server that closes in the TLS handshake is a failed connection.
        """
        webhook = self.serve(be_silent, greet=lambda connection: connection.close())
        await self.failure_of(self.post(self.client(f"https://localhost:{webhook.port}/")), ConnectionFailed)

    async def test_close_is_obeyed(self) -> None:
        """
        After `Connection: close` the TLS connection is closed too, and the next request has its place.
        """
        webhook = self.secure("localhost", behave=say(answer(Connection="close")))
        client = self.client(
            f"https://localhost:{webhook.port}/", trust_root=self.authority.trust_root, max_connections=1
        )
        for _ in range(3):
            self.assertEqual(200, (await self.post(client)).status)
        self.assertEqual(3, len(webhook.connections))

    async def test_server_closes_a_kept_connection(self) -> None:
        """
        A kept TLS connection that the server closes is not used again.
        """
        webhook = self.secure("localhost")
        client = self.client(f"https://localhost:{webhook.port}/", trust_root=self.authority.trust_root)
        await self.post(client)
        webhook.connections[0].close()
        await webhook.when_all_closed()
        self.assertEqual(200, (await self.post(client)).status)

    async def test_server_closes_without_a_word(self) -> None:
        """
        A TLS server that answers and closes without having said so loses no request that was waiting.
        """
        webhook = self.secure("localhost", behave=say_and_close(answer(b"{}")))
        client = self.client(
            f"https://localhost:{webhook.port}/", trust_root=self.authority.trust_root, max_connections=1
        )
        answers = await gatherResults([self.post(client) for _ in range(10)])
        self.assertEqual([b"{}"] * 10, [response.body for response in answers])

    async def test_time_limit_and_cancelling(self) -> None:
        """
        The time limit and cancelling free a TLS connection as they do any other.
        """
        webhook = self.secure("localhost", behave=be_silent)
        client = self.client(
            f"https://localhost:{webhook.port}/",
            trust_root=self.authority.trust_root,
            timeout=STRIKES,
            max_connections=1,
        )
        await self.failure_of(self.post(client), TimedOut)
        cancelled = self.post(client)
        await webhook.when_requested(2)
        cancelled.cancel()
        await self.failure_of(cancelled, CancelledError)
        await webhook.when_all_closed()

    async def test_endless_body(self) -> None:
        """
        A body without end over TLS is cut short as well.
        """
        webhook = self.secure("localhost", behave=endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 10_000))
        client = self.client(
            f"https://localhost:{webhook.port}/", trust_root=self.authority.trust_root, max_body_bytes=100_000
        )
        self.assertIsNone((await self.post(client)).body)
        await webhook.when_all_closed()
        self.assertLess(webhook.said, SOCKET_BUFFERS)
