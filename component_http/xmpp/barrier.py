"""
Which of what we wrote the server is known to have, and whether it is there at all.

XEP-0114 has no acknowledgements. But a ping from the component to itself goes through the server like everything else,
in order: when it comes back, the server has routed all that was written before it. So it has when it answers the ping
itself, by whatever answer. The same ping is the keepalive.

Source: XEP-0199; RFC 6120 section 10.1 (a server processes what one entity sends in order).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from secrets import token_hex

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.words.xish.domish import Element

from component_http.contract.xml import NS_PING
from component_http.interfaces import Observer
from component_http.xmpp.outbox import Outbox

__all__ = ["Barrier"]

MANY = 100
"""Unconfirmed stanzas after which a barrier is sent at once: few enough to write again."""

SOON = 1.0
"""Seconds after the first unconfirmed stanza when one is sent anyway."""

KEEPALIVE = 15.0
"""Seconds between two while there is nothing to confirm."""

SILENCE = 45.0
"""Seconds without a byte while we read, with a barrier out at the end, after which the stream is dead."""

PATIENCE = 60.0
"""Seconds of reading after which a server that says other things, but does not return a barrier, never will."""

REMEMBERED = 32
"""Ids of earlier barriers, which may come back late."""


class Barrier:
    """
    One barrier at a time on one connection after the other.

    Args:
        domain: The component's own.
        outbox: What is confirmed; its `written` counts.
        write: Writes XML to the connection at once.
        dead: Called with the reason when the server is not there any more.
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
        outbox: Outbox,
        *,
        write: Callable[[str], None],
        dead: Callable[[str], None],
        observer: Observer,
        clock: IReactorTime,
        on: bool = True,
    ) -> None:
        self._domain = domain
        self._outbox = outbox
        self._write = write
        self._dead = dead
        self._observer = observer
        self._clock = clock
        self._ids: deque[str] = deque(maxlen=REMEMBERED)
        self._out: str | None = None
        self._covers = 0
        self._sent_at = self._heard_at = 0.0
        self._paused_at: float | None = None
        self._proven = False  # one has come back, on whichever stream
        self._doubted = False  # a stream was given up for silence
        self._warned = False
        self._call: IDelayedCall | None = None
        self._on = on
        self.working = False

    def connected(self) -> None:
        """A stream is ready; what waits is written next."""
        self._out = self._paused_at = None
        self._warned = False
        self.working = self._on
        self._heard_at = self._clock.seconds()
        if self.working:
            self._plan(KEEPALIVE)

    def lost(self) -> None:
        """The stream is gone."""
        self._out = self._paused_at = None
        self.working = False
        self._plan(None)

    def wrote(self) -> None:
        """Something was written that is to be confirmed, or somebody waits for that from now on."""
        if self._out is not None or not self.working or not self._outbox.unconfirmed:
            return
        if self._urgent:
            self.send()
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
            if self._out is not None:
                self._plan_look(now)

    def send(self) -> None:
        """Send one now, if none is out."""
        if self._out is not None or not self.working:
            return
        self._out = token_hex(8)
        self._ids.append(self._out)
        self._covers = self._outbox.written
        self._sent_at = now = self._clock.seconds()
        # One that is late, for the clock was set or we were held up, has its time, too.
        self._heard_at = max(self._heard_at, now - KEEPALIVE)
        self._observer.count("barrier_sent")
        self._plan_look(now)
        self._write(
            f"<iq type='get' id='{self._out}' from='{self._domain}' to='{self._domain}'><ping xmlns='{NS_PING}'/></iq>"
        )

    def returned(self, element: Element) -> bool:
        """
        Look at an iq that arrived.

        Returns:
            It was a ping from our own address, or the server's answer to one of ours: nobody else's business.
        """
        if not (self._on and element.getAttribute("from") == element.getAttribute("to") == self._domain):
            return False
        id_ = element.getAttribute("id")
        is_ours = id_ in self._ids
        if element.getAttribute("type") in ("result", "error"):
            if not is_ours:
                return False
        elif element.getAttribute("type") != "get" or next(element.elements(NS_PING, "ping"), None) is None:
            return False
        if is_ours and id_ == self._out:
            self._confirmed()
        elif not is_ours and not self._warned:
            self._warned = True
            self._log.warn(
                "{domain}: a ping of somebody else with our address: is this domain served twice?", domain=self._domain
            )
        return True

    def _confirmed(self) -> None:
        self._out = None
        self._proven = True
        self._observer.count("barrier_returned")
        self._outbox.confirm(self._covers)
        unconfirmed = self._outbox.unconfirmed
        self._plan(SOON if unconfirmed else KEEPALIVE)
        if unconfirmed and self._urgent:
            self.send()
        self._outbox.settle()

    @property
    def _urgent(self) -> bool:
        """Much is to be confirmed, or the last of it and somebody waits."""
        return self._outbox.unconfirmed >= MANY or (self._outbox.awaited and not self._outbox)

    def _plan_look(self, now: float) -> None:
        self._plan(max(0.001, min(self._heard_at + SILENCE, self._sent_at + PATIENCE) - now))

    def _plan(self, seconds: float | None) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None if seconds is None else self._clock.callLater(seconds, self._due)

    def _due(self) -> None:
        self._call = None
        if self._out is None:
            self.send()
            return
        if self._paused_at is not None:
            return  # until it is `resumed`
        now = self._clock.seconds()
        silent = now - self._heard_at >= SILENCE
        if silent and (self._proven or not self._doubted):
            self._doubted = True
            self._dead(f"the server has been silent for {SILENCE:g} s, and did not answer a ping")
        elif silent or now - self._sent_at >= PATIENCE:
            # Where none has ever come back, silence the second time is no sign that the server has gone.
            self._give_up()
        else:
            self._plan_look(now)

    def _give_up(self) -> None:
        self.working = False
        self._out = None
        self._observer.count("barrier_ignored")
        self._outbox.confirm(self._outbox.written)
        self._outbox.settle()
        self._log.warn(
            "{domain}: the server does not return a ping of ours to ourselves, so what is written when a stream is lost"
            " may be lost with it",
            domain=self._domain,
        )
