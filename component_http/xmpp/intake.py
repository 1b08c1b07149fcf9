"""Elements from the stream -> stanzas for the relay; and what all that comes after other people's handlers shares."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import ClassVar

from twisted.words.xish.domish import Element
from twisted.words.xish.xpath import XPathQuery
from wokkel.subprotocols import XMPPHandler

from component_http.contract import conditions
from component_http.contract.stanza import STANZA_KINDS, Stanza
from component_http.errors import MalformedStanza, XmlRefused
from component_http.interfaces import Observer
from component_http.log import Logger
from component_http.throttle import Folded
from component_http.xmpp.entrances import Entrances
from component_http.xmpp.rooms import Rooms, tells_of_rooms

LAST = -0.5
"""
The observer priority of the intake: after all handlers of usual priority, which is 0.

Before wokkel's `FallbackHandler`, which has -1: it heeds `handled` but does not set it, so that an iq would be answered
twice if it came first.
"""

BEFORE_LAST = -0.25
"""The priority of what answers in the webhook's place."""

FIRST = 1.0
"""The priority of who only watches: before all handlers, so that none of them can hide anything by `handled`."""


class _OfKind(XPathQuery):
    """Matches the stanzas of one kind: what `/message` matches, but by one comparison for each stanza."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"/{kind}")
        self._kind = kind

    def matches(self, elem: Element) -> bool:
        return bool(elem.name == self._kind)


class LateHandler(XMPPHandler):
    """
    A handler that comes after those of usual priority, and leaves alone what one of them marked `handled`.

    It sees stanzas for its own domain only, and none any more once it was taken off its stream.

    Args:
        domain: The component's own domain, normalised.
    """

    KINDS: ClassVar[tuple[str, ...]] = ()
    PRIORITY: ClassVar[float] = BEFORE_LAST

    def __init__(self, domain: str) -> None:
        super().__init__()
        self._domain = domain

    def take(self, stanza: Stanza) -> bool:
        """Deal with one stanza; True if it is dealt with, and is to be marked `handled`."""
        raise NotImplementedError

    def pause(self) -> None:
        """Do nothing of its own accord from now on: the gateway is about to stop."""

    def connectionInitialized(self) -> None:
        for kind in self.KINDS:
            self.xmlstream.addObserver(_OfKind(kind), self._arrived, self.PRIORITY)

    def _arrived(self, element: Element) -> None:
        # `element.handled` would be a child of that name, if it has one.
        if self.parent is None or vars(element).get("handled", False):
            return
        try:
            stanza = Stanza.from_element(element)
        except MalformedStanza as error:
            self._ignored("malformed", element, str(error))
            return
        if stanza.recipient.domain != self._domain:
            self._ignored("foreign", element, "it is for another domain")
        elif self.take(stanza):
            element.handled = True  # type: ignore[attr-defined]  # wokkel's own flag

    def _ignored(self, event: str, element: Element, reason: str) -> None:
        """Leave alone what is not for us; the intake, which sees it after us, says so."""


class StanzaIntake(LateHandler):
    """
    Hands on the stanzas that nobody else took.

    An iq get or set that is not forwarded is answered with service-unavailable (RFC 6120 section 8.4), and one of an
    unknown type with bad-request, so a stream with an intake needs no wokkel `FallbackHandler`; one that is there finds
    every iq of the domain handled.

    It can be added to any StreamManager whose stream is a component's. There it keeps the contract with the webhook;
    the protections of our own stream (limits for one stanza, the check of all that leaves, bounded sending while
    offline) are that stream's and not the intake's.

    What a room sends back of our own messages is never handed on, nor is its history unless asked for, nor what happens
    in a room that only the gateway has entered.

    Args:
        accept: Takes a stanza in charge (`Relay.accept`). None where there is no webhook: then the sender of a message
            is told service-unavailable, too.
        domain: The component's own domain, normalised; stanzas to another are left alone.
        kinds: Which of `message`, `presence` and `iq` are forwarded.
        observer: Told `malformed`, `foreign`, `not_forwarded`, `reflection` and `history`.
        rooms: Told of all presence, and asked about messages. It should be told of all that leaves, too; an intake's
            own one knows its occupants from presence only.
        entrances: Told of presence that comes from rooms, and asked what is not for the webhook.
        returned: Told each message and presence of type error.
        shown: Told each message of ours that a room has sent back.
        forward_history: Forward what was said in a room before we came.
        forward_bodyless: Forward messages without a body.
        forward_errors: Forward messages and presence of type error.
        monotonic: A steady clock, in seconds, for log lines that are written once in a while.
    """

    KINDS = STANZA_KINDS
    PRIORITY = LAST
    _log = Logger()

    def __init__(
        self,
        accept: Callable[[Stanza], None] | None,
        *,
        domain: str,
        kinds: Collection[str],
        observer: Observer,
        rooms: Rooms | None = None,
        entrances: Entrances | None = None,
        returned: Callable[[Stanza], object] = lambda stanza: None,
        shown: Callable[[Stanza], object] = lambda stanza: None,
        forward_history: bool = False,
        forward_bodyless: bool = True,
        forward_errors: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(domain)
        self._lines = Folded(monotonic)
        self._observer = observer
        self._accept = accept
        self._kinds = frozenset(kinds)
        self._rooms = Rooms() if rooms is None else rooms
        self._entrances = entrances
        self._returned = returned
        self._shown = shown
        self._forward_history = forward_history
        self._forward_bodyless = forward_bodyless
        self._forward_errors = forward_errors

    def connectionInitialized(self) -> None:
        super().connectionInitialized()
        self.xmlstream.addObserver(_OfKind("presence"), self._watch, FIRST)

    def _watch(self, element: Element) -> None:
        """Let the rooms know of a presence, whoever takes it."""
        if self.parent is not None and tells_of_rooms(element):
            with suppress(MalformedStanza):
                presence = Stanza.from_element(element)
                if presence.recipient.domain == self._domain:
                    self._rooms.presence_arrived(presence)
                    if presence.type == "error":
                        self._returned(presence)
                    if self._entrances is not None and self._entrances.arrived(presence):
                        element.handled = True  # type: ignore[attr-defined]  # wokkel's own flag

    def take(self, stanza: Stanza) -> bool:
        """Hand it on, leave it, or answer that nobody serves it; in each case it is dealt with."""
        if stanza.is_bad_request:
            self._ignored("malformed", stanza.element, "an iq of an unknown type")
            self.send(conditions.error_stanza(stanza, conditions.BAD_REQUEST))
            return True
        if stanza.type == "error" and stanza.kind == "message":
            self._returned(stanza)
            if self._entrances is not None:
                self._entrances.returned(stanza)
        repeated = self._rooms.repeated(stanza)
        if repeated == "reflection":
            self._observer.count("reflection")
            self._shown(stanza)
        elif repeated == "history" and not self._forward_history:
            self._observer.count("history")
        elif self._entrances is not None and self._entrances.unheard(stanza):
            self._observer.count("not_forwarded")
        else:
            self._take_new(self._rooms.marked(stanza))
        return True

    def _take_new(self, stanza: Stanza) -> None:
        if self._accept is None or not self._wanted(stanza):
            self._observer.count("not_forwarded")
            if stanza.is_request or (self._accept is None and stanza.bounceable):
                self.send(conditions.error_stanza(stanza, conditions.SERVICE_UNAVAILABLE))
            return
        try:
            self._accept(stanza)
            _unlink(stanza.element)
        except XmlRefused as error:
            self._ignored("malformed", stanza.element, f"another handler has broken it: {error}")
            if stanza.is_request:
                self.send(conditions.error_stanza(stanza, conditions.INTERNAL))

    def _ignored(self, event: str, element: Element, reason: str) -> None:
        self._observer.count(event)
        self._lines.write(event, self._log.warn, "ignored a {kind}: {reason}", kind=element.name, reason=reason)

    def _wanted(self, stanza: Stanza) -> bool:
        if stanza.kind not in self._kinds:
            return False
        if stanza.kind != "iq" and stanza.type == "error":
            return self._forward_errors
        return self._forward_bodyless or stanza.kind != "message" or stanza.has_body


def _unlink(element: Element) -> None:
    """Let the children forget their parent: all is freed at once then, and Python need not look for a cycle."""
    linked = [element]
    while linked:
        for child in linked.pop().children:
            if isinstance(child, Element):
                child.parent = None
                linked.append(child)
