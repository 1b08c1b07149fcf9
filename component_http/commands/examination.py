"""The looks of `component-http doctor`: at the machine, at each XMPP server, and at each webhook."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

from attrs import frozen
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.words.xish.domish import Element
from wokkel.subprotocols import XMPPHandler
from zope.interface import provider

from component_http.contract import reply
from component_http.contract.conditions import STOPPING, error_stanza
from component_http.contract.http import JSON
from component_http.contract.request import request_body
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT, Limits
from component_http.delivery.backlog import Budget
from component_http.errors import MalformedStanza, Offline, Unanswered, WebhookError
from component_http.ids import new_id
from component_http.operations.metrics import Counters
from component_http.settings import Settings
from component_http.sizing import most_of_all, too_few_files
from component_http.spool.visit import holder
from component_http.wiring import Lasting, lasting_parts
from component_http.xmpp.iq_requests import IqRequests

PATIENCE = 12.0
"""Seconds for the handshake, and for each thing that is asked of a server."""

SLOW_DISK = 0.05
"""Seconds for which one write may wait for the disk: each stanza waits so long at least."""

LITTLE_ROOM = 1_000_000_000
"""Free bytes on the spool's disk below which somebody should look."""

CLOCKS_APART = 30.0
"""Seconds that our clock and a webhook's may differ: signatures are good for a few minutes."""

NAME = "component-http-doctor"

_UNCONFIRMED = (
    "it answers no ping, so what it has got is not known: let it route the component's stanzas to itself, or name its"
    " own domain in component.write_barrier_fallback"
)

_NOT_BACK = (
    "a stanza of {size} bytes that the component sent to itself did not come back: in ejabberd, look at global_routes"
    " of the listener, and at domain_balancing if there are several components"
)

_TOO_LARGE = (
    "the server ends the stream over a stanza of {size} bytes, which max_stanza_bytes allows: raise the server's limit"
    " (component_stanza_size_limit in Prosody's global section, max_stanza_size of the ejabberd_service listener in"
    " ejabberd), or lower component.max_stanza_bytes"
)

Level = Literal["ok", "note", "warning", "error"]


@frozen
class Finding:
    """
    One thing that was found.

    Attributes:
        level: `error`: it keeps the gateway from working. `warning`: it should be better. `note`: it was not looked at.
        about: What was looked at.
        sentence: What was found, and what to do.
    """

    level: Level
    about: str
    sentence: str


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
        if str(stanza.sender.local) == NAME:
            self.heard.add(stanza.id or "")
        elif stanza.bounceable or stanza.is_request:
            self._send(error_stanza(stanza, STOPPING))


