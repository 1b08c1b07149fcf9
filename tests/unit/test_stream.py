"""The stream to the XMPP server, with the server played by the test."""

from __future__ import annotations

import re
import socket
from datetime import UTC, datetime
from hashlib import sha1
from random import Random

from attrs import evolve
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element
from wokkel.subprotocols import XMPPHandler

from component_http.contract.outbound import OutboundStanza, outbound_stanza
from component_http.contract.outgoing import sendable
from component_http.contract.xml import Limits
from component_http.errors import CertificateInvalid
from component_http.operations.metrics import Counters
from component_http.throttle import LOG_INTERVAL
from component_http.xmpp.connecting import LAST_RETRY
from component_http.xmpp.connection import CLOSE_TIMEOUT, HANDSHAKE_TIMEOUT, LONG_READ_BYTES, READ_BYTES
from component_http.xmpp.own_stanzas import MAX_UNCONFIRMED
from component_http.xmpp.reading import MAX_PAUSE
from component_http.xmpp.rooms import Rooms
from component_http.xmpp.stream import STABLE_AFTER, ComponentStream
from component_http.xmpp.write_queue import CROWDED_BYTES, CROWDED_STANZAS, MAX_BYTES, MAX_STANZAS
from component_http.xmpp.writer import CROWDED, FULL

HEADER = b"<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' id='s1'>"


class Wire(StringTransport):
    """A transport that ends when it is told to."""

    protocol = None
    aborted = False
    handle = None
    fill_after = None
    """Writes after which there is no room for more."""

    def write(self, data):
        super().write(data)
        if self.fill_after is not None:
            self.fill_after -= 1
            if self.fill_after == 0:
                self.fill_after = None
                self.fill()

    def getHandle(self):
        return self.handle

    def abortConnection(self):
        self.aborted = True
        self.lose()

    def loseConnection(self):
        super().loseConnection()
        self.lose()

    def fill(self):
        """The server does not read, and there is no room for more."""
        self.producer.pauseProducing()

    def empty(self):
        """The server has read everything."""
        self.producer.resumeProducing()

    def lose(self, reason=None):
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            if self.producer is not None:
                self.producer.stopProducing()
            protocol.connectionLost(Failure(reason or ConnectionDone()))


class Server:
    """The endpoint of a server that does what the test says."""

    def __init__(self):
        self.attempts = []
        self.handle = None
        self.protocol = None
        self.wire = None

    def connect(self, factory):
        attempt = Deferred()
        self.attempts.append((attempt, factory))
        return attempt

    def refuse(self):
        self.attempts[-1][0].errback(Failure(ConnectionRefusedError()))

    def accept(self):
        attempt, factory = self.attempts[-1]
        self.protocol = factory.buildProtocol(None)
        self.wire = Wire()
        self.wire.handle = self.handle
        self.wire.protocol = self.protocol
        self.protocol.makeConnection(self.wire)
        attempt.callback(self.protocol)

    def open(self):
        """Let it come as far as to its handshake; what comes after that is heard alone."""
        self.accept()
        self.says(HEADER)
        self.wire.clear()

    def says(self, data):
        self.protocol.dataReceived(data if isinstance(data, bytes) else data.encode())

    def authenticate(self):
        self.accept()
        self.says(HEADER)
        self.says("<handshake/>")
        self.wire.clear()

    def complain(self, condition):
        self.accept()
        self.says(HEADER)
        self.says(
            f"<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
        )

    @property
    def heard(self):
        return self.wire.value().decode()

    @property
    def heard_ids(self):
        return re.findall(r"\bid='(\w+)'", self.heard)


class Longest(Random):
    """Jitter that always comes out longest."""

    def uniform(self, a, b):
        return b


def message(**attributes):
    element = Element((None, "message"))
    element["to"] = "alice@example.org"
    for name, value in attributes.items():
        element[name.rstrip("_")] = value
    return element


LARGE = 10_000


def large():
    """A message that leaves as exactly `LARGE` bytes."""
    element = message(from_="bot.example.org")
    body = element.addElement("body", content="x")
    rest = LARGE - len(sendable(element, "bot.example.org", LARGE))
    body.addContent("x" * rest)
    return element


class StreamTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.server = Server()
        self.counters = Counters()
        self.stream = self.a_stream()
        self.stream.startService()
        self.addCleanup(self.stop)

    def a_stream(self, **options) -> ComponentStream:
        return ComponentStream(
            self.server,
            "bot.example.org",
            "s3cret",
            limits=Limits(max_bytes=10_000),
            observer=self.counters,
            clock=self.clock,
            random=Longest(),
            now=lambda: 1_700_000_000.0,
            **{"confirm": False, **options},
        )

    def stop(self) -> None:
        stopped = self.stream.stopService()
        if self.server.wire is not None:
            self.server.wire.lose()
        self.successResultOf(stopped)
        self.assertEqual([], self.clock.getDelayedCalls(), "something is still waiting after the stop")

    def send_many(self, count, prefix="m"):
        """Send so many messages; returns their ids."""
        ids = [f"{prefix}{number}" for number in range(count)]
        for id in ids:
            self.stream.send(message(id=id))
        return ids

    def logged(self, logs, level):
        return [str(event.get("complaint", event)) for event in logs if event["log_level"] is level]


