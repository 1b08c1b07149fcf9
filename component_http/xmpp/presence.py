"""
An always-on component that accepts everyone: presence that never reaches the webhook.

Source: RFC 6121 sections 3.1 (subscribing), 3.3 (unsubscribing) and 4.3 (probes); the answers are those of Prosody's
mod_component_http where it is right (CONTRACT section 3).
"""

from __future__ import annotations

from twisted.words.xish.domish import Element
from wokkel.subprotocols import XMPPHandler

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.xml import NS_COMPONENT
from component_http.xmpp.intake import LAST

__all__ = ["RESOURCE", "AlwaysAvailable"]

RESOURCE = "default"
"""The resource that every address of the component is online with."""


class AlwaysAvailable(XMPPHandler):
    """
    Answers presence to every address of the component, the bare domain and full addresses included.

    subscribe is answered with subscribed from the bare address, then available from `<bare>/default`; a probe with
    available; unsubscribe with unavailable. Nothing else is answered. It runs after other handlers and leaves
    alone what one of them marked `handled`.

    Args:
        domain: The component's own domain, normalised; presence to another is left alone.
    """

    def __init__(self, domain: str) -> None:
        super().__init__()
        self._domain = domain

    def connectionInitialized(self) -> None:
        self.xmlstream.addObserver("/presence", self._arrived, LAST + 1)

    def _arrived(self, element: Element) -> None:
        if getattr(element, "handled", False):
            return
        try:
            user = Address.parse(element.getAttribute("from") or "")
            bot = Address.parse(element.getAttribute("to") or "").bare
        except NotAnAddress:
            return
        if bot.domain != self._domain:
            return
        element.handled = True  # type: ignore[attr-defined]  # wokkel's own flag
        online = f"{bot}/{RESOURCE}"
        type_ = element.getAttribute("type")
        if type_ == "subscribe":
            self._send("subscribed", str(bot), str(user.bare))
            self._send(None, online, str(user.bare))
        elif type_ == "probe":
            self._send(None, online, str(user))
        elif type_ == "unsubscribe":
            self._send("unavailable", online, str(user))

    def _send(self, type_: str | None, sender: str, recipient: str) -> None:
        presence = Element((NS_COMPONENT, "presence"))
        if type_ is not None:
            presence["type"] = type_
        presence["from"] = sender
        presence["to"] = recipient
        self.send(presence)
