"""
The iqs that the gateway answers itself, with wokkel's handlers where it has them.

Source: XEP-0030 (disco), XEP-0199 (ping), XEP-0092 (version), XEP-0012 (last activity), XEP-0202 (entity time).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from twisted.words.protocols.jabber.jid import JID
from twisted.words.protocols.jabber.xmlstream import toResponse
from twisted.words.xish.domish import Element
from wokkel.disco import NS_DISCO_INFO, NS_DISCO_ITEMS, DiscoFeature, DiscoHandler, DiscoIdentity
from wokkel.generic import VersionHandler
from wokkel.iwokkel import IDisco
from wokkel.ping import PingHandler
from wokkel.subprotocols import XMPPHandler
from zope.interface import implementer

__all__ = ["wellknown_handlers"]

NS_LAST = "jabber:iq:last"
NS_TIME = "urn:xmpp:time"


def wellknown_handlers(version: str, now: Callable[[], float]) -> list[XMPPHandler]:
    """
    Everything that answers a well-known iq.

    Args:
        version: What XEP-0092 shall say.
        now: The wall clock, seconds since the epoch.
    """
    return [
        DiscoHandler(),
        _Identity(),
        PingHandler(),
        VersionHandler("component-http", version),
        _LastActivity(now),
        _EntityTime(now),
    ]


class _Features(XMPPHandler):
    """A handler that has something to say in disco#info and nothing in disco#items."""

    def features(self, target: JID) -> list[object]:
        raise NotImplementedError

    def getDiscoInfo(self, requestor: JID, target: JID, nodeIdentifier: str = "") -> list[object]:
        return [] if nodeIdentifier else self.features(target)

    def getDiscoItems(self, requestor: JID, target: JID, nodeIdentifier: str = "") -> list[object]:
        return []


@implementer(IDisco)
class _Identity(_Features):
    """The domain is a component, each address in it a bot."""

    def features(self, target: JID) -> list[object]:
        identity = ("client", "bot") if target.user else ("component", "generic")
        return [
            DiscoIdentity(*identity, name="component-http"),
            DiscoFeature(NS_DISCO_INFO),
            DiscoFeature(NS_DISCO_ITEMS),
        ]


@implementer(IDisco)
class _LastActivity(_Features):
    """For the domain the seconds since start (XEP-0012 section 6), for a bot 0: it is there now (section 4)."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now
        self._started = now()

    def connectionInitialized(self) -> None:
        self.xmlstream.addObserver(f"/iq[@type='get']/query[@xmlns='{NS_LAST}']", self._asked)

    def _asked(self, iq: Element) -> None:
        iq.handled = True  # type: ignore[attr-defined]  # wokkel's own flag
        of_the_domain = "@" not in iq["to"].partition("/")[0]
        seconds = max(0, int(self._now() - self._started)) if of_the_domain else 0
        response = toResponse(iq, "result")
        response.addElement((NS_LAST, "query"))["seconds"] = str(seconds)
        self.send(response)

    def features(self, target: JID) -> list[object]:
        return [DiscoFeature(NS_LAST)]


@implementer(IDisco)
class _EntityTime(_Features):
    """The time here, in UTC and said to be so."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now

    def connectionInitialized(self) -> None:
        self.xmlstream.addObserver(f"/iq[@type='get']/time[@xmlns='{NS_TIME}']", self._asked)

    def _asked(self, iq: Element) -> None:
        iq.handled = True  # type: ignore[attr-defined]  # wokkel's own flag
        response = toResponse(iq, "result")
        time = response.addElement((NS_TIME, "time"))
        time.addElement("tzo", content="+00:00")
        time.addElement("utc", content=datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        self.send(response)

    def features(self, target: JID) -> list[object]:
        return [DiscoFeature(NS_TIME)]
