"""Reading pauses while too much waits to leave, or the relay is full."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from component_http.interfaces import Observer
from component_http.xmpp.connection import Connection, cancel
from component_http.xmpp.writer import Writer

MAX_PAUSE = 5.0
"""Seconds that reading may pause; ejabberd cuts off a component that does not read for 15 s."""


@define(eq=False)
class Reading:
    """
    The reading of one connection, from its making to its end.

    Attributes:
        asked: The relay has asked for the pause, so that only it, or time, is to end it.
    """

    connection: Connection
    _writer: Writer
    _observer: Observer
    _clock: IReactorTime
    _resuming: IDelayedCall | None = field(init=False, default=None)
    asked: bool = field(init=False, default=False)

    def pause(self) -> None:
        """
        Stop reading for a moment, at most `MAX_PAUSE` seconds.

        Not while all that leaves waits for a barrier, which is among what is read.
        """
        connection = self.connection
        if self._writer.on_trial:
            return
        if self._resuming is None and connection.ready and not connection.leaving:
            self._observer.count("reading_paused")
            self._resuming = self._clock.callLater(MAX_PAUSE, self.resume)
            self._writer.barrier.paused()
            connection.transport.pauseProducing()

    def pause_as_asked(self) -> None:
        """The same for the relay."""
        self.pause()
        self.asked = self._resuming is not None

    def resume(self) -> None:
        """Read again, whoever asked for a pause; who still wants one has to ask again."""
        self.asked = False
        if self._resuming is not None:
            cancel(self._resuming)
            self._resuming = None
            self._writer.barrier.resumed()
            self.connection.transport.resumeProducing()

    def end(self) -> None:
        """The connection is gone."""
        cancel(self._resuming)
