"""The API on real sockets, with a stand-in for who sends: strangers who are slow, many, or mean it badly; and TLS."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import requests
import treq
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from component_http.api.exchange import Call
from component_http.api_service import api_hooks, api_server
from component_http.contract.address import Address
from component_http.contract.link import KEY_BYTES
from component_http.contract.xml import Limits
from component_http.interfaces import Origin
from component_http.operations.metrics import Counters
from component_http.settings import ApiSettings, ComponentSettings, HookSettings, Settings, TokenSettings
from component_http.testing import RecordingSender
from tests.certificates import Authority

reactor: Any = _reactor

TOKEN = "0123456789abcdef"
SECRET = "fedcba9876543210"
HELLO = json.dumps({"to": "alice@example.org", "body": "hello"}).encode()
WAITING = (
    "POST /v1/messages?wait=sent HTTP/1.1\r\nHost: h\r\n"
    f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {len(HELLO)}\r\n\r\n"
).encode() + HELLO


@implementer(IPolicyForHTTPS)
class AnyCertificate:
    """Takes whatever certificate there is: it was made for this test. Offers HTTP/2 too, as curl and browsers do."""

    def creatorForNetloc(self, hostname: bytes, port: int) -> CertificateOptions:
        return CertificateOptions(verify=False, acceptableProtocols=[b"h2", b"http/1.1"])


def a_certificate() -> bytes:
    """A certificate that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Listener(Protocol):
    """A raw connection, and what came on it until it was closed."""

    def __init__(self) -> None:
        self.data = b""
        self.closed: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Any = None) -> None:
        self.closed.callback(self.data)


class ApiServerTestCase(TestCase):
    """
    A test with a served API.

    Attributes:
        sender: What it hands stanzas to.
    """

    timeout = 120

    def setUp(self) -> None:
        self.sender = RecordingSender()
        self.counters = Counters()
        self.pool = HTTPConnectionPool(reactor, persistent=False)
        self.agent = Agent(reactor, AnyCertificate(), pool=self.pool)

    async def serve(self, endpoint: str = "tcp:0:interface=127.0.0.1", **api: Any) -> int:
        """Serve it, and say at which port."""
        port = await self.started(endpoint, **api)
        number: int = port.getHost().port
        return number

    async def started(self, endpoint: str, **api: Any) -> Any:
        """Serve it, and give the port, or None where that is not possible."""
        settings = Settings(
            component=ComponentSettings(domain="bot.example.org", component_post_url="http://h/", secret="s"),
            api=ApiSettings(
                token=[TokenSettings(name="all", token=TOKEN, rate="10000/1s")],
                hook=[
                    HookSettings(name="generic", secret=SECRET, to="a@example.org", template="generic", rate="10000/1s")
                ],
                **api,
            ),
        )
        _, self.server = api_server(
            settings,
            reactor,
            {"bot.example.org": Origin(self.sender, Address.parse("bot.example.org"), Limits())},
            self.counters,
            api_hooks(settings),
            bytes(KEY_BYTES),
            lambda: {"webhook": "closed"},
            new_id=lambda: uuid4().hex,
            endpoint=endpoint,
        )
        self.server.startService()
        self.addCleanup(self.server.stopService)
        assert self.server.listening is not None
        return await self.server.listening

    async def post(self, url: str, body: bytes = HELLO) -> tuple[int, bytes]:
        response = await treq.post(
            url,
            body,
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"},
            agent=self.agent,
        )
        return response.code, await treq.content(response)

    async def connect(self, port: int) -> Any:
        return await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Listener())


