"""
An always-on component that accepts everyone: presence that never reaches the webhook.

Source: RFC 6121 sections 3.1 (subscribing), 3.3 (unsubscribing) and 4.3 (probes); the answers are those of Prosody's
mod_component_http where it is right (CONTRACT section 3).
"""

from __future__ import annotations

from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT
from component_http.xmpp.intake import LateHandler

__all__ = ["RESOURCE", "AlwaysAvailable"]

RESOURCE = "default"
"""The resource that every address of the component is online with."""


class AlwaysAvailable(LateHandler):
    """
    Answers presence to every address of the component, the bare domain and full addresses included.

    subscribe is answered with subscribed from the bare address, then available from `<bare>/default`; a probe with
    available; unsubscribe with unavailable. Nothing else is answered.
    """

    PATHS = ("/presence",)

    def take(self, stanza: Stanza) -> bool:
        """Answer it, if it asks something; either way it is dealt with."""
        user, bot = stanza.sender, stanza.recipient.bare
        online = Address(bot.local, bot.domain, RESOURCE)
        if stanza.type == "subscribe":
            self._send("subscribed", bot, user.bare)
            self._send(None, online, user.bare)
        elif stanza.type == "probe":
            self._send(None, online, user)
        elif stanza.type == "unsubscribe":
            self._send("unavailable", online, user)
        return True

    def _send(self, type_: str | None, sender: Address, recipient: Address) -> None:
        presence = Element((NS_COMPONENT, "presence"))
        if type_ is not None:
            presence["type"] = type_
        presence["from"] = str(sender)
        presence["to"] = str(recipient)
        self.send(presence)
