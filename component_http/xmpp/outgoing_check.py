"""Checks what anybody sends to the server directly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import Factory, field, frozen

from component_http.contract.outbound import LIFETIMES, OutboundStanza, outbound_stanza
from component_http.contract.outgoing import fitted
from component_http.contract.xml import Limits, parse_stanzas
from component_http.errors import AnswerRefused, XmlRefused
from component_http.interfaces import Observer
from component_http.log import Logger
from component_http.throttle import Folded

DROPPED = "dropped a stanza that the server would not take: {reason}"


@frozen
class OutgoingCheck:
    """
    Makes outbound stanzas of what somebody sends directly, as far as it may leave for the server.

    Attributes:
        observer: Told `unsendable` and `unanswered`.
        sent: Told each stanza that was let through, and whatever else leaves.
        seconds: A clock that does not go back.
        lifetimes: Seconds until a stanza expires, by its kind.
    """

    _log = Logger()

    domain: str
    limits: Limits
    observer: Observer
    sent: Callable[[OutboundStanza], object]
    seconds: Callable[[], float]
    lifetimes: Mapping[str, float] = LIFETIMES
    _lines: Folded = field(init=False, default=Factory(lambda self: Folded(self.seconds), takes_self=True))

    def passed(self, obj: Any) -> list[OutboundStanza]:
        """
        Check a stanza, or some given as XML text.

        Returns those to send, errors and answers to iqs made smaller where they have to be; none if one of them may not
        be sent, which is counted and logged here.
        """
        try:
            if isinstance(obj, bytes):
                obj = obj.decode("utf-8", "replace")
            stanzas = parse_stanzas(obj, self.limits) if isinstance(obj, str) else [obj]
            checked = [fitted(stanza, self.domain, self.limits.max_bytes) for stanza in stanzas]
        except XmlRefused as error:
            self.observer.count("unanswered" if isinstance(error, AnswerRefused) else "unsendable")
            self._lines.write("unsendable", self._log.warn, DROPPED, reason=str(error))
            return []
        now = self.seconds()
        passed = [outbound_stanza(stanza, xml, now, self.lifetimes, verbatim=True) for stanza, xml in checked]
        for outbound in passed:
            self.sent(outbound)
        return passed
