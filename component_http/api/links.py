"""The links by which a webhook replies later: which are ours, how often each may be used, and what it may send."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.words.xish.domish import Element

from component_http.api.exchange import Problem
from component_http.api.rate import Rate
from component_http.api.tokens import check_rate
from component_http.contract.link import ForgedLink, LateReply, open_link
from component_http.shares import Latest

PER_MINUTE = 60
"""
Requests in a minute over the link of one delivery. A bot that shows what it types, or sends a long text in parts, needs
one in a second at most.
"""

MAX_LINKS = 10_000
"""
Deliveries whose requests are counted, some 3 MiB. Beyond them the one that was replied to longest ago is forgotten, so
its next request is counted as its first; each needs a link of ours, so nobody can push others out by made-up ones.
"""


class ReplyLinks:
    """
    Opens the links, and checks what is sent over them.

    Args:
        wide: Whether every link may send whatever the webhook could have answered at once, to anybody.
        seconds: A clock that does not go back.
        now: The wall clock, seconds since the epoch.
    """

    def __init__(self, key: bytes, *, wide: bool, seconds: Callable[[], float], now: Callable[[], float]) -> None:
        self._key = key
        self._wide = wide
        self._seconds = seconds
        self._now = now
        self._rates: Latest[str, Rate] = Latest(MAX_LINKS)

    def open(self, delivery_id: str, seal: str) -> LateReply:
        """Read a link, and count its request. Raises `Problem` if it is forged or too old, or has too many requests."""
        try:
            late = open_link(self._key, delivery_id, seal)
        except ForgedLink:
            raise Problem(404, "the link is not one of ours, or was changed: use it as it came") from None
        if self._now() >= late.expires:
            raise Problem(410, f"it is too late to reply to this {late.stanza.kind}")
        rate = self._rates.get(delivery_id) or Rate(PER_MINUTE, 60.0)
        self._rates[delivery_id] = rate
        check_rate(rate, self._seconds())
        return late

    def check_allowed(self, late: LateReply, stanzas: Iterable[Element]) -> None:
        """Raise `Problem` if one of some stanzas, which have their addresses, leaves the conversation of the link."""
        if self._wide or not late.bound:
            return
        for stanza in stanzas:
            if not late.covers(stanza):
                raise Problem(
                    403,
                    f"this link may not send this {stanza.name}: it only sends from the address that was written to, to"
                    " the one who wrote, or to the room for what was said in a room; send elsewhere with a token of"
                    ' [[api.token]], or set reply_links = "wide" below [api]',
                )
