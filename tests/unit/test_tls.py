"""Whose certificates are accepted, and how the rest is told; without sockets."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from component_http.certificates import Ends, client_endpoint
from component_http.errors import CertificateInvalid, CertificateRefused, ConnectionFailed
from component_http.settings import Settings
from component_http.tls import client_tls, tls_failure
from tests.certificates import ODD_NAMES, Authority, Name

HELLO = b"only for the right one"

CLOCK = Clock()
"""For Twisted's TLS, which puts small writes together."""


class Client(Protocol):
    """Sends something at once, and remembers why the connection ended."""

    transport: Any
    ended: Failure | None = None

    def __init__(self, hello: bytes = HELLO) -> None:
        self._hello = hello

    def connectionMade(self) -> None:
        if self._hello:
            self.transport.write(self._hello)

    def connectionLost(self, reason: Any = None) -> None:
        self.ended = reason


class Server(Protocol):
    """Remembers what arrives."""

    received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class Wire(StringTransport):
    """A transport that remembers whether it was aborted."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


def over_tls(context: Any, protocol: Protocol, *, is_client: bool) -> Any:
    """A protocol with TLS below it."""
    factory: Any = Factory.forProtocol(lambda: protocol)
    return TLSMemoryBIOFactory(context, is_client, factory, clock=CLOCK).buildProtocol(None)


def meet(*ends: Any) -> None:
    """Connect two protocols, and let them talk until neither has anything more to say."""
    wires = [Wire(), Wire()]
    for end, wire in zip(ends, wires, strict=True):
        end.makeConnection(wire)
    while any(wire.value() for wire in wires):
        for mine, theirs, other in ((wires[0], wires[1], ends[1]), (wires[1], wires[0], ends[0])):
            said = mine.value()
            mine.clear()
            if said and not theirs.aborted:
                other.dataReceived(said)
        CLOCK.advance(0)
    for end, wire in zip(ends, wires, strict=True):
        if wire.aborted or wire.disconnecting:
            end.connectionLost(Failure(ConnectionDone()))


class TlsCase(SynchronousTestCase):
    """What the tests share: an authority that is trusted."""

    authority: Authority

    @classmethod
    def setUpClass(cls) -> None:
        cls.authority = Authority()

    def assertAccepted(self, host: str, *names: Name) -> None:
        client, server = Client(), Server()
        meet(
            over_tls(client_tls(host, self.authority.trust_root), client, is_client=True),
            over_tls(self.authority.context(*names), server, is_client=False),
        )
        self.assertEqual((None, HELLO), (client.ended, server.received))

    def assertRefused(self, host: str, *names: Name, because: str = "another name", **how: Any) -> None:
        client, server = Client(), Server()
        meet(
            over_tls(client_tls(host, self.authority.trust_root), client, is_client=True),
            over_tls(self.authority.context(*names, **how), server, is_client=False),
        )
        self.assertEqual(b"", server.received)
        assert client.ended is not None
        failure = tls_failure(client.ended.value)
        self.assertIsInstance(failure, CertificateInvalid)
        self.assertIn(because, str(failure))


class NameTests(TlsCase):
    """A certificate has to be for the host (RFC 9525)."""

    def test_right(self) -> None:
        """
        A certificate for the host's name, or for its IP address, is accepted; case and a dot at the end do not count.
        """
        for host, name in [
            ("bot.example", "bot.example"),
            ("bot.example", "BOT.Example"),
            ("bot.example.", "bot.example"),
            ("b\u00fccher.example", "xn--bcher-kva.example"),
            ("127.0.0.1", "127.0.0.1"),
            ("a.bot.example", "*.bot.example"),
        ]:
            self.assertAccepted(host, name)

    def test_wrong(self) -> None:
        """
        A certificate for another name or address is refused, before anything is sent.
        """
        for host, name in [
            ("bot.example", "bot.example.org"),
            ("bot.example", "*.bot.example"),
            ("a.b.bot.example", "*.bot.example"),
            ("127.0.0.1", "127.0.0.2"),
            ("127.0.0.1", "localhost"),
            ("localhost", "127.0.0.1"),
        ]:
            self.assertRefused(host, name)

    def test_no_name(self) -> None:
        """
        A certificate without a subjectAltName is refused, though its common name is that of the host.
        """
        for host in ("localhost", "127.0.0.1"):
            self.assertRefused(host, because="no subjectAltName")

    def test_odd_names(self) -> None:
        """
        A name that can be for nobody makes no certificate right, alone or beside others.
        """
        for odd in ODD_NAMES:
            for names in ([odd], ["bot.example", odd], [odd, "192.0.2.1"]):
                for host in ("localhost", "127.0.0.1", "lan", "a.lan"):
                    self.assertRefused(host, *names)

    def test_right_name_beside_odd_ones(self) -> None:
        """
        Nor does it make a right one wrong.
        """
        for host in ("localhost", "127.0.0.1"):
            self.assertAccepted(host, *ODD_NAMES, "localhost", "127.0.0.1")

    def test_names_that_cannot_be_read(self) -> None:
        """
        A subjectAltName that is rubbish is a certificate that is refused, and no traceback.
        """
        for rubbish in (b"", b"\x30\x03\x82\x05x", b"\x30\x03\x82\x01\xff", b"\x30\x04\x87\x02\x00\x00"):
            self.assertRefused("localhost", because="certificate", rubbish=rubbish)

    def test_expired(self) -> None:
        """
        The right name helps no certificate that has expired.
        """
        self.assertRefused("localhost", "localhost", because="has expired", expired=True)

    def test_hosts_that_no_certificate_is_for(self) -> None:
        """
        A host that no certificate can be for is known before the first connection.
        """
        for host in ("my_bot\u00e9", "a..b", "", "."):
            self.assertRaises(ValueError, client_tls, host)


class FailureTests(SynchronousTestCase):
    """The sentences about handshakes that fail."""

    def test_words_of_openssl(self) -> None:
        """
        Whatever a version of OpenSSL calls it, a failure is told with the host and a remedy; only where the other side
        does not take our certificate it is known to have read nothing.
        """
        for words, refused, remedy in (
            ("tlsv13 alert certificate required", True, "name one in webhook.client_certificate"),
            ("sslv3 alert bad certificate", True, "replace the one in webhook.client_certificate"),
            ("ssl/tls alert certificate expired", True, "replace the one in webhook.client_certificate"),
            ("tlsv1 alert unknown ca", True, "replace the one in webhook.client_certificate"),
            ("tlsv1 alert access denied", True, "replace the one in webhook.client_certificate"),
            ("ssl/tls alert handshake failure", True, "name one in webhook.client_certificate"),
            ("tlsv1 alert protocol version", False, "it has to be updated"),
            ("unsupported protocol", False, "it has to be updated"),
            ("tlsv1 unrecognized name", False, "correct webhook.server_name"),
            ("wrong version number", False, "correct the port"),
            ("tlsv1 alert internal error", False, "TLS with bot.example fails: tlsv1 alert internal error"),
            ("", False, "TLS with bot.example fails: no reason given"),
        ):
            failure = tls_failure(SSL.Error([("SSL routines", "", words)]), "bot.example")
            self.assertIsInstance(failure, ConnectionFailed)
            self.assertEqual(refused, isinstance(failure, CertificateRefused), words)
            self.assertIn(remedy, str(failure))
            self.assertIn("bot.example", str(failure))
        untold = tls_failure(SSL.Error([("SSL routines", "", "certificate verify failed")]), "bot.example")
        self.assertIsInstance(untold, CertificateInvalid)
        self.assertIsNone(tls_failure(ConnectionDone()))


class EndsTests(SynchronousTestCase):
    """Certificates that end soon."""

    def test_told_twice(self) -> None:
        """
        The log tells of a certificate once when 14 days are left, and once more when 3 are, however often it is seen;
        of another one it tells anew.
        """
        now = 0.0
        ends = Ends("the certificate of bot.example", "renew it", wall=lambda: now)
        told = []
        for day in (0, 5.5, 6.5, 7, 7, 17.5, 18, 19.5, 21):
            now = day * 86_400
            with capturedLogs() as captured:
                ends.see(20 * 86_400)
            told += [(day, formatEvent(event)) for event in captured]
        self.assertEqual(
            [
                (6.5, "the certificate of bot.example ends in 14 days: renew it"),
                (17.5, "the certificate of bot.example ends in 2 days: renew it"),
            ],
            told,
        )
        self.assertEqual(20 * 86_400, ends.last)
        with capturedLogs() as captured:
            ends.see(23 * 86_400)
        self.assertEqual(1, len(captured))


class EndpointTests(TlsCase):
    """The endpoint in component.server."""

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "ours.pem").write_bytes(self.authority.pem)
        (self.folder / "broken.pem").write_text("none")
        (self.folder / "nowhere.pem").symlink_to("nowhere")

    def trusts(self, description: str, *names: Name) -> bool:
        """Whether a client that connects to an endpoint, which leads to 127.0.0.1, accepts a server of these names."""
        reactor = MemoryReactor()
        client = Client(hello=b"")
        client_endpoint(reactor, description).connect(Factory.forProtocol(lambda: client))
        host, port, factory, *_ = reactor.tcpClients[0]
        self.assertEqual(("127.0.0.1", 5347), (host, port))
        meet(factory.buildProtocol(None), over_tls(self.authority.context(*names), Server(), is_client=False))
        return client.ended is None

    def test_files_beside_the_settings(self) -> None:
        """
        The relative paths of a tls: endpoint in a settings file, and that of a socket, start at its folder.
        """
        (self.folder / "own.pem").write_bytes(self.authority.certified("bot"))
        file = self.folder / "bot.toml"
        for server, expected in (
            ("tls:h:5347:trustRoots=.:certificate=own.pem", "tls:h:5347:trustRoots={0}:certificate={0}/own.pem"),
            ("tls:h:5347:endpoint=unix\\:xmpp.sock", "tls:h:5347:endpoint=unix\\:{0}/xmpp.sock"),
            ("unix:xmpp.sock", "unix:{0}/xmpp.sock"),
            ("TLS:h:5347", "TLS:h:5347"),
        ):
            with self.subTest(server=server):
                file.write_text(
                    f'[component]\ndomain = "x.org"\ncomponent_post_url = "http://h/"\nserver = {json.dumps(server)}\n'
                )
                settings = Settings.from_toml(file, {"COMPONENT_HTTP_SECRET": "s"})
                self.assertEqual(expected.format(self.folder), settings.component.server)

    def test_names_are_checked(self) -> None:
        """
        A tls: endpoint talks to a server with a certificate for its host, from an authority in the given folder, and
        to no other; wherever the connection goes.
        """
        where = f"tls:xmpp.example:5347:trustRoots={self.folder}:endpoint=tcp\\:127.0.0.1\\:5347"
        self.assertTrue(self.trusts(where, "xmpp.example"))
        self.assertTrue(self.trusts(where.replace("tls:", "TLS:"), *ODD_NAMES, "xmpp.example"))
        self.assertFalse(self.trusts(where, "attacker.example"))
        self.assertFalse(self.trusts(where, "attacker.example", ODD_NAMES[0]))
        self.assertFalse(self.trusts(where))

    def test_files_that_change(self) -> None:
        """
        New authorities in the folder count from the next connection on, and so do those of a single file.
        """
        reactor = MemoryReactor()
        for roots in (self.folder, self.folder / "ours.pem"):
            (self.folder / "ours.pem").write_bytes(Authority().pem)
            endpoint = client_endpoint(
                reactor, f"tls:xmpp.example:5347:trustRoots={roots}:endpoint=tcp\\:127.0.0.1\\:5347"
            )

            def accepted(endpoint: Any = endpoint) -> bool:
                client = Client(hello=b"")
                endpoint.connect(Factory.forProtocol(lambda: client))
                factory = reactor.tcpClients[-1][2]
                server = over_tls(self.authority.context("xmpp.example"), Server(), is_client=False)
                meet(factory.buildProtocol(None), server)
                return client.ended is None

            self.assertFalse(accepted())
            (self.folder / "ours.pem").write_bytes(self.authority.pem)
            self.assertTrue(accepted())

    def test_platform_is_trusted(self) -> None:
        """
        Without a folder it is the platform that says who may vouch for a certificate.
        """
        where = "tls:xmpp.example:5347:endpoint=tcp\\:127.0.0.1\\:5347"
        self.assertFalse(self.trusts(where, "xmpp.example"))

    def test_other_endpoints(self) -> None:
        """
        Other endpoints are Twisted's.
        """
        reactor = MemoryReactor()
        client_endpoint(reactor, "unix:/run/server\\:1").connect(Factory())
        self.assertEqual("/run/server:1", reactor.unixClients[0][0])

    def test_folder_without_certificates(self) -> None:
        """
        A folder that has no certificate to trust is refused, for no server could be trusted.
        """
        (self.folder / "ours.pem").unlink()
        for folder in (self.folder, self.folder / "none"):
            self.assertRaises(
                (ValueError, OSError), client_endpoint, MemoryReactor(), f"tls:xmpp.example:5347:trustRoots={folder}"
            )
