"""Stanzas that arrived and that no handler sees: without addresses, for another domain, or over the limits."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from twisted.words.xish.domish import Element

from component_http.contract import conditions
from component_http.contract.address import Address, NotAnAddress
from component_http.contract.stanza import Stanza
from component_http.errors import MalformedStanza
from component_http.interfaces import Observer
from component_http.log import Logger
from component_http.throttle import Folded


@frozen
class Arrivals:
    """
    Says which stanzas the handlers see, and tells the senders of those that are too large.

    Attributes:
        observer: Told `malformed`, `foreign`, `oversized` and `unanswered`.
        marked: Marks a stanza from a room that we are in (`Rooms.marked`).
    """

    _log = Logger()

    domain: str
    observer: Observer
    marked: Callable[[Stanza], Stanza]
    send: Callable[[Element], object]
    lines: Folded

    def takes(self, element: Element) -> bool:
        """Tell whether it can be answered without ending the stream, and is for us."""
        attributes = element.attributes
        try:
            Address.parse(attributes.get("from", ""))
            recipient = Address.parse(attributes.get("to", ""))
        except NotAnAddress as error:
            self._ignore("malformed", element.name, str(error))
            return False
        if recipient.domain != self.domain:
            self._ignore("foreign", element.name, "it is for another domain")
            return False
        return True

    def _ignore(self, event: str, kind: str, reason: str) -> None:
        self.observer.count(event)
        self.lines.write(event, self._log.warn, "ignored a {kind}: {reason}", kind=kind, reason=reason)

    def skipped(self, start: Element, reason: str) -> None:
        """Refuse a stanza of which there is no more than the start tag."""
        self.observer.count("oversized")
        self.lines.write("oversized", self._log.warn, "refused a {kind}: {reason}", kind=start.name, reason=reason)
        try:
            stanza = self.marked(Stanza.from_element(start))
        except MalformedStanza:
            if start.name == "iq" and start.getAttribute("type") not in ("error", "result"):
                self.observer.count("unanswered")
            return
        if stanza.bounceable:
            self.send(conditions.error_stanza(stanza, conditions.TOO_LARGE))