class StrangerTests(ApiServerTestCase):
    """What strangers do, and who else still gets through."""

    async def test_certificates_that_change(self) -> None:
        """
        The certificate of an ssl: endpoint is read again when its file changes, and so are the authorities of clients,
        which have to show a certificate where there are some; files that cannot be used are not.
        """
        authority = Authority()
        folder = Path(self.mktemp())
        folder.mkdir()
        own, clients, client = folder / "own.pem", folder / "clients.pem", folder / "client.pem"
        own.write_bytes(authority.certified("localhost", "127.0.0.1"))
        clients.write_bytes(authority.pem)
        client.write_bytes(authority.certified("client.example"))
        (folder / "ca.pem").write_bytes(authority.pem)
        port = await self.serve(
            f"ssl:0:interface=127.0.0.1:privateKey={own}:certKey={own}", client_ca_file=str(clients)
        )

        def status(cert: str | None) -> int | str:
            try:
                return requests.get(
                    f"https://localhost:{port}/v1/openapi.json", verify=str(folder / "ca.pem"), cert=cert, timeout=20
                ).status_code
            except requests.RequestException as error:
                return type(error).__name__

        self.assertEqual(200, await deferToThread(status, str(client)))
        self.assertNotEqual(200, await deferToThread(status, None))
        own.write_bytes(b"rubbish")
        self.assertEqual(200, await deferToThread(status, str(client)))
        own.write_bytes(authority.certified("other.example"))
        self.assertEqual("SSLError", await deferToThread(status, str(client)))
        own.write_bytes(authority.certified("localhost"))
        clients.write_bytes(Authority().pem)
        self.assertNotEqual(200, await deferToThread(status, str(client)))

    async def test_handshake_that_never_ends(self) -> None:
        """
        Who connects to an ssl: endpoint and says nothing, or only half of a handshake, is closed in time.
        """
        own = Path(self.enterContext(TemporaryDirectory()), "own.pem")
        own.write_bytes(a_certificate())
        port = await self.serve(f"ssl:0:{own}:{own}:interface=127.0.0.1", request_timeout=1.0)
        for said in (b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"):
            stranger = await self.connect(port)
            stranger.transport.write(said)
            await stranger.closed
        while self.server.places.taken:
            await self.moment()
        self.assertEqual(202, (await self.post(f"https://127.0.0.1:{port}/v1/messages"))[0])

    async def test_client_that_negotiates_again(self) -> None:
        """
        A client cannot have TLS negotiated anew again and again, which costs the gateway more than the client.
        """
        own = Path(self.enterContext(TemporaryDirectory()), "own.pem")
        own.write_bytes(a_certificate())
        port = await self.serve(f"ssl:0:privateKey={own}:certKey={own}:interface=127.0.0.1")

        def renegotiate() -> None:
            context = SSL.Context(SSL.TLS_CLIENT_METHOD)
            context.set_max_proto_version(SSL.TLS1_2_VERSION)
            with socket.create_connection(("127.0.0.1", port), 20) as raw:
                client = SSL.Connection(context, raw)
                raw.setblocking(True)
                client.set_connect_state()
                client.do_handshake()
                client.renegotiate()
                client.do_handshake()
                client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                client.recv(100)

        with self.assertRaisesRegex(SSL.Error, "no renegotiation"):
            await deferToThread(renegotiate)

    async def test_tls(self) -> None:
        """
        An ssl: endpoint speaks TLS, also with clients that offer HTTP/2.
        """
        folder = Path(self.enterContext(TemporaryDirectory()))
        certificate = folder / "server.pem"
        certificate.write_bytes(a_certificate())
        port = await self.serve(f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}")
        status, _ = await self.post(f"https://127.0.0.1:{port}/v1/messages")
        self.assertEqual((202, 1), (status, len(self.sender.pushed)))
        status, _ = await self.post(f"https://127.0.0.1:{port}/v1/messages", b"x" * 10 * 1024 * 1024)
        self.assertEqual(413, status)
        while self.server.places.taken:
            await self.moment()

    async def test_idle_connections(self) -> None:
        """
        Three times as many idle connections as there are places keep nobody out who has a token.
        """
        port = await self.serve(max_connections=20)
        strangers = [await self.connect(port) for _ in range(60)]
        for protocol in strangers[::2]:
            protocol.transport.write(b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nContent-Len")
        for _ in range(3):
            self.assertEqual(202, (await self.post(f"http://127.0.0.1:{port}/v1/messages"))[0])
        for protocol in strangers:
            protocol.transport.abortConnection()
        await gatherResults([protocol.closed for protocol in strangers])

    async def test_answers_that_nobody_reads(self) -> None:
        """
        Of thousands of requests by strangers who read no answer few are carried out, and others are served meanwhile.
        """
        port = await self.serve()
        admit, admitted = self.server.site.admit, []

        def counting(call: Call) -> Any:
            admitted.append(call.path)
            return admit(call)

        self.server.site.admit = counting
        strangers = [await self.connect(port) for _ in range(20)]
        for protocol in strangers:
            protocol.transport.pauseProducing()
            protocol.transport.write(b"GET /v1/openapi.json HTTP/1.1\r\nHost: h\r\n\r\n" * 5000)
        for _ in range(20):
            self.assertEqual(202, (await self.post(f"http://127.0.0.1:{port}/v1/messages"))[0])
        self.assertLess(admitted.count("/v1/openapi.json"), 20 * 1000)
        for protocol in strangers:
            protocol.transport.abortConnection()
        await gatherResults([protocol.closed for protocol in strangers])

    async def test_body_of_a_stranger(self) -> None:
        """
        A stranger is told 401 and the end before the body has come, and may send on without losing the answer.
        """
        port = await self.serve()
        protocol = await self.connect(port)
        protocol.transport.write(b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nContent-Length: 10485760\r\n\r\n")
        for _ in range(160):
            protocol.transport.write(b"x" * 65536)
        self.assertIn(b" 401 ", await protocol.closed)

    async def test_many_connections(self) -> None:
        """
        Of a thousand connections at once those that find a place are served, the others told so, and all is well after.
        """
        port = await self.serve(max_connections=50)
        outcomes = []
        for _ in range(5):
            posts = [Deferred.fromCoroutine(self.post(f"http://127.0.0.1:{port}/v1/messages")) for _ in range(200)]
            outcomes.extend(await DeferredList(posts, consumeErrors=True))
        statuses = [result[0] for ok, result in outcomes if ok]
        self.assertGreater(statuses.count(202), 50)
        self.assertEqual(set(), set(statuses) - {202, 503})
        # A client whose connection ends before it has its answer cannot know what came of its request.
        lost = len(outcomes) - len(statuses)
        self.assertIn(len(self.sender.pushed) - statuses.count(202), range(lost + 1))
        self.assertEqual(202, (await self.post(f"http://127.0.0.1:{port}/v1/messages"))[0])

    async def test_slow_clients(self) -> None:
        """
        Clients that send nothing, or half a request and then nothing, are closed in time, and keep nobody out.
        """
        port = await self.serve(request_timeout=1.0, max_connections=10)
        slow = [await self.connect(port) for _ in range(9)]
        for protocol in slow[:5]:
            protocol.transport.write(b"POST /v1/messages HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
        self.assertEqual(202, (await self.post(f"http://127.0.0.1:{port}/v1/messages"))[0])
        await gatherResults([protocol.closed for protocol in slow])

    async def test_huge_body(self) -> None:
        """
        A body of 10 MiB is 413, whether it is announced or comes in chunks, and what it held is gone.
        """
        port = await self.serve()
        status, body = await self.post(f"http://127.0.0.1:{port}/v1/messages", b"x" * 10 * 1024 * 1024)
        self.assertEqual(413, status)
        self.assertIn(b"max_body_bytes", body)
        protocol = await self.connect(port)
        head = "POST /v1/messages HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
        protocol.transport.write(f"{head}Authorization: Bearer {TOKEN}\r\n\r\n".encode())
        for _ in range(160):
            protocol.transport.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        protocol.transport.write(b"0\r\n\r\n")
        self.assertIn(b" 413 ", await protocol.closed)
        self.assertEqual([], self.sender.pushed)

    async def test_client_that_goes(self) -> None:
        """
        A client that goes while it waits leaves nothing behind.
        """
        self.sender.confirming = False
        port = await self.serve()
        protocol = await self.waiting(port)
        protocol.transport.abortConnection()
        await protocol.closed
        while self.server.places.taken:
            await self.moment()
        self.sender.confirm()
        await self.server.stopService()

    async def test_half_closed(self) -> None:
        """
        A client that stops sending after its request gets the answer when it is ready, and then the end.
        """
        self.sender.confirming = False
        port = await self.serve()
        protocol = await self.waiting(port)
        protocol.transport.loseWriteConnection()
        # The second connection is opened and answered while the server has already seen the end of the first.
        await self.post(f"http://127.0.0.1:{port}/v1/messages")
        self.sender.confirm()
        data = await protocol.closed
        self.assertIn(b"HTTP/1.1 200 OK\r\n", data)
        self.assertIn(b'"sent":true', data)

    async def test_closed_while_it_waits(self) -> None:
        """
        A client that closes its socket while it waits leaves nothing behind, though the answer is never ready.
        """
        self.sender.confirming = False
        port = await self.serve()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(WAITING)
            while not self.sender.pushed:
                await self.moment()
        while self.server.places.taken:
            await self.moment()

    async def test_port_is_taken(self) -> None:
        """
        A port that somebody has is said in the log, and the gateway goes on without the API.
        """
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            self.assertIsNone(await self.started(f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"))

    async def waiting(self, port: int) -> Any:
        """A connection on which somebody waits until a message is sent."""
        protocol = await self.connect(port)
        protocol.transport.write(WAITING)
        while not self.sender.pushed:
            await self.moment()
        return protocol

    async def moment(self) -> None:
        later: Deferred[None] = Deferred()
        reactor.callLater(0.01, later.callback, None)
        await later
