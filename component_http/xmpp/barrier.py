"""
The write barrier: it finds out what the server has received, and whether the server is there at all.

XEP-0114 has no acknowledgements. But a ping from the component to itself goes through the server like everything else,
in order: when it comes back, the server has routed all that was written before it. So it has when it answers the ping
itself, by whatever answer. The same ping is the keepalive.

Where a server does neither, another address is asked, usually the server's own domain: its answer comes after all that
was written before it was asked, too.

Source: XEP-0199; RFC 6120 section 10.1 (a server processes what one entity sends in order).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from secrets import token_hex
from typing import TYPE_CHECKING

from attrs import Factory, define
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.words.xish.domish import Element

from component_http.contract.xml import NS_PING
from component_http.interfaces import Observer
from component_http.log import Logger
from component_http.xmpp.write_queue import WriteQueue

if TYPE_CHECKING:
    from component_http.xmpp.writer import Writer

MANY = 100
"""Unconfirmed stanzas after which a barrier is sent at once: few enough to write again."""

SOON = 1.0
"""Seconds after the first unconfirmed stanza when one is sent anyway."""

KEEPALIVE = 15.0
"""Seconds between two while there is nothing to confirm."""

SILENCE = 45.0
"""Seconds without a byte while we read, with a barrier out at the end, after which the stream is dead."""

DOUBT = 5.0
"""Seconds of reading after which an address that has not answered is not the only one that is asked."""

PATIENCE = 60.0
"""Seconds of reading after which a server that says other things, but does not return a barrier, never will."""

REMEMBERED = 32
"""Ids of earlier barriers, which may come back late."""

_ID_BYTES = 8
_ID = re.compile(f"[0-9a-f]{{{2 * _ID_BYTES}}}")
"""The id of a barrier, also of one that another process has sent; no other iq that we send has one of this length."""


_Ping = tuple[str, str]
"""The id of a ping, and the address that was asked."""


@define(eq=False)
class _Watch:
    """
    One stream: the barrier that is out on it, and its silence, in seconds of the clock.

    Attributes:
        heard_at: The last byte came.
        sent_at: The last ping was sent.
        paused_at: We stopped reading; None while we read.
        out: Pings that have not returned, each with how much its answer confirms; empty if no barrier is out.
        unasked: Addresses that can be asked before the barrier is given up.
        call: Looks after the barrier, or sends the next.
    """

    heard_at: float
    sent_at: float = 0.0
    paused_at: float | None = None
    out: dict[_Ping, int] = Factory(dict)
    unasked: list[str] = Factory(list)
    call: IDelayedCall | None = None

    def resumed(self, now: float) -> None:
        """Leave out the pause, for what we do not read cannot be missed; what came meanwhile is read in a moment."""
        if self.paused_at is not None:
            self.sent_at += now - max(self.paused_at, self.sent_at)
            self.heard_at += now - max(self.paused_at, self.heard_at)
            self.heard_at = max(self.heard_at, now - SILENCE + SOON)
            self.paused_at = None


class Barrier:
    """
    One barrier at a time on one connection after the other.

    While it has not returned, another address may be asked as well; any of them that answers confirms what was written
    before it was asked. The one that answered last is asked first from then on, over connections, too.

    Args:
        fallback: The domain to ask where pings to ourselves do not come back; None for none.
        queue: Told what is confirmed; its `written` counts.
        owner: Writes XML to the connection at once, and is told when the queue knows what the server has.
        dead: Called with the reason when the server is not there any more.
        observer: Told `barrier_sent`, `barrier_returned`, `barrier_ignored`.
        on: False for none at all.
    """

    _log = Logger()

    def __init__(
        self,
        domain: str,
        queue: WriteQueue,
        owner: Writer,
        *,
        dead: Callable[[str], None],
        observer: Observer,
        clock: IReactorTime,
        on: bool = True,
        fallback: str | None = None,
    ) -> None:
        self._addresses = [domain] if fallback is None or fallback == domain else [domain, fallback]
        self._domain = domain
        self._queue = queue
        self._owner = owner
        self._dead = dead
        self._observer = observer
        self._clock = clock
        self._on = on
        self._answered: str | None = None  # the address that did last, on whichever stream
        self._pings: deque[_Ping] = deque(maxlen=REMEMBERED)
        self._doubted = False  # a stream was given up for silence
        self._warned = False
        self._watch: _Watch | None = None

    @property
    def working(self) -> bool:
        """There is a stream, and its server returns barriers as far as we know."""
        return self._watch is not None

    def connected(self) -> None:
        """A stream is ready; what waits is written next."""
        self._warned = False
        if self._on:
            self._watch = _Watch(self._clock.seconds())
            self._plan(self._watch, KEEPALIVE)

    def lost(self) -> None:
        """The stream is gone, or its server does not return barriers."""
        if self._watch is not None:
            self._plan(self._watch, None)
            self._watch = None

    def wrote(self) -> None:
        """Something was written that is to be confirmed, or somebody waits for that from now on."""
        watch = self._watch
        if watch is None or watch.out:
            return
        if self._urgent:
            self._send(watch)
        elif self._queue.unconfirmed and (watch.call is None or watch.call.getTime() - self._clock.seconds() > SOON):
            self._plan(watch, SOON)

    def heard(self) -> None:
        """A byte came."""
        if self._watch is not None:
            self._watch.heard_at = self._clock.seconds()

    def paused(self) -> None:
        """We read no more for now."""
        if self._watch is not None:
            self._watch.paused_at = self._clock.seconds()

    def resumed(self) -> None:
        """We read again."""
        watch = self._watch
        if watch is not None and watch.paused_at is not None:
            watch.resumed(self._clock.seconds())
            if watch.out:
                self._plan_look(watch)

    def _send(self, watch: _Watch) -> None:
        first = self._answered or self._domain
        watch.unasked = [address for address in self._addresses if address != first]
        # One that is late, for the clock was set or we were held up, has its time, too.
        self._ask(watch, first, KEEPALIVE)

    def _ask(self, watch: _Watch, address: str, silent: float) -> None:
        """Send a ping to an address; no more than so many seconds of silence count from before it."""
        ping = token_hex(_ID_BYTES), address
        self._pings.append(ping)
        watch.out[ping] = self._queue.written
        watch.sent_at = now = self._clock.seconds()
        watch.heard_at = max(watch.heard_at, now - silent)
        self._observer.count("barrier_sent")
        self._plan_look(watch)
        self._owner.write_now(
            f"<iq type='get' id='{ping[0]}' from='{self._domain}' to='{address}'><ping xmlns='{NS_PING}'/></iq>"
        )

    def returned(self, element: Element) -> bool:
        """Tell whether an iq is a ping from our own address, or the answer to one of ours: nobody else's business."""
        sender = element.getAttribute("from")
        if not (self._on and sender in self._addresses and element.getAttribute("to") == self._domain):
            return False
        ping = element.getAttribute("id"), sender
        is_ours = ping in self._pings
        if element.getAttribute("type") in ("result", "error"):
            if not is_ours:
                return False
        elif sender != self._domain or element.getAttribute("type") != "get" or not _has_ping(element):
            return False
        elif not _ID.fullmatch(ping[0] or ""):
            return False  # somebody in this process asks whether the component is there, and is to be answered
        if self._watch is not None and ping in self._watch.out:
            self._confirmed(self._watch, sender, self._watch.out[ping])
        elif not is_ours and not self._warned:
            self._warned = True
            self._log.warn(
                "{domain}: a ping of somebody else with our address: is this domain served twice?", domain=self._domain
            )
        return True

    def _confirmed(self, watch: _Watch, address: str, covers: int) -> None:
        watch.out.clear()
        if address != self._answered:
            self._answered = address
            self._log.info("{domain}: pings to {address} confirm delivery", domain=self._domain, address=address)
        self._observer.count("barrier_returned")
        self._queue.confirm(covers)
        if watch is self._watch:  # nobody who was told has stopped the stream
            self._plan(watch, SOON if self._queue.unconfirmed else KEEPALIVE)
            if self._urgent:
                self._send(watch)
        self._owner.confirmed()

    @property
    def _urgent(self) -> bool:
        """Much is to be confirmed, or the last of it and somebody waits; or nothing can be written before."""
        queue = self._queue
        if queue.on_trial:
            return True
        return queue.unconfirmed >= MANY or bool(queue.unconfirmed and queue.awaited and not queue)

    def _plan_look(self, watch: _Watch) -> None:
        patience = DOUBT if watch.unasked else PATIENCE
        due = min(watch.heard_at + SILENCE, watch.sent_at + patience)
        self._plan(watch, max(0.001, due - self._clock.seconds()))

    def _plan(self, watch: _Watch, seconds: float | None) -> None:
        if watch.call is not None and watch.call.active():
            watch.call.cancel()
        watch.call = None if seconds is None else self._clock.callLater(seconds, self._due, watch)

    def _due(self, watch: _Watch) -> None:
        watch.call = None
        if not watch.out:
            self._send(watch)
            return
        if watch.paused_at is not None:
            return  # until it is `resumed`
        now = self._clock.seconds()
        silent = now - watch.heard_at >= SILENCE
        if silent and (self._answered is not None or not self._doubted):
            self._doubted = True
            self._dead(f"the server has been silent for {SILENCE:g} s, and did not answer a ping")
        elif watch.unasked and now - watch.sent_at >= DOUBT:
            self._ask(watch, watch.unasked.pop(), SILENCE - KEEPALIVE)
        elif silent or now - watch.sent_at >= PATIENCE:
            # Where none has ever come back, silence the second time is no sign that the server has gone.
            self._give_up()
        else:
            self._plan_look(watch)

    def _give_up(self) -> None:
        self.lost()
        self._observer.count("barrier_ignored")
        self._queue.confirm(self._queue.written)
        self._owner.confirmed()
        others = "".join(f", and {address} does not answer one" for address in self._addresses[1:])
        self._log.warn(
            "{domain}: the server does not return a ping of ours to ourselves{others}, so what is written when a stream"
            " is lost may be lost with it",
            domain=self._domain,
            others=others,
        )


def _has_ping(element: Element) -> bool:
    return next(element.elements(NS_PING, "ping"), None) is not None
