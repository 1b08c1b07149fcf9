"""Elements from the stream -> stanzas for the relay."""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.logger import Logger
from twisted.words.xish.domish import Element
from wokkel.subprotocols import XMPPHandler

from component_http.contract import conditions
from component_http.contract.stanza import Stanza
from component_http.errors import MalformedStanza
from component_http.interfaces import Observer

__all__ = ["LAST", "StanzaIntake"]

LAST = -100
"""The observer priority of the intake: after every other handler, also after those that answer what is left over."""


class StanzaIntake(XMPPHandler):
    """
    Hands on the stanzas that nobody else took.

    It runs last and leaves alone what a handler marked `handled`. What it takes it marks `handled` too. An iq get or
    set that is not forwarded is answered with service-unavailable (RFC 6120 section 8.4), so a stream with an intake
    needs no wokkel `FallbackHandler`.

    It can be added to any StreamManager whose stream is a component's. There it keeps the contract with the webhook;
    the protections of our own stream (limits for one stanza, the check of all that leaves, bounded sending while
    offline) are that stream's and not the intake's.

    Args:
        accept: Takes a stanza in charge (`Relay.accept`).
        domain: The component's own domain; stanzas to another are left alone.
        kinds: Which of `message`, `presence` and `iq` are forwarded.
        observer: Told `malformed`, `not_forwarded`, `foreign`.
        forward_bodyless: Forward messages without a body.
        forward_errors: Forward messages and presence of type error.
    """

    _log = Logger()

    def __init__(
        self,
        accept: Callable[[Stanza], None],
        *,
        domain: str,
        kinds: Collection[str],
        observer: Observer,
        forward_bodyless: bool = True,
        forward_errors: bool = True,
    ) -> None:
        super().__init__()
        self._accept = accept
        self._domain = domain
        self._kinds = frozenset(kinds)
        self._observer = observer
        self._forward_bodyless = forward_bodyless
        self._forward_errors = forward_errors

    def connectionInitialized(self) -> None:
        for path in ("/message", "/presence", "/iq"):
            self.xmlstream.addObserver(path, self._arrived, LAST)

    def _arrived(self, element: Element) -> None:
        if getattr(element, "handled", False):
            return
        try:
            stanza = Stanza.from_element(element)
        except MalformedStanza as error:
            self._observer.count("malformed")
            self._log.warn("ignored a {kind}: {reason}", kind=element.name, reason=str(error))
            return
        if stanza.recipient.domain != self._domain:
            self._observer.count("foreign")
            return
        element.handled = True  # type: ignore[attr-defined]  # wokkel's own flag
        if self._wanted(stanza):
            self._accept(stanza)
        else:
            self._observer.count("not_forwarded")
            if stanza.is_request:
                self.send(conditions.error_stanza(stanza, conditions.SERVICE_UNAVAILABLE))

    def _wanted(self, stanza: Stanza) -> bool:
        if stanza.kind not in self._kinds:
            return False
        if stanza.kind != "iq" and stanza.type == "error":
            return self._forward_errors
        return self._forward_bodyless or stanza.kind != "message" or stanza.has_body
