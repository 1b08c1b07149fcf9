"""
The iqs that the gateway answers itself.

wokkel has handlers for three of them. Its disco classes are used here, to ask the other handlers of the stream what
they can do. Its handlers as such are not: they answer what another handler has answered already, and an iq with two
questions in it twice; and an address that only Twisted's `JID` refuses becomes a traceback in their hands.

Source: XEP-0030 (disco), XEP-0199 (ping), XEP-0092 (version), XEP-0012 (last activity), XEP-0202 (entity time).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure
from twisted.words.protocols.jabber.error import StanzaError
from twisted.words.protocols.jabber.jid import JID
from twisted.words.xish.domish import Element
from wokkel.disco import (
    DiscoFeature,
    DiscoHandler,
    DiscoIdentity,
    DiscoInfo,
    DiscoItems,
)
from wokkel.iwokkel import IDisco
from zope.interface import implementer

from component_http.contract import conditions
from component_http.contract.address import Address
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_DISCO_INFO, NS_DISCO_ITEMS, NS_LAST, NS_PING, NS_TIME, NS_VERSION
from component_http.log import Logger
from component_http.throttle import Folded
from component_http.xmpp.intake import LateHandler


@implementer(IDisco)
class WellKnown(LateHandler):
    """
    Answers disco#info and disco#items, ping, version, last activity and time, for every address of the component.

    What the stream's other handlers tell of themselves (wokkel's `IDisco`) is part of the disco answers. A handler of
    usual priority that answers one of these itself comes first.

    Args:
        version: The answer to XEP-0092.
        now: The wall clock, seconds since the epoch.
    """

    KINDS = ("iq",)
    _log = Logger()

    def __init__(self, domain: str, version: str, now: Callable[[], float]) -> None:
        super().__init__(domain)
        self._version = version
        self._now = now
        self._lines = Folded(time.monotonic)
        self._started = now()
        self._answers: dict[tuple[str | None, str], Callable[[Stanza, Element], Any]] = {
            (NS_DISCO_INFO, "query"): self._disco_info,
            (NS_DISCO_ITEMS, "query"): self._disco_items,
            (NS_PING, "ping"): lambda stanza, question: None,
            (NS_VERSION, "query"): self._software_version,
            (NS_LAST, "query"): self._last_activity,
            (NS_TIME, "time"): self._entity_time,
        }

    def take(self, stanza: Stanza) -> bool:
        """Answer it if it asks one of these questions, and nothing else with it (RFC 6120 section 8.2.3)."""
        questions = list(stanza.element.elements())
        if stanza.type != "get" or len(questions) != 1:
            return False
        [question] = questions
        answer = self._answers.get((question.uri, question.name))
        if answer is None:
            return False
        maybeDeferred(answer, stanza, question).addCallback(self._send, stanza).addErrback(self._failed, stanza)
        return True

    def _send(self, answer: Element | None, stanza: Stanza) -> None:
        result = stanza.response("result")
        if answer is not None:
            result.addChild(answer)
        self.send(result)

    def _failed(self, failure: Failure, stanza: Stanza) -> None:
        """Answer with an error: there is no such node, or another handler could not say what it can do."""
        error = failure.value
        if isinstance(error, StanzaError):
            answer = stanza.response("error")
            answer.addChild(error.getElement())
            self.send(answer)
        else:
            failed = "a handler failed to answer a disco question"
            self._lines.write("disco", self._log.failure, failed, failure=failure)
            self.send(conditions.error_stanza(stanza, conditions.INTERNAL))

    # -- the answers --

    def _disco_info(self, stanza: Stanza, question: Element) -> Deferred[Element]:
        return self._disco(DiscoInfo(), self._gatherer().info, stanza, question)

    def _disco_items(self, stanza: Stanza, question: Element) -> Deferred[Element]:
        return self._disco(DiscoItems(), self._gatherer().items, stanza, question)

    def _gatherer(self) -> Any:
        gatherer = DiscoHandler()
        gatherer.parent = self.parent
        return gatherer

    def _disco(self, found: Any, gather: Any, stanza: Stanza, question: Element) -> Deferred[Element]:
        found.nodeIdentifier = question.getAttribute("node", "")

        def render(items: list[object]) -> Element:
            if found.nodeIdentifier and not items:
                raise StanzaError("item-not-found")
            for item in items:
                found.append(item)
            element: Element = found.toElement()
            return element

        gathered: Deferred[list[object]] = gather(_jid(stanza.sender), _jid(stanza.recipient), found.nodeIdentifier)
        return gathered.addCallback(render)

    def _software_version(self, stanza: Stanza, question: Element) -> Element:
        query = Element((NS_VERSION, "query"))
        query.addElement("name", content="component-http")
        query.addElement("version", content=self._version)
        return query

    def _last_activity(self, stanza: Stanza, question: Element) -> Element:
        """For the domain the seconds since start (XEP-0012 section 6), for a bot 0: it is there now (section 4)."""
        uptime = max(0, int(self._now() - self._started))
        query = Element((NS_LAST, "query"))
        query["seconds"] = str(uptime if stanza.recipient.local is None else 0)
        return query

    def _entity_time(self, stanza: Stanza, question: Element) -> Element:
        """The time here, in UTC and said to be so."""
        time = Element((NS_TIME, "time"))
        time.addElement("tzo", content="+00:00")
        time.addElement("utc", content=datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        return time

    # -- wokkel's IDisco --

    def getDiscoInfo(self, requestor: JID, target: JID, nodeIdentifier: str = "") -> list[object]:
        """The domain is a component, each address in it a bot."""
        if nodeIdentifier:
            return []
        identity = ("client", "bot") if target.user else ("component", "generic")
        namespaces = (NS_DISCO_INFO, NS_DISCO_ITEMS, NS_PING, NS_VERSION, NS_LAST, NS_TIME)
        return [DiscoIdentity(*identity, name="component-http"), *map(DiscoFeature, namespaces)]

    def getDiscoItems(self, requestor: JID, target: JID, nodeIdentifier: str = "") -> list[object]:
        """None."""
        return []


def _jid(address: Address) -> JID:
    """A `JID` of the same address, without the checks that refuse some which servers and `Address` take."""
    jid = JID.__new__(JID)
    jid.user, jid.host, jid.resource = address.local, address.domain, address.resource
    return jid
