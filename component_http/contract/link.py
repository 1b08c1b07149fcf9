"""
The link by which a webhook replies later: the facts of the delivery, sealed, so that nothing has to be kept of it.

They are sealed by a MAC and not encrypted: the webhook knows all of them from the request already, and what counts is
that nobody else can make such a link.

Source: RFC 2104 (HMAC), RFC 4648 section 5 (base64url).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from math import ceil

from attrs import frozen
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT

HEADER = "webhook-reply-url"
"""The header of a request that carries the link."""

LIFETIME = 86_400.0
"""Seconds for which a message or a presence can be replied to late; an iq only until its deadline."""

KEY_BYTES = 32
"""Of a key; as many as the MAC has."""

MAX_LENGTH = 4096
"""
Characters of a link. With longer ones a request's headers would be over the 8 KiB that most HTTP servers take; only an
absurdly long address or id makes one.
"""

_PURPOSE = b"component-http late reply 2"

_WIDE_PURPOSE = b"component-http late reply 1"
"""
The purpose of links from before links were bound to their conversation. None is made any more, and each keeps what it
could do until it expires, at most `LIFETIME` after the upgrade.
"""


class ForgedLink(ValueError):
    """The link is none that was made with this key, or something in it was changed."""


@frozen
class LateReply:
    """
    The content of a link.

    Attributes:
        stanza: The facts of the stanza that may be replied to.
        expires: The time until which it may, in seconds since the epoch.
        bound: The link is bound to its conversation; False for one that an earlier version made.
    """

    stanza: Stanza
    expires: int
    bound: bool = True

    def covers(self, element: Element) -> bool:
        """
        Say whether a complete stanza, with normalised addresses, belongs to the conversation of the link.

        It has to come from the bare address that was written to, and to go to the one who wrote: to any resource of a
        user, but of a room only to the occupant. What everybody in a room saw (a groupchat message, an occupant's
        presence) may be answered to the room as well. Presence may go to any resource of the room, for that is how a
        bot enters and leaves it.
        """
        written_by, written_to = self.stanza.sender, self.stanza.recipient
        sender, recipient = Address.parse(element["from"]), Address.parse(element["to"])
        if sender.bare != written_to.bare or recipient.bare != written_by.bare:
            return False
        if element.name == "presence":
            return True
        groupchat = self.stanza.type == "groupchat"
        public = groupchat or (self.stanza.through_room and self.stanza.kind == "presence")
        if element.getAttribute("type") == "groupchat":
            return public
        if not (groupchat or self.stanza.through_room):
            return True
        return recipient == written_by or (public and recipient.resource is None)


def link_path(key: bytes, delivery_id: str, stanza: Stanza, expires: float) -> str | None:
    """
    Make the path and query of a link to reply to a stanza, until `expires` in seconds since the epoch.

    None where there is nothing to reply to, or the link would be longer than `MAX_LENGTH`. A thread that would make it
    longer is left out.
    """
    if not stanza.answerable:
        return None
    facts = (
        stanza.kind,
        stanza.type,
        stanza.id,
        str(stanza.sender),
        str(stanza.recipient),
        int(stanza.through_room),
        ceil(expires),
    )
    if stanza.thread is not None:
        path = _path(key, delivery_id, (*facts, stanza.thread))
        if len(path) <= MAX_LENGTH:
            return path
    path = _path(key, delivery_id, facts)
    return path if len(path) <= MAX_LENGTH else None


def _path(key: bytes, delivery_id: str, facts: tuple[object, ...]) -> str:
    sealed = _base64(json.dumps(facts, separators=(",", ":")).encode("ascii"))
    return f"/v1/deliveries/{delivery_id}/reply?seal={sealed}.{_mac(key, _PURPOSE, delivery_id, sealed)}"


def open_link(key: bytes, delivery_id: str, seal: str) -> LateReply:
    """
    Read the seal that `link_path` made for a delivery, in this version or the one before.

    Raises:
        ForgedLink: `link_path` did not make it, or not with this key.
    """
    if len(seal) > MAX_LENGTH:
        raise ForgedLink("the link is not one of ours")
    sealed, _, mac = seal.partition(".")
    given = mac.encode("utf-8", "replace")
    bound, wide = (
        hmac.compare_digest(_mac(key, purpose, delivery_id, sealed).encode("ascii"), given)
        for purpose in (_PURPOSE, _WIDE_PURPOSE)
    )
    if not bound and not wide:
        raise ForgedLink("the link is not one of ours")
    # The thread is only in the links of stanzas that have one.
    kind, stanza_type, stanza_id, sender, recipient, through_room, expires, *thread = json.loads(
        urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
    )
    stanza = Stanza(
        kind=kind,
        type=stanza_type,
        id=stanza_id,
        sender=Address.parse(sender),
        recipient=Address.parse(recipient),
        through_room=bool(through_room),
        element=Element((NS_COMPONENT, kind)),
        thread=thread[0] if thread else None,
    )
    return LateReply(stanza, expires, bound)


def _mac(key: bytes, purpose: bytes, delivery_id: str, sealed: str) -> str:
    # A zero byte is in none of the parts, so no two of them are read as one.
    message = b"\0".join((purpose, delivery_id.encode("utf-8", "replace"), sealed.encode("utf-8", "replace")))
    return _base64(hmac.digest(key, message, hashlib.sha256))


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
