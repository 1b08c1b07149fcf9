"""The look of `component-http doctor` at one XMPP server, by a stream of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.words.xish.domish import Element
from wokkel.subprotocols import XMPPHandler
from zope.interface import provider

from component_http.commands.finding import CLOCKS_APART, NAME, Finding, Level
from component_http.contract.conditions import STOPPING, error_stanza
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT, NS_TIME, NS_VERSION
from component_http.delivery.backlog import Budget
from component_http.errors import MalformedStanza, Offline, Unanswered
from component_http.ids import new_id
from component_http.operations.metrics import Counters
from component_http.settings import Settings
from component_http.sizing import most_of_all
from component_http.wiring import lasting_parts
from component_http.xmpp.iq_requests import IqRequests
from component_http.xmpp.servers import NOT_BACK, STANZA_LIMIT, Known, named_server

PATIENCE = 12.0
"""Seconds for the handshake, and for each thing that is asked of a server."""

AROUND = 4.0
"""Seconds for a message to ourselves, which goes no further than to the server."""

SMALL = 20
"""Small messages that are sent around: where a part of them is lost, one of these is, too, as good as certainly."""

_BESIDE = 1000
"""Bytes of a large message beside its body."""

_UNCONFIRMED = (
    "it answers no ping, so what it has got is not known: let it route the component's stanzas to itself, or name its"
    " own domain in component.write_barrier_fallback"
)


class _Listener(XMPPHandler):
    """Tells users that nobody is there, for they would wait for an answer, and hears what we send to ourselves."""

    def __init__(self, send: Callable[[Element], object]) -> None:
        super().__init__()
        self._send = send
        self.heard: set[str] = set()

    def connectionInitialized(self) -> None:
        for kind in ("message", "iq"):
            self.xmlstream.addObserver(f"/{kind}", self._arrived, -1)

    def _arrived(self, element: Element) -> None:
        if vars(element).get("handled", False):
            return
        try:
            stanza = Stanza.from_element(element)
        except MalformedStanza:
            return
        if str(stanza.sender.local).startswith(NAME):
            self.heard.add(stanza.id or "")
        elif stanza.bounceable or stanza.is_request:
            self._send(error_stanza(stanza, STOPPING))


class ServerExamination:
    """Looks at the server of one component."""

    def __init__(self, settings: Settings, reactor: Any) -> None:
        self._component = settings.component
        self._about = f"the XMPP server of {settings.component.domain}"
        self._reactor = reactor
        self._counters = Counters()
        self._complaints: list[str] = []
        self._server: Known | None = None
        lasting = lasting_parts(
            settings,
            reactor,
            None,
            None,
            counters=self._counters,
            budget=Budget(*most_of_all(settings)),
            webhooks=1,
            sent=lambda outbound: None,
            first=tuple,
        )
        self._stream: Any = lasting.outlet
        self._iq_requests = IqRequests(self._stream, reactor, new_id)
        self._listener = _Listener(self._stream.send)
        for handler in (self._iq_requests, self._listener):
            handler.setHandlerParent(self._stream)

    def _found(self, level: Level, sentence: str) -> Finding:
        return Finding(level, self._about, sentence)

    async def all(self) -> AsyncIterator[Finding]:
        """Connect, look at everything, and leave."""

        @provider(ILogObserver)
        def told(event: dict[str, Any]) -> None:
            if "complaint" in event and event.get("domain") == self._component.domain:
                self._complaints.append(str(event["complaint"]))

        globalLogPublisher.addObserver(told)
        began, address = self._reactor.seconds(), self._component.server_address
        self._stream.startService()
        try:
            if not await self._until(lambda: self._stream.connected or self._complaints):
                yield self._found("error", f"no answer within {PATIENCE:g} s from {address}")
            elif not self._stream.connected:
                yield self._found("error", self._complaints[0])
            else:
                took = (self._reactor.seconds() - began) * 1000
                yield self._found("ok", f"{address} lets it in, after {took:.0f} ms")
                async for finding in self._on_stream():
                    yield finding
        finally:
            globalLogPublisher.removeObserver(told)
            await maybeDeferred(self._stream.stopService)

    async def _on_stream(self) -> AsyncIterator[Finding]:
        component, lost, self._server = self._component, self._counters["stream_lost"], self._stream.server
        small = [self._say(f"-{number}", 10) for number in range(SMALL)]
        await self._until(lambda: self._listener.heard.issuperset(small), AROUND)
        back = len(self._listener.heard.intersection(small))
        if back < SMALL:
            not_back = NOT_BACK.of(self._server).format(domain=component.domain)
            yield self._found(
                "error", f"{back} of {SMALL} small stanzas that the component sent to itself came back: {not_back}"
            )
            return  # nothing else that it says could be relied on
        if component.write_barrier_fallback not in (None, component.domain):
            parent = str(component.write_barrier_fallback)
            yield self._found(*await self._version(parent))
            clock = await self._clock(parent)
            if clock is not None:
                yield self._found("warning", clock)
        size = component.max_stanza_bytes - _BESIDE
        large = self._say("", size)
        await self._until(lambda: large in self._listener.heard or self._counters["stream_lost"] > lost)
        if self._counters["stream_lost"] > lost:
            limit = STANZA_LIMIT.of(self._server).format(size=component.max_stanza_bytes)
            yield self._found(
                "error",
                f"the server ends the stream over a stanza of {size} bytes, which max_stanza_bytes allows: {limit}",
            )
        elif large in self._listener.heard:
            yield self._found("ok", f"it takes stanzas of {size} bytes")
        else:
            yield self._found("warning", f"a stanza of {size} bytes, sent to the component itself, did not come back")
        # A ping follows what is written.
        if component.write_barrier and self._counters["stream_lost"] == lost:
            counters = self._counters
            await self._until(lambda: counters["barrier_returned"] or counters["barrier_ignored"] or self._complaints)
            confirms = counters["barrier_returned"]
            yield self._found("ok", "it confirms what it has got") if confirms else self._found("warning", _UNCONFIRMED)

    def _say(self, mark: str, size: int) -> str:
        """Send a message to ourselves, from and to an address with this mark; returns its id."""
        message = Element((NS_COMPONENT, "message"))
        message["from"] = message["to"] = f"{NAME}{mark}@{self._component.domain}"
        message["id"], message["type"] = new_id(), "headline"
        message.addElement("body", content="x" * size)
        self._stream.send(message)
        return str(message["id"])

    async def _ask(self, server: str, question: tuple[str, str]) -> Element | None:
        """Ask a server something; returns its whole answer, or None."""
        iq = Element((NS_COMPONENT, "iq"))
        iq["type"], iq["from"], iq["to"] = "get", self._component.domain, server
        iq.addElement(question)
        try:
            return await self._iq_requests.ask(iq, PATIENCE)
        except (Unanswered, Offline):
            return None

    async def _version(self, server: str) -> tuple[Level, str]:
        answer = await self._ask(server, (NS_VERSION, "query"))
        if answer is None:
            return "warning", f"{server} does not answer: if that is not the server's own domain, that does no harm"
        words = [word for name in ("name", "version") if (word := _text(answer, name))]
        if answer.getAttribute("type") != "result" or not words:
            return "ok", f"{server} answers, but does not say what it is"
        self._server = named_server(words[0]) or self._server
        return "ok", f"{server} is {' '.join(words)[:100]}"

    async def _clock(self, server: str) -> str | None:
        """Compare the server's clock with ours (XEP-0202); returns what is wrong, None where nothing can be said."""
        asked = time.time()
        answer = await self._ask(server, (NS_TIME, "time"))
        text = None if answer is None else _text(answer, "utc")
        if text is not None:
            with suppress(ValueError, OverflowError):
                apart = datetime.fromisoformat(text).timestamp() - (asked + time.time()) / 2
                if abs(apart) > CLOCKS_APART:
                    return f"its clock is {abs(apart):.0f} s {'ahead' if apart > 0 else 'behind'}: set both by NTP"
        return None

    async def _until(self, condition: Callable[[], object], patience: float = PATIENCE) -> bool:
        """Wait for something so many seconds; returns False if it does not come."""
        end = self._reactor.seconds() + patience
        while not condition():
            if self._reactor.seconds() >= end:
                return False
            await deferLater(self._reactor, 0.02)
        return True


def _text(answer: Element, name: str) -> str | None:
    """Find the text of an element in what an iq answers."""
    content = answer.firstChildElement()
    if answer.getAttribute("type") != "result" or content is None:
        return None
    return next((str(child) for child in content.elements() if child.name == name), None)