class Examination:
    """Looks at everything that a gateway with these settings needs."""

    def __init__(self, settings: Settings, reactor: Any) -> None:
        self._settings = settings
        self._reactor = reactor

    async def all(self, *, connect: str, post: bool) -> list[Finding]:
        """
        Look at all of it.

        Args:
            connect: `always`, `never`, or `unless it runs`: unless a gateway may have the stream.
            post: POST a message to each webhook.
        """
        found = [*self._settings_and_machine(), *self._disk()]
        reason = self._not_connected(connect)
        for each in self._settings.each:
            domain = each.component.domain
            if reason is None:
                found += [finding async for finding in self._server(each)]
            else:
                found.append(Finding("note", f"the XMPP server of {domain}", reason))
            for name, one in ((None, each), *each.of_routes.items()):
                if post and one.component.component_post_url is not None:
                    found += [finding async for finding in self._webhook(one, name)]
        return found

    # -- here --

    def _settings_and_machine(self) -> Iterator[Finding]:
        warnings = [*self._settings.warnings(), *too_few_files(self._settings, has_webhook=True)]
        for warning in warnings:
            yield Finding("warning", "the settings", warning)
        if not warnings:
            yield Finding("ok", "the settings", "they can be used")

    def _disk(self) -> Iterator[Finding]:
        file = self._settings.spool.file()
        if file is None:
            yield Finding("note", "the spool", "it is in memory, so what is pending is lost with the process")
            return
        about, folder = f"the spool {file}", file.parent
        try:
            free = shutil.disk_usage(folder).free
            seconds = _time_to_write(folder)
        except OSError as error:
            yield Finding("error", about, f"its folder cannot be written to: {error.strerror}; make it, or chown it")
            return
        if free < LITTLE_ROOM:
            yield Finding("warning", about, f"its disk has only {free // 1_000_000} MB left: make room")
        if seconds > SLOW_DISK:
            yield Finding(
                "warning",
                about,
                f"its disk takes {seconds * 1000:.0f} ms for a write, and each stanza waits for two: take a faster one,"
                ' or spool.synchronous = "NORMAL"',
            )
        else:
            yield Finding("ok", about, f"its disk takes {seconds * 1000:.1f} ms for a write")

    # -- the XMPP servers --

    def _not_connected(self, connect: str) -> str | None:
        """Say why no server is tried; None if each is."""
        if connect == "never":
            return "not tried, as --no-connect says"
        if connect == "always":
            return None
        file = self._settings.spool.file()
        running = None if file is None else holder(file.resolve()).running
        if running is None:
            return "not tried, for a gateway may be running: stop it, and say --connect"
        return "not tried, for a gateway is running, and has the stream: its log says how that is" if running else None

    async def _server(self, settings: Settings) -> AsyncIterator[Finding]:
        counters, complaints = Counters(), []
        domain = settings.component.domain
        about = f"the XMPP server of {domain}"

        @provider(ILogObserver)
        def told(event: dict[str, Any]) -> None:
            if "complaint" in event and event.get("domain") == domain:
                complaints.append(str(event["complaint"]))

        lasting = lasting_parts(
            settings,
            self._reactor,
            None,
            None,
            counters=counters,
            budget=Budget(*most_of_all(settings)),
            webhooks=1,
            sent=lambda outbound: None,
            first=tuple,
        )
        stream: Any = lasting.outlet
        iq_requests, listener = IqRequests(stream, self._reactor, new_id), _Listener(stream.send)
        for handler in (iq_requests, listener):
            handler.setHandlerParent(stream)
        globalLogPublisher.addObserver(told)
        began = self._reactor.seconds()
        stream.startService()
        try:
            if not await self._until(lambda: stream.connected or complaints):
                yield Finding(
                    "error", about, f"no answer within {PATIENCE:g} s from {settings.component.server_address}"
                )
                return
            if not stream.connected:
                yield Finding("error", about, complaints[0])
                return
            took = (self._reactor.seconds() - began) * 1000
            yield Finding("ok", about, f"{settings.component.server_address} lets it in, after {took:.0f} ms")
            async for finding in self._on_stream(lasting, counters, iq_requests, listener, complaints):
                yield Finding(finding[0], about, finding[1])
        finally:
            globalLogPublisher.removeObserver(told)
            await maybeDeferred(stream.stopService)

    async def _on_stream(
        self,
        lasting: Lasting,
        counters: Counters,
        iq_requests: IqRequests,
        listener: _Listener,
        complaints: list[str],
    ) -> AsyncIterator[tuple[Level, str]]:
        component = lasting.settings.component
        parent = component.write_barrier_fallback
        if parent not in (None, component.domain):
            yield await self._version(iq_requests, component.domain, str(parent))
        size = component.max_stanza_bytes - 1000
        message = Element((NS_COMPONENT, "message"))
        message["from"], message["to"] = f"{NAME}@{component.domain}", f"{NAME}@{component.domain}"
        message["id"], message["type"] = new_id(), "headline"
        message.addElement("body", content="x" * size)
        lost = counters["stream_lost"]
        lasting.outlet.send(message)
        await self._until(lambda: message["id"] in listener.heard or counters["stream_lost"] > lost)
        if counters["stream_lost"] > lost:
            yield "error", _TOO_LARGE.format(size=size)
        elif message["id"] in listener.heard:
            yield "ok", f"it takes stanzas of {size} bytes"
        else:
            yield "warning", _NOT_BACK.format(size=size)
        # A ping follows what is written.
        if component.write_barrier and counters["stream_lost"] == lost:
            await self._until(lambda: counters["barrier_returned"] or counters["barrier_ignored"] or complaints)
            yield ("ok", "it confirms what it has got") if counters["barrier_returned"] else ("warning", _UNCONFIRMED)

    async def _version(self, iq_requests: IqRequests, domain: str, server: str) -> tuple[Level, str]:
        iq = Element((NS_COMPONENT, "iq"))
        iq["type"], iq["from"], iq["to"] = "get", domain, server
        iq.addElement(("jabber:iq:version", "query"))
        try:
            answer = await iq_requests.ask(iq, PATIENCE)
        except (Unanswered, Offline):
            return "warning", f"{server} does not answer: if that is not the server's own domain, that does no harm"
        query: Any = answer.firstChildElement()
        words = [
            str(child) for child in (query.elements() if query is not None else ()) if child.name in ("name", "version")
        ]
        if answer.getAttribute("type") != "result" or not words:
            return "ok", f"{server} answers, but does not say what it is"
        return "ok", f"{server} is {' '.join(words)[:100]}"

    async def _until(self, condition: Callable[[], object]) -> bool:
        """Wait for something; returns False if it does not come."""
        end = self._reactor.seconds() + PATIENCE
        while not condition():
            if self._reactor.seconds() >= end:
                return False
            await deferLater(self._reactor, 0.02)
        return True

    # -- the webhooks --

    async def _webhook(self, settings: Settings, route: str | None) -> AsyncIterator[Finding]:
        from component_http.webhooks import webhook_client

        component = settings.component
        about = f"the webhook {component.post_origin} of {component.domain}" + (f", route {route}" if route else "")
        client = webhook_client(settings, self._reactor)
        assert client is not None
        stanza = _sample(component.domain)
        now, began = time.time(), self._reactor.seconds()
        headers = {"webhook-id": new_id(), "webhook-timestamp": str(int(now)), "webhook-attempt": "1"}
        try:
            response = await client.post(request_body(stanza), headers)
        except WebhookError as error:
            yield Finding("error", about, f"{error}")
            return
        finally:
            await client.close()
        took = (self._reactor.seconds() - began) * 1000
        verdict = reply.judge(
            stanza,
            response,
            domain=component.domain,
            limits=Limits(max_bytes=component.max_stanza_bytes),
            new_id=new_id,
            status_errors=settings.conditions,
        )
        if verdict.outcome in ("replied", "silent"):
            said = "answers" if verdict.outcome == "replied" else "has no reply"
            yield Finding("ok", about, f"it {said}, after {took:.0f} ms")
        else:
            yield Finding("error", about, f"{verdict.note}; a {JSON} object, or 204 for no reply, is an answer")
        if verdict.ignored_body:
            yield Finding("warning", about, f"{verdict.note}")
        apart = _apart(response.headers.get("date", ""), now)
        if apart is not None and abs(apart) > CLOCKS_APART:
            yield Finding(
                "warning",
                about,
                f"its clock is {abs(apart):.0f} s {'ahead' if apart > 0 else 'behind'}: set both by NTP",
            )
        if client.certificate_ends is not None:
            days = (client.certificate_ends - now) / 86_400
            level: Level = "ok" if days > 14 else "warning"
            yield Finding(level, about, f"its certificate ends in {days:.0f} days{'' if days > 14 else ': renew it'}")


def _sample(domain: str) -> Stanza:
    message = Element((NS_COMPONENT, "message"))
    message["type"], message["id"] = "chat", new_id()
    message["from"], message["to"] = f"{NAME}@{domain}", domain
    message.addElement("body", content="a test of component-http doctor: the answer is sent to nobody")
    return Stanza.from_element(message)


def _apart(date: str, now: float) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() - now
    except ValueError:
        return None


def _time_to_write(folder: Path) -> float:
    """Measure how long a write waits for the disk, half of the time."""
    taken = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{NAME}-") as file:
        for _ in range(9):
            file.write(bytes(4096))
            file.flush()
            began = time.monotonic()
            os.fsync(file.fileno())
            taken.append(time.monotonic() - began)
    return median(taken)
