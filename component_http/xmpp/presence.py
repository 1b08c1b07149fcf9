"""
An always-on component that accepts everyone: presence that never reaches the webhook.

Source: RFC 6121 sections 3.1 (subscribing), 3.3 (unsubscribing), 4.2 (initial presence) and 4.3 (probes); the answers
are those of Prosody's mod_component_http where it is right (CONTRACT section 3).
"""

from __future__ import annotations

from collections import deque

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element
from wokkel.subprotocols import StreamManager

from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT
from component_http.interfaces import Observer, Outlet
from component_http.log import Logger
from component_http.xmpp.intake import LateHandler
from component_http.xmpp.subscribers import Subscribers

RESOURCE = "default"
"""The resource that every address of the component is online with."""

PER_SECOND = 50
"""Subscribers that are told in a second that we are there: a server counts all of it as one component's."""

CROWDED_WAIT = 1.0
"""Seconds after which the next one is told, where much waits to leave."""


class AlwaysAvailable(LateHandler):
    """
    Answers presence to every address of the component, the bare domain and full addresses included.

    subscribe is answered with subscribed from the bare address, then available from `<bare>/default`; a probe with
    available; unsubscribe with unavailable. Nothing else is answered.

    Whoever has subscribed or probed is told at the beginning of each stream that we are there: while there was none his
    server may have asked, and showed us offline.

    Args:
        subscribers: Told who comes and goes; they outlive this handler.
        observer: Told `announced`.
    """

    KINDS = ("presence",)
    _log = Logger()

    def __init__(
        self, domain: str, subscribers: Subscribers, *, outlet: Outlet, observer: Observer, clock: IReactorTime
    ) -> None:
        super().__init__(domain)
        self._subscribers = subscribers
        self._outlet = outlet
        self._observer = observer
        self._clock = clock
        self._left: deque[tuple[str, str]] = deque()
        self._call: IDelayedCall | None = None
        self._resting = False

    def take(self, stanza: Stanza) -> bool:
        """Answer it, if it asks something; either way it is dealt with."""
        bot, user, asker = str(stanza.recipient.bare), str(stanza.sender.bare), str(stanza.sender)
        online = f"{bot}/{RESOURCE}"
        if stanza.type == "subscribe":
            self._subscribers.add(bot, user)
            self._send("subscribed", bot, user)
            self._send(None, online, user)
        elif stanza.type == "probe":
            self._subscribers.add(bot, user)
            self._send(None, online, asker)
        elif stanza.type == "unsubscribe":
            self._subscribers.remove(bot, user)
            self._send("unavailable", online, asker)
        elif stanza.type == "error" and asker == user and not _may_pass(stanza):
            self._subscribers.remove(bot, user)
        return True

    def connectionInitialized(self) -> None:
        super().connectionInitialized()
        self._stop_telling()
        if self._subscribers and not self._resting:
            self._left.extend(self._subscribers)
            self._log.info("telling subscribers that the bot is online: {count}", count=len(self._left))
            self._tell_later()

    def connectionLost(self, reason: Failure) -> None:
        self._stop_telling()
        super().connectionLost(reason)

    def disownHandlerParent(self, parent: StreamManager) -> None:
        self._stop_telling()
        super().disownHandlerParent(parent)

    def pause(self) -> None:
        self._resting = True
        self._stop_telling()

    def _stop_telling(self) -> None:
        self._left.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _tell_later(self, seconds: float = 1 / PER_SECOND) -> None:
        self._call = self._clock.callLater(seconds, self._tell_next)

    def _tell_next(self) -> None:
        self._call = None
        if self._outlet.crowded:
            self._tell_later(CROWDED_WAIT)
            return
        while self._left:
            bot, user = pair = self._left.popleft()
            if pair in self._subscribers:
                self._send(None, f"{bot}/{RESOURCE}", user)
                self._observer.count("announced")
                self._tell_later()
                return

    def _send(self, type_: str | None, sender: str, recipient: str) -> None:
        presence = Element((NS_COMPONENT, "presence"))
        if type_ is not None:
            presence["type"] = type_
        presence["from"] = sender
        presence["to"] = recipient
        self.send(presence)


def _may_pass(presence: Stanza) -> bool:
    """The error says nothing about the user himself: his server could not be reached, or is busy."""
    error = presence.own("error")
    if error is None:
        return False
    return error.getAttribute("type") == "wait" or any(
        child.name.startswith("remote-server") for child in error.elements()
    )
