"""
Which of what we wrote the server is known to have, and whether it is there at all.

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

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.words.xish.domish import Element

from component_http.contract.xml import NS_PING
from component_http.interfaces import Observer
from component_http.xmpp.write_queue import WriteQueue

__all__ = ["Barrier"]

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


class Barrier:
    """
    One barrier at a time on one connection after the other.

    While it has not returned, another address may be asked as well; any of them that answers confirms what was written
    before it was asked. The one that answered last is asked first from then on, over connections, too.

    Args:
        domain: The component's own.
        fallback: The domain to ask where pings to ourselves do not come back; None for none.
        outbox: What is confirmed; its `written` counts.
        write: Writes XML to the connection at once.
        dead: Called with the reason when the server is not there any more.
        confirmed: Called when the outbox has been told what the server has.
        observer: Told `barrier_sent`, `barrier_returned`, `barrier_ignored`.
        clock: Runs the timers.
        on: False for none at all.

    Attributes:
        working: There is a stream, and its server returns barriers as far as we know.
    """

    _log = Logger()

    def __init__(
        self,
        domain: str,
        queue: WriteQueue,
        *,
        write: Callable[[str], None],
        dead: Callable[[str], None],
        confirmed: Callable[[], None],
        observer: Observer,
        clock: IReactorTime,
        on: bool = True,
        fallback: str | None = None,
    ) -> None:
        self._domain = domain
        self._addresses = [domain] if fallback is None or fallback == domain else [domain, fallback]
        self._queue = queue
        self._write = write
        self._dead = dead
        self._tell_confirmed = confirmed
        self._observer = observer
        self._clock = clock
        self._answered: str | None = None  # the address that did last, on whichever stream
        self._unasked: list[str] = []  # what else can be asked before the barrier is given up
        self._pings: deque[tuple[str, str]] = deque(maxlen=REMEMBERED)  # ids with addresses
        self._out: dict[tuple[str, str], int] = {}  # by id and address, what an answer confirms
        self._sent_at = self._heard_at = 0.0
        self._paused_at: float | None = None
        self._doubted = False  # a stream was given up for silence
        self._warned = False
        self._call: IDelayedCall | None = None
        self._on = on
        self.working = False

    def connected(self) -> None:
        """A stream is ready; what waits is written next."""
        self._out.clear()
        self._paused_at = None
        self._warned = False
        self.working = self._on
        self._heard_at = self._clock.seconds()
        if self.working:
            self._plan(KEEPALIVE)

    def lost(self) -> None:
        """The stream is gone."""
        self._out.clear()
        self._paused_at = None
        self.working = False
        self._plan(None)

    def wrote(self) -> None:
        """Something was written that is to be confirmed, or somebody waits for that from now on."""
        if self._out or not self.working:
            return
        if self._urgent:
            self.send()
        elif not self._queue.unconfirmed:
            return
        elif self._call is None or self._call.getTime() - self._clock.seconds() > SOON:
            self._plan(SOON)

    def heard(self) -> None:
        """A byte came."""
        self._heard_at = self._clock.seconds()

    def paused(self) -> None:
        """We read no more for now; the clocks rest, for what we do not read cannot be missed."""
        self._paused_at = self._clock.seconds()

    def resumed(self) -> None:
        """We read again; what came meanwhile is read in a moment."""
        if self._paused_at is not None:
            now = self._clock.seconds()
            self._sent_at += now - max(self._paused_at, self._sent_at)
            self._heard_at += now - max(self._paused_at, self._heard_at)
            self._heard_at = max(self._heard_at, now - SILENCE + SOON)
            self._paused_at = None
            if self._out:
                self._plan_look(now)

    def send(self) -> None:
        """Send one now, if none is out."""
        if self._out or not self.working:
            return
        first = self._answered or self._domain
        self._unasked = [address for address in self._addresses if address != first]
        # One that is late, for the clock was set or we were held up, has its time, too.
        self._ask(first, KEEPALIVE)

    def _ask(self, address: str, silent: float) -> None:
        """Send a ping to an address; no more than so many seconds of silence count from before it."""
        ping = token_hex(_ID_BYTES), address
        self._pings.append(ping)
        self._out[ping] = self._queue.written
        self._sent_at = now = self._clock.seconds()
        self._heard_at = max(self._heard_at, now - silent)
        self._observer.count("barrier_sent")
        self._plan_look(now)
        self._write(
            f"<iq type='get' id='{ping[0]}' from='{self._domain}' to='{address}'><ping xmlns='{NS_PING}'/></iq>"
        )

    def returned(self, element: Element) -> bool:
        """
        Look at an iq that arrived.

        Returns:
            It was a ping from our own address, or the answer to one of ours: nobody else's business.
        """
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
        if ping in self._out:
            self._confirmed(sender, self._out[ping])
        elif not is_ours and not self._warned:
            self._warned = True
            self._log.warn(
                "{domain}: a ping of somebody else with our address: is this domain served twice?", domain=self._domain
            )
        return True

    def _confirmed(self, address: str, covers: int) -> None:
        self._out.clear()
        if address != self._answered:
            self._answered = address
            self._log.info(
                "{domain}: by a ping to {address} we know what the server has", domain=self._domain, address=address
            )
        self._observer.count("barrier_returned")
        self._queue.confirm(covers)
        self._plan(SOON if self._queue.unconfirmed else KEEPALIVE)
        if self._urgent:
            self.send()
        self._tell_confirmed()

    @property
    def _urgent(self) -> bool:
        """Much is to be confirmed, or the last of it and somebody waits; or nothing can be written before."""
        queue = self._queue
        if queue.on_trial:
            return True
        return queue.unconfirmed >= MANY or bool(queue.unconfirmed and queue.awaited and not queue)

    def _plan_look(self, now: float) -> None:
        patience = DOUBT if self._unasked else PATIENCE
        self._plan(max(0.001, min(self._heard_at + SILENCE, self._sent_at + patience) - now))

    def _plan(self, seconds: float | None) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None if seconds is None else self._clock.callLater(seconds, self._due)

    def _due(self) -> None:
        self._call = None
        if not self._out:
            self.send()
            return
        if self._paused_at is not None:
            return  # until it is `resumed`
        now = self._clock.seconds()
        silent = now - self._heard_at >= SILENCE
        if silent and (self._answered is not None or not self._doubted):
            self._doubted = True
            self._dead(f"the server has been silent for {SILENCE:g} s, and did not answer a ping")
        elif self._unasked and now - self._sent_at >= DOUBT:
            self._ask(self._unasked.pop(), SILENCE - KEEPALIVE)
        elif silent or now - self._sent_at >= PATIENCE:
            # Where none has ever come back, silence the second time is no sign that the server has gone.
            self._give_up()
        else:
            self._plan_look(now)

    def _give_up(self) -> None:
        self.working = False
        self._out.clear()
        self._observer.count("barrier_ignored")
        self._queue.confirm(self._queue.written)
        self._tell_confirmed()
        others = "".join(f", and {address} does not answer one" for address in self._addresses[1:])
        self._log.warn(
            "{domain}: the server does not return a ping of ours to ourselves{others}, so what is written when a stream"
            " is lost may be lost with it",
            domain=self._domain,
            others=others,
        )


def _has_ping(element: Element) -> bool:
    return next(element.elements(NS_PING, "ping"), None) is not None