class HandshakeTests(StreamTestCase):
    """Getting in."""

    def test_digest(self) -> None:
        """
        The handshake is the SHA-1 of the stream's id and the secret.
        """
        self.server.accept()
        self.server.says(HEADER)
        self.assertIn(sha1(b"s1s3cret").hexdigest(), self.server.heard)
        self.assertIn("to='bot.example.org'", self.server.heard)

    def test_silent_server(self) -> None:
        """
        A server that accepts and stays silent is left after ten seconds and tried again; the log names the setting.
        """
        self.server.accept()
        with capturedLogs() as logs:
            self.clock.advance(HANDSHAKE_TIMEOUT)
        [told] = self.logged(logs, LogLevel.warn)
        self.assertIn("within 10 s; check that component.server names the server's port for components", told)
        self.assertTrue(self.server.wire.aborted)
        self.clock.advance(2)
        self.assertEqual(2, len(self.server.attempts))

    def test_header_without_id(self) -> None:
        """
        A server that names no stream id is not XEP-0114; it is left and tried again.
        """
        self.server.accept()
        self.server.says(HEADER.replace(b" id='s1'", b""))
        self.assertTrue(self.server.wire.disconnecting)
        self.assertEqual([], self.flushLoggedErrors())

    def test_rubbish(self) -> None:
        """
        What is not XML ends the connection without a traceback, and the next one is made.
        """
        self.server.accept()
        self.server.says(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.clock.advance(2)
        self.assertEqual(2, len(self.server.attempts))
        self.assertEqual(1, self.counters["connection_failed"])

    def test_complaints_are_logged_once_with_the_remedy(self) -> None:
        """
        A wrong secret, an unknown host and a conflict are each logged once, by the server's word, with what to do.
        """
        for condition, remedy in (
            ("not-authorized", "secret"),
            ("host-unknown", "Component"),
            ("conflict", "component_conflict_resolve"),
        ):
            with capturedLogs() as logs:
                for _ in range(3):
                    self.server.complain(condition)
                    self.clock.advance(LAST_RETRY)
            errors = self.logged(logs, LogLevel.error)
            self.assertEqual(1, len(errors), errors)
            self.assertIn(condition, errors[0])
            self.assertIn(remedy, errors[0])

    def test_refused_certificate(self) -> None:
        """
        A certificate that we refuse is logged once, with the reason and with what to do, and counted as a connection
        that failed.
        """
        with capturedLogs() as logs:
            for _ in range(3):
                self.server.accept()
                self.server.wire.lose(CertificateInvalid("the certificate of xmpp.example is for another name"))
                self.clock.advance(LAST_RETRY)
        (error,) = self.logged(logs, LogLevel.error)
        self.assertIn("certificate cannot be trusted (the certificate of xmpp.example is for another name)", error)
        self.assertEqual(3, self.counters["connection_failed"])
        self.assertEqual([], self.logged(logs, LogLevel.warn))

    def test_no_tls_where_it_is_expected(self) -> None:
        """
        A server that does not speak TLS at a tls: endpoint is logged in words.
        """
        with capturedLogs() as logs:
            self.server.accept()
            self.server.wire.lose(SSL.Error([("SSL routines", "", "wrong version number")]))
        (warning,) = self.logged(logs, LogLevel.warn)
        self.assertIn("the server does not speak TLS (wrong version number): correct the port", warning)
        self.assertIn("check that component.server names the server's port for components", warning)

    def test_our_certificate_is_refused(self) -> None:
        """
        A server that does not take our certificate is logged with the part of component.server that names it.
        """
        with capturedLogs() as logs:
            self.server.accept()
            self.server.wire.lose(SSL.Error([("SSL routines", "", "tlsv1 alert unknown ca")]))
        (warning,) = self.logged(logs, LogLevel.warn)
        self.assertIn("refuses the gateway's certificate (tlsv1 alert unknown ca): replace the one in cert", warning)

    def warned(self, *, address="127.0.0.1:5347", says=b"", lost=None):
        """What is logged where a connection says this and is lost."""
        stream = self.a_stream(address=address)
        with capturedLogs() as logs:
            stream.startService()
            self.server.accept()
            if says:
                self.server.says(says)
            heard = self.server.heard
            self.server.wire.lose(lost)
            stream.stopService()
            self.server.wire.lose()
        self.assertNotIn("<handshake", heard)
        return [formatEvent(event) for event in logs if event["log_level"] in (LogLevel.warn, LogLevel.error)]

    def test_no_connection(self) -> None:
        """
        Where no connection comes about the log says to which address.
        """
        stream = self.a_stream(address="127.0.0.1:5347")
        with capturedLogs() as logs:
            stream.startService()
            self.server.refuse()
        stream.stopService()
        [warning] = self.logged(logs, LogLevel.warn)
        self.assertTrue(warning.startswith("cannot connect to 127.0.0.1:5347: "), warning)

    def test_port_for_clients(self) -> None:
        """
        A server that answers as it answers clients, or other servers, is told nothing of the secret, and the log says
        which port to name.
        """
        error = "<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
        for namespace, served in (("jabber:client", "clients"), ("jabber:server", "other servers")):
            header = HEADER.replace(b"jabber:component:accept", namespace.encode())
            for says in (header, header + b"<stream:features/>", header + error.encode() + b"</stream:stream>"):
                [said] = self.warned(address="127.0.0.1:15222", says=says)
                self.assertIn(f"does not name a component port (127.0.0.1:15222 is for {served}: ", said)
                self.assertIn("5347", said)
                self.assertIn("component_ports in Prosody", said)
                self.assertIn("ejabberd_service", said)

    def test_usual_ports_of_others(self) -> None:
        """
        What fails on a port that is usually for clients is told so, also where TLS is spoken or nothing is said.
        """
        for port in (5222, 5223):
            for says in (b"", b"\x15\x03\x01\x00\x02\x02\x46"):
                [said] = self.warned(address=f"127.0.0.1:{port}", says=says)
                self.assertIn(f"(127.0.0.1:{port} is for clients: ", said)
        [said] = self.warned(address="127.0.0.1:5347")
        self.assertNotIn("is for", said)

    def test_component_port_with_an_unusual_number(self) -> None:
        """
        A component port is one whatever its number: a wrong secret there is told as a wrong secret.
        """
        stream = self.a_stream(address="127.0.0.1:5222")
        with capturedLogs() as logs:
            stream.startService()
            self.server.complain("not-authorized")
        stream.stopService()
        [error] = self.logged(logs, LogLevel.error)
        self.assertTrue(error.startswith("not-authorized: the secret"), error)

    def test_complaint_comes_again_after_a_good_stream(self) -> None:
        """
        What was mended and breaks again is worth another line.
        """
        with capturedLogs() as logs:
            self.server.complain("conflict")
            self.clock.advance(LAST_RETRY)
            self.server.authenticate()
            self.clock.advance(STABLE_AFTER)
            self.server.wire.lose()
            self.clock.advance(LAST_RETRY)
            self.server.complain("conflict")
        self.assertEqual(2, len(self.logged(logs, LogLevel.error)))


class ReconnectTests(StreamTestCase):
    """Coming back."""

    def fail_for(self, seconds):
        """The server refuses; returns after how many seconds of waiting the next attempt was made."""
        attempts = len(self.server.attempts)
        self.server.refuse()
        waited = 0
        while len(self.server.attempts) == attempts and waited < seconds:
            self.clock.advance(1)
            waited += 1
        return waited

    def test_waits_grow_to_the_cap(self) -> None:
        """
        The longest wait doubles from two seconds to a minute and stays there.
        """
        self.assertEqual([2, 4, 8, 16, 32, 60, 60], [self.fail_for(100) for _ in range(7)])

    def test_never_shorter_than_a_second(self) -> None:
        """
        Jitter never makes a busy loop.
        """
        self.assertGreaterEqual(min(Random(1).uniform(1.0, 2.0) for _ in range(1000)), 1.0)
        self.server.refuse()
        self.clock.advance(0.99)
        self.assertEqual(1, len(self.server.attempts))

    def test_short_stream_does_not_reset_the_wait(self) -> None:
        """
        A stream that breaks before thirty seconds counts as another failure.
        """
        self.fail_for(10)
        self.fail_for(10)
        self.server.authenticate()
        self.clock.advance(STABLE_AFTER - 1)
        self.server.wire.lose()
        self.clock.advance(7)
        self.assertEqual(3, len(self.server.attempts))
        self.clock.advance(1)
        self.assertEqual(4, len(self.server.attempts))

    def test_good_stream_resets_the_wait(self) -> None:
        """
        After thirty seconds the next loss is followed by a short wait again.
        """
        self.fail_for(10)
        self.fail_for(10)
        self.server.authenticate()
        self.clock.advance(STABLE_AFTER)
        self.server.wire.lose()
        self.clock.advance(2)
        self.assertEqual(4, len(self.server.attempts))


class SendTests(StreamTestCase):
    """What leaves."""

    def test_missing_from_is_filled_in(self) -> None:
        """
        A stanza without a sender leaves from the component itself.
        """
        self.server.authenticate()
        self.assertTrue(self.stream.send(message()))
        self.assertIn("from='bot.example.org'", self.server.heard)

    def test_what_the_server_would_not_take_is_dropped(self) -> None:
        """
        A foreign sender, no recipient, a bad address, a non-stanza or a giant never reaches the server.
        """
        self.server.authenticate()
        giant = message()
        giant.addElement("body", content="x" * 10_000)
        nowhere = message()
        del nowhere["to"]
        bad = (
            message(from_="bot@elsewhere.example"),
            nowhere,
            message(to="a@b..c"),
            Element((None, "stream")),
            giant,
        )
        for element in bad:
            self.assertFalse(self.stream.send(element))
        self.stream.xmlstream.send(message(from_="bot@elsewhere.example"))
        self.assertEqual("", self.server.heard)
        self.assertEqual(len(bad) + 1, self.counters["unsendable"])

    def test_handlers_text_is_checked_too(self) -> None:
        """
        XML text from a handler is parsed and checked like an element.
        """
        self.server.authenticate()
        self.stream.xmlstream.send("<message to='a@example.org'><body>hi</body></message>")
        self.assertIn("from='bot.example.org'", self.server.heard)
        self.stream.xmlstream.send("</stream:stream>")
        self.assertNotIn("</stream:stream>", self.server.heard)

    def test_offline_stanzas_wait_in_order(self) -> None:
        """
        What is sent while there is no stream leaves first, in order, when there is one.
        """
        self.assertTrue(self.stream.send(message(id="1")))
        self.assertTrue(self.stream.send(message(id="2")))
        self.server.accept()
        self.server.says(HEADER)
        self.server.says("<handshake/>")
        heard = self.server.heard
        self.assertLess(heard.index("id='1'"), heard.index("id='2'"))

    def test_long_queue_leaves_at_once(self) -> None:
        """
        All that waited for the stream leaves as soon as it is there, if the transport takes it.
        """
        ids = self.send_many(MAX_STANZAS)
        self.server.open()
        self.server.says("<handshake/>")
        self.assertEqual(ids, self.server.heard_ids)

    def test_what_is_sent_meanwhile_waits_its_turn(self) -> None:
        """
        What is sent while older stanzas still wait for room leaves after them.
        """
        ids = self.send_many(3)
        self.server.open()
        self.server.wire.fill_after = 1
        self.server.says("<handshake/>")
        self.stream.send(message(id="last"))
        self.assertEqual(ids[:1], self.server.heard_ids)
        self.server.wire.empty()
        self.assertEqual([*ids, "last"], self.server.heard_ids)

    def test_each_stanza_leaves_once(self) -> None:
        """
        What was not written when the stream is lost leaves on the next one, and nothing else does.
        """
        ids = self.send_many(4)
        self.server.open()
        self.server.wire.fill_after = 2
        self.server.says("<handshake/>")
        self.server.wire.lose()
        self.clock.advance(LAST_RETRY)
        self.server.open()
        self.server.says("<handshake/>")
        self.assertEqual(ids[2:], self.server.heard_ids)

    def test_number_of_waiting_stanzas_is_bounded(self) -> None:
        """
        Beyond the limit nothing more is kept; it is counted, and logged once.
        """
        with capturedLogs() as logs:
            kept = [self.stream.send(message()) for _ in range(MAX_STANZAS + 3)]
        self.assertEqual([False] * 3, kept[-3:])
        self.assertEqual(3, self.counters["outgoing_full"])
        self.assertEqual([CROWDED, FULL], self.logged(logs, LogLevel.warn))

    def test_number_of_the_owners_choice(self) -> None:
        """
        An owner who makes more at once, or less, says how many stanzas are kept.
        """
        for number in (2, MAX_STANZAS + 1):
            stream = self.a_stream(max_waiting=number)
            self.assertTrue(all(stream.send(message()) for _ in range(number)))
            self.assertFalse(stream.send(message()))

    def test_bytes_of_waiting_stanzas_are_bounded(self) -> None:
        """
        Few stanzas that are large are as much as many.
        """
        kept = [self.stream.send(large()) for _ in range(MAX_BYTES // LARGE + 1)]
        self.assertEqual([True, False], kept[-2:])
        self.assertEqual(1, self.counters["outgoing_full"])


class HeldTests(StreamTestCase):
    """A server that does not read."""

    def setUp(self) -> None:
        super().setUp()
        self.server.authenticate()

    def test_nothing_is_written_while_there_is_no_room(self) -> None:
        """
        What is sent while the transport's buffer is full waits, and leaves in order when there is room.
        """
        self.server.wire.fill()
        ids = self.send_many(3)
        self.assertEqual("", self.server.heard)
        self.server.wire.empty()
        self.assertEqual(ids, self.server.heard_ids)
        self.assertEqual(1, self.counters["writing_held"])

    def test_what_waited_stops_where_there_is_no_room_again(self) -> None:
        """
        A transport that is full in the middle of what waited gets no more until it has room.
        """
        self.server.wire.fill()
        ids = self.send_many(3)
        self.server.wire.fill_after = 2
        self.server.wire.empty()
        self.assertEqual(ids[:2], self.server.heard_ids)
        self.server.wire.empty()
        self.assertEqual(ids, self.server.heard_ids)

    def test_long_queue_of_an_old_stream_stops_as_well(self) -> None:
        """
        A new stream whose transport is full at once gets no more of what waited than it takes.
        """
        self.server.wire.lose()
        ids = self.send_many(3)
        self.clock.advance(LAST_RETRY)
        self.server.open()
        self.server.wire.fill_after = 1
        self.server.says("<handshake/>")
        self.assertEqual(ids[:1], self.server.heard_ids)
        self.server.wire.empty()
        self.assertEqual(ids, self.server.heard_ids)

    def test_stream_lost_while_held(self) -> None:
        """
        What waited for room leaves on the next stream, which has room of its own.
        """
        self.server.wire.fill()
        ids = self.send_many(2)
        self.server.wire.lose()
        self.clock.advance(LAST_RETRY)
        self.server.open()
        self.server.says("<handshake/>")
        self.assertEqual(ids, self.server.heard_ids)

    def test_server_that_closes_while_it_does_not_read(self) -> None:
        """
        The answer to its closing tag is given to the transport, which ends without asking for more.
        """
        self.server.wire.fill()
        self.stream.send(message(id="later"))
        self.server.wire.protocol, protocol = None, self.server.wire.protocol
        self.server.says("</stream:stream>")
        self.assertEqual("</stream:stream>", self.server.heard)
        self.assertIsNone(self.server.wire.producer)
        self.server.wire.protocol = protocol


class CrowdedTests(StreamTestCase):
    """So much waits to leave that whoever makes more of it should rest."""

    def setUp(self) -> None:
        super().setUp()
        self.server.authenticate()
        self.server.wire.fill()

    def test_from_the_mark_until_half_of_it(self) -> None:
        """
        A thousand stanzas are a crowd, until five hundred are left.
        """
        self.send_many(CROWDED_STANZAS - 1)
        self.assertFalse(self.stream.crowded)
        self.send_many(1)
        self.assertTrue(self.stream.crowded)
        self.server.wire.fill_after = CROWDED_STANZAS // 2 - 1
        self.server.wire.empty()
        self.assertTrue(self.stream.crowded)
        self.server.wire.fill_after = 1
        self.server.wire.empty()
        self.assertFalse(self.stream.crowded)

    def test_first_of_all(self) -> None:
        """
        What is to be written first on a new stream is before all that waited, and passes the same check.
        """
        joins = [message(id="first"), message(id="foreign", from_="elsewhere.example.org")]
        self.stop()
        self.server.wire = None
        self.stream = self.a_stream(first=lambda: joins)
        self.stream.startService()
        self.stream.send(message(id="waited"))
        self.server.open()
        self.server.says("<handshake/>")
        self.assertEqual(["first", "waited"], self.server.heard_ids)
        self.assertEqual(1, self.counters["unsendable"])

    def test_few_large_stanzas(self) -> None:
        """
        So are eight megabytes, whatever the number of stanzas, until four are left.
        """
        count = -(-CROWDED_BYTES // LARGE)
        for _ in range(count - 1):
            self.stream.send(large())
        self.assertFalse(self.stream.crowded)
        self.stream.send(large())
        self.assertTrue(self.stream.crowded)
        self.server.wire.fill_after = count - CROWDED_BYTES // 2 // LARGE - 1
        self.server.wire.empty()
        self.assertTrue(self.stream.crowded)
        self.server.wire.fill_after = 1
        self.server.wire.empty()
        self.assertFalse(self.stream.crowded)

    def test_crowd_of_an_outage(self) -> None:
        """
        Without a stream it is crowded all the same, and clear when a new stream has taken what waited.
        """
        self.server.wire.lose()
        self.send_many(CROWDED_STANZAS)
        self.assertTrue(self.stream.crowded)
        clear = self.stream.when_clear()
        self.clock.advance(LAST_RETRY)
        self.server.open()
        self.server.wire.fill_after = 1
        self.server.says("<handshake/>")
        self.assertNoResult(clear)
        self.server.wire.empty()
        self.successResultOf(clear)

    def test_clear_while_handling_the_clear(self) -> None:
        """
        Whoever is told and makes another crowd at once hears of its end, too, and order is kept.
        """
        ids = self.send_many(CROWDED_STANZAS)
        more = self.stream.when_clear().addCallback(lambda _: self.send_many(CROWDED_STANZAS, "more"))
        self.server.wire.fill_after = CROWDED_STANZAS // 2
        self.server.wire.empty()
        ids += self.successResultOf(more)
        again = self.stream.when_clear()
        self.assertNoResult(again)
        self.server.wire.empty()
        self.successResultOf(again)
        self.assertEqual(ids, self.server.heard_ids)

    def test_what_the_told_send_is_held_like_the_rest(self) -> None:
        """
        What is sent by one who was told that all has left is written as far as there is room, and the rest waits.
        """
        ids = self.send_many(3)
        more = self.stream.when_sent().addCallback(lambda _: self.send_many(3, "more"))
        self.server.wire.fill_after = len(ids) + 2
        self.server.wire.empty()
        ids += self.successResultOf(more)
        self.assertEqual(ids[:-1], self.server.heard_ids)
        self.assertNoResult(self.stream.when_sent())
        self.server.wire.empty()
        self.assertEqual(ids, self.server.heard_ids)

    def test_one_who_is_told_stops_the_stream(self) -> None:
        """
        One who waits for the last stanza to leave and stops the stream then says goodbye after it, once.
        """
        ids = self.send_many(CROWDED_STANZAS)
        stopping = []
        self.stream.when_sent().addCallback(lambda _: stopping.append(self.stream.stopService()))
        self.server.wire.empty()
        self.assertEqual(ids, self.server.heard_ids)
        self.assertTrue(self.server.heard.endswith("</stream:stream>"))
        self.assertEqual(1, self.server.heard.count("</stream:stream>"))
        self.server.says("</stream:stream>")
        self.successResultOf(stopping[0])

    def test_sent_is_later_than_clear(self) -> None:
        """
        Who waits until all has left is not told when it is only clear.
        """
        self.send_many(CROWDED_STANZAS)
        clear, sent = self.stream.when_clear(), self.stream.when_sent()
        self.server.wire.fill_after = CROWDED_STANZAS - 1
        self.server.wire.empty()
        self.successResultOf(clear)
        self.assertNoResult(sent)
        self.server.wire.fill_after = 1
        self.server.wire.empty()
        self.successResultOf(sent)

    def test_one_who_is_told_crowds_it_again(self) -> None:
        """
        Of two who wait the first fills the room that there is; the second hears when there is room again.
        """
        self.send_many(CROWDED_STANZAS)
        first, second = self.stream.when_clear(), self.stream.when_clear()
        first.addCallback(lambda _: self.send_many(CROWDED_STANZAS))
        self.server.wire.fill_after = CROWDED_STANZAS // 2
        self.server.wire.empty()
        self.successResultOf(first)
        self.assertNoResult(second)
        self.server.wire.empty()
        self.successResultOf(second)

    def test_one_who_waits_sends_the_other_away(self) -> None:
        """
        Of two who wait for the end of the crowd the first may cancel the second.
        """
        self.send_many(CROWDED_STANZAS)
        first, second = self.stream.when_clear(), self.stream.when_clear()
        first.addCallback(lambda _: second.cancel())
        self.server.wire.empty()
        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)

    def test_stop_ends_the_wait(self) -> None:
        """
        When the stream is stopped nobody waits any longer, be it for the end of the crowd or for the last stanza.
        """
        self.send_many(CROWDED_STANZAS)
        clear, sent = self.stream.when_clear(), self.stream.when_sent()
        stopped = self.stream.stopService()
        self.clock.advance(CLOSE_TIMEOUT)
        self.successResultOf(stopped)
        self.successResultOf(clear)
        self.successResultOf(sent)
        self.assertEqual(CROWDED_STANZAS, self.counters["outgoing_lost"])

    def test_second_stop_ends_the_wait(self) -> None:
        """
        Whoever sends to a stream that is stopped already does not wait beyond the next stop.
        """
        self.stop()
        self.send_many(CROWDED_STANZAS)
        clear, sent = self.stream.when_clear(), self.stream.when_sent()
        self.successResultOf(self.stream.stopService())
        self.successResultOf(clear)
        self.successResultOf(sent)

    def crowds(self, count, each):
        """Be crowded and full so many times, and clear for some seconds after each; returns what was said of it."""
        with capturedLogs() as logs:
            for _ in range(count):
                self.send_many(MAX_STANZAS + 2)
                self.server.wire.empty()
                self.clock.advance(each)
                self.server.wire.fill()
        return self.logged(logs, LogLevel.warn)

    def test_crowds_that_flutter_are_told_once(self) -> None:
        """
        Crowds that come and go within a minute are worth one line of each kind.
        """
        self.assertEqual([CROWDED, FULL], self.crowds(3, LOG_INTERVAL / 3))

    def test_later_crowd_is_told_again(self) -> None:
        """
        A crowd a minute later is worth another line, though the stream is the same.
        """
        self.assertEqual([CROWDED, FULL] * 3, self.crowds(3, LOG_INTERVAL))

    def test_clock_that_was_set_back(self) -> None:
        """
        A crowd after the clock was set back is told, and not only when the old time has come again.
        """
        self.clock.rightNow = 1e9
        self.assertEqual([CROWDED, FULL], self.crowds(1, 0))
        self.clock.rightNow = 1.0
        self.assertEqual([CROWDED, FULL], self.crowds(1, 0))


class ReceiveTests(StreamTestCase):
    """What comes in."""

    def setUp(self) -> None:
        super().setUp()
        self.seen = seen = []

        class Ears(XMPPHandler):
            def connectionInitialized(self):
                self.xmlstream.addObserver("/message", seen.append)

        Ears().setHandlerParent(self.stream)

    def test_stanzas_reach_handlers(self) -> None:
        """
        A handler sees the stanzas of the stream.
        """
        self.server.authenticate()
        self.server.says("<message from='a@example.org' to='bot@bot.example.org'><body>hi</body></message>")
        self.assertEqual(1, len(self.seen))

    def test_long_stanzas_are_read_in_long_pieces(self) -> None:
        """
        Some stanzas are read in each turn of the reactor, and more of one that is long, until it ends.
        """
        self.server.handle = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.server.handle.close)
        self.server.authenticate()
        sizes = []
        for piece in ("<message from='a@example.org' ", "to='bot@bot.example.org'/>", "<message from='b@example.org'"):
            self.server.says(piece)
            sizes.append(self.server.wire.bufferSize)
        self.assertEqual([LONG_READ_BYTES, READ_BYTES, LONG_READ_BYTES], sizes)

    def test_bad_address_reaches_nobody(self) -> None:
        """
        A stanza whose address is none is ignored, counted, and harms nothing.
        """
        self.server.authenticate()
        for address in ("a@b..c", "a" * 4000 + "@example.org", ""):
            self.server.says(f"<message from='{address}' to='bot@bot.example.org'/>")
        self.server.says("<message from='a@example.org' to='bot@bot.example.org'/>")
        self.assertEqual(1, len(self.seen))
        self.assertEqual(3, self.counters["malformed"])

    def test_other_domains_reach_nobody(self) -> None:
        """
        A stanza for a domain that is not ours cannot be answered without ending the stream; it is ignored.
        """
        self.server.authenticate()
        self.server.says("<message from='a@example.org' to='bot@other.example.org'/>")
        self.assertEqual([], self.seen)
        self.assertEqual(1, self.counters["foreign"])

    def test_giant_is_answered_and_the_stream_goes_on(self) -> None:
        """
        A stanza over the limit is refused with policy-violation, and the next one arrives.
        """
        self.server.authenticate()
        giant = "x" * 20_000
        self.server.says(
            f"<message id='m1' from='a@example.org' to='bot@bot.example.org'><body>{giant}</body></message>"
        )
        self.server.says("<message from='a@example.org' to='bot@bot.example.org'/>")
        self.assertIn("policy-violation", self.server.heard)
        self.assertIn("id='m1'", self.server.heard)
        self.assertEqual(1, len(self.seen))
        self.assertEqual(1, self.counters["oversized"])

    def test_a_flood_of_them_does_not_fill_the_log(self) -> None:
        """
        Of stanzas that are ignored or refused there is one line of each sort in a minute, with the number left out.
        """
        self.server.authenticate()
        with capturedLogs() as logs:
            for _ in range(2):
                for _ in range(50):
                    self.server.says("<message from='a@b..c' to='bot@bot.example.org'/>")
                    self.server.says("<message from='a@example.org' to='bot@other.example.org'/>")
                    self.server.says(f"<presence from='a@example.org' to='bot@bot.example.org' id='{'x' * 20_000}'/>")
                    self.stream.send(message(from_="bot@elsewhere.example"))
                self.clock.advance(61)
        lines = [formatEvent(event) for event in logs if "{reason}" in event["log_format"]]
        self.assertEqual(8, len(lines), lines)
        self.assertEqual(4, sum("(49 more left out before)" in line for line in lines), lines)

    def test_giant_from_a_room_is_not_answered(self) -> None:
        """
        An error into a room would get the bot thrown out, so a giant private message from there stays unanswered.
        """
        self.server.authenticate()
        mark = "<x xmlns='http://jabber.org/protocol/muc#user'/>"
        for inside in (f"{mark}<body>{{}}</body>", f"<body>{{}}</body>{mark}"):
            giant = inside.format("x" * 20_000)
            stanza = f"<message id='m1' from='room@example.org/nick' to='bot@bot.example.org'>{giant}</message>"
            for start in range(0, len(stanza), 1000):
                self.server.says(stanza[start : start + 1000])
        self.assertEqual(2, self.counters["oversized"])
        self.assertEqual("", self.server.heard)

    def test_giant_from_a_room_that_we_are_in(self) -> None:
        """
        Neither is one that lacks the mark of a room, where the room is known.
        """
        rooms = Rooms()
        self.stream = self.a_stream(sent=rooms.sent, marked=rooms.marked)
        self.stream.startService()
        self.server.authenticate()
        self.stream.send(
            "<presence from='bot@bot.example.org' to='room@example.org/bot'>"
            "<x xmlns='http://jabber.org/protocol/muc'/></presence>"
        )
        self.server.wire.clear()
        giant = f"<body>{'x' * 20_000}</body>"
        for sender in ("room@example.org/nick", "other@example.org/phone"):
            self.server.says(f"<message from='{sender}' to='bot@bot.example.org' type='chat'>{giant}</message>")
        self.assertEqual(["other@example.org/phone"], re.findall("to='([^']*)'", self.server.heard))

    def test_reading_pauses_and_resumes(self) -> None:
        """
        A closed valve stops reading, and an open one reads again.
        """
        self.server.authenticate()
        self.stream.pause()
        self.assertEqual("paused", self.server.wire.producerState)
        self.stream.resume()
        self.assertEqual("producing", self.server.wire.producerState)

    def test_pause_never_lasts(self) -> None:
        """
        Nobody opens the valve: after five seconds the stream reads anyway.
        """
        self.server.authenticate()
        self.stream.pause()
        self.clock.advance(MAX_PAUSE)
        self.assertEqual("producing", self.server.wire.producerState)

    def test_pause_without_a_stream(self) -> None:
        """
        With no stream there is nothing to pause, and a later stream reads.
        """
        self.stream.pause()
        self.server.authenticate()
        self.assertEqual("producing", self.server.wire.producerState)

    def test_no_pause_in_the_handshake(self) -> None:
        """
        Before the server has let us in there is nothing to hold back.
        """
        self.server.accept()
        self.stream.pause()
        self.assertEqual("producing", self.server.wire.producerState)

    def test_pause_in_the_handshake_is_forgotten(self) -> None:
        """
        A valve that could not be closed in the handshake does not keep reading at rest after a crowd.
        """
        self.server.open()
        self.stream.pause()
        self.server.says("<handshake/>")
        self.server.wire.fill()
        self.send_many(CROWDED_STANZAS)
        self.assertEqual("paused", self.server.wire.producerState)
        self.server.wire.empty()
        self.assertEqual("producing", self.server.wire.producerState)


class CrowdedReadingTests(StreamTestCase):
    """What the server sends makes more to be sent; so while that is crowded, reading rests."""

    def setUp(self) -> None:
        super().setUp()
        self.server.authenticate()
        self.server.wire.fill()
        self.send_many(CROWDED_STANZAS)

    @property
    def reading(self):
        return self.server.wire.producerState == "producing"

    def test_until_it_is_clear(self) -> None:
        """
        Reading rests from the mark on and goes on as soon as it is clear.
        """
        self.assertFalse(self.reading)
        self.server.wire.empty()
        self.assertTrue(self.reading)
        self.assertEqual(1, self.counters["reading_paused"])

    def test_never_for_long(self) -> None:
        """
        After five seconds something is read, and if it is crowded then, that was all for another five seconds.
        """
        self.clock.advance(MAX_PAUSE)
        self.assertTrue(self.reading)
        self.stream.send(message())
        self.assertTrue(self.reading)
        self.server.says("<message from='a@example.org' to='bot@bot.example.org'/>")
        self.assertFalse(self.reading)
        self.clock.advance(MAX_PAUSE)
        self.assertTrue(self.reading)

    def test_open_valve_does_not_end_it(self) -> None:
        """
        The one who had the valve closed opens it; reading goes on when it is clear, not before.
        """
        self.stream.pause()
        self.stream.resume()
        self.assertFalse(self.reading)
        self.server.wire.empty()
        self.assertTrue(self.reading)

    def test_closed_valve_outlives_it(self) -> None:
        """
        It is clear, but the valve is closed; reading goes on when that is opened.
        """
        self.stream.pause()
        self.server.wire.empty()
        self.assertFalse(self.reading)
        self.stream.resume()
        self.assertTrue(self.reading)

    def test_both_together_last_no_longer(self) -> None:
        """
        A valve that is closed in the middle of it does not make the pause longer than one may be.
        """
        self.clock.advance(MAX_PAUSE - 1)
        self.stream.pause()
        self.clock.advance(1)
        self.assertTrue(self.reading)

    def test_crowd_of_an_outage(self) -> None:
        """
        A new stream that does not take at once what waited is not read from for a while either.
        """
        self.server.wire.lose()
        self.clock.advance(LAST_RETRY)
        self.server.open()
        self.server.wire.fill_after = 1
        self.server.says("<handshake/>")
        self.assertFalse(self.reading)
        self.server.wire.empty()
        self.assertTrue(self.reading)

    def test_stop_reads(self) -> None:
        """
        Whoever leaves reads, for the server's closing tag is to come.
        """
        self.stream.stopService()
        self.assertTrue(self.reading)
        self.server.says("<message from='a@example.org' to='bot@bot.example.org'/>")
        self.stream.pause()
        self.assertTrue(self.reading)


class StopTests(StreamTestCase):
    """Leaving."""

    def test_polite_close(self) -> None:
        """
        The closing tag is sent, and the stop is over when the server has closed.
        """
        self.server.authenticate()
        stopped = self.stream.stopService()
        self.assertEqual("</stream:stream>", self.server.heard)
        self.assertNoResult(stopped)
        self.server.says("</stream:stream>")
        self.successResultOf(stopped)

    def test_what_waits_leaves_before_the_closing_tag(self) -> None:
        """
        Whatever waits for room when the stream is stopped is written first, as there is room, and then the goodbye.
        """
        self.server.authenticate()
        self.server.wire.fill()
        ids = self.send_many(3)
        self.stream.stopService()
        self.assertEqual("", self.server.heard)
        self.server.wire.fill_after = 2
        self.server.wire.empty()
        self.assertNotIn("</stream:stream>", self.server.heard)
        self.server.wire.empty()
        self.assertEqual(ids, self.server.heard_ids)
        self.assertTrue(self.server.heard.endswith("</stream:stream>"))
        self.assertEqual(0, self.counters["outgoing_lost"])

    def test_server_that_never_reads_is_left(self) -> None:
        """
        A server that has not read what waits within two seconds is left, and what still waits is counted.
        """
        self.server.authenticate()
        self.server.wire.fill()
        self.send_many(3)
        stopped = self.stream.stopService()
        self.clock.advance(CLOSE_TIMEOUT - 0.5)
        self.server.wire.fill_after = 1
        self.server.wire.empty()
        self.clock.advance(0.5)
        self.assertTrue(self.server.wire.aborted)
        self.successResultOf(stopped)
        self.assertEqual(2, self.counters["outgoing_lost"])

    def test_close_does_not_wait_for_ever(self) -> None:
        """
        A server that does not answer the closing tag is left after two seconds.
        """
        self.server.authenticate()
        stopped = self.stream.stopService()
        self.clock.advance(CLOSE_TIMEOUT)
        self.assertTrue(self.server.wire.aborted)
        self.successResultOf(stopped)

    def test_stop_while_connecting(self) -> None:
        """
        A stop cancels the connection that is being made.
        """
        cancelled = []
        self.server.attempts[0][0].addErrback(cancelled.append)
        self.successResultOf(self.stream.stopService())

    def test_stop_while_waiting(self) -> None:
        """
        A stop between two attempts is the end of attempts.
        """
        self.server.refuse()
        self.successResultOf(self.stream.stopService())
        self.clock.advance(100)
        self.assertEqual(1, len(self.server.attempts))

    def test_stop_before_the_handshake(self) -> None:
        """
        A stop while the server keeps us waiting closes the connection.
        """
        self.server.accept()
        stopped = self.stream.stopService()
        self.clock.advance(CLOSE_TIMEOUT)
        self.successResultOf(stopped)

    def test_second_stop_waits_for_the_first(self) -> None:
        """
        Whoever asks to stop is told when it is over, also the second time, and a stop of what is stopped is over.
        """
        self.server.authenticate()
        first, second = self.stream.stopService(), self.stream.stopService()
        self.assertNoResult(first)
        self.assertNoResult(second)
        self.server.wire.lose()
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(self.stream.stopService())

    def test_start_during_the_stop(self) -> None:
        """
        A start before the old stream is closed makes one new stream, after that.
        """
        self.server.authenticate()
        self.stream.stopService()
        self.stream.startService()
        self.clock.advance(1)
        self.assertEqual(1, len(self.server.attempts))
        self.server.wire.lose()
        self.assertEqual(2, len(self.server.attempts))
        self.server.authenticate()
        self.assertEqual(2, self.counters["connected"])

    def test_late_handshake(self) -> None:
        """
        A server that accepts us after we left hears nothing more, and what waited is counted as lost.
        """
        self.stream.send(message())
        self.server.open()
        self.stream.stopService()
        self.server.says("<handshake/>")
        self.assertEqual("</stream:stream>", self.server.heard)
        self.server.wire.lose()
        self.assertEqual(1, self.counters["outgoing_lost"])

    def test_sending_while_the_stream_ends(self) -> None:
        """
        What is sent after the server's closing tag waits for the next stream.
        """
        self.server.authenticate()
        self.server.wire.protocol, protocol = None, self.server.wire.protocol  # the server leaves the socket open
        self.server.says("</stream:stream>")
        self.assertTrue(self.stream.send(message(id="later")))
        self.assertEqual("</stream:stream>", self.server.heard)
        self.server.wire.protocol = protocol
        self.clock.advance(CLOSE_TIMEOUT)
        self.assertTrue(self.server.wire.aborted)
        self.clock.advance(2)
        self.server.accept()
        self.server.says(HEADER)
        self.server.says("<handshake/>")
        self.assertIn("id='later'", self.server.heard)


class BarrierTestCase(StreamTestCase):
    """A stream that asks what the server has."""

    def a_stream(self, **options) -> ComponentStream:
        return super().a_stream(**{"confirm": True, **options})

    def pings(self):
        """The ids of the pings to ourselves that were written."""
        return re.findall(r"<iq [^>]*\bid='(\w+)'", self.server.heard)

    def ids(self):
        """The ids of the messages that were written."""
        return re.findall(r"<message [^>]*\bid='(\w+)'", self.server.heard)

    def returns(self, id, type="get"):
        ours = "bot.example.org"
        self.server.says(f"<iq type='{type}' id='{id}' from='{ours}' to='{ours}'><ping xmlns='urn:xmpp:ping'/></iq>")

    def silence(self, seconds):
        """Let time pass in which nothing is heard."""
        self.clock.pump([0.5] * (2 * seconds))

    def overheard(self):
        """Put a handler on the stream; returns what will be all the iqs that it sees."""
        heard = []

        class Curious(XMPPHandler):
            def connectionInitialized(self):
                self.xmlstream.addObserver("/iq", heard.append)

        self.stream.addHandler(Curious())
        return heard

    def reconnect(self, seconds=8):
        """Lose the stream and let it come again; what is heard is what the new one began with."""
        self.server.wire.lose()
        self.clock.advance(seconds)
        self.server.open()
        self.server.says("<handshake/>")


class ConfirmationTimeTests(BarrierTestCase):
    """How long the server takes to confirm a stanza, for those who watch the gateway."""

    def setUp(self) -> None:
        self.took = []
        super().setUp()

    def a_stream(self, **options) -> ComponentStream:
        return super().a_stream(took=self.took.append, **options)

    def test_each_stanza(self) -> None:
        """
        The time of each stanza ends when the ping behind it has returned, and not before.
        """
        self.server.authenticate()
        self.send_many(2)
        self.clock.advance(0.25)
        self.send_many(1)
        self.clock.advance(0.75)
        [ping] = self.pings()
        self.send_many(1)
        self.clock.advance(1)
        self.assertEqual([], self.took)
        self.returns(ping)
        self.assertEqual([2.0, 2.0, 1.75], self.took)

    def test_nobody_knows(self) -> None:
        """
        A stanza that a lost stream takes with it counts when the next stream confirms it, from when it was written
        there; where the server returns no pings, no stanza counts.
        """
        self.server.authenticate()
        self.send_many(1)
        self.clock.advance(0.5)
        self.reconnect()
        self.clock.advance(1)
        [ping] = self.pings()
        self.returns(ping)
        self.assertEqual([1.0], self.took)
        self.send_many(1)
        for _ in range(70):
            self.clock.advance(1)
            self.server.says(" ")
        self.assertEqual(1, self.counters["barrier_ignored"])
        self.assertEqual([1.0], self.took)


class BarrierTests(BarrierTestCase):
    """What the server is known to have, and what is written again."""

    def test_written_again(self) -> None:
        """
        What was written when the stream was lost is written again on the next one, in order, before all that is new.
        """
        self.server.authenticate()
        self.send_many(3)
        self.server.wire.lose()
        self.stream.send(message(id="new"))
        self.reconnect()
        self.assertEqual(["m0", "m1", "m2", "new"], self.ids())

    def test_confirmed(self) -> None:
        """
        What was written before a ping that came back is never written again, what came after it is.
        """
        self.server.authenticate()
        self.send_many(2)
        self.clock.advance(1)
        [ping] = self.pings()
        self.stream.send(message(id="later"))
        self.returns(ping)
        self.reconnect()
        self.assertEqual(["later"], self.ids())
        self.assertEqual((1, 1), (self.counters["barrier_sent"], self.counters["barrier_returned"]))

    def test_cadence(self) -> None:
        """
        There is one ping at a time: after a hundred stanzas, a second after the first, else every fifteen seconds.
        """
        self.server.authenticate()
        self.send_many(100)
        self.assertEqual(1, len(self.pings()))
        self.send_many(150)
        self.clock.advance(5)
        self.assertEqual(1, len(self.pings()))
        self.returns(self.pings()[0])
        self.assertEqual(2, len(self.pings()))
        self.returns(self.pings()[1])
        self.clock.advance(14.9)
        self.assertEqual(2, len(self.pings()))
        self.clock.advance(0.1)
        self.assertEqual(3, len(self.pings()))

    def test_nobody_else_hears_of_it(self) -> None:
        """
        A ping that came back reaches no handler, and is not answered.
        """
        heard = self.overheard()
        self.server.authenticate()
        self.clock.advance(15)
        self.returns(self.pings()[0])
        self.assertEqual([], heard)
        self.assertEqual(1, len(self.pings()))

    def test_answer_of_the_server(self) -> None:
        """
        A server that answers the ping itself, be it by an error, has what was written before it, too.
        """
        for type_ in ("result", "error"):
            self.server.authenticate()
            self.send_many(1)
            self.clock.advance(1)
            self.returns(self.pings()[-1], type_)
            self.reconnect()
            self.assertEqual([], self.ids())
            self.server.wire.lose()
            self.clock.advance(8)
        self.assertEqual(2, self.counters["barrier_returned"])

    def test_other_answers(self) -> None:
        """
        What answers something else that was asked of ourselves goes to the handlers.
        """
        heard = self.overheard()
        self.server.authenticate()
        self.returns("other", "result")
        self.server.says("<iq type='get' id='x' from='bot.example.org' to='bot.example.org'><q xmlns='x'/></iq>")
        self.assertEqual(["other", "x"], [element["id"] for element in heard])

    def test_ping_of_somebody_else(self) -> None:
        """
        A ping from our own address that we did not send is somebody else's who serves the domain, and is said.
        """
        self.server.authenticate()
        with capturedLogs() as logs:
            self.returns("0123456789abcdef")
            self.returns("fedcba9876543210")
        self.assertEqual(1, len(self.logged(logs, LogLevel.warn)))
        self.assertEqual(0, self.counters["barrier_returned"])

    def test_ping_that_is_no_barrier(self) -> None:
        """
        A client of the API, or a handler, that pings the component itself gets an answer as from anybody else.
        """
        heard = self.overheard()
        self.server.authenticate()
        with capturedLogs() as logs:
            self.returns("0123456789abcdef0123456789abcdef")
        self.assertEqual(1, len(heard))
        self.assertEqual([], self.logged(logs, LogLevel.warn))

    def test_late_return(self) -> None:
        """
        A ping of the last stream that comes late confirms nothing, and is no stranger.
        """
        self.server.authenticate()
        self.send_many(1)
        self.clock.advance(1)
        [ping] = self.pings()
        self.reconnect()
        with capturedLogs() as logs:
            self.returns(ping)
        self.assertEqual([], self.logged(logs, LogLevel.warn))
        self.reconnect()
        self.returns(self.pings()[0])
        self.assertEqual(["m0"], self.ids())

    def test_requests_are_not_repeated(self) -> None:
        """
        A question is not asked again: who asked knows that the stream was lost.
        """
        self.server.authenticate()
        for type_ in ("get", "set", "result"):
            iq = Element((None, "iq"))
            iq.attributes.update({"type": type_, "id": type_, "from": "bot.example.org", "to": "example.org"})
            self.stream.send(iq)
        self.reconnect()
        self.assertEqual(["result"], self.pings())

    def test_out_of_date(self) -> None:
        """
        What waited longer than it is of use is dropped: an iq's answer after its deadline, presence after a minute.

        Nobody but who asks knows how long a question is of use, so it waits as long as a message.
        """
        self.server.authenticate()
        self.server.wire.lose()
        for name, type_ in (
            ("message", "chat"),
            ("presence", "unavailable"),
            ("presence", "subscribed"),
            ("iq", "error"),
            ("iq", "set"),
        ):
            element = Element((None, name))
            element.attributes.update({"type": type_, "id": f"{name}_{type_}", "to": "a@example.org"})
            element["from"] = "bot.example.org"
            self.stream.send(element)
        self.clock.advance(53)
        self.reconnect()
        self.assertEqual(["message_chat", "presence_subscribed", "iq_set"], self.server.heard_ids)
        self.assertEqual(2, self.counters["outgoing_expired"])

    def test_server_that_has_gone(self) -> None:
        """
        Forty-five seconds of silence, a ping among them, and the stream is lost.
        """
        self.server.authenticate()
        self.silence(44)
        self.assertFalse(self.server.wire.aborted)
        self.silence(1)
        self.assertTrue(self.server.wire.aborted)
        self.assertEqual(1, self.counters["stream_lost"])

    def test_any_byte_counts(self) -> None:
        """
        A server that says anything is there.
        """
        self.server.authenticate()
        self.silence(40)
        self.server.says(" ")
        self.silence(19)
        self.assertFalse(self.server.wire.aborted)

    def test_pause(self) -> None:
        """
        What is not read cannot be missed: the clock rests in a pause, and goes on after it.
        """
        self.server.authenticate()
        self.silence(30)
        self.stream.pause()
        self.silence(4)
        self.stream.resume()
        self.silence(14)
        self.assertFalse(self.server.wire.aborted)
        self.silence(1)
        self.assertTrue(self.server.wire.aborted)

    def test_pause_at_the_end(self) -> None:
        """
        What came in a pause is read before the time is over.
        """
        self.server.authenticate()
        self.clock.pump([0.5] * 89)
        self.stream.pause()
        self.silence(4)
        self.stream.resume()
        self.clock.advance(0.9)
        self.assertFalse(self.server.wire.aborted)
        self.clock.advance(0.1)
        self.assertTrue(self.server.wire.aborted)

    def test_pauses_cost_no_patience(self) -> None:
        """
        A ping that is behind much that is read slowly has not been kept by the server.
        """
        self.server.authenticate()
        self.stream.send(message(id="a"))
        self.silence(1)
        for _ in range(20):
            self.stream.pause()
            self.silence(5)
            self.server.says(" ")
        self.assertEqual(0, self.counters["barrier_ignored"])
        self.silence(10)
        self.returns(self.pings()[0])
        self.assertEqual(1, self.counters["barrier_returned"])

    def test_ping_that_is_late(self) -> None:
        """
        Where we were held up ourselves, the server gets its time to return a ping all the same.
        """
        self.server.authenticate()
        self.clock.advance(3600)
        self.silence(29)
        self.assertFalse(self.server.wire.aborted)
        self.silence(1)
        self.assertTrue(self.server.wire.aborted)

    def test_silent_server_that_returns_no_pings(self) -> None:
        """
        Where no ping ever came back, silence ends one stream only, so that nothing is written again for ever.
        """
        self.server.authenticate()
        self.send_many(1)
        self.silence(60)
        self.assertTrue(self.server.wire.aborted)
        with capturedLogs() as logs:
            self.reconnect()
            self.assertEqual(["m0"], self.ids())
            self.silence(100)
        self.assertFalse(self.server.wire.aborted)
        self.assertEqual(1, self.counters["barrier_ignored"])
        self.assertEqual(1, len(self.logged(logs, LogLevel.warn)))
        self.reconnect()
        self.assertEqual([], self.ids())

    def test_silence_of_a_server_that_returned_pings(self) -> None:
        """
        Where a ping has come back before, silence ends every stream.
        """
        self.server.authenticate()
        self.clock.advance(15)
        self.returns(self.pings()[0])
        for _ in range(3):
            self.silence(45)
            self.assertTrue(self.server.wire.aborted)
            self.reconnect()

    def test_server_that_returns_no_pings(self) -> None:
        """
        Where pings do not come back that is said once, and nothing is kept that would never be confirmed.
        """
        self.server.authenticate()
        with capturedLogs() as logs:
            for _ in range(200):
                self.send_many(1)
                self.clock.advance(1)
                self.server.says(" ")
        self.assertEqual(1, len(self.logged(logs, LogLevel.warn)))
        self.assertEqual((1, 1), (self.counters["barrier_sent"], self.counters["barrier_ignored"]))
        self.reconnect()
        self.assertEqual([], self.ids())

    def test_sent_means_confirmed(self) -> None:
        """
        Who waits until all has been sent waits for the server to have it, which is asked at once, two seconds at most.
        """
        self.server.authenticate()
        self.stream.send(message(id="a"))
        sent = self.stream.when_sent()
        self.assertNoResult(sent)
        self.returns(self.pings()[0])
        self.successResultOf(sent)
        self.stream.send(message(id="b"))
        sent = self.stream.when_sent()
        self.clock.advance(2)
        self.successResultOf(sent)

    def test_patience_is_no_confirmation(self) -> None:
        """
        Who waited for two seconds waits no longer, but what he waited for is written again on the next stream.
        """
        self.server.authenticate()
        self.stream.send(message(id="a"))
        sent = self.stream.when_sent()
        self.clock.advance(2)
        self.successResultOf(sent)
        self.reconnect()
        self.assertEqual(["a"], self.ids())

    def test_fates(self) -> None:
        """
        Who keeps a stanza is told when the server has it, or that the stream was lost; then it is his to bring again.
        """
        self.server.authenticate()
        told = self.depart("a")
        self.clock.advance(1)
        told += self.depart("b")
        self.returns(self.pings()[0])
        self.assertEqual(["confirmed"], told)
        self.server.wire.fill()
        told_waiting = self.depart("c")
        self.stream.send(message(id="ours"))
        self.reconnect()
        self.assertEqual((["confirmed"], ["lost"]), (told, told_waiting))
        self.assertEqual(["ours"], self.ids())

    def test_fate_of_a_question(self) -> None:
        """
        A question that was written is over for who keeps it, for it is never asked twice.
        """
        self.server.authenticate()
        told = self.depart("a", kind="iq", type_="get")
        self.assertEqual(["confirmed"], told)

    def test_fate_of_what_waits_too_long(self) -> None:
        """
        What is of no use any more when the stream is back is told as expired, and not written.
        """
        told = self.depart("a", lifetime=5.0)
        self.clock.advance(6)
        self.server.authenticate()
        self.assertEqual((["expired"], []), (told, self.ids()))
        self.assertEqual(1, self.counters["outgoing_expired"])

    def test_stop_confirms_nothing(self) -> None:
        """
        A stop says nothing of what was written, and that what waits was not; who keeps it has it, so it is not counted.
        """
        self.server.authenticate()
        told = self.depart("a")
        self.server.wire.fill()
        told_waiting = self.depart("b")
        self.stop()
        self.assertEqual(([], ["stopped"], 0), (told, told_waiting, self.counters["outgoing_lost"]))

    def test_late(self) -> None:
        """
        What leaves more than thirty seconds after it was made says when that was, unless a webhook wrote it itself.
        """
        self.depart("a")
        self.depart("b", verbatim=True)
        self.depart("c", kind="iq")
        self.clock.advance(31)
        self.server.open()
        self.server.says("<handshake/>")
        self.depart("d")
        [stamp] = re.findall(r"<delay xmlns='urn:xmpp:delay' from='bot.example.org' stamp='(.*?)'/>", self.server.heard)
        self.assertEqual(datetime.fromtimestamp(1_700_000_000 - 31, UTC), datetime.fromisoformat(stamp))
        self.assertRegex(self.server.heard, r"id='a'[^>]*><body>hello</body><delay [^>]*/></message>")

    def depart(self, id, kind="message", lifetime=1000.0, type_=None, **properties):
        """Let a stanza leave that somebody keeps; returns what he is told."""
        told = []
        element = message(id=id, from_="bot.example.org")
        element.name = kind
        element.addElement("body", content="hello")
        if type_ is not None:
            element["type"] = type_
        now = self.clock.seconds()
        outbound = outbound_stanza(element, sendable(element, "bot.example.org", 10_000), now, **properties)
        self.assertTrue(self.stream.depart(evolve(outbound, expires=now + lifetime), told.append))
        return told

    def test_confirmed_at_once_for_who_waits(self) -> None:
        """
        Who waits until all has been sent does not wait for the next ping's turn, whatever one is out already.
        """
        self.server.authenticate()
        self.stream.send(message(id="a"))
        self.clock.advance(1)
        self.server.wire.fill()
        self.stream.send(message(id="b"))
        sent = self.stream.when_sent()
        self.returns(self.pings()[0])
        self.assertEqual(1, len(self.pings()))
        self.server.wire.empty()
        self.assertEqual(2, len(self.pings()))
        self.assertNoResult(sent)
        self.returns(self.pings()[1])
        self.successResultOf(sent)

    def test_patience_begins_with_writing(self) -> None:
        """
        What is written while somebody waits has its two seconds; if the stream is lost meanwhile it is written again.
        """
        self.server.authenticate()
        self.server.wire.fill()
        self.stream.send(message(id="a"))
        sent = self.stream.when_sent()
        self.clock.advance(1.9)
        self.server.wire.empty()
        self.clock.advance(0.1)
        self.assertNoResult(sent)
        self.reconnect()
        self.assertEqual(["a"], self.ids())
        self.assertNoResult(sent)
        self.clock.pump([1] * 4)
        self.successResultOf(sent)

    def test_nobody_waits_any_more(self) -> None:
        """
        Who does not want to wait any longer leaves nothing behind, and what is unconfirmed stays so.
        """
        self.server.authenticate()
        self.stream.send(message(id="a"))
        sent = self.stream.when_sent()
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        self.clock.advance(2)
        self.reconnect()
        self.assertEqual(["a"], self.ids())

    def test_stop_loses_nothing_that_was_written(self) -> None:
        """
        Of what was written and not confirmed, a stop says nothing; what waits to be written again is lost.
        """
        self.server.authenticate()
        self.send_many(2)
        self.stop()
        self.assertEqual(0, self.counters["outgoing_lost"])
        self.stream.startService()
        self.server.authenticate()
        self.send_many(2)
        self.server.wire.lose()
        self.stop()
        self.assertEqual(2, self.counters["outgoing_lost"])

    def test_never_confirmed(self) -> None:
        """
        Of very many that the server does not confirm the oldest are not written again; what is left is in order.
        """
        self.server.authenticate()
        ids = self.send_many(MAX_UNCONFIRMED + 3)
        self.assertEqual(3, self.counters["unconfirmed_forgotten"])
        self.returns(self.pings()[0])
        self.reconnect()
        self.assertEqual(ids[100:], self.ids())

    def test_switched_off(self) -> None:
        """
        Without the barrier nothing is asked and nothing is written again.
        """
        self.stop()
        self.stream = self.a_stream(confirm=False)
        self.stream.startService()
        self.server.authenticate()
        self.send_many(200)
        self.clock.advance(100)
        self.assertEqual([], self.pings())
        self.reconnect()
        self.assertEqual([], self.ids())


class RefusalTests(BarrierTestCase):
    """A server that closes the stream over a stanza."""

    def close(self, condition="policy-violation", text="", seconds=60):
        """Close the stream with an error, as a server does; within so many seconds the gateway connects again."""
        text = text and f"<text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>{text}</text>"
        self.server.says(
            f"<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>{text}</stream:error>"
            "</stream:stream>"
        )
        self.reconnect(seconds)

    def answer(self):
        """Return the last ping; what is heard from now on came after it."""
        ping = self.pings()[-1]
        self.server.wire.clear()
        self.returns(ping)

    def test_one_by_one(self) -> None:
        """
        After such a close all that was unconfirmed is written one by one, each when the one before it is confirmed,
        and only when the server has answered at all; then everything flows again.
        """
        self.server.authenticate()
        self.send_many(3)
        self.stream.send(message(id="new"))
        with capturedLogs() as logs:
            self.close()
        self.assertIn("written again one by one: {count}", "".join(each["log_format"] for each in logs))
        self.stream.send(message(id="newer"))
        self.assertEqual([], self.ids())
        for id in ("m0", "m1", "m2", "new"):
            self.answer()
            self.assertEqual([id], self.ids())
        self.answer()
        self.assertEqual(["newer"], self.ids())
        self.stream.send(message(id="newest"))
        self.assertEqual(["newer", "newest"], self.ids())

    def test_a_crowd_of_suspects(self) -> None:
        """
        However many suspects wait, reading goes on, for among what is read is the answer that the next one waits for.
        """
        self.server.authenticate()
        self.send_many(CROWDED_STANZAS)
        self.close()
        self.assertTrue(self.stream.crowded)
        for _ in range(3):
            self.server.says("<message from='a@example.org' to='bot@bot.example.org'/>")
            self.stream.pause()
            self.assertEqual("producing", self.server.wire.producerState)
            self.answer()
        self.assertEqual(["m2"], self.ids())

    def test_the_culprit(self) -> None:
        """
        The one over which the stream is closed again is not written any more, and one line says why and what to do.
        """
        self.server.authenticate()
        self.send_many(3)
        self.close()
        self.answer()
        self.answer()
        self.assertEqual(["m1"], self.ids())
        with capturedLogs() as logs:
            self.close(text="stanza too big")
        [line] = [event for event in logs if event["log_level"] is LogLevel.error]
        self.assertEqual("policy-violation (stanza too big)", line["reason"])
        self.assertIn("max_stanza_size", line["remedy"])
        self.assertEqual(1, self.counters["outgoing_refused"])
        self.answer()
        self.assertEqual(["m2"], self.ids())

    def test_who_is_told(self) -> None:
        """
        Whoever sent it is told the server's own word.
        """
        fates = []
        self.server.authenticate()
        element = message(id="m0", from_="bot.example.org")
        outbound = OutboundStanza(sendable(element, "bot.example.org", 10_000), "message", 1000.0, 0.0)
        self.stream.depart(outbound, fates.append)
        self.close("invalid-xml")
        self.assertEqual(["suspected"], fates)
        self.stream.depart(evolve(outbound, suspect=True), fates.append)
        self.answer()
        self.close("invalid-xml")
        self.assertEqual("invalid-xml", fates[1].reason)

    def test_other_ends(self) -> None:
        """
        A server that stops, or lets somebody else in, blames no stanza.
        """
        self.server.authenticate()
        self.send_many(1)
        for condition in ("system-shutdown", "conflict", "reset", "see-other-host", "system-shutdown"):
            self.close(condition)
            self.assertEqual(["m0"], self.ids())

    def test_no_condition(self) -> None:
        """
        Where the server gives no reason two streams in a row that end with the same stanza unconfirmed say the same.
        """
        self.server.authenticate()
        self.send_many(2)
        self.reconnect()
        self.assertEqual(["m0", "m1"], self.ids())
        self.reconnect()
        self.assertEqual([], self.ids())
        self.answer()
        self.reconnect()
        self.answer()
        self.assertEqual(["m1"], self.ids())
        self.assertEqual(1, self.counters["outgoing_refused"])

    def test_soon(self) -> None:
        """
        While it is found out who is to blame nobody waits for long.
        """
        self.server.authenticate()
        self.send_many(5)
        self.close(seconds=2)
        for _ in range(4):
            self.answer()
            self.close(seconds=2)
        self.assertEqual((4, 6), (self.counters["outgoing_refused"], len(self.server.attempts)))

    def test_no_barriers(self) -> None:
        """
        A server that returns no barriers holds up what waits only until that is known.
        """
        self.server.authenticate()
        self.send_many(1)
        self.close()
        self.stream.send(message(id="new"))
        self.silence(44)
        self.server.says(" ")
        self.silence(20)
        self.assertEqual(["m0", "new"], self.ids())


class FallbackTests(BarrierTestCase):
    """Servers that do not return a ping to ourselves, and are asked themselves."""

    def a_stream(self, **options) -> ComponentStream:
        return super().a_stream(**{"fallback": "example.org", **options})

    def asked(self):
        """Whom the pings that were written are for."""
        return re.findall(r"<iq [^>]*\bto='([\w.]+)'", self.server.heard)

    def answers(self, id, type="result", by="example.org"):
        self.server.says(f"<iq type='{type}' id='{id}' from='{by}' to='bot.example.org'/>")

    def fall_back(self):
        """Let a stream begin with a server that only answers for itself."""
        self.server.authenticate()
        self.silence(30)
        self.answers(self.pings()[1])

    def test_own_address_comes_first(self) -> None:
        """
        A server that returns our pings is never asked anything else.
        """
        self.server.authenticate()
        for _ in range(5):
            self.silence(15)
            self.returns(self.pings()[-1])
        self.assertEqual(["bot.example.org"] * 5, self.asked())

    def test_answer_confirms(self) -> None:
        """
        Where our ping does not come back for fifteen seconds, what the server's own domain answers confirms as well.
        """
        for type_ in ("result", "error"):
            self.stop()
            self.stream = self.a_stream()
            self.stream.startService()
            self.server.authenticate()
            self.send_many(1)
            self.silence(1)
            self.stream.send(message(id="before"))
            self.silence(15)
            self.stream.send(message(id="after"))
            self.assertEqual(["bot.example.org", "example.org"], self.asked())
            self.answers(self.pings()[1], type_)
            self.reconnect()
            self.assertEqual(["after"], self.ids())
        self.assertEqual((2, 0), (self.counters["barrier_returned"], self.counters["barrier_ignored"]))

    def test_which_one_is_said(self) -> None:
        """
        The log says whose answers count, once, and again when that changes.
        """
        with capturedLogs() as logs:
            self.fall_back()
            self.silence(15)
            self.answers(self.pings()[2])
            self.silence(30)
            self.returns(self.pings()[-1])
        self.assertEqual([], self.logged(logs, LogLevel.warn))
        first, second = [line for line in map(formatEvent, logs) if "confirm delivery" in line]
        self.assertIn("pings to example.org", first)
        self.assertIn("pings to bot.example.org", second)

    def test_what_worked_is_remembered(self) -> None:
        """
        The address that has answered is the only one asked from then on, on later streams too.
        """
        self.fall_back()
        self.silence(15)
        self.answers(self.pings()[2])
        self.assertEqual(["bot.example.org", "example.org", "example.org"], self.asked())
        self.reconnect()
        self.silence(15)
        self.answers(self.pings()[0])
        self.silence(15)
        self.assertEqual(["example.org", "example.org"], self.asked())

    def test_nobody_else_hears_of_it(self) -> None:
        """
        Answers to our pings reach no handler, those that come late neither; whatever else the domain says does.
        """
        heard = self.overheard()
        self.server.authenticate()
        self.silence(30)
        own, other = self.pings()
        self.answers("question")
        self.answers(other)
        self.answers(other)
        self.returns(own)
        self.answers(own)
        self.server.says(f"<iq type='get' id='{other}' from='example.org' to='bot.example.org'><q xmlns='x'/></iq>")
        self.server.says(
            "<iq type='get' id='p' from='example.org' to='bot.example.org'><ping xmlns='urn:xmpp:ping'/></iq>"
        )
        self.answers(other, by="example.net")
        self.assertEqual(
            [("result", "question"), ("result", own), ("get", other), ("get", "p"), ("result", other)],
            [(element["type"], element["id"]) for element in heard],
        )

    def test_late_return(self) -> None:
        """
        A ping to ourselves that comes back when another has been asked already confirms what was before it.
        """
        self.server.authenticate()
        self.stream.send(message(id="before"))
        self.silence(1)
        self.stream.send(message(id="after"))
        self.silence(15)
        self.returns(self.pings()[0])
        self.silence(1)
        self.assertEqual(["bot.example.org", "example.org", "bot.example.org"], self.asked())
        self.reconnect()
        self.assertEqual(["after"], self.ids())

    def test_server_that_has_gone(self) -> None:
        """
        Forty-five seconds of silence, and the stream is lost, whoever has answered before, and again and again.
        """
        self.server.authenticate()
        self.silence(44)
        self.assertFalse(self.server.wire.aborted)
        self.silence(1)
        self.assertTrue(self.server.wire.aborted)
        self.clock.advance(8)
        self.fall_back()
        for _ in range(3):
            self.silence(44)
            self.assertFalse(self.server.wire.aborted)
            self.silence(1)
            self.assertTrue(self.server.wire.aborted)
            self.reconnect()

    def test_quiet_server(self) -> None:
        """
        A server that never returns our pings and has nothing else to say keeps its stream from the beginning.
        """
        self.fall_back()
        for _ in range(40):
            self.silence(15)
            self.answers(self.pings()[-1])
        self.assertFalse(self.server.wire.aborted)
        self.assertEqual(0, self.counters["barrier_ignored"])

    def test_back_to_the_own_address(self) -> None:
        """
        Where the server's own domain answers no more and our pings come back, these count again.
        """
        self.fall_back()
        self.silence(30)
        self.assertEqual(["example.org", "bot.example.org"], self.asked()[2:])
        self.returns(self.pings()[-1])
        self.silence(15)
        self.assertEqual("bot.example.org", self.asked()[-1])

    def test_nobody_answers(self) -> None:
        """
        Where neither answers that is said once, and there are no more pings until the next stream, which tries both.
        """
        self.server.authenticate()
        with capturedLogs() as logs:
            for _ in range(200):
                self.send_many(1)
                self.silence(1)
                self.server.says(" ")
        [line] = self.logged(logs, LogLevel.warn)
        self.assertIn("example.org", line)
        self.assertEqual((2, 1), (self.counters["barrier_sent"], self.counters["barrier_ignored"]))
        self.reconnect()
        self.assertEqual([], self.ids())
        self.silence(30)
        self.assertEqual(["bot.example.org", "example.org"], self.asked())

    def test_quiet_server_that_answers_nothing(self) -> None:
        """
        Where neither answers and nothing else is heard, that ends one stream only.
        """
        self.server.authenticate()
        self.silence(45)
        self.assertTrue(self.server.wire.aborted)
        for _ in range(3):
            self.reconnect()
            self.silence(100)
            self.assertFalse(self.server.wire.aborted)
        self.assertEqual(3, self.counters["barrier_ignored"])

    def test_pauses_cost_nothing(self) -> None:
        """
        While we do not read nobody else is asked, for what we do not read cannot be missed.
        """
        self.server.authenticate()
        self.silence(19)
        self.stream.pause()
        self.silence(4)
        self.assertEqual(1, len(self.asked()))
        self.stream.resume()
        self.silence(1)
        self.assertEqual(["bot.example.org", "example.org"], self.asked())

    def test_held_up(self) -> None:
        """
        Where we were held up ourselves, who is asked second gets its time to answer, too.
        """
        self.server.authenticate()
        self.silence(45)
        self.reconnect()
        self.silence(16)
        self.clock.advance(3600)
        self.assertEqual(["bot.example.org", "example.org"], self.asked())
        self.silence(14)
        self.answers(self.pings()[1])
        self.assertEqual((1, 0), (self.counters["barrier_returned"], self.counters["barrier_ignored"]))

    def test_none(self) -> None:
        """
        With our own domain as the fallback there is none.
        """
        self.stop()
        self.stream = self.a_stream(fallback="bot.example.org")
        self.stream.startService()
        self.server.authenticate()
        self.silence(44)
        self.assertEqual(["bot.example.org"], self.asked())
