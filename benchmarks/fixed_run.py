"""
A fixed run of the gateway in one process: the real classes, with transports in memory and no real clock.

The same bytes go in and out each time, so what it takes is counted, not timed: see `counted.py`. With `--profile` it
shows where the time goes instead, and with `--calls` how many functions each message calls, in Python and in C.

Usage: `python benchmarks/fixed_run.py MESSAGES [--body BYTES] [--sign v1|v1a] [--watched] [--profile | --calls]`,
from a source tree; with `--watched` it has a port for operations, and measures times for it.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.testing import MemoryReactorClock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from component_http.gateway import Gateway
from component_http.settings import ComponentSettings, OperationsSettings, Settings, SpoolSettings, WebhookSettings
from component_http.signing import new_secret

DOMAIN = "bot.localhost"
SENDERS, AT_ONCE = 100, 10

SETTINGS = Settings(
    component=ComponentSettings(domain=DOMAIN, secret="s", component_post_url="http://127.0.0.1:8080/bot"),
    spool=SpoolSettings(kind="memory"),
)

HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Thu, 26 Nov 2026 06:30:05 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n"
)
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
IQ_ID = re.compile(rb"<iq [^>]*\bid=['\"]([^'\"]*)['\"]")


class Wire:
    """A transport in memory: what is written to it is kept until it is taken."""

    disconnecting = False
    connected = True

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writeSequence(self, data: Sequence[bytes]) -> None:
        self.written.extend(data)

    def take(self) -> bytes:
        """What was written since this was asked last."""
        data = b"".join(self.written)
        self.written.clear()
        return data

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Never asked to pause."""

    def __getattr__(self, name: str) -> Any:
        if name in ("transport", "fileno"):
            raise AttributeError(name)
        return lambda *_arguments, **_named: None


class Run:
    """
    A gateway between two wires.

    Args:
        body: The text of each message, and of each reply.
        settings: Of the gateway.
        reactor: Its own, moved by hand.
    """

    def __init__(self, body: bytes, settings: Settings = SETTINGS, reactor: Any = None) -> None:
        self.reactor = MemoryReactorClock() if reactor is None else reactor
        self.gateway = Gateway(settings, self.reactor)
        self.body = body
        answer = b'{"body":"%s"}' % body
        self.answer = HEAD % len(answer) + answer
        self.webhooks: list[tuple[Any, Wire]] = []
        self.replies = 0
        self.sent = 0

    def start(self) -> None:
        """Start the gateway and let its stream come about."""
        self.gateway.startService()
        self.reactor.advance(0)
        self.xmpp, self.stream = self.connect()
        self.stream.take()
        self.xmpp.dataReceived(
            b"<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams'"
            b" from='bot.localhost' id='1'>"
        )
        self.stream.take()
        self.xmpp.dataReceived(b"<handshake/>")
        self.reactor.advance(0)

    def connect(self) -> tuple[Any, Wire]:
        """Let the connection that was asked for first come about."""
        _, _, factory, _, _ = self.reactor.tcpClients.pop(0)
        protocol, wire = factory.buildProtocol(None), Wire()
        protocol.makeConnection(wire)
        return protocol, wire

    def message(self, name: bytes) -> bytes:
        """Write the next message, of a user with this name."""
        number, self.sent = self.sent, self.sent + 1
        return (
            b"<message from='%s@localhost/phone' to='echo@bot.localhost' type='chat' id='m%d'><body>%s</body></message>"
            % (name, number, self.body)
        )

    def turn(self) -> None:
        """Send some messages, answer the POSTs that come of them, and take the replies."""
        self.xmpp.dataReceived(b"".join(self.message(b"u%d" % (self.sent % SENDERS)) for _ in range(AT_ONCE)))
        self.answer_posts()
        self.reactor.advance(0.005)
        self.take_replies()

    def answer_posts(self) -> None:
        """Let the webhook connect where it has to, and answer each request."""
        while self.reactor.tcpClients:
            self.webhooks.append(self.connect())
        for protocol, wire in self.webhooks:
            if wire.written:
                wire.take()
                protocol.dataReceived(self.answer)

    def take_replies(self) -> None:
        """Count the replies, and answer the pings."""
        written = self.stream.take()
        self.replies += written.count(b"</message>")
        for iq in IQ_ID.findall(written):
            self.xmpp.dataReceived(b"<iq from='bot.localhost' to='bot.localhost' type='result' id='%s'/>" % iq)


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="fixed_run")
    parser.add_argument("messages", type=int)
    parser.add_argument("--body", type=int, default=20)
    parser.add_argument("--sign", choices=["v1", "v1a"])
    parser.add_argument("--watched", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--calls", action="store_true")
    options = parser.parse_args(arguments)
    secrets = () if options.sign is None else (new_secret(asymmetric=options.sign == "v1a"),)
    settings = evolve(SETTINGS, webhook=WebhookSettings(signing_secrets=secrets))
    if options.watched:
        settings = evolve(settings, operations=OperationsSettings(listen="tcp:9347:interface=127.0.0.1"))
    run = Run(b"x" * options.body, settings)
    run.start()
    for _ in range(20):
        run.turn()
    if options.profile or options.calls:
        import cProfile
        import pstats

        profile = cProfile.Profile()
        profile.enable()
    began, before = time.process_time(), run.replies
    for _ in range(options.messages // AT_ONCE):
        run.turn()
    took = time.process_time() - began
    if options.profile or options.calls:
        profile.disable()
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
    for _ in range(20):
        run.turn()
    if run.replies - before < options.messages:
        sys.exit(f"{run.sent} sent, only {run.replies} answered")
    if options.calls:
        print(f"{sum(entry.callcount for entry in profile.getstats()) // options.messages} calls each")
        return
    print(f"{options.messages} messages, {1e6 * took / options.messages:.0f} microseconds each")


if __name__ == "__main__":
    main(sys.argv[1:])
