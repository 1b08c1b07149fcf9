"""
Everything that can be wrong with the stream to the server, as the real process lives through it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.integration.exchange import says
from tests.integration.probe import COMPONENT, Peer, ScriptedServer, child, stanza_error
from tests.integration.processes import Answer, GatewayProcess, Request, ScriptedWebhook, reply

DOMAIN = "bot.localhost"
PATIENT = 60.0
"""Seconds within which a gateway that was sent away a few times comes again."""


class Stage:
    """A gateway, its scripted server and a webhook that says pong."""

    def __init__(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(ScriptedServer(secret="a 'secret' <&>"))
        self.webhook = stack.enter_context(ScriptedWebhook(lambda request: reply(body="pong")))
        self.gateway = stack.enter_context(
            GatewayProcess(
                domain=DOMAIN, server=self.server.endpoint, secret=self.server.secret, post_url=self.webhook.url
            )
        )

    def serves(self, peer: Peer) -> None:
        """A message on this stream is answered on it."""
        peer.send(f"<message from='a@localhost/x' to='bot@{DOMAIN}' type='chat' id='1'><body>ping</body></message>")
        peer.wait_for(lambda element: says(element, "pong"), "the reply")
        peer.take()


@contextmanager
def staged() -> Iterator[Stage]:
    with ExitStack() as stack:
        stage = Stage(stack)
        yield stage
        stage.gateway.stop()


@pytest.mark.parametrize(
    ("condition", "words"),
    [("not-authorized", "secret"), ("host-unknown", DOMAIN), ("conflict", "kick_old"), ("policy-violation", "policy")],
)
def test_a_refused_handshake_is_said_once_and_tried_again(condition: str, words: str) -> None:
    """
    A server that refuses the gateway is asked again and again; the operator reads why and what to do, once.
    """
    with staged() as stage:
        for _ in range(2):
            peer = stage.server.accept(PATIENT)
            stage.server.open_stream(peer)
            peer.wait_for(lambda element: element.tag == f"{{{COMPONENT}}}handshake", "the handshake")
            stage.server.refuse(peer, condition, "Some words of the server's own")
        peer = stage.server.connected(PATIENT)
        (line,) = stage.gateway.warnings()
        assert condition in line and words in line
        stage.gateway.wait_until_authenticated()
        stage.serves(peer)
        assert stage.server.secret not in stage.gateway.log()


def test_prosodys_way_of_not_knowing_the_host_is_understood() -> None:
    """
    Prosody says host-unknown in a stream without an id, before any handshake; that is read like any other refusal.
    """
    with staged() as stage:
        peer = stage.server.accept()
        peer.wait(lambda: peer.header is not None, "the header")
        assert peer.header is not None and peer.header["to"] == DOMAIN
        peer.send(
            f"<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='{COMPONENT}'"
            " version='1.0' id=''>"
        )
        stage.server.refuse(peer, "host-unknown", f"{DOMAIN} does not match any configured external components")
        stage.serves(stage.server.connected(PATIENT))
        (line,) = stage.gateway.warnings()
        assert "host-unknown" in line


def test_a_server_that_says_nothing_is_given_up() -> None:
    """
    A server that accepts the connection and then falls silent is left after ten seconds and tried again.
    """
    with staged() as stage:
        peer = stage.server.accept()
        stage.server.open_stream(peer)
        peer.wait_until_gone(30.0)
        stage.serves(stage.server.connected(PATIENT))
        (line,) = stage.gateway.warnings()
        assert "handshake" in line


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"220 mail.example ESMTP\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
        b"<html><body>no</body></html>",
        b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY y 'z'>]>",
        b"",
    ],
    ids=["http", "smtp", "tls", "html", "document type", "nothing"],
)
def test_something_that_is_no_xmpp_server_is_left(said: bytes) -> None:
    """
    A gateway that was pointed at the wrong port says so, once, and serves as soon as the right server is there.
    """
    with staged() as stage:
        peer = stage.server.accept()
        peer.wait(lambda: peer.header is not None, "the header")
        if said:
            peer.send(said)
        peer.close()
        stage.serves(stage.server.connected(PATIENT))
        assert len(stage.gateway.warnings()) == 1, stage.gateway.warnings()


def test_nobody_listening_is_said_once() -> None:
    """
    A server that is not there yet is waited for; one line says so.
    """
    with staged() as stage:
        peer = stage.server.connected()
        with stage.server.not_listening():
            peer.close()
            stage.gateway.wait_for_log("still trying", seconds=PATIENT)
        stage.serves(stage.server.connected(PATIENT))
        stage.gateway.wait_until_authenticated(times=2)
        assert 1 <= len(stage.gateway.warnings()) <= 2


@pytest.mark.parametrize("condition", ["system-shutdown", "conflict", "internal-server-error"])
def test_a_stream_error_later_on_is_survived(condition: str) -> None:
    """
    A server that ends a good stream, shutting down or for a newer connection, is connected to again.
    """
    with staged() as stage:
        peer = stage.server.connected()
        stage.serves(peer)
        stage.server.refuse(peer, condition)
        stage.serves(stage.server.connected(PATIENT))
        assert condition in stage.gateway.log()


def test_a_connection_that_breaks_in_the_middle_of_a_stanza_is_survived() -> None:
    """
    Half a stanza and then nothing more: the half is forgotten, the next stream starts clean.
    """
    with staged() as stage:
        peer = stage.server.connected()
        peer.send("<message from='a@localhost' to='bot@bot.localhost'><body>ha")
        peer.close()
        stage.serves(stage.server.connected(PATIENT))
        assert [one.json["body"] for one in stage.webhook.requests] == ["ping"]


def test_the_handshake_may_come_in_any_pieces() -> None:
    """
    A server whose bytes trickle in one at a time is understood like any other.
    """
    with staged() as stage:
        peer = stage.server.accept()
        peer.wait(lambda: peer.header is not None, "the header")
        header = (
            f"<?xml version='1.0' encoding='UTF-8'?>\n<stream:stream\n xmlns='{COMPONENT}'"
            f" xmlns:stream='http://etherx.jabber.org/streams' from='{DOMAIN}' id='&lt;&amp;1'>"
        )
        peer.send_in_pieces(header, iter(lambda: 1, 0))
        peer.wait_for(lambda element: element.tag == f"{{{COMPONENT}}}handshake", "the handshake")
        peer.take()
        peer.send_in_pieces("<handshake></handshake>", iter(lambda: 1, 0))
        stage.gateway.wait_until_authenticated()
        stage.serves(peer)


def test_replies_made_while_offline_are_sent_on_the_next_stream() -> None:
    """
    A reply whose stream broke while the webhook was thinking reaches the server on the next one.
    """
    with staged() as stage:
        peer = stage.server.connected()

        def break_the_stream(request: Request) -> Answer:
            peer.close()
            stage.gateway.wait_for_log("still trying")  # it has noticed
            return reply(body="late")

        stage.webhook.answer = break_the_stream
        peer.send(f"<message from='a@localhost/x' to='bot@{DOMAIN}' type='chat' id='1'><body>x</body></message>")
        stage.webhook.wait_for(1)
        again = stage.server.connected(PATIENT)
        again.wait_for(lambda element: says(element, "late"), "the reply")


def test_a_server_that_does_not_read_is_waited_for() -> None:
    """
    While the server reads nothing, seventy megabytes of replies need no such memory; when it reads all of them come.
    """
    senders, rounds, words = 20, 60, "x" * 60_000
    bot = f"bot@{DOMAIN}"
    with staged() as stage:
        peer = stage.server.connected()
        stage.serves(peer)
        stage.webhook.answer = lambda request: reply(body=f"{request.json['body']} {words}")
        before = stage.gateway.resident_kib()
        with peer.not_reading():
            for number in range(rounds):
                for sender in range(senders):
                    peer.send(f"<message from='a{sender}@localhost' to='{bot}'><body>{number}</body></message>")
            stage.gateway.wait_for_log("waits for a stream, or for a server that does not read")
        peer.wait(lambda: len(peer.elements) >= senders * rounds, "the replies", PATIENT)
        assert stage.gateway.peak_kib() - before < 50_000
        replies = [(element.get("to"), (child(element, "body").text or "").split()[0]) for element in peer.take()]
        for sender in range(senders):
            heard = [number for to, number in replies if to == f"a{sender}@localhost"]
            assert heard == [str(number) for number in range(rounds)]


def test_the_stream_is_closed_politely() -> None:
    """
    A gateway that is told to stop says goodbye to the server before it hangs up.
    """
    with ExitStack() as stack:
        stage = Stage(stack)
        peer = stage.server.connected()
        stage.serves(peer)
        stage.gateway.stop()
        peer.wait_until_gone()
        assert peer.stream_closed


def test_a_gateway_that_never_got_in_stops_at_once() -> None:
    """
    SIGTERM ends a gateway that waits for its server, in order.
    """
    with ExitStack() as stack:
        stage = Stage(stack)
        stage.server.refuse(stage.server.accept(), "not-authorized")
        stage.gateway.wait_for_log("still trying")
        stage.gateway.stop()


@pytest.mark.parametrize("again", [False, True])
def test_a_stop_lets_the_bot_finish(again: bool) -> None:
    """
    SIGTERM while a bot thinks: its reply still leaves. A second one ends the wait: the sender gets an error at once.
    """
    thought = threading.Event()

    def slow(request: Request) -> Answer:
        thought.wait(PATIENT)
        return reply(body="pong")

    with ExitStack() as stack:
        server = stack.enter_context(ScriptedServer())
        webhook = stack.enter_context(ScriptedWebhook(slow))
        gateway = stack.enter_context(
            GatewayProcess(
                domain=DOMAIN,
                server=server.endpoint,
                secret=server.secret,
                post_url=webhook.url,
                # On disk it would wait for the next start.
                sections={"delivery": {"drain_timeout": 3 * PATIENT}, "spool": {"kind": "memory"}},
            )
        )
        stack.callback(thought.set)
        peer = server.connected()
        gateway.wait_until_authenticated()
        peer.send(f"<message from='a@localhost/x' to='bot@{DOMAIN}' type='chat' id='1'><body>ping</body></message>")
        webhook.wait_for(1, settled=False)
        os.kill(gateway.pid, signal.SIGTERM)
        gateway.wait_for_log("for pending deliveries: 1")
        if again:
            os.kill(gateway.pid, signal.SIGTERM)
            error = peer.wait_for(lambda element: element.get("type") == "error", "the error")
            assert stanza_error(error) == ("wait", "service-unavailable")
        else:
            thought.set()
            peer.wait_for(lambda element: says(element, "pong"), "the reply")
        peer.wait(lambda: peer.stream_closed, "the end of the stream")
        gateway.assert_ended_in_order()
